"""A link that itself answers some of what is sent on it, as a server behind it would.

`Answering` wraps a link. What `_answers` returns for a batch that was sent waits in a queue of
MAX_ANSWERS frames, the oldest goes first when it is full, and comes out of `receive` before anything
of the wrapped link's.
"""

from collections import deque
from collections.abc import Iterable

from softnet.core.frames import Batch
from softnet.links import Link

MAX_ANSWERS = 16


class Answering:
    """Keeps the contract of the link that it wraps, and closes it."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._queue: deque[bytes] = deque(maxlen=MAX_ANSWERS)

    def _answers(self, batch: Batch) -> Iterable[bytes]:
        """Frames for the VM because of what passed in `batch`."""
        raise NotImplementedError

    @property
    def pending(self) -> bool:
        return bool(self._queue) or self._link.pending

    @property
    def unsent(self) -> bool:
        return self._link.unsent

    @property
    def needs_alive_check(self) -> bool:
        return self._link.needs_alive_check

    def fileno(self) -> int:
        return self._link.fileno()

    def receive(self, batch: Batch) -> int:
        if not self._queue:
            return self._link.receive(batch)
        batch.clear()
        while self._queue and batch.append(self._queue[0]):
            self._queue.popleft()
        return batch.count

    def send(self, batch: Batch, busy: int) -> int:
        refused = self._link.send(batch, busy)
        self._queue.extend(self._answers(batch))
        return refused

    def alive(self) -> bool:
        return self._link.alive()

    def close(self) -> None:
        self._link.close()
