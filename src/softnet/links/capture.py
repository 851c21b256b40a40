"""A link around a link, that shows an observer every batch on its way.

`observe(direction, timestamp, batch)` is called with RECEIVED when frames have just arrived (no
verdict yet), and with SENT once a batch went out: then every verdict is final, those of frames that
were dropped or refused included. So the SENT batches of the uplink's side are what the VM sent and
what became of it. The batch is only lent: the observer copies what it keeps. Timestamps are seconds
since the epoch, as capture files want them.
"""

import time
from collections.abc import Callable

from softnet.core.frames import Batch
from softnet.links import Link

RECEIVED = 0
SENT = 1

Observer = Callable[[int, float, Batch], None]


class CaptureLink:
    """Keeps the contract of the link that it wraps, and owns it."""

    def __init__(self, link: Link, observe: Observer) -> None:
        self._link = link
        self._observe = observe
        self.needs_alive_check = link.needs_alive_check
        self.fileno = link.fileno
        self.alive = link.alive
        self.close = link.close

    @property
    def pending(self) -> bool:
        return self._link.pending

    @property
    def unsent(self) -> bool:
        return self._link.unsent

    def receive(self, batch: Batch) -> int:
        count = self._link.receive(batch)
        if count:
            self._observe(RECEIVED, time.time(), batch)
        return count

    def send(self, batch: Batch, busy: int) -> int:
        refused = self._link.send(batch, busy)
        if batch.count:
            self._observe(SENT, time.time(), batch)
        return refused
