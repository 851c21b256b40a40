"""Frames as they pass and are refused, in pcapng, for one reader: what `softnet capture` receives.

A `Capture` is one of the forwarder's taps while its reader is there. Each frame carries its verdict
as a comment. The reader is never waited for: at most BUFFER bytes wait for it, frames that find no
room are left out, and the next one says how many.
"""

import time
from collections.abc import Callable

from softnet import pcapng
from softnet.core.frames import Batch
from softnet.core.reasons import BY_CODE, FROM_VM, PASS_LIMIT

BUFFER = 4 << 20

COMMENTS = {
    code: f"{'pass' if reason.passes else 'drop'} {reason.name}: {reason.sentence}"
    for code, reason in BY_CODE.items()
}


class Capture:
    """`dropped_only` leaves out what passes, `snaplen` bounds the bytes of a frame that are kept."""

    def __init__(
        self, name: str, version: str, snaplen: int, dropped_only: bool, closed: Callable[["Capture"], None]
    ) -> None:
        what = "refused frames" if dropped_only else "every frame"
        self.unsent = bytearray(
            pcapng.header(f"softnet {version}", name, f"{what} between the VM and its network", snaplen)
        )
        self.wake: Callable[[], None] = lambda: None
        self._snaplen = snaplen
        self._dropped_only = dropped_only
        self._closed = closed
        self._missing = 0

    def look(self, batch: Batch, direction: int, _now: float) -> None:
        """Takes the frames of a judged batch."""
        nanoseconds = time.time_ns()
        side = pcapng.OUTBOUND if direction == FROM_VM else pcapng.INBOUND
        for at in range(batch.count):
            if not self._dropped_only or batch.verdict[at] >= PASS_LIMIT:
                self._take(batch, at, nanoseconds, side)
        self.wake()

    def close(self) -> None:
        """The reader is gone."""
        self._closed(self)

    def _take(self, batch: Batch, at: int, nanoseconds: int, side: int) -> None:
        if len(self.unsent) > BUFFER:
            self._missing += 1
            return
        start, length = batch.offset[at], batch.length[at]
        frame = bytes(batch.data[start : start + min(length, batch.slot, self._snaplen)])
        comment = COMMENTS[batch.verdict[at]]
        self.unsent += pcapng.packet(frame, length, nanoseconds, side, comment, self._missing)
        self._missing = 0
