"""A connected AF_UNIX stream socket with QEMU's length framing (`framing.py`).

This is what QEMU's `-netdev stream`, passt, gvproxy and socket_vmnet speak. Bytes are read in one
large call straight into the batch's arena, where `Framing` finds the frames; only what is left over
is copied: a frame cut in two, or, when a batch is full of small frames, those for the next ones.
What is read next goes behind a short leftover, so that batches are full when the stream is; nothing is
read behind a long one. Either way it is at most one arena.

A frame that the kernel took in part is finished, to the byte, before anything else is written; at
most one is unfinished at a time, and it counts as sent. Every `send` and every `receive` tries, and
`unsent` has the forwarder call one of them as soon as there is room.

The stream ends with LinkClosed: at its end of file (also one inside a frame) and at a length that
cannot be one. Frames that came before are delivered first.
"""

import os
import sys
from errno import EAGAIN
from socket import socket

from softnet.core.frames import Batch
from softnet.errors import LinkClosed
from softnet.links.base import BaseLink, closed_or
from softnet.links.burst import SEND_FLAGS, Progress
from softnet.links.calls import calls
from softnet.links.framing import Framing

SHORT = 4  # slots: a leftover that may be copied in front of what is read next


class StreamLink(BaseLink):
    """Owns the socket."""

    def __init__(self, sock: socket | int) -> None:
        super().__init__()
        self._socket = socket(fileno=sock) if isinstance(sock, int) else sock
        self._framing = Framing()
        self._left = memoryview(b"")  # read, and not delivered yet
        self._rest = bytearray()  # of the one frame that the kernel took in part
        if sys.platform == "darwin":  # its sosend() does not look at MSG_DONTWAIT
            os.set_blocking(self._socket.fileno(), False)

    @property
    def unsent(self) -> bool:
        return len(self._rest) > 0

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self, batch: Batch) -> int:
        if self._rest:
            self._finish()
        batch.clear()
        if len(self._left) > min(SHORT * batch.slot, len(batch.arena) - 1):
            self._split_left(batch)
        more = True
        while more and not (batch.count or self._framing.broken):
            more = self._read(batch)
        if self._framing.broken and not batch.count:
            raise LinkClosed("the other side announced a frame longer than any MTU allows")
        return batch.count

    def _split_left(self, batch: Batch) -> None:
        """Fill the batch from what was read before; without a whole frame in it, it stays empty."""
        used = -1
        while used and not batch.count:
            left = self._left[: len(batch.arena)]
            used = self._framing.split(left, batch, len(left))
            batch.arena[:used] = left[:used]
            self._left = self._left[used:]
        self._look_ahead(batch)

    def _read(self, batch: Batch) -> bool:
        """Behind what is left of the last read, as much as there is room for.

        True when it has to be called again to know that nothing waits.
        """
        before = len(self._left)
        batch.arena[:before] = self._left
        got = self._receive(batch, before)
        if got < 0 and not self.pending:
            return False
        end = before + max(got, 0)
        used = self._framing.split(batch.data, batch, end)
        self._left = memoryview(batch.arena[used:end])
        self._look_ahead(batch)
        return end == len(batch.arena)

    def _receive(self, batch: Batch, before: int) -> int:
        """The bytes that came, -1 when none wait. An end is told once no frame may be left before it."""
        try:
            got = calls.receive_bytes(self._socket, batch, before)
        except OSError as error:
            if self.pending:
                return -1
            raise closed_or(error) from None
        if got or self.pending:
            return got or -1
        where = " inside a frame" if before or self._framing.unfinished else ""
        raise LinkClosed(f"the other side closed the stream{where}")

    def _look_ahead(self, batch: Batch) -> None:
        full = batch.count == batch.capacity and len(self._left) > 0
        self.pending = full or self._framing.broken

    def _put(self, batch: Batch, at: int) -> Progress:
        if not self._rest:
            return calls.send_stream(self._socket, batch, at, self._rest)
        error = self._finish()
        if error:
            return at, 0, error
        at, sent, error = calls.send_stream(self._socket, batch, at, self._rest)
        return at, sent + 1, error

    def _finish(self) -> int:
        """Write on with the unfinished frame; 0 when it is out, else why it is not."""
        try:
            written = self._socket.send(self._rest, SEND_FLAGS)
        except OSError as error:
            return error.errno or EAGAIN
        del self._rest[:written]
        return EAGAIN if self._rest else 0

    def close(self) -> None:
        self._socket.close()
