"""What the nat uplink's kernel side holds without the filter: frames are written to the TAPs as they are.

The filter lets none of these frames through. Should it ever, or should somebody else get hold of a
TAP's descriptor, the rules in the kernel are the second wall, and here they stand alone.
"""

import socket
import struct
from collections.abc import Iterator

import pytest

from softnet.config import HOST_ONLY, Settings, UplinkChoice
from softnet.core.address import format_ipv4, parse_ipv4, parse_mac
from softnet.core.frames import Batch
from softnet.core.packet import BROADCAST_MAC, ETHERTYPE_ARP, ETHERTYPE_IPV6, ethernet, ipv4, udp, udp_frame
from softnet.core.reasons import PASS_INBOUND, UPLINK_BUSY
from softnet.policy import parse
from softnet.uplinks.nat import NatUplink, open_uplink
from system.netlab import Lab, wait_until

pytestmark = pytest.mark.root

MAC = parse_mac("02:00:00:00:00:0a")
OTHER_MAC = parse_mac("02:00:00:00:00:0b")
GATEWAY = parse_ipv4("10.231.0.1")
INTERNET = parse_ipv4("9.9.9.9")
PORT = 4000
MARK = b"softnet-mark"
ECHO = 8
REDIRECT = 5


class Wire:
    """One VM's uplink, opened in the host's namespace, and raw access to its TAP."""

    def __init__(self, stage: "Stage", mac: int, net_type: str = "nat", allow: tuple[str, ...] = ()) -> None:
        policy = parse(allow)
        settings = Settings(mac, UplinkChoice("nat"), net_type=net_type, policy=policy, dns=(INTERNET,))
        self.mac = mac
        self.uplink: NatUplink = stage.host.enter(lambda: open_uplink(settings, policy))
        self.address = self.uplink.address
        self.gateway_mac = self.uplink.facts.gateway_mac or 0
        self._batch = Batch(64, 1536)

    def send(self, *frames: bytes) -> None:
        self._batch.clear()
        for frame in frames:
            assert self._batch.append(frame)
            self._batch.verdict[self._batch.count - 1] = PASS_INBOUND
        assert self.uplink.link.send(self._batch, UPLINK_BUSY) == 0

    def udp(self, destination: int, source: int | None = None, mac: int | None = None) -> bytes:
        return udp_frame(
            self.gateway_mac,
            self.mac if mac is None else mac,
            self.address if source is None else source,
            destination,
            PORT,
            PORT,
            MARK,
        )

    def icmp(self, destination: int, body: bytes) -> bytes:
        total = sum(struct.unpack(f"!{len(body) // 2}H", body))
        total = (total & 0xFFFF) + (total >> 16)
        message = body[:2] + struct.pack("!H", ~total & 0xFFFF) + body[4:]
        return ethernet(self.gateway_mac, self.mac, 0x0800, ipv4(self.address, destination, 1, message))

    def arp(self, target: int, sender: int, hardware: int, operation: int = 1) -> bytes:
        body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + hardware.to_bytes(6, "big")
        body += sender.to_bytes(4, "big") + bytes(6) + target.to_bytes(4, "big")
        return ethernet(BROADCAST_MAC, self.mac, ETHERTYPE_ARP, body)

    def received(self) -> list[bytes]:
        """What the host has sent to the VM, until nothing more comes."""
        found = []
        while self.uplink.link.receive(self._batch):
            found += [self._batch.frame(at) for at in range(self._batch.count)]
        return found


class Stage(Lab):
    def __init__(self) -> None:
        super().__init__()
        self.host = self.namespace("host")
        self.internet = self.namespace("internet")
        self.cable(self.host, "eth0", "192.0.2.2/24", self.internet, "eth0", "192.0.2.1/24")
        self.host.ip("route add default via 192.0.2.1")
        self.host.sysctl("ipv4/ip_forward", 1)
        self.internet.ip("address add 9.9.9.9/32 dev lo")
        self.wires: list[Wire] = []

    def wire(self, mac: int = MAC, **options: object) -> Wire:
        wire = Wire(self, mac, **options)  # type: ignore[arg-type]
        self.wires.append(wire)
        return wire


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage() as stage:
        yield stage
        for wire in stage.wires:
            wire.uplink.close()


def marked(frames: list[bytes]) -> list[bytes]:
    return [frame for frame in frames if MARK in frame]


# From one VM.


def test_an_honest_packet_arrives(stage: Stage) -> None:
    """The proof that the tests below would see one."""
    sniffer = stage.internet.sniff("eth0")
    wire = stage.wire()
    wire.send(wire.udp(INTERNET))
    (frame,) = [frame for frame in marked(sniffer.frames()) if frame[23] == 17]
    assert frame[26:30] == socket.inet_aton("192.0.2.2")


def test_no_foreign_source_address(stage: Stage) -> None:
    sniffer, local = stage.internet.sniff("eth0"), stage.host.udp(port=PORT)
    local.settimeout(0.2)
    wire = stage.wire()
    for source in ("10.231.0.1", "10.231.0.99", "192.0.2.2", "192.0.2.77", "127.0.0.1", "0.0.0.0", "8.8.8.8"):
        for destination in (INTERNET, GATEWAY, parse_ipv4("192.0.2.2")):
            wire.send(wire.udp(destination, parse_ipv4(source)))
    assert marked(sniffer.frames()) == []
    with pytest.raises(TimeoutError):
        local.recv(64)


def test_no_foreign_mac_address(stage: Stage) -> None:
    sniffer = stage.internet.sniff("eth0")
    wire = stage.wire()
    wire.send(wire.udp(INTERNET, mac=OTHER_MAC))
    assert marked(sniffer.frames()) == []


@pytest.mark.parametrize("setting", ["all", "default"])
def test_no_way_to_the_hosts_loopback(stage: Stage, setting: str) -> None:
    stage.host.sysctl(f"ipv4/conf/{setting}/route_localnet", 1)  # as Kubernetes does
    local = stage.host.udp("127.0.0.1", PORT)
    local.settimeout(0.2)
    wire = stage.wire()
    wire.send(wire.udp(parse_ipv4("127.0.0.1")))
    with pytest.raises(TimeoutError):
        local.recv(64)


def test_no_ipv6_and_no_other_protocol(stage: Stage) -> None:
    stage.host.sysctl("ipv6/conf/all/disable_ipv6", 0)
    wire = stage.wire()
    wire.received()
    solicit = bytes.fromhex("6000000000103aff") + bytes(16) + bytes.fromhex("ff02" + "00" * 13 + "01")
    wire.send(
        ethernet(BROADCAST_MAC, MAC, ETHERTYPE_IPV6, solicit + bytes.fromhex("8500000000000000")),
        ethernet(BROADCAST_MAC, MAC, 0x8035, bytes(46)),
        ethernet(wire.gateway_mac, MAC, 0x88CC, bytes(46)),
    )
    assert wire.received() == []


def test_arp_answers_for_the_gateway_alone(stage: Stage) -> None:
    wire = stage.wire()
    wire.send(wire.arp(GATEWAY, wire.address, MAC))
    (answer,) = wire.received()
    assert answer[6:12] == answer[22:28] == wire.gateway_mac.to_bytes(6, "big")
    assert answer[28:32] == GATEWAY.to_bytes(4, "big")
    for target in ("192.0.2.2", "10.231.0.99", "8.8.8.8", format_ipv4(wire.address)):
        wire.send(wire.arp(parse_ipv4(target), wire.address, MAC), wire.arp(parse_ipv4(target), 0, MAC))
    wire.send(wire.arp(GATEWAY, parse_ipv4("10.231.0.99"), MAC), wire.arp(GATEWAY, wire.address, OTHER_MAC))
    assert wire.received() == []


def test_arp_teaches_the_host_nothing(stage: Stage) -> None:
    wire = stage.wire()
    before = stage.host.ip("neighbour show")
    assert f"{format_ipv4(wire.address)} dev {wire.uplink.name} lladdr 02:00:00:00:00:0a PERMANENT" in before
    for sender in ("10.231.0.99", "192.0.2.1", format_ipv4(wire.address)):
        for operation in (1, 2):
            wire.send(wire.arp(GATEWAY, parse_ipv4(sender), OTHER_MAC, operation))
            wire.send(wire.arp(parse_ipv4(sender), parse_ipv4(sender), MAC, operation))
    assert stage.host.ip("neighbour show") == before


@pytest.mark.parametrize("net_type", ["nat", "host"])
def test_a_redirect_does_not_come_in(stage: Stage, net_type: str) -> None:
    """Where a device does not forward, the kernel heeds redirects if `all` or the device says so."""
    wire = stage.wire(net_type=net_type)
    icmp = stage.host.open_socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    icmp.settimeout(0.3)
    inner = ipv4(GATEWAY, wire.address, 17, udp(GATEWAY, wire.address, 1, 2, b""))
    redirect = bytes((REDIRECT, 1, 0, 0)) + INTERNET.to_bytes(4, "big") + inner[:28]
    wire.send(wire.icmp(GATEWAY, redirect), wire.icmp(GATEWAY, bytes((ECHO, 0, 0, 0, 0, 1, 0, 1))))
    assert icmp.recv(2048)[20] == ECHO
    with pytest.raises(TimeoutError):
        icmp.recv(2048)


def test_no_pool_address_leaks_upstream(stage: Stage) -> None:
    sniffer = stage.internet.sniff("eth0")
    wire = stage.wire(allow=("0.0.0.0/0",))
    wire.send(*(wire.udp(GATEWAY + offset) for offset in (-1, 98, 4094) if GATEWAY + offset != wire.address))
    reset = struct.pack("!HHIIBBHHH", PORT, 80, 1, 1, 0x50, 0x04, 0, 0, 0)  # belongs to no connection: no NAT
    wire.send(ethernet(wire.gateway_mac, MAC, 0x0800, ipv4(wire.address, INTERNET, 6, reset)))
    assert [frame for frame in sniffer.frames() if frame[12:14] == b"\x08\x00"] == []


def test_a_connection_flood_does_not_fill_the_hosts_table(stage: Stage) -> None:
    sniffer = stage.internet.sniff("eth0")
    wire = stage.wire()
    for number in range(0, 9000, 50):
        wire.send(*(wire.udp(parse_ipv4("20.0.0.0") + number + step) for step in range(50)))
    count = int(stage.host.sysctl("netfilter/nf_conntrack_count"))
    assert 8000 < count <= 8192 + 16
    assert stage.host.pings("9.9.9.9")
    sniffer.frames(0.1)
    wire.send(wire.udp(INTERNET))
    assert marked(sniffer.frames()) == []


def test_a_connection_flood_at_the_host_itself_is_bounded_too(stage: Stage) -> None:
    wire = stage.wire()
    server = stage.host.udp(port=PORT)
    for source_port in range(1, 9001, 50):
        wire.send(
            *(
                udp_frame(wire.gateway_mac, MAC, wire.address, GATEWAY, source_port + step, PORT, MARK)
                for step in range(50)
            )
        )
    count = int(stage.host.sysctl("netfilter/nf_conntrack_count"))
    assert 8000 < count <= 8192 + 16
    server.close()


def test_the_host_network_forwards_nothing(stage: Stage) -> None:
    sniffer = stage.internet.sniff("eth0")
    stage.internet.ip("route add 10.231.0.0/20 via 192.0.2.2")
    wire = stage.wire(net_type=HOST_ONLY, allow=("0.0.0.0/0",))
    stage.host.sysctl(f"ipv4/conf/{wire.uplink.name}/forwarding", 1)
    wire.received()
    wire.send(wire.udp(INTERNET), wire.udp(parse_ipv4("192.0.2.1")))
    assert marked(sniffer.frames()) == []
    assert not stage.internet.pings(format_ipv4(wire.address))
    assert wire.received() == []


# Between two VMs.

ALL = ("0.0.0.0/0",)


def pair(
    stage: Stage, first: tuple[str, ...], second: tuple[str, ...], net_type: str = "nat"
) -> tuple[Wire, Wire]:
    one = stage.wire(MAC, allow=first, net_type=net_type)
    two = stage.wire(OTHER_MAC, allow=second, net_type=net_type)
    for wire in (one, two):
        wire.received()
    return one, two


def everything(sender: Wire, receiver: Wire) -> list[bytes]:
    """Every way that a frame could take from one VM to the other."""
    echo = bytes((ECHO, 0, 0, 0, 0, 1, 0, 1)) + MARK
    direct = [
        sender.udp(receiver.address),
        sender.icmp(receiver.address, echo),
        udp_frame(receiver.mac, sender.mac, sender.address, receiver.address, PORT, PORT, MARK),
        udp_frame(receiver.gateway_mac, sender.mac, sender.address, receiver.address, PORT, PORT, MARK),
        sender.arp(receiver.address, sender.address, sender.mac)[:42] + MARK,
    ]
    groups = [
        udp_frame(BROADCAST_MAC, sender.mac, sender.address, destination, PORT, PORT, MARK)
        for destination in (
            0xFFFFFFFF,
            parse_ipv4("10.231.15.255"),
            parse_ipv4("224.0.0.251"),
            receiver.address,
        )
    ]
    return direct + groups


@pytest.mark.parametrize("net_type", ["nat", "host"])
@pytest.mark.parametrize(("first", "second"), [((), ()), (ALL, ()), ((), ALL)])
def test_two_vms_that_do_not_both_agree_are_apart(
    stage: Stage, first: tuple[str, ...], second: tuple[str, ...], net_type: str
) -> None:
    one, two = pair(stage, first, second, net_type)
    for sender, receiver in ((one, two), (two, one)):
        sender.send(*everything(sender, receiver))
        assert marked(receiver.received()) == []


@pytest.mark.parametrize("net_type", ["nat", "host"])
def test_two_vms_that_both_agree_reach_each_other(stage: Stage, net_type: str) -> None:
    probe = stage.wire(OTHER_MAC)
    address = format_ipv4(probe.address)
    probe.uplink.close()
    wait_until(lambda: probe.uplink.name not in stage.host.devices())
    one = stage.wire(MAC, allow=(address,), net_type=net_type)
    two = stage.wire(OTHER_MAC, allow=(f"{format_ipv4(one.address)}/32",), net_type=net_type)
    assert format_ipv4(two.address) == address
    for sender, receiver in ((one, two), (two, one)):
        receiver.received()
        sender.send(sender.arp(receiver.address, sender.address, sender.mac))
        (answer,) = sender.received()
        assert answer[22:28] == sender.gateway_mac.to_bytes(6, "big")
        sender.send(sender.udp(receiver.address))
        (frame,) = marked(receiver.received())
        assert frame[26:30] == sender.address.to_bytes(4, "big")  # no NAT between VMs
        assert frame[6:12] == receiver.gateway_mac.to_bytes(6, "big")


def test_a_third_vm_stays_apart_from_two_that_agree(stage: Stage) -> None:
    one, two = pair(stage, ALL, ALL)
    third = stage.wire(parse_mac("02:00:00:00:00:0c"))
    for wire in (one, two):
        wire.send(*everything(wire, third))
        third.send(*everything(third, wire))
        assert marked(wire.received()) == []
    assert marked(third.received()) == []


def test_the_hosts_own_redirection_is_no_way_around(stage: Stage) -> None:
    """A DNAT rule of the host's leads from one of its addresses to the other VM."""
    one, two = pair(stage, (), ())
    target = format_ipv4(two.address)
    stage.host.nft(
        "table ip published {\nchain pre {\ntype nat hook prerouting priority dstnat\n"
        f"ip daddr {{ 10.231.0.1, 192.0.2.2 }} udp dport {PORT} dnat to {target}\n}}\n}}"
    )
    for address in (GATEWAY, parse_ipv4("192.0.2.2")):
        one.send(one.udp(address))
    assert marked(two.received()) == []


def test_source_routing_is_no_way_around(stage: Stage) -> None:
    stage.host.sysctl("ipv4/conf/all/accept_source_route", 1)
    one, two = pair(stage, (), ())
    datagram = udp(one.address, GATEWAY, PORT, PORT, MARK)
    packet = bytearray(ipv4(one.address, GATEWAY, 17, bytes(8) + datagram))
    packet[0] = 0x47
    packet[20:28] = bytes((131, 7, 4)) + two.address.to_bytes(4, "big") + b"\0"
    packet[10:12] = b"\0\0"
    total = sum(struct.unpack("!14H", packet[:28]))
    total = (total & 0xFFFF) + (total >> 16)
    packet[10:12] = struct.pack("!H", ~total & 0xFFFF)
    one.send(ethernet(one.gateway_mac, MAC, 0x0800, bytes(packet)))
    assert marked(two.received()) == []
