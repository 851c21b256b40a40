"""A socket that waits at a path for one VM: `--vm-socket [stream:|dgram:]PATH`.

    stream:PATH, PATH   QEMU's `-netdev stream,addr.type=unix,addr.path=PATH` connects
    dgram:PATH          vfkit and krunkit send a first datagram, VFKT, which names their own socket

There is one VM: once it has connected, nobody else can. A stream's path goes at that moment; a
datagram socket keeps its path until the link is closed, because QEMU's `-netdev dgram` looks it up
for every frame. A path that a living process holds is refused, a socket left behind is replaced.

The path is made, and removed, as whoever asked for Softnet: in a folder of theirs nothing is left. One
that only root may write to keeps the name, as privileges are gone by then; the next start replaces it.
"""

import errno
import os
import socket
import stat

from softnet.errors import ConfigError
from softnet.links import Link
from softnet.links.attach import GREETING, link_of
from softnet.links.socket_file import SocketFile, os_message

_KINDS = {"stream": socket.SOCK_STREAM, "dgram": socket.SOCK_DGRAM}


class Listener:
    """Poll `fileno()` for reading and call `accept` until it returns the link; the listener is done then."""

    def __init__(self, sock: socket.socket, name: SocketFile) -> None:
        self._socket: socket.socket | None = sock
        self._name = name

    def own_folders(self) -> list[str]:
        """Where a socket's name is yet to be removed, as far as this process, whoever it is by now, can."""
        folder = self._name.folder
        return [folder] if os.path.lexists(self._name.path) and os.access(folder, os.W_OK) else []

    def fileno(self) -> int:
        return self._socket.fileno() if self._socket else -1

    def accept(self) -> Link | None:
        """The VM's link, or None while there is none. Never blocks."""
        if self._socket is None:
            return None
        try:
            if self._socket.type == socket.SOCK_STREAM:
                return self._accept_connection(self._socket)
            return self._learn_peer(self._socket)
        except (BlockingIOError, ConnectionAbortedError):
            return None

    def _accept_connection(self, sock: socket.socket) -> Link:
        connection = sock.accept()[0]
        self.close()
        return link_of(connection)

    def _learn_peer(self, sock: socket.socket) -> Link | None:
        """The sender of a first datagram, if it can be answered; what it sent is a frame, unless VFKT."""
        first, sender = sock.recvfrom(len(GREETING) + 1, socket.MSG_PEEK)
        if not sender or sock.connect_ex(sender):
            sock.recv(1)
            return None
        if first == GREETING:
            sock.recv(1)
        self._socket = None
        return link_of(sock, self._name)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._name.remove()
            self._socket = None


def listen_path(option: str, value: str, uid: int = -1, gid: int = -1) -> Listener:
    """Waits at a path that, of all users but root, `uid` and `gid` alone may connect to; -1 is ourselves."""
    kind, colon, path = value.partition(":")
    if not colon or kind not in _KINDS:
        kind, path = "stream", value
    sock = socket.socket(socket.AF_UNIX, _KINDS[kind])
    try:
        return _listen(sock, _bind(sock, option, path), uid, gid)
    except OSError as error:
        sock.close()
        remedy = "give a path in a directory that you may write to"
        raise ConfigError(option, value, f"cannot listen there ({os_message(error)})", remedy) from None
    except ConfigError:
        sock.close()
        raise


def _listen(sock: socket.socket, name: SocketFile, uid: int, gid: int) -> Listener:
    try:
        name.give_to(uid, gid)
        sock.setblocking(False)
        if sock.type == socket.SOCK_STREAM:
            sock.listen(1)
    except OSError:
        name.remove()
        raise
    return Listener(sock, name)


def _bind(sock: socket.socket, option: str, path: str) -> SocketFile:
    try:
        return SocketFile(sock, path)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise ConfigError(option, path, "exists and is not a socket", "give another path, or remove it")
    if not _is_stale(path):
        raise ConfigError(option, path, "is in use by another process", "give another path, or end it")
    os.unlink(path)
    return SocketFile(sock, path)


def _is_stale(path: str) -> bool:
    """Asked with a datagram socket: to a listener of the other type that is an error, not a connection."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        return probe.connect_ex(path) == errno.ECONNREFUSED
