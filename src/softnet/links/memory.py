"""Two links without a kernel between them: what one sends, the other receives.

For tests and for feeding a filter frames that exist as Python objects. `capacity` is how many frames
wait at most in each direction; beyond it the other side is full, as a socket would be. `failures`
is a script of what the next frames to be sent run into: errno numbers, 0 for none.
"""

import errno
import os
from collections import deque

from softnet.core.frames import Batch
from softnet.core.reasons import PASS_LIMIT
from softnet.errors import LinkClosed
from softnet.links.base import BaseLink
from softnet.links.burst import Progress


class MemoryLink(BaseLink):
    """One end of `pair()`; its descriptor is a pipe that holds a byte while there is something to receive."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.failures: deque[int] = deque()
        self._capacity = capacity
        self._waiting: deque[bytes] = deque()
        self._peer: MemoryLink | None = None
        self._readable, self._wake = os.pipe()

    def fileno(self) -> int:
        return self._readable

    def receive(self, batch: Batch) -> int:
        batch.clear()
        if not self._waiting and self._peer is None:
            raise LinkClosed("the other side is gone")
        while self._waiting and batch.append(self._waiting[0]):
            self._waiting.popleft()
        if batch.count and not self._waiting and self._peer is not None:
            os.read(self._readable, 1)
        return batch.count

    def _put(self, batch: Batch, at: int) -> Progress:
        sent = 0
        for index in range(at, batch.count):
            if batch.verdict[index] >= PASS_LIMIT:
                continue
            error = self._give(batch, index)
            if error:
                return index, sent, error
            sent += 1
        return batch.count, sent, 0

    def _give(self, batch: Batch, index: int) -> int:
        failure = self.failures.popleft() if self.failures else 0
        if failure:
            return failure
        if self._peer is None:
            return errno.EPIPE
        frame = batch.frame(index)
        if len(frame) < batch.length[index]:
            return errno.EMSGSIZE
        if len(self._peer._waiting) >= self._capacity:
            return errno.EAGAIN
        self._peer._arrive(frame)
        return 0

    def _arrive(self, frame: bytes) -> None:
        if not self._waiting:
            os.write(self._wake, b"\0")
        self._waiting.append(frame)

    def close(self) -> None:
        if self._readable < 0:
            return
        if self._peer is not None:
            self._peer._abandoned()
            self._peer = None
        os.close(self._readable)
        os.close(self._wake)
        self._readable = self._wake = -1

    def _abandoned(self) -> None:
        self._peer = None
        os.write(self._wake, b"\0")


def pair(capacity: int = 1024) -> tuple[MemoryLink, MemoryLink]:
    """Two links, each the other's other side."""
    one, other = MemoryLink(capacity), MemoryLink(capacity)
    one._peer, other._peer = other, one
    return one, other
