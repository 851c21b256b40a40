"""Real DHCP clients against the nat uplink's server: each gets a lease, renews, releases and gets again.

What they say and hear is read off the VM's wire. The clients' own scripts are replaced and their state
directories covered, so that none of them touches the machine's resolv.conf or leases. Those without a
command for it renew by their T1 timer, hence the short leases.
"""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from softnet.core import dhcp
from system.netlab import Lab, Namespace, Sniffer, Vm, wait_until

pytestmark = pytest.mark.root

MAC = "02:00:00:00:00:0a"
INTERNET = "9.9.9.9"

SCRIPT = """#!/bin/sh
# udhcpc calls this with bound, renew, deconfig; ISC's client sets $reason; both know no better than to ask.
case "$1$reason" in
bound|renew) ip address replace "$ip/$mask" dev eth0; ip route replace default via "$router" ;;
BOUND|RENEW|REBIND|REBOOT)
  ip address replace "$new_ip_address/20" dev eth0; ip route replace default via "$new_routers" ;;
deconfig|RELEASE|EXPIRE|FAIL|STOP|PREINIT) ip address flush dev eth0; ip link set eth0 up ;;
esac
exit 0
"""

NETWORK_UNIT = "[Match]\nName=eth0\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n"


class Stage(NamedTuple):
    lab: Lab
    host: Namespace
    vm: Vm
    wire: "Wire"
    script: str
    directory: Path

    def start(self, lease_seconds: int) -> None:
        options = ("--bootpd-lease-time", str(lease_seconds), "--dns", INTERNET)
        self.lab.softnet(self.host, self.vm, "--uplink", "nat", *options)


class Wire:
    """The DHCP messages on the VM's wire so far, oldest first."""

    def __init__(self, sniffer: Sniffer) -> None:
        self._sniffer = sniffer
        self._messages: list[dhcp.Message] = []

    def messages(self, kind: int) -> list[dhcp.Message]:
        for frame in self._sniffer.frames(0):
            if frame[12:14] == b"\x08\x00" and frame[23] == 17 and {frame[35], frame[37]} == {67, 68}:
                message = dhcp.parse(frame[42:])
                assert message is not None
                self._messages.append(message)
        return [message for message in self._messages if message.message_type == kind]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Lab() as lab:
        host, internet = lab.namespace("host"), lab.namespace("internet")
        lab.cable(host, "eth0", "192.0.2.2/24", internet, "eth0", "192.0.2.1/24")
        host.ip("route add default via 192.0.2.1")
        internet.ip(f"address add {INTERNET}/32 dev lo")
        vm = lab.vm("vm", MAC)
        script = tmp_path / "script"
        script.write_text(SCRIPT)
        script.chmod(0o755)
        yield Stage(lab, host, vm, Wire(vm.sniff("eth0")), str(script), tmp_path)


class Client:
    """A DHCP client in the VM. `get` returns at once; `renew` may do nothing, and then T1 comes."""

    lease_seconds = 6

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        stage.start(self.lease_seconds)
        self.process: subprocess.Popen[str] | None = None

    def start(self, *argv: str) -> None:
        with (self.stage.directory / "log").open("a") as log:
            self.process = self.stage.vm.start(*argv, stdout=log, stderr=log)

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self, number: int) -> None:
        """Sends the signal that makes the client release and end."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(10)

    def get(self) -> None:
        raise NotImplementedError

    def renew(self) -> None:
        """Nothing: T1 comes."""

    def release(self) -> None:
        raise NotImplementedError


class Udhcpc(Client):
    def get(self) -> None:
        if self.process is None:
            self.start("busybox", "udhcpc", "-i", "eth0", "-f", "-s", self.stage.script)
        else:
            self.signal(signal.SIGUSR1)

    def renew(self) -> None:
        self.signal(signal.SIGUSR1)

    def release(self) -> None:
        self.signal(signal.SIGUSR2)


class Dhclient(Client):
    def _run(self, *options: str) -> tuple[str, ...]:
        directory = self.stage.directory
        files = ("-cf", "/dev/null", "-lf", f"{directory}/leases", "-pf", f"{directory}/pid")
        return ("dhclient", "-4", "-v", *options, *files, "-sf", self.stage.script, "eth0")

    def get(self) -> None:
        (self.stage.directory / "leases").touch()
        self.start(*self._run("-d"))

    def release(self) -> None:
        self.stage.vm.run(*self._run("-r"))
        assert self.process is not None
        self.process.wait(10)


class Dhcpcd(Client):
    """It probes an address for about five seconds before it uses it, and takes no lease below twenty."""

    lease_seconds = 30

    def get(self) -> None:
        cover = (
            'for path in /run /var/lib/dhcpcd; do mount -t tmpfs softnet-test $path || exit; done; exec "$@"'
        )
        options = ("-B", "-4", "-L", "-d", "-f", "/dev/null", "-c", "/bin/true", "-o", "routers", "eth0")
        self.start("unshare", "--mount", "sh", "-c", cover, "sh", "dhcpcd", *options)

    def renew(self) -> None:
        assert self.process is not None
        inside = ("nsenter", "-t", str(self.process.pid), "--mount", "--net")
        subprocess.run([*inside, "dhcpcd", "-4", "-N", "eth0"], check=True, capture_output=True)

    def release(self) -> None:
        self.stop(signal.SIGALRM)


class Networkd(Client):
    """systemd-networkd believes that udev has seen a device where /sys is read-only."""

    def get(self) -> None:
        cover = (
            "mount -t tmpfs softnet-test /run && mount -t tmpfs softnet-test /etc/systemd/network && "
            "mount -t sysfs -o ro softnet-test /sys && mkdir -p /run/systemd/network /run/dbus && "
            'printf "$1" > /etc/systemd/network/eth0.network && shift && '
            "mkdir -p /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp && "
            'chown -R systemd-network /run/systemd/netif && exec "$@"'
        )
        daemon = ("env", "SYSTEMD_LOG_LEVEL=debug", "/lib/systemd/systemd-networkd")
        self.start("unshare", "--mount", "sh", "-c", cover, "sh", NETWORK_UNIT, *daemon)

    def release(self) -> None:
        self.stop(signal.SIGTERM)


def address(vm: Vm) -> str:
    words = vm.ip("-4 -o address show dev eth0").split()
    return words[3].partition("/")[0] if words else ""


@pytest.mark.parametrize("kind", [Udhcpc, Dhclient, Dhcpcd, Networkd])
def test_get_renew_release_and_get_again(stage: Stage, kind: type[Client]) -> None:
    vm, wire, client = stage.vm, stage.wire, kind(stage)
    try:
        client.get()
        first = wait_until(lambda: address(vm), 15, "an address")
        assert first.startswith("10.231.")
        wait_until(lambda: vm.pings(INTERNET))

        granted = len(wire.messages(dhcp.ACK))
        client.renew()
        wait_until(lambda: len(wire.messages(dhcp.ACK)) > granted, 2 * client.lease_seconds, "a renewal")
        renewal = wire.messages(dhcp.REQUEST)[-1]
        assert (renewal.ciaddr, renewal.server_id) == (wire.messages(dhcp.ACK)[-1].yiaddr, None)
        assert address(vm) == first
        assert vm.pings(INTERNET)

        client.release()
        wait_until(lambda: wire.messages(dhcp.RELEASE), what="a release")
        wait_until(lambda: address(vm) != first, what="the address to go")
        vm.ip(f"address replace {first}/20 dev eth0\nroute replace default via 10.231.0.1")
        assert not vm.pings(INTERNET), "an address that was given back may not be used"
        vm.ip("address flush dev eth0")

        acknowledged = len(wire.messages(dhcp.ACK))
        client.get()
        wait_until(lambda: len(wire.messages(dhcp.ACK)) > acknowledged, 15, "another lease")
        wait_until(lambda: address(vm) == first, 15, "the same address")
        wait_until(lambda: vm.pings(INTERNET))
        assert wire.messages(dhcp.NAK) == []
        assert wire.messages(dhcp.DECLINE) == []
    except BaseException:
        print((stage.directory / "log").read_text())
        raise


def test_init_reboot(stage: Stage) -> None:
    """A client that was killed asks for its old address first and gets it; a foreign one is refused."""
    vm, wire, client = stage.vm, stage.wire, Dhclient(stage)
    leases = stage.directory / "leases"
    client.get()
    first = wait_until(lambda: address(vm), 15)
    wait_until(lambda: "fixed-address" in leases.read_text())
    client.stop(signal.SIGKILL)
    vm.ip("address flush dev eth0")
    requests = len(wire.messages(dhcp.REQUEST))
    client.get()
    wait_until(lambda: address(vm) == first, 15)
    asked = wire.messages(dhcp.REQUEST)[requests]
    assert (asked.ciaddr, asked.server_id) == (0, None)
    assert asked.requested_address is not None

    client.stop(signal.SIGKILL)
    vm.ip("address flush dev eth0")
    leases.write_text(leases.read_text().replace(f"fixed-address {first}", "fixed-address 10.231.9.9"))
    client.get()
    wait_until(lambda: address(vm) == first, 15)
    assert len(wire.messages(dhcp.NAK)) == 1


def test_duid_identifiers_come_back_and_change_nothing(stage: Stage) -> None:
    """Guests with DUIDs, and two boots with different ones: the address is the MAC's."""
    stage.start(60)
    addresses = set()
    for identifier in ("ff00000001000100012a", "ff00000002000200022b"):
        client = ("busybox", "udhcpc", "-i", "eth0", "-f", "-n", "-q", "-x", f"0x3d:{identifier}")
        stage.vm.run(*client, "-s", stage.script)
        addresses.add(address(stage.vm))
        assert stage.wire.messages(dhcp.ACK)[-1].client_id == bytes.fromhex(identifier)
    assert len(addresses) == 1
