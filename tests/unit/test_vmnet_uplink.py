"""open_uplink over the twin: modes, isolation, facts, forwarding, and undoing everything on failure."""

import contextlib
import ctypes
import os
import plistlib
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from softnet import policy as policies
from softnet.config import HOST_ONLY, NAT, TCP, UDP, Expose, Settings, UplinkChoice
from softnet.core.address import parse_ipv4
from softnet.core.frames import Batch
from softnet.errors import ConfigError, UplinkError
from softnet.policy import Facts
from softnet.uplinks import bootpd, vmnet
from softnet.uplinks.vmnet import host
from softnet.uplinks.vmnet.rules import Forward
from twin import support
from twin.support import Wire

SETTINGS = Settings(0x020000000001, UplinkChoice("vmnet"))


@pytest.fixture
def wire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    with support.wire(tmp_path, monkeypatch) as end:
        yield end


@pytest.mark.parametrize(
    ("net_type", "allow", "line"),
    [
        (NAT, [], "start mode=1001 isolation=1"),
        (HOST_ONLY, [], "start mode=1000 isolation=1"),
        (NAT, ["10.0.0.0/8"], "start mode=1001 isolation=1"),
        (NAT, ["0.0.0.0/0"], "start mode=1001 isolation=0"),
        (HOST_ONLY, ["10.0.0.0/8,10.1.2.3/0"], "start mode=1000 isolation=0"),
    ],
)
def test_the_mode_and_isolation(wire: Wire, net_type: str, allow: list[str], line: str) -> None:
    vmnet.open_uplink(SETTINGS._replace(net_type=net_type), policies.parse(allow)).close()
    assert wire.log()[0] == line


def test_facts_and_mtu_come_from_the_interface_and_the_system(wire: Wire) -> None:
    uplink = vmnet.open_uplink(SETTINGS, policies.parse())
    assert uplink.facts == Facts(parse_ipv4("192.168.64.1"), None, host.ipv4_addresses())
    assert uplink.mtu == 1500
    uplink.close()
    uplink = vmnet.open_uplink(SETTINGS._replace(mtu=4000, net_type=HOST_ONLY), policies.parse())
    assert (uplink.facts.gateway, uplink.mtu) == (parse_ipv4("192.168.128.1"), 4000)
    uplink.close()


def test_its_link_carries_frames_and_close_is_idempotent(wire: Wire) -> None:
    uplink = vmnet.open_uplink(SETTINGS, policies.parse())
    wire.attach().send(b"\x11" * 99)
    batch = Batch(4, 1514)
    assert select.select([uplink.link], [], [], 5)[0]
    assert uplink.link.receive(batch) == 1
    assert batch.frame(0) == b"\x11" * 99
    uplink.close()
    uplink.close()
    uplink.link.close()
    assert not uplink.link.alive()


GUEST = parse_ipv4("192.168.64.9")
WEB, DNS = Expose(None, 42080, 80), Expose(None, 42053, 53, UDP)


def test_exposed_ports_follow_the_lease(wire: Wire) -> None:
    uplink = vmnet.open_uplink(SETTINGS._replace(expose=(WEB, DNS)), policies.parse())
    in_force = uplink.forwards.in_force
    assert in_force() == []
    uplink.publisher.withdraw()
    for address in (GUEST, GUEST, GUEST + 1):
        uplink.publisher.publish(address)
        assert sorted(in_force()) == [Forward(TCP, 42080, address, 80), Forward(UDP, 42053, address, 53)]
    uplink.publisher.withdraw()
    assert in_force() == []
    assert sum("add_rule" in line for line in wire.log()) == 4
    uplink.close()


def test_a_port_that_vmnet_refuses_is_named_and_tried_again(
    wire: Wire, capsys: pytest.CaptureFixture[str]
) -> None:
    uplink = vmnet.open_uplink(SETTINGS._replace(expose=(WEB, DNS)), policies.parse())
    other_vm = Forward(TCP, 42080, GUEST + 5, 80)
    uplink.forwards.add(other_vm)
    uplink.publisher.publish(GUEST)
    assert capsys.readouterr() == (
        "",
        "softnet: --expose 42080:80/tcp is not in force: "
        "vmnet_interface_add_ip_port_forwarding_rule tcp 42080: VMNET_FAILURE (1001)\n",
    )
    assert Forward(UDP, 42053, GUEST, 53) in uplink.forwards.in_force()
    uplink.publisher.withdraw()
    assert uplink.forwards.in_force() == [other_vm]
    uplink.forwards.remove(TCP, 42080)
    uplink.publisher.publish(GUEST)
    uplink.publisher.publish(GUEST)
    assert len(uplink.forwards.in_force()) == 2
    uplink.close()


def test_a_rule_that_is_gone_already_is_named(wire: Wire, capsys: pytest.CaptureFixture[str]) -> None:
    uplink = vmnet.open_uplink(SETTINGS._replace(expose=(WEB,)), policies.parse())
    uplink.publisher.publish(GUEST)
    uplink.forwards.remove(TCP, 42080)
    uplink.publisher.withdraw()
    assert capsys.readouterr().err.startswith("softnet: --expose 42080:80/tcp may still be in force: ")
    uplink.close()


def test_nobody_to_complain_to_is_no_error(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    uplink = vmnet.open_uplink(SETTINGS._replace(expose=(WEB,)), policies.parse())
    uplink.forwards.add(Forward(TCP, 42080, GUEST, 1))
    read_end, write_end = os.pipe()
    os.close(read_end)
    with contextlib.suppress(BrokenPipeError), os.fdopen(write_end, "w") as broken:
        monkeypatch.setattr(sys, "stderr", broken)
        uplink.publisher.publish(GUEST)
    uplink.close()


@pytest.mark.parametrize(("kind", "protocol"), [(socket.SOCK_STREAM, TCP), (socket.SOCK_DGRAM, UDP)])
def test_a_port_in_use_starts_nothing(wire: Wire, kind: socket.SocketKind, protocol: str) -> None:
    with socket.socket(socket.AF_INET, kind) as user:
        user.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            user.listen()
        port = user.getsockname()[1]
        with pytest.raises(
            ConfigError, match=rf"^--expose {port}:80/{protocol}: cannot be bound: Address already"
        ):
            vmnet.open_uplink(SETTINGS._replace(expose=(Expose(None, port, 80, protocol),)), policies.parse())
    assert not wire.log_path.exists()


def test_a_bind_address_starts_nothing(wire: Wire) -> None:
    expose = (Expose(parse_ipv4("127.0.0.1"), 42080, 80),)
    with pytest.raises(
        ConfigError, match=r"^--expose 127\.0\.0\.1:42080:80/tcp: vmnet exposes a port on every"
    ):
        vmnet.open_uplink(SETTINGS._replace(expose=expose), policies.parse())
    assert not wire.log_path.exists()


def test_a_failure_after_the_start_stops_the_interface(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> tuple[int, ...]:
        raise UplinkError("getifaddrs: no")

    monkeypatch.setattr(host, "ipv4_addresses", fail)
    with pytest.raises(UplinkError, match="getifaddrs"):
        vmnet.open_uplink(SETTINGS, policies.parse())
    assert wire.log()[-1].startswith("stopped")


@pytest.fixture
def preferences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that has a bootpd."""
    path = tmp_path / "preferences" / "com.apple.InternetSharing.default.plist"
    path.parent.mkdir()
    monkeypatch.setattr(bootpd, "FOLDER", str(path.parent))
    monkeypatch.setattr(bootpd, "PATH", str(path))
    return path


def test_the_lease_time_is_written_before_the_interface_starts(
    wire: Wire, preferences: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWIN_START", "null")
    with pytest.raises(UplinkError):
        vmnet.open_uplink(SETTINGS._replace(lease_time=1234), policies.parse())
    assert plistlib.loads(preferences.read_bytes())["bootpd"]["DHCPLeaseTimeSecs"] == 1234


def test_a_bad_lease_time_starts_nothing(wire: Wire, preferences: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--bootpd-lease-time 0: "):
        vmnet.open_uplink(SETTINGS._replace(lease_time=0), policies.parse())
    assert not wire.log_path.exists()
    assert not preferences.exists()


def test_without_vmnet_nothing_is_written(preferences: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VMNET_TWIN", raising=False)
    with pytest.raises(ConfigError):
        vmnet.open_uplink(SETTINGS, policies.parse())
    assert not preferences.exists()


def test_the_hosts_addresses_are_the_systems_own() -> None:
    """Against other ways to ask: the kernel lets a socket be bound to each, and says the same itself."""
    found = host.ipv4_addresses()
    assert list(found) == sorted(set(found))
    for address in found:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((socket.inet_ntoa(address.to_bytes(4, "big")), 0))
    listed = subprocess.run(["ip", "-4", "-o", "address"], capture_output=True, text=True).stdout
    addresses = {parse_ipv4(line.split()[3].partition("/")[0]) for line in listed.splitlines()}
    assert set(found) == {address for address in addresses if address >> 24 != 127}


def test_the_address_family_of_both_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    darwin = ctypes.create_string_buffer(bytes([16, 2, 0, 0, 10, 0, 0, 1]))
    monkeypatch.setattr("sys.platform", "darwin")
    assert host._family(ctypes.addressof(darwin)) == host.AF_INET
    linux = ctypes.create_string_buffer((2).to_bytes(2, sys.byteorder) + bytes([0, 0, 10, 0, 0, 1]))
    monkeypatch.setattr("sys.platform", "linux")
    assert host._family(ctypes.addressof(linux)) == host.AF_INET


def test_no_list_of_addresses_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:

    class Libc:
        def __init__(self, *_arguments: object, **_options: object) -> None:
            self.getifaddrs = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(lambda _head: -1)
            self.freeifaddrs = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _head: None)

    monkeypatch.setattr(ctypes, "CDLL", Libc)
    with pytest.raises(UplinkError, match=r"^getifaddrs: error \d+ while listing the host's own addresses$"):
        host.ipv4_addresses()
