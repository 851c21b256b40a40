"""Port forwarding rules over the twin: both protocols, both halves of vmnet's refusal, host-order ports."""

import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from softnet.config import TCP, UDP
from softnet.core.address import parse_ipv4
from softnet.errors import LinkClosed, UplinkError
from softnet.uplinks.vmnet import api as vmnet
from softnet.uplinks.vmnet import rules as module
from softnet.uplinks.vmnet.api import VmnetError
from softnet.uplinks.vmnet.interface import Interface
from softnet.uplinks.vmnet.rules import Forward, Forwards
from twin import support
from twin.support import Wire

GUEST = parse_ipv4("192.168.64.7")
SSH = Forward(TCP, 2222, GUEST, 22)
DNS = Forward(UDP, 2222, GUEST, 53)


@pytest.fixture
def wire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    with support.wire(tmp_path, monkeypatch) as end:
        yield end


@pytest.fixture
def interface(wire: Wire) -> Iterator[Interface]:
    made = Interface(vmnet.SHARED_MODE, True)
    yield made
    made.stop()


@pytest.fixture
def forwards(interface: Interface) -> Forwards:
    return Forwards(interface)


def test_rules_come_and_go(forwards: Forwards, wire: Wire) -> None:
    before = support.live_objects()
    assert forwards.in_force() == []
    forwards.add(SSH)
    forwards.add(DNS)
    assert sorted(forwards.in_force()) == [SSH, DNS]
    forwards.remove(TCP, 2222)
    assert forwards.in_force() == [DNS]
    forwards.remove(UDP, 2222)
    assert forwards.in_force() == []
    assert support.live_objects() == before
    assert "add_rule protocol=6 external=2222 family=2 internal=22" in wire.log()
    assert "remove_rule protocol=17 external=2222 family=2" in wire.log()


def test_a_port_that_is_taken_is_refused_by_name(forwards: Forwards) -> None:
    forwards.add(SSH)
    with pytest.raises(
        VmnetError, match=r"^vmnet_interface_add_ip_port_forwarding_rule tcp 2222: VMNET_FAILURE"
    ):
        forwards.add(Forward(TCP, 2222, GUEST + 1, 80))
    assert forwards.in_force() == [SSH]


def test_a_rule_that_is_not_there_cannot_be_removed(forwards: Forwards) -> None:
    with pytest.raises(
        VmnetError, match=r"^vmnet_interface_remove_ip_port_forwarding_rule udp 53: VMNET_FAILURE"
    ):
        forwards.remove(UDP, 53)


@pytest.mark.parametrize("port", [0, -1, 65536, 65536 + 22])
def test_a_port_is_never_cut_to_sixteen_bits(forwards: Forwards, port: int) -> None:
    for forward in (Forward(TCP, port, GUEST, 22), Forward(TCP, 22, GUEST, port)):
        with pytest.raises(ValueError):
            forwards.add(forward)
    with pytest.raises(ValueError):
        forwards.remove(TCP, port)
    assert forwards.in_force() == []


def test_the_ends_of_the_port_range(forwards: Forwards) -> None:
    for forward in (Forward(TCP, 1, GUEST, 65535), Forward(UDP, 65535, 0x01020304, 1)):
        forwards.add(forward)
        assert forward in forwards.in_force()


def test_a_full_table_is_an_error_and_not_a_wait(forwards: Forwards) -> None:
    for port in range(1, 65):
        forwards.add(Forward(TCP, port, GUEST, port))
    with pytest.raises(VmnetError):
        forwards.add(Forward(TCP, 65, GUEST, 65))
    assert len(forwards.in_force()) == 64


def test_a_rule_that_is_never_answered_for_ends(
    interface: Interface, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWIN_SILENT", "rule")
    monkeypatch.setattr(module, "RULE_TIMEOUT", 0.1)
    with pytest.raises(UplinkError, match=r"rule tcp 2222: vmnet did not answer within 0\.1 s$"):
        Forwards(interface).add(SSH)


def test_rules_of_a_stopped_interface(interface: Interface, forwards: Forwards) -> None:
    interface.stop()
    with pytest.raises(LinkClosed):
        forwards.add(SSH)
    with pytest.raises(LinkClosed):
        forwards.remove(TCP, 2222)
    with pytest.raises(LinkClosed):
        forwards.in_force()


def test_rules_while_a_callback_is_held_back(interface: Interface, forwards: Forwards, wire: Wire) -> None:
    wire.attach().send(bytes(60))
    assert select.select([interface], [], [], 5)[0]
    forwards.add(SSH)
    assert forwards.in_force() == [SSH]
