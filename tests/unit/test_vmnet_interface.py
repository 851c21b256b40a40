"""The life of an interface over the twin: parameters, start in all its failures, and every way to stop."""

import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from softnet.core.frames import Batch
from softnet.errors import LinkClosed, UplinkError
from softnet.uplinks.vmnet import api as vmnet
from softnet.uplinks.vmnet import interface as module
from softnet.uplinks.vmnet.api import VmnetError
from softnet.uplinks.vmnet.batch import PacketTable
from softnet.uplinks.vmnet.interface import Interface, Parameters
from twin import support
from twin.support import Wire

FRAME = b"\xee" * 60
GATEWAY = 0xC0A84001


@pytest.fixture
def wire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    with support.wire(tmp_path, monkeypatch) as end:
        yield end


def start() -> Interface:
    return Interface(vmnet.SHARED_MODE, True)


def test_the_parameters_are_those_that_vmnet_states(wire: Wire) -> None:
    interface = start()
    assert interface.parameters == Parameters(GATEWAY, 1500, 1514, 256, 256)
    interface.stop()
    assert "start mode=1001 isolation=1" in wire.log()


def test_host_mode_without_isolation(wire: Wire) -> None:
    interface = Interface(vmnet.HOST_MODE, False)
    assert interface.parameters.gateway == 0xC0A88001
    interface.stop()
    assert "start mode=1000 isolation=0" in wire.log()


def test_without_the_batch_keys_of_macos_15_the_documented_limit_holds(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VMNET_TWIN", str(support.folder() / "old"))
    interface = start()
    assert interface.parameters == Parameters(GATEWAY, 1500, 1514, 200, 200)
    wire.attach().send(FRAME)
    table = PacketTable(Batch(256, 1514), interface.parameters.read_max_packets)
    assert select.select([interface], [], [], 5)[0]
    assert interface.read(table) == 1
    interface.stop()


def test_a_larger_mtu_is_asked_for_and_reported(wire: Wire) -> None:
    interface = Interface(vmnet.SHARED_MODE, True, 9000)
    assert (interface.parameters.mtu, interface.parameters.max_packet_size) == (9000, 9014)
    interface.stop()


@pytest.mark.parametrize("how", ["null", "null+handler", "handler"])
def test_the_three_shapes_of_a_failed_start(wire: Wire, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setenv("TWIN_START", how)
    before = support.live_objects()
    with pytest.raises(VmnetError, match=r"^vmnet_start_interface: VMNET_FAILURE \(1001\)") as caught:
        start()
    assert caught.value.status == vmnet.FAILURE
    assert support.live_objects() == before


@pytest.mark.parametrize(("euid", "said"), [(0, False), (501, True)])
def test_that_root_is_needed_is_said_from_the_effective_user_alone(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, euid: int, said: bool
) -> None:
    monkeypatch.setenv("TWIN_START", "null")
    monkeypatch.setattr(os, "geteuid", lambda: euid)
    with pytest.raises(VmnetError) as caught:
        start()
    assert str(caught.value).endswith("; vmnet needs root: run softnet with sudo") is said


def test_a_start_that_is_never_answered_ends(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWIN_SILENT", "start")
    monkeypatch.setattr(module, "START_TIMEOUT", 0.1)
    with pytest.raises(UplinkError, match=r"^vmnet_start_interface: vmnet did not answer within 0\.1 s$"):
        start()


def test_an_interface_without_parameters_is_refused_and_stopped(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWIN_START", "bare")
    with pytest.raises(
        UplinkError, match=r"^vmnet_start_interface: the interface came without its start_address$"
    ):
        start()
    assert wire.log()[-1].startswith("stopped")


def test_a_gateway_that_is_no_address_is_refused(wire: Wire) -> None:
    raw = {"start_address": b"fe80::1", "mtu": 1500, "max_packet_size": 1514}
    with pytest.raises(UplinkError, match=r"'fe80::1' is no address for a gateway"):
        module._parameters(raw)


def test_nothing_is_leaked_by_a_life(wire: Wire) -> None:
    before = support.live_objects()
    interface = start()
    wire.attach().send(FRAME)
    assert select.select([interface], [], [], 5)[0]
    interface.stop()
    assert support.live_objects() == before


def test_the_order_of_a_stop(wire: Wire) -> None:
    """Callback off, callback let go, then the stop - with a callback held back, which shows the order."""
    interface = start()
    wire.attach().send(FRAME)
    assert select.select([interface], [], [], 5)[0]
    begun = time.monotonic()
    interface.stop()
    assert time.monotonic() - begun < 1
    log = wire.log()
    off = log.index("set_event_callback mask=1 callback=0")
    assert log[off + 1].startswith("stop callback=0 in_flight=")
    assert log[off + 2].startswith("stopped")


def test_a_stop_is_idempotent_and_final(wire: Wire) -> None:
    interface = start()
    table = PacketTable(Batch(4, 1514), 4)
    assert interface.running
    interface.stop()
    interface.stop()
    assert not interface.running
    with pytest.raises(LinkClosed):
        interface.read(table)
    with pytest.raises(LinkClosed):
        interface.write(table, 0, 1)


def test_a_stop_that_is_never_answered_ends_and_lets_everything_go(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWIN_SILENT", "stop")
    monkeypatch.setattr(module, "STOP_TIMEOUT", 0.1)
    interface = start()
    with pytest.raises(UplinkError, match=r"^vmnet_stop_interface: vmnet did not answer within 0\.1 s$"):
        interface.stop()
    assert not interface.running
    interface.stop()


def test_fifty_starts_and_stops(wire: Wire) -> None:
    before, threads = support.live_objects(), threading.active_count()
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        start().stop()
    assert support.live_objects() == before
    assert threading.active_count() == threads
    left = len(os.listdir("/proc/self/fd")) - descriptors
    assert left <= 50, "the twin keeps one eventfd an interface, and nothing else may stay"


PROGRAM = """
import select, socket, sys, threading
from softnet.uplinks.vmnet import api
from softnet.uplinks.vmnet.interface import Interface
interface = Interface(api.SHARED_MODE, True)
peer = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
peer.connect(sys.argv[1])
def storm():
    while True:
        try:
            peer.send(bytes(60))
        except OSError:
            return
threading.Thread(target=storm, daemon=True).start()
select.select([interface], [], [], 5)
"""


@pytest.mark.parametrize("ending", ["", "raise SystemExit(3)", "raise RuntimeError('x')"])
def test_an_interpreter_that_ends_stops_its_interface_first(wire: Wire, ending: str) -> None:
    """Frames go on arriving: a callback into an interpreter that is being torn down would kill it."""
    command = [sys.executable, "-c", PROGRAM + ending, str(wire.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == {"": 0, "raise SystemExit(3)": 3}.get(ending, 1), done.stderr
    assert any(line.startswith("stopped") for line in wire.log())
