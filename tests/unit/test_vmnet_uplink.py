"""open_uplink over the twin: modes, isolation, facts, forwarding, and undoing everything on failure."""

import ctypes
import plistlib
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from softnet import policy as policies
from softnet.config import HOST_ONLY, NAT, TCP, Settings, UplinkChoice
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


def test_forwarding_rules(wire: Wire) -> None:
    uplink = vmnet.open_uplink(SETTINGS, policies.parse())
    guest = parse_ipv4("192.168.64.9")
    uplink.add_forward(TCP, 8080, guest, 80)
    assert uplink.forwards() == [Forward(TCP, 8080, guest, 80)]
    with pytest.raises(UplinkError):
        uplink.add_forward(TCP, 8080, guest, 81)
    uplink.remove_forward(TCP, 8080)
    assert uplink.forwards() == []
    uplink.close()


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
