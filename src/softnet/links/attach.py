"""Links from what the command line names: an inherited descriptor, or the path of a socket.

`--vm-fd N` and `--uplink fd=N` take a connected AF_UNIX socket: SOCK_DGRAM carries one frame a
datagram, SOCK_STREAM QEMU's length framing. Everything about a descriptor is found out before
anything is changed about it; what is then changed is close-on-exec and, where they are smaller, the
buffers: Tart's sizes, within what the kernel grants (net.core.wmem_max and rmem_max, unless Softnet
is still root; kern.ipc.maxsockbuf on macOS).

On Linux a descriptor may also be a TAP's, without packet information and virtio header.
"""

import errno
import os
import socket
import stat
import sys
from contextlib import suppress

from softnet.errors import ConfigError
from softnet.links import Link
from softnet.links.datagram import DatagramLink
from softnet.links.socket_file import SocketFile, os_message
from softnet.links.stream import StreamLink

SEND_BUFFER = 1 << 20
RECEIVE_BUFFER = 4 << 20
CONNECT_SECONDS = 5.0
ABSTRACT_NAMES = sys.platform.startswith("linux")
GREETING = b"VFKT"  # vfkit's and libkrun's first datagram, which tells a server their address

_WANTED = "pass the number of a connected AF_UNIX datagram or stream socket"
_KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
}
_LINUX_FORCE = {socket.SO_SNDBUF: 32, socket.SO_RCVBUF: 33}  # SO_SNDBUFFORCE, SO_RCVBUFFORCE


def open_fd(option: str, fd: int | str) -> Link:
    """A link that owns descriptor `fd` from now on, or ConfigError with nothing changed."""
    number = check_fd(option, fd)
    if stat.S_ISCHR(os.fstat(number).st_mode):
        from softnet.links.tap import TapLink

        os.set_inheritable(number, False)
        return TapLink(number)
    return link_of(socket.socket(fileno=number))


def check_fd(option: str, fd: int | str) -> int:
    """The number `fd` if it is a connected AF_UNIX datagram or stream socket, or a TAP. Changes nothing."""
    number = int(fd) if isinstance(fd, int) or (fd.isascii() and fd.isdigit()) else -1
    if number < 0:
        raise ConfigError(option, fd, "is not the number of a file descriptor", _WANTED)
    try:
        mode = os.fstat(number).st_mode
    except (OSError, OverflowError):
        raise ConfigError(option, fd, "is not an open file descriptor", _WANTED) from None
    if stat.S_ISCHR(mode) and _is_tap(number):
        return number
    if not stat.S_ISSOCK(mode):
        raise ConfigError(option, fd, f"is {_kind(mode)}, not a socket", _WANTED)
    sock = socket.socket(fileno=number)
    try:
        problem = _problem(sock)
    finally:
        sock.detach()
    if problem:
        raise ConfigError(option, fd, problem, _WANTED)
    return number


def connect_path(option: str, path: str) -> Link:
    """A link to the server at `path`, of whichever of the two types its socket is.

    To a datagram server it is what vfkit is: it has an address of its own, so that it can be
    answered, and greets with VFKT, so that it is known before the VM sends its first frame.
    """
    try:
        try:
            return _connected(socket.SOCK_STREAM, path)
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:
                raise
            return _connected(socket.SOCK_DGRAM, path)
    except OSError as error:
        raise ConfigError(option, path, *_connect_problem(error)) from None


def _connected(kind: int, path: str) -> Link:
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.settimeout(CONNECT_SECONDS)
    name = None
    try:
        if kind == socket.SOCK_DGRAM:
            name = _name_client(sock, path)
        sock.connect(path)
        if kind == socket.SOCK_DGRAM:
            sock.send(GREETING)
    except OSError:
        sock.close()
        if name is not None:
            name.remove()
        raise
    sock.settimeout(None)
    return link_of(sock, name)


def _name_client(sock: socket.socket, server: str) -> SocketFile | None:
    """An abstract name, which ends with the socket; on macOS a file beside the server's, as vfkit does."""
    if ABSTRACT_NAMES:
        sock.bind("")
        return None
    name = f"softnet-{os.getpid():x}-{os.urandom(4).hex()}.sock"
    return SocketFile(sock, os.path.join(os.path.dirname(server), name))


def _connect_problem(error: OSError) -> tuple[str, str]:
    if error.errno == errno.ENOENT:
        return "does not exist", "start the server first"
    if error.errno in (errno.ECONNREFUSED, errno.ENOTSOCK):
        return "nobody listens there", "start the server, or give the path of its socket"
    if error.errno == errno.EPROTOTYPE:
        return "is neither a stream nor a datagram socket", "give the path of one"
    if isinstance(error, TimeoutError | BlockingIOError):
        return "its server does not accept connections", "see whether it serves somebody else"
    return f"cannot be connected to ({os_message(error)})", "give the path of a socket that you may use"


def _problem(sock: socket.socket) -> str:
    if sock.family != socket.AF_UNIX:
        return "is a socket of another family than AF_UNIX"
    if sock.type not in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        return "is an AF_UNIX socket of another type than SOCK_DGRAM or SOCK_STREAM"
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "is a listening socket"
    try:
        sock.getpeername()
    except OSError:
        return "is a socket that is not connected"
    return ""


def _is_tap(fd: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    from softnet.links.tap import is_plain_tap

    return is_plain_tap(fd)


def _kind(mode: int) -> str:
    return _KINDS.get(stat.S_IFMT(mode), "something else")


def link_of(sock: socket.socket, name: SocketFile | None = None) -> Link:
    """The link for a connected socket of ours. `name` goes when the link is closed."""
    sock.set_inheritable(False)
    raise_buffer(sock, socket.SO_SNDBUF, SEND_BUFFER)
    raise_buffer(sock, socket.SO_RCVBUF, RECEIVE_BUFFER)
    if sock.type == socket.SOCK_STREAM:
        return StreamLink(sock)
    return DatagramLink(sock, name)


def raise_buffer(sock: socket.socket, which: int, size: int) -> None:
    """At least `size` bytes for SO_SNDBUF or SO_RCVBUF, or as many as the kernel grants."""
    if sock.getsockopt(socket.SOL_SOCKET, which) >= size:
        return
    if sys.platform.startswith("linux"):
        with suppress(OSError):  # needs CAP_NET_ADMIN, and then goes beyond the sysctl's maximum
            sock.setsockopt(socket.SOL_SOCKET, _LINUX_FORCE[which], size)
            return
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, which, size)
