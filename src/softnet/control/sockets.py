"""Control channels behind descriptors: Tart's `--control-fd`, and a listening socket of Softnet's own.

A `Connection` is one peer's socket and channel. It never blocks (every call is MSG_DONTWAIT; an
inherited descriptor's own flags are shared with others and are left alone), answers at most
REQUESTS a turn, and reads no more while a line waits. The peer's end of file ends the reading;
what waits to be written is still written. `Hub` keeps the connections: at most CLIENTS of a
listener. The forwarder watches them, and is woken for lines that wait their turn.
"""

import errno
import os
import select
import socket
import stat
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from softnet.errors import ConfigError

if TYPE_CHECKING:
    from softnet.control.protocol import Method, Stream

READ_BYTES = 65536
REQUESTS = 8
CLIENTS = 8

_GONE = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EBADF)


Methods = Callable[[], Mapping[str, "Method"]]


class Watcher(Protocol):
    """Who polls for us: the forwarder."""

    def watch(self, descriptor: int, react: Callable[[float], None], events: int = select.POLLIN) -> None: ...

    def unwatch(self, descriptor: int) -> None: ...


class Connection:
    """One peer, from its first byte to its end."""

    def __init__(
        self,
        peer: socket.socket,
        methods: Mapping[str, "Method"],
        watcher: Watcher,
        closed: Callable[["Connection"], None],
    ) -> None:
        from softnet.control.protocol import Channel

        self.waiting = False
        self._stream: Stream | None = None
        self._peer = peer
        self._channel = Channel(methods)
        self._watcher = watcher
        self._closed = closed
        self._ended = False
        self._events = select.POLLIN
        watcher.watch(peer.fileno(), self._ready, select.POLLIN)

    def turn(self) -> None:
        """What can be done without waiting: answer, write, say what to wait for next."""
        if self._events < 0:
            return
        self._serve()
        try:
            self._write(self._channel.unsent)
            if self._stream is not None and not self._channel.unsent:
                self._write(self._stream.unsent)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            self.close()
            return
        self._wait_for_next()

    def close(self) -> None:
        """Ends the connection, whatever waits."""
        if self._events < 0:
            return
        self._events = -1
        self.waiting = False
        self._watcher.unwatch(self._peer.fileno())
        self._peer.close()
        if self._stream is not None:
            self._stream.close()
        self._closed(self)

    def _ready(self, now: float) -> None:
        del now
        if self._events & select.POLLIN:
            self._read()
        self.turn()

    def _read(self) -> None:
        try:
            data = self._peer.recv(READ_BYTES, socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            if error.errno not in _GONE:
                raise
            data = b""
        if not data:
            self._ended = True
        elif self._stream is None:
            self._channel.receive(data)

    def _serve(self) -> None:
        if self._stream is None:
            self._channel.serve(REQUESTS)
            self._stream = self._channel.stream
            if self._stream is not None:
                self._stream.wake = self.turn

    def _write(self, unsent: bytearray) -> None:
        while unsent:
            try:
                del unsent[: self._peer.send(unsent, socket.MSG_DONTWAIT)]
            except (BlockingIOError, InterruptedError):
                return

    def _wait_for_next(self) -> None:
        carries = self._stream is not None
        unsent = bool(self._channel.unsent or (self._stream is not None and self._stream.unsent))
        self.waiting = not carries and self._channel.has_line()
        if self._channel.dead or (self._ended and (carries or not (unsent or self.waiting))):
            self.close()
            return
        events = (select.POLLOUT if unsent else 0) | (0 if self._ended or self.waiting else select.POLLIN)
        if events != self._events:
            self._events = events
            self._watcher.watch(self._peer.fileno(), self._ready, events)


class Hub:
    """All control connections of a process; a timer of the forwarder, for lines that wait their turn."""

    def __init__(self, watcher: Watcher) -> None:
        self.connections: list[Connection] = []
        self._watcher = watcher
        self._listeners: list[tuple[socket.socket, str]] = []

    @property
    def deadline(self) -> float | None:
        return 0.0 if any(connection.waiting for connection in self.connections) else None

    def expire(self, now: float) -> None:
        """Another turn for whoever has lines waiting."""
        del now
        for connection in [each for each in self.connections if each.waiting]:
            connection.turn()

    def adopt(self, peer: socket.socket, methods: Methods) -> None:
        """Serves a connected socket. `methods` is asked now, and imports what it needs."""
        self.connections.append(Connection(peer, methods(), self._watcher, self.connections.remove))

    def listen(self, listener: socket.socket, path: str, methods: Methods) -> None:
        """Serves whoever connects, CLIENTS at a time; `path` is removed at the end.

        To an abstract name anybody may connect: only root and the listener's owner are served.
        """
        self._listeners.append((listener, path))
        owner = peer_uid(listener) if path.startswith("@") else None

        def accept(now: float) -> None:
            del now
            try:
                peer, _address = listener.accept()
            except OSError:
                return
            stranger = owner is not None and peer_uid(peer) not in (0, owner)
            if stranger or len(self.connections) >= CLIENTS:
                peer.close()
                return
            try:
                self.adopt(peer, methods)
            except ImportError:  # code that this process, whoever it is by now, may not read
                peer.close()

        self._watcher.watch(listener.fileno(), accept)

    def close(self) -> None:
        for connection in list(self.connections):
            connection.close()
        for listener, path in self._listeners:
            self._watcher.unwatch(listener.fileno())
            listener.close()
            if not path.startswith("@"):
                with suppress(OSError):
                    os.unlink(path)
        self._listeners.clear()


def open_control_fd(number: int, vm_fd: int | None) -> socket.socket:
    """A duplicate of `--control-fd`, which must be one end of a connected AF_UNIX stream."""

    def refuse(problem: str) -> ConfigError:
        remedy = "pass one end of socketpair(AF_UNIX, SOCK_STREAM)"
        return ConfigError("--control-fd", number, problem, remedy)

    if number == vm_fd:
        raise refuse("is the VM's socket (--vm-fd)")
    try:
        if not stat.S_ISSOCK(os.fstat(number).st_mode):
            raise refuse("is not a socket")
        peer = socket.socket(fileno=os.dup(number))
    except OSError:
        raise refuse("is not an open file descriptor") from None
    kind = peer.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
    try:
        if peer.family != socket.AF_UNIX or kind != socket.SOCK_STREAM:
            raise refuse("is not an AF_UNIX stream socket")
        peer.getpeername()
    except OSError:
        peer.close()
        raise refuse("is not connected") from None
    except ConfigError:
        peer.close()
        raise
    os.set_inheritable(peer.fileno(), False)
    return peer


def listen_at(path: str, option: str) -> socket.socket:
    """A listening socket at `path` that only its owner may connect to; a dead one there is replaced."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        if is_dead(path):
            os.unlink(path)
        listener.bind(path)
        listener.listen(CLIENTS)
    except OSError as error:
        listener.close()
        problem = f"cannot listen there: {error.strerror or error}"
        raise ConfigError(option, path, problem, "name a new path in a folder of yours") from None
    finally:
        os.umask(before)
    listener.setblocking(False)
    return listener


def connect_at(path: str, timeout: float = 0) -> socket.socket:
    """A connection to a path, or to an abstract name (`@...`). OSError when there is none.

    `timeout` (seconds, 0 is non-blocking) is for the connection and for what follows on it.
    """
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        peer.settimeout(timeout)
        peer.connect("\0" + path[1:] if path.startswith("@") else path)
    except OSError:
        peer.close()
        raise
    return peer


def peer_uid(peer: socket.socket) -> int:
    """Who made, or listens at, the other end of a connected socket (Linux: struct ucred)."""
    _pid, uid, _gid = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)


def is_dead(path: str) -> bool:
    """Whether a socket lies at `path` that nobody listens on."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
    except OSError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False
