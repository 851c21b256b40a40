"""`--rate` on the real program: what a flood gets through, in each direction, and who does not notice.

Between two sockets no root is needed; TCP over nat has namespaces of its own. Rates are measured at the
receiver over two seconds or more, after the burst that an idle Softnet has saved up.
"""

import json
import signal
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness import corpus
from harness.frames import udp
from harness.program import TO_VM, Program, Wire, ask, command, environment
from softnet import limits, txqueue
from softnet.limits import Limit
from system.netlab import Lab, Namespace
from vectors.world import GLOBAL, packet

FROM_VM = corpus.FROM_VM
STATE = corpus.states()["bound"]
BOUND = 0.15
SECONDS = 2.0
LARGE, SMALL = 1472, 18  # bytes of UDP
KINDS = [socket.SOCK_DGRAM, socket.SOCK_STREAM]


def frame_for(direction: str, size: int) -> bytes:
    if direction == FROM_VM:
        return packet(GLOBAL, payload=udp(1, 2, bytes(size)))
    return Program.marker(TO_VM).ljust(42 + size, b"\0")


class Receiver:
    """Reads what arrives, as fast as it comes, and counts it."""

    def __init__(self, wire: Wire) -> None:
        self.bytes = self.frames = 0
        self._wire = wire
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        self._wire.mine.settimeout(0.2)
        while not self._stop.is_set():
            try:
                frame = self._wire.receive()
            except TimeoutError:
                continue
            except OSError:
                return
            self.bytes += len(frame)
            self.frames += 1

    def rates(self, seconds: float = SECONDS) -> tuple[float, float]:
        """Bits and frames a second."""
        began, octets, frames = time.monotonic(), self.bytes, self.frames
        time.sleep(seconds)
        took = time.monotonic() - began
        return (self.bytes - octets) * 8 / took, (self.frames - frames) / took

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@contextmanager
def flood(wire: Wire, frame: bytes) -> Iterator[None]:
    """As many as the socket takes, from a thread."""
    stop = threading.Event()

    def run() -> None:
        wire.mine.settimeout(0.2)
        while not stop.is_set():
            try:
                wire.send(frame)
            except (TimeoutError, OSError):
                if wire.stream:
                    return  # a frame is cut; the end of this flood

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def flooded(
    direction: str, size: int, *rates: str, kind: socket.SocketKind = socket.SOCK_DGRAM
) -> Iterator[tuple[Program, Receiver]]:
    """The program with one direction flooded for long enough that its burst is gone."""
    options = [word for rate in rates for word in ("--rate", rate)]
    with Program(STATE, *options, vm=kind, uplink=kind) as program:
        program.reach(STATE)
        source, sink = (program.vm, program.uplink)[:: 1 if direction == FROM_VM else -1]
        receiver = Receiver(sink)
        try:
            with flood(source, frame_for(direction, size)):
                time.sleep(0.5)
                yield program, receiver
        finally:
            receiver.stop()


@pytest.mark.parametrize("kind", KINDS, ids=["datagram", "stream"])
@pytest.mark.parametrize("direction", [FROM_VM, TO_VM])
def test_a_flood_gets_the_rate_and_no_more(direction: str, kind: socket.SocketKind) -> None:
    with flooded(direction, LARGE, f"{direction}:20mbit", kind=kind) as (_program, receiver):
        bits, _frames = receiver.rates()
    assert bits == pytest.approx(20e6, rel=BOUND)


def test_each_direction_has_the_rate_for_itself() -> None:
    with flooded(FROM_VM, LARGE, "from-vm:4mbit", "to-vm:16mbit") as (program, receiver):
        other = Receiver(program.vm)
        with flood(program.uplink, frame_for(TO_VM, LARGE)):
            time.sleep(0.5)
            bits, _frames = receiver.rates()
            others, _frames = other.rates()
        other.stop()
    assert bits == pytest.approx(4e6, rel=BOUND)
    assert others == pytest.approx(16e6, rel=BOUND)


def test_a_short_burst_costs_no_rate() -> None:
    with flooded(FROM_VM, LARGE, "50mbit,burst=20ms") as (_program, receiver):
        bits, _frames = receiver.rates()
    assert bits == pytest.approx(50e6, rel=BOUND)


@pytest.mark.parametrize("direction", [FROM_VM, TO_VM])
def test_packets_are_limited_too(direction: str) -> None:
    with flooded(direction, SMALL, f"{direction}:100mbit,1kpps") as (_program, receiver):
        bits, frames = receiver.rates()
    assert frames == pytest.approx(1000, rel=BOUND)
    assert bits < 1e6


def test_a_burst_passes_at_once() -> None:
    """What the idle time of a burst was worth, in one go; then the rate."""
    with Program(STATE, "--rate", "from-vm:100pps,burst=500ms") as program:
        program.reach(STATE)
        receiver = Receiver(program.uplink)
        time.sleep(0.6)
        with flood(program.vm, frame_for(FROM_VM, SMALL)):
            time.sleep(0.3)
            at_once = receiver.frames
            time.sleep(1)
            later = receiver.frames - at_once
        receiver.stop()
    assert 50 <= at_once <= 95
    assert 70 <= later <= 120


def test_what_is_refused_is_limited_as_well() -> None:
    with Program(STATE, "--rate", "from-vm:1kpps") as program:
        program.reach(STATE)
        with flood(program.vm, packet("10.0.0.5")):
            time.sleep(2)
        program.end()
        refused = program.counted()[FROM_VM]["not-global"]
    assert refused <= 1.1 * 1000 * 2.5 + 200
    assert refused >= 1000


@pytest.mark.parametrize("direction", [FROM_VM, TO_VM])
def test_the_other_direction_does_not_notice(direction: str) -> None:
    """Two hundred frames one after the other, while hardly anything passes the other way."""
    back = TO_VM if direction == FROM_VM else FROM_VM
    with Program(STATE, "--rate", f"{direction}:64kbit,10pps") as program:
        program.reach(STATE)
        source, far = (program.vm, program.uplink)[:: 1 if direction == FROM_VM else -1]
        frame = frame_for(back, SMALL)
        took = []
        with flood(source, frame_for(direction, LARGE)):
            time.sleep(0.5)
            far.mine.setblocking(True)
            for _ in range(200):
                began = time.monotonic()
                far.mine.send(frame)
                assert source.mine.recv(65536) == frame
                took.append(time.monotonic() - began)
    assert statistics.median(took) < 0.02
    assert max(took) < 1


@pytest.mark.parametrize("direction", [FROM_VM, TO_VM])
def test_a_signal_ends_it_within_200_ms_in_debt(direction: str) -> None:
    """At the least rate a single frame is paid for in 190 ms."""
    taken = []
    for _ in range(3):
        with flooded(direction, LARGE, "64kbit,10pps") as (program, _receiver):
            taken.append(program.end(signal.SIGINT))
            assert program.code == 0
            assert program.silent()
    assert statistics.median(taken) <= 0.2, taken


def switches(pid: int) -> int:
    """How often the process went to sleep by itself."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


def test_it_wakes_for_debts_and_not_when_idle() -> None:
    with Program(STATE, "--rate", "64kbit,10pps") as program:
        program.reach(STATE)
        receiver = Receiver(program.uplink)
        with flood(program.vm, frame_for(FROM_VM, LARGE)):
            time.sleep(0.5)
            before = switches(program.process.pid)
            time.sleep(2)
            woken = switches(program.process.pid) - before
        assert 5 <= woken <= 60, "a frame every 190 ms"
        while receiver.rates(1)[1]:
            pass  # until the socket is empty
        receiver.stop()
        before = switches(program.process.pid)
        time.sleep(2)
        assert switches(program.process.pid) - before <= 1, "the check for a silent VM is one"


def test_it_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SOFTNET_RUNTIME_DIR", str(tmp_path / "run"))
    with flooded(FROM_VM, LARGE, "from-vm:1mbit") as (program, _receiver):

        def said(*words: str) -> str:
            ran = subprocess.run(command(*words), capture_output=True, text=True, env=environment(), cwd="/")
            assert ran.returncode == 0, ran.stderr
            return ran.stdout

        rate = json.loads(said("stats", "--json"))["rate"]
        assert rate["to-vm"] is None
        assert (rate["from-vm"]["bits"], rate["from-vm"]["packets"]) == (1_000_000, 0)
        assert rate["from-vm"]["pauses"] > 5
        assert rate["from-vm"]["paused"] > 0.2
        assert "at most 1mbit,burst=100ms: " in said("stats")
        (row,) = [line for line in said("top", "--count", "1").splitlines() if line.startswith("from-vm")]
        assert 50 <= int(row.split()[-1].removesuffix("%")) <= 100
        program.end()
        (line,) = [line for line in program.said() if line.startswith("softnet: rate ")]
    assert line.startswith("softnet: rate from-vm 1mbit,burst=100ms: pauses=")


def test_a_policy_file_and_the_commands(tmp_path: Path) -> None:
    file = tmp_path / "vm.toml"
    file.write_text('version = 1\nrate = ["to-vm:1gbit,burst=50ms"]\n')
    checked = ask("check", str(file), "--json")
    assert json.loads(checked.stdout)["rate"] == {"from-vm": None, "to-vm": "1gbit,burst=50ms"}
    refused = ask("policy", "set", "--rate", "1mbit")
    assert refused.returncode == 2
    assert "--rate are for the start" in refused.stderr
    file.write_text('version = 1\nrate = "1gb"\n')
    refused = ask("check", str(file))
    assert refused.returncode == 2
    assert f"{file}:2:8: rate '1gb': '1gb' is neither a bit rate" in refused.stderr


# Over a TAP.


def test_the_length_of_a_queue() -> None:
    assert txqueue.frames(Limit(10_000_000), 1514) == 82
    assert txqueue.frames(Limit(limits.LEAST_BITS), 1514) == txqueue.LEAST_FRAMES
    assert txqueue.frames(Limit(0, 1000), 1514) == 100
    assert txqueue.frames(Limit(10_000_000, 500), 1514) == 50
    assert txqueue.frames(Limit(limits.MOST_BITS), 1514) > 500_000


class Stage(Lab):
    """A VM that reaches 9.9.9.9 through Softnet on `host`."""

    def __init__(self, *options: str) -> None:
        super().__init__()
        self.host, self.internet = self.namespace("host"), self.namespace("internet")
        self.cable(self.host, "eth0", "192.0.2.2/24", self.internet, "eth0", "192.0.2.1/24")
        self.host.ip("route add default via 192.0.2.1")
        self.internet.ip("address add 9.9.9.9/32 dev lo")
        self.internet.sysctl("ipv4/tcp_congestion_control", "reno")  # fills a queue until it loses something
        self.guest = self.vm("vm", "02:00:00:00:00:0a")
        self.filter = self.softnet(self.host, self.guest, "--uplink", "nat", *options)
        self.guest.lease()

    @contextmanager
    def stream(self, to_vm: bool) -> Iterator["Stream"]:
        with self.internet.listener("9.9.9.9", 8080) as listener:
            vm = self.guest.connect("9.9.9.9", 8080)
            world, _peer = listener.accept()
        sender, receiver = (world, vm) if to_vm else (vm, world)
        stream = Stream(sender, receiver)
        try:
            yield stream
        finally:
            stream.close()


class Stream:
    """One TCP connection that carries all it can."""

    def __init__(self, sender: socket.socket, receiver: socket.socket) -> None:
        self.received = 0
        self._ends = (sender, receiver)
        self._stop = False
        self._threads = [threading.Thread(target=work) for work in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        sender = self._ends[0]
        sender.settimeout(0.2)
        while not self._stop:
            try:
                sender.send(bytes(1 << 16))
            except TimeoutError:
                continue
            except OSError:
                return

    def _receive(self) -> None:
        receiver = self._ends[1]
        receiver.settimeout(0.2)
        while not self._stop:
            try:
                self.received += len(receiver.recv(1 << 16))
            except TimeoutError:
                continue
            except OSError:
                return

    def close(self) -> None:
        self._stop = True
        for thread in self._threads:
            thread.join()
        for end in self._ends:
            end.close()


def received_bytes(namespace: Namespace) -> int:
    """On the wire: what an application reads comes in lumps after a loss."""
    shown = json.loads(namespace.ip("-json -statistics link show eth0"))
    return int(shown[0]["stats64"]["rx"]["bytes"])


def round_trips(stage: Stage) -> list[float]:
    shown = stage.guest.run("ping", "-n", "-c", "20", "-i", "0.2", "-W", "5", "9.9.9.9", check=False).stdout
    return [float(line.split("time=")[1].split()[0]) for line in shown.splitlines() if "time=" in line]


@pytest.mark.root
@pytest.mark.parametrize("offload", [True, False], ids=["offload", "no-offload"])
@pytest.mark.parametrize("to_vm", [False, True], ids=["from-vm", "to-vm"])
def test_tcp_over_nat_gets_the_rate_and_keeps_nobody_waiting(to_vm: bool, offload: bool) -> None:
    rate = f"{TO_VM if to_vm else FROM_VM}:10mbit"
    with Stage("--rate", rate, *([] if offload else ["--no-offload"])) as stage:
        receiver = stage.guest if to_vm else stage.internet
        with stage.stream(to_vm) as stream:
            time.sleep(3)  # its slow start may overshoot
            began, before = time.monotonic(), received_bytes(receiver)
            waited = round_trips(stage)
            took, received = time.monotonic() - began, received_bytes(receiver) - before
        assert stage.filter.stop() == 0
    assert received * 8 / took == pytest.approx(10e6, rel=BOUND)
    assert stream.received > 0.5 * received, "it is not all sent in vain"
    assert len(waited) >= 10
    assert statistics.median(waited) < 400, "a queue of seconds"


@pytest.mark.root
@pytest.mark.parametrize(
    ("rate", "length"), [("to-vm:10mbit", 82), ("from-vm:10mbit", 1000), ("64kbit", 16), ("100gbit", 1000)]
)
def test_a_tap_queue_is_cut_to_the_rate(rate: str, length: int) -> None:
    with Stage("--rate", rate) as stage:
        (tap,) = [name for name in stage.host.devices() if name.startswith("sn")]
        assert f"qlen {length}" in stage.host.run("ip", "link", "show", tap).stdout
