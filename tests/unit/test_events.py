"""Event lines: their fields, and what becomes of them when the reader is slow, late or gone."""

import fcntl
import json
import os
import select
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import corpus
from harness.frames import IPV4, TCP, ethernet, ipv4, tcp
from softnet.core import reasons
from softnet.core.address import parse_ipv4, parse_mac
from softnet.core.lease import Lease, LeaseEvent
from softnet.errors import ConfigError
from softnet.events import BUFFER, EventLog, Narrator, open_events, timestamp
from vectors.world import GW, GW_MAC, VM, VM_MAC


class Loop:
    def __init__(self) -> None:
        self.watched: dict[int, Callable[[float], None]] = {}

    def watch(self, descriptor: int, react: Callable[[float], None], events: int = select.POLLIN) -> None:
        assert events == select.POLLOUT
        self.watched[descriptor] = react

    def unwatch(self, descriptor: int) -> None:
        del self.watched[descriptor]


class World:
    """A log into a pipe or a file, and what was read from it."""

    def __init__(self, descriptor: int) -> None:
        self.loop = Loop()
        self.log = EventLog(descriptor, parse_mac(VM_MAC), self.loop)


def lines(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


def test_every_line_has_the_common_fields() -> None:
    reader, writer = os.pipe()
    world = World(writer)
    world.log.emit("start", pid=1)
    (line,) = lines(os.read(reader, 65536))
    assert {key: line[key] for key in ("v", "vm", "event", "pid")} == {
        "v": 1,
        "vm": VM_MAC,
        "event": "start",
        "pid": 1,
    }
    assert line["time"].endswith("Z")
    assert timestamp(1_000_000_000.5) == "2001-09-09T01:46:40.500Z"
    world.log.close()
    world.log.close()
    os.close(reader)


def test_a_slow_reader_loses_events_and_is_told_how_many() -> None:
    reader, writer = os.pipe()
    world = World(writer)
    for at in range(20_000):
        world.log.emit("drop", number=at, padding="x" * 50)
    assert world.log.lost > 0
    assert world.log.written + world.log.lost == 20_000
    assert world.loop.watched, "it waits for the reader"
    received = b""
    while world.loop.watched:
        received += os.read(reader, 1 << 20)
        for react in list(world.loop.watched.values()):
            react(0.0)
    lost = world.log.lost
    world.log.emit("drop", number="last")
    world.log.close()
    while more := os.read(reader, 1 << 20):
        received += more
    seen = lines(received)
    assert len(received) < BUFFER + (1 << 18)
    assert [line["number"] for line in seen if line["event"] == "drop"][-2:] == [len(seen) - 3, "last"]
    assert seen[-2]["event"] == "lost"
    assert seen[-2]["events"] == lost
    os.close(reader)


def test_a_reader_that_is_gone_costs_nothing() -> None:
    reader, writer = os.pipe()
    world = World(writer)
    os.close(reader)
    for _ in range(10):
        world.log.emit("drop")
    assert world.log.lost == 9, "the first was written before anyone knew"
    assert world.loop.watched == {}
    world.log.close()


def test_blocking_descriptors_are_never_waited_for() -> None:
    ours, theirs = socket.socketpair()
    world = World(os.dup(ours.fileno()))
    done = threading.Event()

    def flood() -> None:
        for _ in range(20_000):
            world.log.emit("drop", padding="x" * 80)
        done.set()

    threading.Thread(target=flood, daemon=True).start()
    assert done.wait(30), "a write blocked"
    ours.close()
    theirs.close()


def test_a_full_disk_keeps_what_fits() -> None:
    world = World(os.open("/dev/full", os.O_WRONLY))
    for _ in range(5000):
        world.log.emit("drop", padding="x" * 80)
    assert world.log.lost > 0
    world.log.close()


def test_files_are_added_to_and_private(tmp_path: Path) -> None:
    path = tmp_path / "events"
    for _ in range(2):
        world = World(open_events(str(path)))
        world.log.emit("start")
        world.log.close()
    assert len(lines(path.read_bytes())) == 2
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for text, problem in [
        (str(tmp_path), "cannot open: Is a directory"),
        (str(tmp_path / "pipe"), "cannot open: nobody reads this pipe yet"),
        (str(tmp_path / "none" / "x"), "cannot open: No such file or directory"),
        ("fd=x", "is not an open file descriptor"),
        ("fd=-1", "is not an open file descriptor"),
        ("fd=999", "is not an open file descriptor"),
    ]:
        with pytest.raises(ConfigError) as caught:
            open_events(text)
        assert str(caught.value).startswith(f"--events {text}: {problem}; ")


def blocked(remote: str = "10.0.0.5", port: int = 443, count: int = 1) -> Any:
    frame = ethernet(GW_MAC, VM_MAC, IPV4, ipv4(VM, remote, TCP, tcp(40000, port)))
    batch = corpus.batch_of([frame] * count)
    for at in range(count):
        batch.verdict[at] = reasons.BLOCKED
    return batch


def narrated() -> tuple[Narrator, Callable[[], list[dict[str, Any]]]]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 1 << 20)
    narrator = Narrator(World(writer).log, lambda refusal: "block 10.0.0.0/8")

    def said() -> list[dict[str, Any]]:
        try:
            return lines(os.read(reader, 1 << 20))
        except BlockingIOError:
            return []

    return narrator, said


def test_a_refused_flow_is_told_once_and_then_counted() -> None:
    narrator, said = narrated()
    assert narrator.deadline is None
    narrator.on_drop(blocked(count=64), reasons.FROM_VM, 100.0)
    (first,) = said()
    common = ("v", "time", "vm", "event")
    assert {key: value for key, value in first.items() if key not in common} == {
        "direction": "from-vm",
        "reason": "blocked",
        "why": "the destination is closed by --block",
        "rule": "block 10.0.0.0/8",
        "frames": 1,
        "sourceMac": VM_MAC,
        "ethertype": "0x0800",
        "source": VM,
        "destination": "10.0.0.5",
        "protocol": "tcp",
        "sourcePort": 40000,
        "destinationPort": 443,
    }
    assert first["event"] == "drop"
    assert narrator.deadline == 110.0
    narrator.on_drop(blocked(count=36), reasons.FROM_VM, 101.0)
    assert said() == []
    narrator.expire(110.0)
    (counted,) = said()
    assert (counted["event"], counted["frames"]) == ("drops", 99)
    narrator.expire(120.0)
    assert said() == []
    assert narrator.deadline is None, "an idle Softnet is not woken"


def test_a_flood_of_flows_is_a_handful_of_lines() -> None:
    narrator, said = narrated()
    for at in range(3000):
        narrator.on_drop(blocked(f"10.0.{at >> 8}.{at & 255}"), reasons.FROM_VM, 100.0 + at / 1000)
    narrator.expire(110.0)
    told = said()
    assert len(told) < 250
    assert told[-1]["event"] == "unreported"
    assert told[-1]["flows"] + sum(line["event"] == "drop" for line in told) == 3000
    assert len(narrator.recent) == 64


def test_a_socket_that_was_full_is_an_event_of_its_own() -> None:
    narrator, said = narrated()
    batch = blocked()
    batch.verdict[0] = reasons.UPLINK_BUSY
    narrator.on_drop(batch, reasons.FROM_VM, 1.0)
    (line,) = said()
    assert (line["event"], line["reason"]) == ("busy", "uplink-busy")
    assert "source" not in line


def test_lease_events() -> None:
    narrator, said = narrated()
    lease = Lease(
        parse_ipv4(VM), 0xFFFFFF00, parse_ipv4(GW), (0x08080808,), parse_ipv4(GW), 1, 700.0, None, 1
    )
    narrator.on_lease(LeaseEvent("bound", "ack", lease, 100.0))
    narrator.on_lease(LeaseEvent("lost", "release", lease._replace(expiry=float("inf"), router=None), 100.0))
    bound, lost = said()
    assert (bound["state"], bound["cause"], bound["address"], bound["seconds"]) == ("bound", "ack", VM, 600.0)
    assert (bound["mask"], bound["router"], bound["dns"]) == ("255.255.255.0", GW, ["8.8.8.8"])
    assert (lost["state"], lost["seconds"], lost["router"]) == ("lost", None, None)


def test_without_a_log_the_recent_refusals_are_still_known() -> None:
    narrator = Narrator(None, lambda refusal: None)
    narrator.on_drop(blocked(), reasons.FROM_VM, 1.0)
    narrator.expire(11.0)
    assert [line["reason"] for line in narrator.recent] == ["blocked"]
