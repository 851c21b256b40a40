"""From vmnet's event callback to a descriptor that the loop polls: nothing lost, nothing spinning.

The callback comes on a thread of dispatch's. It clears `drained`, sends one byte, and stays until the
loop has found the interface empty. Then it returns, and vmnet may call it again.

    callback            clear drained . send a byte . wait for drained . return
    loop (`consume`)    take a byte, then read the interface
    loop (`rearm`)      the interface was empty: set drained
    stop (`let_go`)     set drained for good

Not lost: the byte is taken before the interface is read, so what the byte stands for is seen by that
read; a byte sent after it is still there for the next poll. That holds whether vmnet tells of frames
by level (again while any wait) or by edge (once for those that came). Not spinning: a callback
sends one byte and cannot return before an empty read, so there are never more wake-ups than
callbacks, and no more callbacks than empty reads. `rearm` that overtakes a callback only lets it
return early; its byte stays.

A full socket loses no wake-up either: it is full of bytes that say the same.
"""

import socket
from contextlib import suppress
from threading import Event


class Wakeup:
    """`callback` runs on any thread; everything else belongs to the loop's thread."""

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._receiver.setblocking(False)
        self._sender.setblocking(False)
        self._drained = Event()
        self._let_go = False

    def fileno(self) -> int:
        return self._receiver.fileno()

    def callback(self) -> None:
        """Wake the loop, and hold vmnet back until it has drained the interface."""
        self._drained.clear()
        with suppress(OSError):  # full (EAGAIN on Linux, ENOBUFS on macOS): a byte is waiting already
            self._sender.send(b"\0")
        if not self._let_go:
            self._drained.wait()

    def consume(self) -> None:
        with suppress(BlockingIOError):
            self._receiver.recv(1)

    def rearm(self) -> None:
        self._drained.set()

    def let_go(self) -> None:
        """From now on no callback is held back, and the one that is returns."""
        self._let_go = True
        self._drained.set()

    def close(self) -> None:
        self._receiver.close()
        self._sender.close()
