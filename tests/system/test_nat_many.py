"""Many VMs on one host: apart or together as their rules say, and none leaves a trace."""

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from softnet import cli
from softnet.cli import serve  # noqa: F401 - imported once, for all children
from softnet.config import DEFAULT_POOL
from softnet.core import dhcp
from softnet.core.address import format_ipv4, format_mac, parse_mac
from softnet.core.packet import BROADCAST_MAC, ETHERTYPE_ARP, ethernet, udp_frame
from softnet.uplinks.nat import Pool
from system.netlab import Lab, Vm, program, wait_until

FIRST = "02:00:00:00:00:0a"
SECOND = "02:00:00:00:00:0b"
MARK = b"softnet-mark"
GATEWAY = "10.231.0.1"
BASE_MAC = 0x020000000100


class Stage(Lab):
    def __init__(self) -> None:
        super().__init__()
        self.host = self.namespace("host")
        self.internet = self.namespace("internet")
        self.cable(self.host, "eth0", "192.0.2.2/24", self.internet, "eth0", "192.0.2.1/24")
        self.host.ip("route add default via 192.0.2.1")

    def traces(self) -> list[str]:
        """What any Softnet has left in the host's namespace, in words; /run is not looked at."""
        host = self.host
        found = [name for name in host.devices() if name not in ("lo", "eth0")]
        found += [line for line in host.ip("-4 route show table all").splitlines() if "10.231." in line]
        found += [line for line in host.ip("-4 neighbour show").splitlines() if "10.231." in line]
        found += [line for line in host.ip("rule show").splitlines() if "lookup" not in line]
        found += [line for line in host.ruleset().splitlines() if line]
        found += [f"process {pid}" for pid in host.processes()]
        values = (
            "ipv4/ip_forward",
            "ipv4/conf/all/forwarding",
            "ipv4/conf/eth0/forwarding",
            "ipv4/conf/eth0/tag",
        )
        found += [name for name in values if host.sysctl(name) != "0"]
        return found


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage() as stage:
        yield stage


# Two VMs behind two Softnets.


def address_of(mac: str) -> str:
    """The address that a VM gets while nobody else has it."""
    return format_ipv4(next(Pool(*DEFAULT_POOL).candidates(parse_mac(mac))))


def neighbours(stage: Stage, first: tuple[str, ...], second: tuple[str, ...]) -> tuple[Vm, Vm]:
    one, two = stage.vm("one", FIRST), stage.vm("two", SECOND)
    for vm, options in ((one, first), (two, second)):
        stage.softnet(stage.host, vm, "--uplink", "nat", *options)
        assert vm.lease()["ip"] == address_of(vm.mac_address)
    return one, two


def attempts(sender: Vm, receiver: Vm) -> list[bytes]:
    """Frames that would reach the other VM if anything let them."""
    source_mac, target_mac = parse_mac(sender.mac_address), parse_mac(receiver.mac_address)
    source, target = (
        int.from_bytes(socket.inet_aton(address_of(vm.mac_address)), "big") for vm in (sender, receiver)
    )
    gateway_mac = 0x0253 << 32 | source
    ask = struct.pack(
        "!HHBBH6sI6sI", 1, 0x0800, 6, 4, 1, source_mac.to_bytes(6, "big"), source, bytes(6), target
    )
    frames = [ethernet(BROADCAST_MAC, source_mac, ETHERTYPE_ARP, ask + MARK)]
    for destination_mac in (target_mac, gateway_mac, gateway_mac ^ source ^ target, BROADCAST_MAC):
        for destination in (target, 0xFFFFFFFF, 0x0AE70FFF, 0xE00000FB):
            frames.append(udp_frame(destination_mac, source_mac, source, destination, 4000, 4000, MARK))
    return frames


ALLOW_FIRST = ("--allow", address_of(FIRST))
ALLOW_SECOND = ("--allow", address_of(SECOND))
BLOCK_FIRST = ("--block", address_of(FIRST))
ALLOW_ALL = ("--allow", "0.0.0.0/0")


@pytest.mark.root
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((), ()),
        (ALLOW_SECOND, ()),
        ((), ALLOW_FIRST),
        (ALLOW_ALL, ()),
        (ALLOW_ALL, ALLOW_ALL + BLOCK_FIRST),
    ],
)
def test_neighbours_are_apart(stage: Stage, first: tuple[str, ...], second: tuple[str, ...]) -> None:
    one, two = neighbours(stage, first, second)
    for sender, receiver in ((one, two), (two, one)):
        sniffer, wire = receiver.sniff("eth0"), sender.sniff("eth0")
        for frame in attempts(sender, receiver):
            wire.send(frame)
        assert not sender.pings(address_of(receiver.mac_address))
        source = socket.inet_aton(address_of(sender.mac_address))
        own = parse_mac(receiver.mac_address).to_bytes(6, "big")
        heard = [frame for frame in sniffer.frames() if frame[6:12] != own]
        assert [frame for frame in heard if MARK in frame or source in frame] == []
        assert sender.pings(GATEWAY)


@pytest.mark.root
@pytest.mark.parametrize(
    ("first", "second"), [(ALLOW_SECOND, ALLOW_FIRST), (ALLOW_ALL, ALLOW_ALL), (ALLOW_ALL, ALLOW_FIRST)]
)
@pytest.mark.parametrize("net_type", ["nat", "host"])
def test_neighbours_that_both_allow_it_talk(
    stage: Stage, first: tuple[str, ...], second: tuple[str, ...], net_type: str
) -> None:
    kind = ("--vm-net-type", net_type)
    one, two = neighbours(stage, (*first, *kind), (*second, *kind))
    assert one.pings(address_of(SECOND))
    assert two.pings(address_of(FIRST))


# A hundred at once.


class Guest:
    """A VM's end of a socket pair, with just enough of a DHCP client."""

    def __init__(self, mac: int) -> None:
        self.mac = mac
        self._socket, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(300)

    def _exchange(self, kind: int, options: list[tuple[int, bytes]]) -> dhcp.Message:
        payload = dhcp.build(dhcp.BOOTREQUEST, kind, self.mac & 0xFFFFFFFF, self.mac, options=options)
        self._socket.send(udp_frame(BROADCAST_MAC, self.mac, 0, 0xFFFFFFFF, 68, 67, payload))
        while True:
            frame = self._socket.recv(2048)
            if frame[12:14] == b"\x08\x00" and frame[34:38] == b"\x00\x43\x00\x44":
                reply = dhcp.parse(frame[42:])
                assert reply is not None
                return reply

    def lease(self) -> int:
        offer = self._exchange(dhcp.DISCOVER, [])
        assert offer.server_id is not None
        wanted = [(50, offer.yiaddr.to_bytes(4, "big")), (54, offer.server_id.to_bytes(4, "big"))]
        ack = self._exchange(dhcp.REQUEST, wanted)
        assert ack.message_type == dhcp.ACK
        return ack.yiaddr


@pytest.mark.root
def test_a_hundred_vms_at_once_get_distinct_addresses(stage: Stage) -> None:
    """All start at the same time and run together; then half of them exit and half are killed."""
    guests = [Guest(BASE_MAC + number) for number in range(100)]
    descriptors = [guest.theirs.fileno() for guest in guests]
    driver = stage.host.start(
        *program(__file__, *map(str, descriptors)), pass_fds=descriptors, stdin=subprocess.PIPE
    )
    for guest in guests:
        guest.theirs.close()
    addresses = {guest.lease() for guest in guests}
    assert len(addresses) == 100
    pool = Pool(*DEFAULT_POOL)
    assert all(pool.gateway < address < pool.broadcast for address in addresses)
    assert len([name for name in stage.host.devices() if name.startswith("sn")]) == 100
    assert stage.host.sysctl("ipv4/conf/eth0/forwarding") == "1"
    driver.communicate("end them\n", 120)
    assert driver.returncode == 0
    wait_until(lambda: not stage.traces(), 20, "everything to be gone")


# Five hundred, one after the other in each of four lanes.


@pytest.mark.root
def test_five_hundred_vms_one_after_the_other_leave_nothing(stage: Stage) -> None:
    assert stage.traces() == []
    lanes = [stage.host.start(*program(__file__, f"lane {number}")) for number in range(LANES)]
    assert [lane.wait(500) for lane in lanes] == [0] * LANES
    wait_until(lambda: not stage.traces(), 20, "everything to be gone")


@pytest.mark.root
def test_kill_at_any_moment_of_the_start(stage: Stage) -> None:
    """SIGKILL at moments spread over the whole start-up, so also half-way through provisioning."""
    vm = stage.vm("vm", FIRST)
    words = (
        "-m",
        "softnet",
        "--vm-fd",
        str(vm.fd),
        "--vm-mac-address",
        FIRST,
        "--uplink",
        "nat",
        "--dns",
        "9.9.9.9",
    )
    began = time.monotonic()
    stage.softnet(stage.host, vm, "--uplink", "nat").stop()
    whole = time.monotonic() - began
    for step in range(20):
        process = stage.host.start(*program(*words), pass_fds=[vm.fd])
        time.sleep(whole * (step + 1) / 20)
        process.kill()
        process.wait()
    wait_until(lambda: not stage.traces(), 10, "everything to be gone")


# What runs in the host's namespace: the program itself, forked from one that has imported it.

LANES = 4
STARTS = 125  # a lane


def fork_softnet(mac: int, vm: int, supervisor: int | None = None) -> int:
    """A child that runs `softnet` with the VM's socket `vm`; returns its number."""
    child = os.fork()
    if child:
        return child
    words = ["--vm-fd", str(vm), "--vm-mac-address", format_mac(mac), "--uplink", "nat"]
    words += ["--user", "nobody", "--dns", "9.9.9.9"]
    if supervisor is not None:
        words += ["--supervisor-fd", str(supervisor)]
    status = 70
    try:
        status = cli.main(words)
    finally:
        os._exit(status)


def run_together(descriptors: list[int]) -> bool:
    """All at once, until a line comes; whether all ended as they should."""
    children = []
    for number, descriptor in enumerate(descriptors):
        children.append(fork_softnet(BASE_MAC + number, descriptor))
        os.close(descriptor)
    sys.stdin.readline()
    for number, child in enumerate(children):
        os.kill(child, signal.SIGKILL if number % 2 else signal.SIGTERM)
    return all(ended(child, number) for number, child in enumerate(children))


def run_one_by_one(lane: int) -> bool:
    """Each is ended as soon as its network is up; whether all ended as they should."""
    for number in range(STARTS * lane, STARTS * (lane + 1)):
        (vm, theirs), (supervisor, child_end) = (socket.socketpair(socket.AF_UNIX, kind) for kind in KINDS)
        with vm, theirs, supervisor, child_end:
            child = fork_softnet(BASE_MAC + number, theirs.fileno(), child_end.fileno())
            child_end.close()
            if supervisor.recv(1) != b"\n":
                return False
            os.kill(child, signal.SIGKILL if number % 2 else signal.SIGTERM)
            if not ended(child, number):
                return False
    return True


KINDS = (socket.SOCK_DGRAM, socket.SOCK_STREAM)


def ended(child: int, number: int) -> bool:
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status == (-signal.SIGKILL if number % 2 else 0)


if __name__ == "__main__":
    first, *rest = sys.argv[1:]
    if first.startswith("lane "):
        sys.exit(not run_one_by_one(int(first.removeprefix("lane "))))
    sys.exit(not run_together([int(word) for word in (first, *rest)]))
