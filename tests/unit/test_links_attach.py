"""Links by descriptor and by path: what is refused, in one line and unchanged, and what becomes a link."""

import os
import socket
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from softnet.core.frames import Batch
from softnet.core.reasons import PASS_GLOBAL, UPLINK_BUSY
from softnet.errors import ConfigError
from softnet.links import Link, attach
from softnet.links.attach import RECEIVE_BUFFER, SEND_BUFFER, check_fd, connect_path, open_fd
from softnet.links.datagram import DatagramLink
from softnet.links.listen import listen_path
from softnet.links.stream import StreamLink

FRAME = bytes(range(60))
KINDS = [pytest.param(socket.SOCK_STREAM, id="stream"), pytest.param(socket.SOCK_DGRAM, id="dgram")]


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A path short enough for AF_UNIX (104 bytes on macOS), left empty at the end."""
    made = tmp_path_factory.mktemp("l")
    yield made
    assert list(made.iterdir()) == []


def one_line(failure: pytest.ExceptionInfo[ConfigError], option: str, value: object) -> str:
    message = str(failure.value)
    assert message.startswith(f"{option} {value}: ")
    assert "\n" not in message
    assert "; " in message  # and what to do
    return message


def send(link: Link, frame: bytes = FRAME) -> None:
    batch = Batch(1, 128)
    batch.append(frame)
    batch.verdict[0] = PASS_GLOBAL
    assert link.send(batch, UPLINK_BUSY) == 0


def received(link: Link) -> list[bytes]:
    batch = Batch(8, 128)
    return [batch.frame(index) for index in range(link.receive(batch))]


# ---- Inherited descriptors ------------------------------------------------------------------------


def inet() -> list[socket.socket]:
    return [socket.socket(socket.AF_INET, socket.SOCK_DGRAM)]


def inet_stream() -> list[socket.socket]:
    server = socket.create_server(("127.0.0.1", 0))
    return [socket.create_connection(server.getsockname()), server]


def listening() -> list[socket.socket]:
    sock = socket.socket(socket.AF_UNIX)
    with tempfile.TemporaryDirectory() as folder:
        sock.bind(f"{folder}/s")
        sock.listen()
    return [sock]


def unconnected_stream() -> list[socket.socket]:
    return [socket.socket(socket.AF_UNIX)]


def unconnected_datagram() -> list[socket.socket]:
    return [socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)]


def seqpacket() -> list[socket.socket]:
    return list(socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))


def buffers(sock: socket.socket) -> list[int]:
    return [sock.getsockopt(socket.SOL_SOCKET, which) for which in (socket.SO_SNDBUF, socket.SO_RCVBUF)]


SOCKETS = [
    (inet, "another family"),
    (inet_stream, "another family"),
    (listening, "listening"),
    (unconnected_stream, "not connected"),
    (unconnected_datagram, "not connected"),
]
if sys.platform.startswith("linux"):  # macOS has no such sockets
    SOCKETS.append((seqpacket, "another type"))


@pytest.mark.parametrize(("make", "problem"), SOCKETS)
def test_a_socket_of_the_wrong_kind_is_refused_unchanged(
    make: Callable[[], list[socket.socket]], problem: str
) -> None:
    sockets = make()
    sock = sockets[0]
    sock.set_inheritable(True)
    before = buffers(sock)
    with pytest.raises(ConfigError) as failure:
        open_fd("--vm-fd", sock.fileno())
    assert problem in one_line(failure, "--vm-fd", sock.fileno())
    assert sock.get_inheritable()
    assert buffers(sock) == before
    for each in sockets:
        each.close()


@pytest.mark.parametrize("value", [987654, "987654", -1, "-1", "", "x", "3x", "²", 1 << 40, "9" * 30])
def test_what_is_no_descriptor_is_refused(value: int | str) -> None:
    with pytest.raises(ConfigError) as failure:
        open_fd("--vm-fd", value)
    one_line(failure, "--vm-fd", value)


OTHERS = [("/dev/null", "a device"), ("/", "a directory"), (__file__, "a file")]


@pytest.mark.parametrize(("path", "what"), OTHERS)
def test_what_is_no_socket_is_refused(path: str, what: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    with pytest.raises(ConfigError) as failure:
        open_fd("--uplink fd", fd)
    assert f"is {what}, not a socket" in one_line(failure, "--uplink fd", fd)
    os.close(fd)


def test_a_pipe_is_no_socket() -> None:
    read, write = os.pipe()
    with pytest.raises(ConfigError, match="is a pipe, not a socket"):
        open_fd("--vm-fd", read)
    os.close(read)
    os.close(write)


@pytest.mark.parametrize("kind", KINDS)
def test_an_inherited_socket_becomes_a_link_that_owns_it(kind: int) -> None:
    near, far = socket.socketpair(socket.AF_UNIX, kind)
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    near.set_inheritable(True)
    fd = near.detach()
    assert check_fd("--vm-fd", fd) == fd
    assert os.get_inheritable(fd)
    link = open_fd("--vm-fd", str(fd))
    assert isinstance(link, StreamLink if kind == socket.SOCK_STREAM else DatagramLink)
    assert link.fileno() == fd
    assert not os.get_inheritable(fd)
    send(link)
    assert far.recv(100)[-60:] == FRAME
    link.close()
    with pytest.raises(OSError):
        os.fstat(fd)
    far.close()


def test_small_buffers_are_raised_and_large_ones_left_alone() -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    small = near.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    attach.raise_buffer(near, socket.SO_SNDBUF, SEND_BUFFER)
    attach.raise_buffer(near, socket.SO_RCVBUF, RECEIVE_BUFFER)
    raised = near.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    assert raised > small
    attach.raise_buffer(near, socket.SO_SNDBUF, raised - 1)
    assert near.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == raised
    near.close()
    far.close()


# ---- Servers at a path ----------------------------------------------------------------------------


def server(path: Path, kind: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.bind(str(path))
    if kind == socket.SOCK_STREAM:
        sock.listen()
    sock.settimeout(2)
    return sock


def test_a_stream_server_is_connected_to(folder: Path) -> None:
    waiting = server(folder / "s", socket.SOCK_STREAM)
    link = connect_path("--uplink", str(folder / "s"))
    far = waiting.accept()[0]
    send(link)
    assert far.recv(100) == b"\0\0\0\x3c" + FRAME
    far.send(b"\0\0\0\x05hello")
    assert received(link) == [b"hello"]
    for each in (link, far, waiting):
        each.close()
    os.unlink(folder / "s")


@pytest.mark.parametrize("abstract", [True, False])
def test_a_datagram_server_is_greeted_and_can_answer(
    folder: Path, abstract: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attach, "ABSTRACT_NAMES", abstract and attach.ABSTRACT_NAMES)
    far = server(folder / "d", socket.SOCK_DGRAM)
    link = connect_path("--uplink", str(folder / "d"))
    greeting, client = far.recvfrom(100)
    assert greeting == b"VFKT"
    names = [path for path in folder.iterdir() if path.name != "d"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in names] == ([] if attach.ABSTRACT_NAMES else [0o600])
    far.connect(client)
    far.send(b"hello")
    assert received(link) == [b"hello"]
    send(link)
    assert far.recv(100) == FRAME
    link.close()
    far.close()
    os.unlink(folder / "d")


def test_a_path_without_a_server_is_one_line(folder: Path) -> None:
    server(folder / "stale", socket.SOCK_STREAM).close()
    (folder / "file").touch()
    problems = {"stale": "nobody listens", "file": "nobody listens", "none": "does not exist"}
    for name, problem in problems.items():
        with pytest.raises(ConfigError) as failure:
            connect_path("--uplink", str(folder / name))
        assert problem in one_line(failure, "--uplink", folder / name)
    with pytest.raises(ConfigError) as failure:
        connect_path("--uplink", "/" + "x" * 200)
    assert "too long" in one_line(failure, "--uplink", "/" + "x" * 200)
    (folder / "stale").unlink()
    (folder / "file").unlink()


def test_a_server_that_accepts_nobody_is_one_line(folder: Path) -> None:
    busy = socket.socket(socket.AF_UNIX)
    busy.bind(str(folder / "b"))
    busy.listen(0)
    waiting = [connect_path("--uplink", str(folder / "b"))]  # the backlog holds one more than asked for
    with pytest.raises(ConfigError) as failure:
        connect_path("--uplink", str(folder / "b"))
    assert "does not accept" in str(failure.value)
    one_line(failure, "--uplink", folder / "b")
    for link in waiting:
        link.close()
    busy.close()
    (folder / "b").unlink()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="macOS has no AF_UNIX SOCK_SEQPACKET")
def test_a_server_of_a_third_type_is_one_line(folder: Path) -> None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.bind(str(folder / "q"))
    sock.listen()
    with pytest.raises(ConfigError) as failure:
        connect_path("--uplink", str(folder / "q"))
    assert "neither a stream nor a datagram" in one_line(failure, "--uplink", folder / "q")
    sock.close()
    (folder / "q").unlink()


# ---- A path that waits for a VM -------------------------------------------------------------------


def test_a_vm_that_connects_is_the_only_one(folder: Path) -> None:
    path = str(folder / "v")
    listener = listen_path("--vm-socket", path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert listener.accept() is None
    vm, late = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    vm.connect(path)
    link = listener.accept()
    assert isinstance(link, StreamLink)
    assert listener.accept() is None
    with pytest.raises(FileNotFoundError):
        late.connect(path)
    vm.send(b"\0\0\0\x05hello")
    assert received(link) == [b"hello"]
    listener.close()
    for each in (link, vm, late):
        each.close()


@pytest.mark.parametrize("first", [b"VFKT", b"VFKTx", b"VFK", FRAME])
def test_a_vm_that_says_vfkt_is_answered(folder: Path, first: bytes) -> None:
    listener = listen_path("--vm-socket", f"dgram:{folder}/v")
    vm = server(folder / "vm", socket.SOCK_DGRAM)
    vm.connect(str(folder / "v"))
    assert listener.accept() is None
    vm.send(first)
    vm.send(b"second")
    link = listener.accept()
    assert isinstance(link, DatagramLink)
    assert received(link) == [b"second"] if first == b"VFKT" else [first, b"second"]
    send(link)
    assert vm.recv(100) == FRAME
    listener.close()
    assert (folder / "v").exists()
    link.close()
    vm.close()
    (folder / "vm").unlink()


def test_a_sender_that_cannot_be_answered_is_not_the_vm(folder: Path) -> None:
    listener = listen_path("--vm-socket", f"dgram:{folder}/v")
    nameless = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    nameless.connect(str(folder / "v"))
    nameless.send(b"VFKT")
    gone = server(folder / "gone", socket.SOCK_DGRAM)
    gone.sendto(b"VFKT", str(folder / "v"))
    gone.close()
    assert [listener.accept() for _ in range(3)] == [None] * 3
    vm = server(folder / "vm", socket.SOCK_DGRAM)
    vm.sendto(b"VFKT", str(folder / "v"))
    link = listener.accept()
    assert link is not None
    link.close()
    for name in ("vm", "gone"):
        (folder / name).unlink()
    nameless.close()
    vm.close()


@pytest.mark.parametrize("kind", ["stream", "dgram"])
@pytest.mark.parametrize("holder", KINDS)
def test_a_path_that_is_held_is_refused_without_disturbing_its_holder(
    folder: Path, holder: int, kind: str
) -> None:
    held = server(folder / "h", holder)
    with pytest.raises(ConfigError, match="in use by another process"):
        listen_path("--vm-socket", f"{kind}:{folder}/h")
    held.setblocking(False)
    with pytest.raises(BlockingIOError):
        held.accept() if holder == socket.SOCK_STREAM else held.recv(1)
    held.close()
    (folder / "h").unlink()


@pytest.mark.parametrize("kind", ["stream", "dgram"])
def test_what_a_dead_process_left_is_replaced(folder: Path, kind: str) -> None:
    server(folder / "h", socket.SOCK_STREAM).close()
    listener = listen_path("--vm-socket", f"{kind}:{folder}/h")
    assert listener.fileno() >= 0
    listener.close()
    listener.close()


def test_a_path_that_became_somebody_elses_is_not_removed(folder: Path) -> None:
    listener = listen_path("--vm-socket", str(folder / "h"))
    (folder / "h").unlink()
    (folder / "h").touch()
    listener.close()
    (folder / "h").unlink()


def test_a_path_that_cannot_be_listened_at_is_one_line(folder: Path) -> None:
    (folder / "file").write_text("kept")
    (folder / "link").symlink_to(folder / "file")
    for name in ("file", "link", "none/v", "x" * 200):
        with pytest.raises(ConfigError) as failure:
            listen_path("--vm-socket", str(folder / name))
        one_line(failure, "--vm-socket", folder / name)
    assert (folder / "file").read_text() == "kept"
    (folder / "file").unlink()
    (folder / "link").unlink()


@pytest.mark.root
def test_the_path_may_be_given_to_the_user_that_runs_the_vm(folder: Path) -> None:
    listener = listen_path("--vm-socket", str(folder / "v"), 65534, 65534)
    info = os.stat(folder / "v")
    assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (65534, 65534, 0o600)
    listener.close()
