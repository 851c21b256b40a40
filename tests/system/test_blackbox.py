"""The program itself, between two sockets: the corpus goes through it, and its contract holds.

Nothing here needs root but the test of an uplink that lacks privileges. What must pass comes out the
same and in order, what must not does not, and the counters that the program prints agree.
"""

import os
import shutil
import signal
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from harness import corpus
from harness.frames import BOOTP_BYTES, RELEASE, ip, mac, udp
from harness.program import TO_VM, Program, ask
from vectors.world import GLOBAL, GW, GW_MAC, VM, VM_MAC, packet

FROM_VM = corpus.FROM_VM
STATES = corpus.states()
# An uplink that was handed over knows no addresses of the host.
TOLD = [name for name, state in STATES.items() if not state["host_addresses"]]
RATE = 15  # DHCP messages that one process may see beside those of its state
SOON = 2.0
SEQUENCES = [
    entry
    for entry in corpus.sequences()
    if entry["state"] in TOLD and max(step["now"] for step in entry["steps"]) <= SOON
]


def vectors(state: str, direction: str, dhcp: bool) -> list[tuple[bytes, str]]:
    """Frames and reasons; DHCP that passes apart, for it changes the state."""
    return [
        (bytes.fromhex(vector["frame"]), vector["reason"])
        for vector in corpus.vectors()
        if vector["state"] == state
        and vector["direction"] == direction
        and (vector["reason"] == "pass-dhcp") == dhcp
    ]


def ended_well(program: Program) -> None:
    program.end()
    assert program.code == 0, program.said()
    assert program.silent()
    assert program.counted() == program.sent


@pytest.mark.parametrize("state", TOLD)
def test_the_corpus_through_the_program(state: str) -> None:
    with Program(STATES[state]) as program:
        program.reach(STATES[state])
        program.exchange(FROM_VM, vectors(state, FROM_VM, dhcp=False))
        program.exchange(TO_VM, vectors(state, TO_VM, dhcp=False))
        ended_well(program)


@pytest.mark.parametrize("state", TOLD)
def test_dhcp_messages_through_the_program(state: str) -> None:
    messages = vectors(state, FROM_VM, dhcp=True)
    for at in range(0, len(messages), RATE):
        with Program(STATES[state]) as program:
            program.reach(STATES[state])
            program.exchange(FROM_VM, messages[at : at + RATE])
            ended_well(program)


@pytest.mark.parametrize("sequence", SEQUENCES, ids=[entry["name"] for entry in SEQUENCES])
def test_sequences_through_the_program(sequence: corpus.Entry) -> None:
    with Program(STATES[sequence["state"]]) as program:
        program.reach(STATES[sequence["state"]])
        program.play(sequence["steps"])
        ended_well(program)


def test_every_length_through_the_program() -> None:
    with Program(STATES["bound"]) as program:
        program.reach(STATES["bound"])
        for entry in corpus.cuts():
            if entry["state"] == "bound" and entry["name"] != "fit-renewal":
                program.exchange(entry["direction"], list(corpus.cut_frames(entry)))
        ended_well(program)


@pytest.mark.parametrize("vm", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_streams(vm: socket.SocketKind) -> None:
    """QEMU's length framing on the uplink and on the VM's side; an empty frame is one there too."""
    with Program(STATES["bound"], vm=vm, uplink=socket.SOCK_STREAM) as program:
        program.reach(STATES["bound"])
        program.exchange(FROM_VM, vectors("bound", FROM_VM, dhcp=False))
        program.exchange(TO_VM, vectors("bound", TO_VM, dhcp=False))
        ended_well(program)


@pytest.fixture
def bound() -> Iterator[Program]:
    with Program(STATES["bound"]) as program:
        program.reach(STATES["bound"])
        yield program


def test_a_summary_on_request(bound: Program) -> None:
    bound.process.send_signal(signal.SIGUSR1)
    deadline = time.monotonic() + 5
    while not bound.said() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert bound.counted() == bound.sent
    ended_well(bound)


def test_an_empty_datagram_is_not_an_end_of_file(bound: Program) -> None:
    for _ in range(3):
        bound.exchange(FROM_VM, [(b"", "runt")])
        bound.exchange(TO_VM, [(b"", "runt")])
    bound.exchange(FROM_VM, [(packet(GLOBAL), "pass-global")])
    ended_well(bound)


# Ends.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_0_within_200_ms(number: int) -> None:
    taken = []
    for _ in range(3):
        with Program(STATES["bound"]) as program:
            program.reach(STATES["bound"])
            taken.append(program.end(number))
            assert program.code == 0
            assert program.silent()
    assert statistics.median(taken) <= 0.2, taken


def flood(wire: socket.socket, frame: bytes, stop: threading.Event) -> threading.Thread:
    def run() -> None:
        wire.settimeout(0.2)
        while not stop.is_set():
            try:
                wire.send(frame)
            except (TimeoutError, OSError):
                continue

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_signal_ends_it_within_200_ms_under_a_flood() -> None:
    taken = []
    for _ in range(3):
        stop = threading.Event()
        with Program(STATES["bound"]) as program:
            program.reach(STATES["bound"])
            frame = packet(GLOBAL, payload=udp(1, 2, bytes(1472)))
            thread = flood(program.vm.mine, frame, stop)
            try:
                time.sleep(0.3)
                taken.append(program.end(signal.SIGINT))
            finally:
                stop.set()
                thread.join()
            assert program.code == 0
            assert program.silent()
    assert statistics.median(taken) <= 0.2, taken


def test_a_vm_that_closes_a_stream_ends_it_at_once() -> None:
    with Program(STATES["bound"], vm=socket.SOCK_STREAM) as program:
        program.reach(STATES["bound"])
        program.vm.mine.close()
        assert program.wait(2) == 0
        assert program.silent()
        assert len(program.uplink.waiting()) == 1, "the lease was given back"


def test_the_next_frame_for_a_vm_that_is_gone_ends_it(bound: Program) -> None:
    bound.vm.mine.close()
    bound.uplink.send(bound.marker(TO_VM))
    assert bound.wait(2) == 0
    assert bound.silent()


@pytest.fixture(scope="module")
def abandoned() -> Iterator[tuple[Program, float]]:
    """A program whose VM left without a word, at the beginning of this module."""
    with Program(STATES["bound"]) as program:
        program.reach(STATES["bound"])
        program.vm.mine.close()
        yield program, time.monotonic()


@pytest.mark.usefixtures("abandoned")
@pytest.mark.parametrize("how", ["datagram", "stream"])
def test_an_uplink_that_goes_ends_it_with_1(how: str) -> None:
    kind = socket.SOCK_DGRAM if how == "datagram" else socket.SOCK_STREAM
    with Program(STATES["none"], uplink=kind) as program:
        program.exchange(FROM_VM, [])
        program.vm.send(program.marker(FROM_VM))
        program.uplink.receive()
        program.uplink.mine.close()
        with suppress(ConnectionError):  # a stream's end has been noticed already
            program.vm.send(program.marker(FROM_VM))
        assert program.wait(2) == 1
        assert program.silent()
        assert "uplink" in program.said()[-1]


@pytest.mark.parametrize("how", ["signal", "vm-gone"])
def test_a_lease_is_given_back_at_the_end(how: str) -> None:
    with Program(STATES["bound"], vm=socket.SOCK_STREAM) as program:
        program.reach(STATES["bound"])
        if how == "signal":
            program.end()
        else:
            program.vm.mine.close()
            program.wait(2)
        (frame,) = program.uplink.waiting()
    assert frame[0:14] == mac(GW_MAC) + mac(VM_MAC) + b"\x08\x00"
    assert frame[26:34] == ip(VM) + ip(GW)
    assert frame[34:38] == b"\x00\x44\x00\x43"
    message = frame[42:]
    assert message[0:4] == b"\x01\x01\x06\x00"
    assert message[12:16] == ip(VM)
    assert message[28:34] == mac(VM_MAC)
    options = message[BOOTP_BYTES + 4 :]
    assert bytes([53, 1, RELEASE]) in options
    assert bytes([54, 4]) + ip(GW) in options


@pytest.mark.parametrize("state", ["none", "expired", "released"])
def test_nothing_is_given_back_without_a_lease(state: str) -> None:
    with Program(STATES[state]) as program:
        program.reach(STATES[state])
        program.end()
        assert program.uplink.waiting() == []


# Sides that do not read.


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_an_uplink_that_does_not_read_stops_nothing_else(kind: socket.SocketKind) -> None:
    with Program(STATES["bound"], uplink=kind) as program:
        program.reach(STATES["bound"])
        for _ in range(6000):
            program.vm.send(packet(GLOBAL, payload=udp(1, 2, bytes(1400))))
        program.exchange(TO_VM, [(program.marker(TO_VM), "pass-inbound")] * 20)
        program.end()
        assert program.code == 0
        assert program.counted()[FROM_VM]["uplink-busy"] > 0
        assert program.counted()[TO_VM]["pass-inbound"] == program.sent[TO_VM]["pass-inbound"]


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_a_vm_that_does_not_read_stops_nothing_else(kind: socket.SocketKind) -> None:
    with Program(STATES["bound"], vm=kind) as program:
        program.reach(STATES["bound"])
        for _ in range(6000):
            program.uplink.send(program.marker(TO_VM).ljust(1400, b"\0"))
        program.exchange(FROM_VM, [(packet(GLOBAL), "pass-global")] * 20)
        program.end()
        assert program.code == 0
        assert program.counted()[TO_VM]["vm-busy"] > 0
        assert program.counted()[FROM_VM]["pass-global"] == program.sent[FROM_VM]["pass-global"]


# What it refuses, before anything is changed.

MAC = "52:54:00:12:34:56"
WRONG = {
    "--vm-fd": ("999", "abc", "-1", "3.5", "99999999999", ""),
    "--vm-mac-address": (
        *(
            "52:54:00:12:34",
            "52:54:00:12:34:56:78",
            "52-54-00-12-34-56",
            "5254.0012.3456",
            "525400123456",
            "",
        ),
        *(
            "52:54:0:12:34:56",
            "g2:54:00:12:34:56",
            "01:00:5e:00:00:01",
            "ff:ff:ff:ff:ff:ff",
            "00:00:00:00:00:00",
        ),
    ),
    "--allow": ("10.0.0.0/33", "10.0.0.0/-1", "10.0.0/8", "256.0.0.1", "example.com", "@gateway", "::/0", ""),
    "--block": ("10.0.0.0/33", "1.1.1.1,10.0.0.0/33", "0.0.0.0/", "@host/8", ""),
    "--expose": (
        *("0:22", "22:0", "65536:22", "22:65536", "22", "22:22/sctp", "host:22:22", "22:22:22:22", ""),
        *("1.2.3:22:22", "22:22,0:22"),
    ),
    "--uplink": (
        *(
            "wormhole",
            "fd",
            "fd=",
            "fd=x",
            "fd=999",
            "fd=-1",
            "unix",
            "unix=",
            "bridge",
            "bridge=",
            "nat=1",
            "",
        ),
    ),
    "--vm-net-type": ("bridged", "NAT", ""),
    "--bootpd-lease-time": ("0", "-1", "x", "1e3", "99999999999"),
    "--gateway": ("gateway", "10.0.0.0/8", "1.2.3", ""),
    "--mtu": ("0", "575", "65521", "65536", "x"),
    "--rate": ("1mb", "1bit", "9pps", "burst=5ms", "vm:1mbit", "1mbit,2mbit", "1mbit,burst=1ms", ""),
    "--user": ("no-such-user",),
    "--group": ("no-such-group",),
    "--control-fd": ("x",),
}
REFUSED = [(option, value) for option, values in WRONG.items() for value in values]


def arguments(option: str, value: str, good: socket.socket) -> list[str]:
    """A command line that would do, but for `option`."""
    words = {"--vm-fd": str(good.fileno()), "--vm-mac-address": MAC, "--uplink": f"fd={good.fileno()}"}
    return [f"{name}={text}" for name, text in (words | {option: value}).items()]


def refused(words: list[str], *fds: int, code: tuple[int, ...] = (2,)) -> str:
    """The one line that a refusal prints."""
    ran = ask(*words, pass_fds=fds)
    assert ran.returncode in code, ran.stderr
    assert ran.stdout == ""
    (line,) = ran.stderr.splitlines()
    assert line.startswith("softnet: ")
    return line


@pytest.mark.parametrize(("option", "value"), REFUSED)
def test_refused(option: str, value: str) -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far:
        line = refused(arguments(option, value, near), near.fileno())
    assert option in line
    assert value.split(",")[-1] in line
    assert ";" in line, "and what to do instead"


def test_a_path_that_nobody_listens_at_is_refused() -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far:
        line = refused(arguments("--uplink", "unix=/nonexistent/socket", near), near.fileno(), code=(1, 2))
    assert "--uplink" in line
    assert "/nonexistent/socket" in line


class Directory:
    """A descriptor of a directory."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY)

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        os.close(self._fd)


KINDS = ("internet", "tcp", "listening", "unconnected", "seqpacket", "device", "directory", "pipe")


def sockets() -> Iterator[tuple[str, list[object]]]:
    inet = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    inet.connect(("127.0.0.1", 9))
    yield "internet", [inet]
    server = socket.create_server(("127.0.0.1", 0))
    yield "tcp", [socket.create_connection(server.getsockname()), server]
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind("")
    listening.listen()
    yield "listening", [listening]
    yield "unconnected", [socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)]
    yield "seqpacket", list(socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    yield "device", [os.fdopen(os.open(os.devnull, os.O_RDWR), "rb")]
    yield "directory", [Directory("/")]
    reader, writer = os.pipe()
    yield "pipe", [os.fdopen(reader, "rb"), os.fdopen(writer, "wb")]


@pytest.mark.parametrize("which", KINDS)
@pytest.mark.parametrize("option", ["--vm-fd", "--uplink"])
def test_a_descriptor_of_another_kind_is_refused(which: str, option: str) -> None:
    kept = dict(sockets())
    fd = kept[which][0].fileno()
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    value = str(fd) if option == "--vm-fd" else f"fd={fd}"
    try:
        line = refused(arguments(option, value, near), near.fileno(), fd)
    finally:
        for each in [near, far, *(each for some in kept.values() for each in some)]:
            each.close()
    assert line.startswith(f"softnet: {option} ")
    assert str(fd) in line
    assert ";" in line


@pytest.mark.parametrize(
    "words", [[], ["--vm-fd", "0"], ["--vm-mac-address", MAC], ["--no-such-option"], ["no-such-command"]]
)
def test_a_command_line_that_does_not_fit_together_is_refused(words: list[str]) -> None:
    line = refused(words)
    assert "--help" in line


@pytest.mark.root
@pytest.mark.parametrize("uplink", ["nat", "bridge=br-none"])
def test_an_uplink_that_lacks_privileges_is_refused(uplink: str) -> None:
    """As nobody, and with no sudo in reach."""
    setpriv = shutil.which("setpriv")
    assert setpriv is not None
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    nobody = (setpriv, "--reuid", "65534", "--regid", "65534", "--clear-groups", "--no-new-privs")
    with near, far:
        ran = ask(*arguments("--uplink", uplink, near), before=nobody, pass_fds=[near.fileno()])
    assert ran.returncode in (1, 2), ran.stderr
    assert ran.stdout == ""
    (line,) = ran.stderr.splitlines()
    assert uplink.partition("=")[0] in line


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--version"]])
def test_help_needs_nothing(words: list[str]) -> None:
    ran = ask(*words)
    assert ran.returncode == 0
    assert ran.stderr == ""
    if "--version" not in words:
        assert all(option in ran.stdout for option in WRONG)


# Last, because it takes its time while the others run.


def test_a_vm_that_left_without_a_word_is_noticed_in_ten_seconds(abandoned: tuple[Program, float]) -> None:
    left, since = abandoned
    assert left.wait(max(0.1, 10.5 - (time.monotonic() - since))) == 0
    assert left.silent()
