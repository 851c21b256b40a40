"""What a VM tries: three things it may do, and what it may not. One entry each, the same in every world.

An attempt is performed by the attacker's VM and says where it got: the places that received a frame
with its token (`World.arrivals`), or what became of the other VM's lease. Nothing is believed
because the attacker's VM says so; what it says can only make an allowed thing fail. An allowed
attempt that ends nowhere is a fault, a forbidden one that gets anywhere is a hole.
"""

import socket
import time
from collections.abc import Callable
from typing import NamedTuple

from lab import wire
from lab.guest import GuestError
from lab.stage import DOMAIN, INTERNET, LAN_HOST, METADATA
from lab.worlds import OTHER_VM, Station, World

ARRIVAL_SECONDS = 5.0
GRACE_SECONDS = 0.15
DISCARD_PORT = 9
GREED = 64

Perform = Callable[[World, bytes], str]
Compose = Callable[[Station, Station, bytes], list[bytes]]


class Attempt(NamedTuple):
    """`perform` returns where the attempt got in a world, and "" for nowhere."""

    title: str
    allowed: bool
    perform: Perform


def arrivals_of(world: World, token: bytes, line: str) -> str:
    """Runs the line in the attacker's VM; everywhere its frames turned up.

    Something has to arrive, or to be judged, first; then nothing more may come for a grace period.
    """
    before = latest = world.verdicts()
    world.attacker.run(line)
    deadline = time.monotonic() + ARRIVAL_SECONDS
    while time.monotonic() < deadline:
        time.sleep(GRACE_SECONDS)
        previous, latest = latest, world.verdicts()
        if latest == previous and (latest != before or world.arrivals(token)):
            break
    return ", ".join(world.arrivals(token))


def frames_line(frames: list[bytes], count: int = 1, varied: tuple[int, ...] = ()) -> str:
    words = [f"+{offset}" for offset in varied] + [frame.hex() for frame in frames]
    return f"frames send eth0 {count} {' '.join(words)}"


def sending(compose: Compose) -> Perform:
    """Sends the composed frames; as far as they come is how far it got."""

    def perform(world: World, token: bytes) -> str:
        frames = compose(world.station(world.attacker), world.station(world.other), token)
        return arrivals_of(world, token, frames_line(frames))

    return perform


def datagram(me: Station, source: str, destination: str, token: bytes, options: bytes = b"") -> bytes:
    """An IPv4 packet, which goes into a frame from the VM to its gateway in every respect but one."""
    return wire.ipv4(source, destination, wire.UDP, wire.udp(DISCARD_PORT, DISCARD_PORT, token), options)


def to_gateway(me: Station, packet: bytes) -> bytes:
    return wire.ethernet(me.gateway_mac, me.mac, wire.IPV4, packet)


def take_lease(world: World, token: bytes) -> str:
    try:
        return world.lease(world.attacker).address
    except GuestError:
        return ""


def resolve(world: World, token: bytes) -> str:
    line = f"timeout 5 nslookup -type=a {token.decode()}.{DOMAIN}"
    reached = arrivals_of(world, token, line)
    answered = f"Address: {INTERNET}" in world.attacker.run(line).output
    return "answered" if answered and "internet" in reached else ""


def download(world: World, token: bytes) -> str:
    line = f"timeout 5 wget -qO /tmp/page http://{INTERNET}/{token.decode()}"
    reached = arrivals_of(world, token, line)
    received = world.attacker.run("cat /tmp/page").output == "hello"
    return "answered" if received and "internet" in reached else ""


def visit(address_of: Callable[[Station], str]) -> Perform:
    """A datagram as well as a connection, sent through the gateway as the VM's own stack does."""

    def perform(world: World, token: bytes) -> str:
        me, address = world.station(world.attacker), address_of(world.station(world.other))
        frames = [to_gateway(me, datagram(me, me.address, address, token))]
        fetch = f"timeout 1 wget -qO /dev/null http://{address}/{token.decode()}"
        return arrivals_of(world, token, f"{frames_line(frames)}; {fetch}")

    return perform


def spoof_mac(me: Station, other: Station, token: bytes) -> list[bytes]:
    packet = datagram(me, me.address, INTERNET, token)
    strangers = ("02:00:5e:00:53:01", other.mac)
    return [wire.ethernet(me.gateway_mac, mac, wire.IPV4, packet) for mac in strangers]


def spoof_ip(me: Station, other: Station, token: bytes) -> list[bytes]:
    sources = (other.address, LAN_HOST, "8.8.8.8")
    return [to_gateway(me, datagram(me, source, INTERNET, token)) for source in sources]


def spoof_gateway(me: Station, other: Station, token: bytes) -> list[bytes]:
    """The gateway is at my MAC address: told to the other VM, and to everybody."""
    claims = [(other.mac, other.address), (wire.BROADCAST, me.gateway)]
    return [
        wire.ethernet(mac, me.mac, wire.ARP, wire.arp_reply(me.mac, me.gateway, mac, address) + token)
        for mac, address in claims
    ]


def offer_addresses(me: Station, other: Station, token: bytes) -> list[bytes]:
    identifier = wire.option(wire.OPTION_SERVER, socket.inet_aton(me.address))
    offer = wire.dhcp(wire.OFFER, other.mac, identifier, yiaddr=other.address, server=me.address, sname=token)
    segment = wire.udp(wire.DHCP_SERVER, wire.DHCP_CLIENT, offer)
    packet = wire.ipv4(me.address, wire.EVERYBODY, wire.UDP, segment)
    return [wire.ethernet(mac, me.mac, wire.IPV4, packet) for mac in (wire.BROADCAST, other.mac)]


def meet_neighbour(me: Station, other: Station, token: bytes) -> list[bytes]:
    """Through the gateway, and straight to the other VM's own MAC address."""
    packet = datagram(me, me.address, other.address, token)
    return [to_gateway(me, packet), wire.ethernet(other.mac, me.mac, wire.IPV4, packet)]


def tag_vlan(me: Station, other: Station, token: bytes) -> list[bytes]:
    tagged = wire.vlan(10, wire.IPV4, datagram(me, me.address, wire.EVERYBODY, token))
    return [wire.ethernet(wire.BROADCAST, me.mac, wire.VLAN, tagged)]


def advertise_router(me: Station, other: Station, token: bytes) -> list[bytes]:
    """A router advertisement and a forged neighbour advertisement, to all nodes of the link."""
    messages = (
        wire.router_advertisement(me.mac, "2001:db8::", token),
        wire.neighbor_advertisement(me.mac, "fe80::1", token),
    )
    return [
        wire.ethernet("33:33:00:00:00:01", me.mac, wire.IPV6, wire.icmpv6("fe80::1", "ff02::1", message))
        for message in messages
    ]


def route_by_source(me: Station, other: Station, token: bytes) -> list[bytes]:
    """To the gateway, which is allowed, and from there to the LAN, which is not."""
    return [to_gateway(me, datagram(me, me.address, me.gateway, token, wire.source_route(LAN_HOST)))]


def starving(compose: Callable[[Station, bytes], tuple[bytes, int]]) -> Perform:
    """Asks for every address around while the other VM has given its own back; does it get one now?"""

    def perform(world: World, token: bytes) -> str:
        world.refill()
        world.release(world.other)
        request, varied = compose(world.station(world.attacker), token)
        wanted = request.index(wire.option(wire.OPTION_REQUESTED_ADDRESS, b"")[:1] + b"\4") + 4
        world.attacker.must(frames_line([request], GREED, (varied, wanted)))
        try:
            world.lease(world.other)
        except GuestError:
            return f"{OTHER_VM} gets no address"
        return ""

    return perform


def dhcp_request(me: Station, chaddr: str, *more: bytes) -> bytes:
    """A REQUEST in the state SELECTING for the first of the GREED addresses around the VM's own."""
    number = int.from_bytes(socket.inet_aton(me.address)) // GREED * GREED
    options = (
        wire.option(wire.OPTION_REQUESTED_ADDRESS, number.to_bytes(4)),
        wire.option(wire.OPTION_SERVER, socket.inet_aton(me.server)),
    )
    message = wire.dhcp(wire.REQUEST, chaddr, *options, *more)
    segment = wire.udp(wire.DHCP_CLIENT, wire.DHCP_SERVER, message)
    packet = wire.ipv4(wire.ANY, wire.EVERYBODY, wire.UDP, segment)
    return wire.ethernet(wire.BROADCAST, me.mac, wire.IPV4, packet)


def many_stations(me: Station, token: bytes) -> tuple[bytes, int]:
    """Another chaddr each time; the last two of its bytes are counted up."""
    chaddr = "02:00:5e:00:00:00"
    request = dhcp_request(me, chaddr)
    return request, request.index(wire.mac_bytes(chaddr)) + 4


def many_identifiers(me: Station, token: bytes) -> tuple[bytes, int]:
    """The VM's own chaddr and another client identifier each time."""
    request = dhcp_request(me, me.mac, wire.option(wire.OPTION_CLIENT_ID, token + b"\0\0"))
    return request, request.index(token) + len(token)


ATTEMPTS = (
    Attempt("get an address by DHCP", True, take_lease),
    Attempt("resolve a name", True, resolve),
    Attempt("fetch a page from the internet", True, download),
    Attempt("forge the source MAC address", False, sending(spoof_mac)),
    Attempt("forge the source IP address", False, sending(spoof_ip)),
    Attempt("claim the gateway's address (ARP)", False, sending(spoof_gateway)),
    Attempt("play DHCP server", False, sending(offer_addresses)),
    Attempt("reach a machine on the LAN", False, visit(lambda other: LAN_HOST)),
    Attempt("reach another VM", False, visit(lambda other: other.address)),
    Attempt("reach another VM past the gateway", False, sending(meet_neighbour)),
    Attempt("read the cloud's metadata", False, visit(lambda other: METADATA)),
    Attempt("hop into another VLAN (802.1Q)", False, sending(tag_vlan)),
    Attempt("become the IPv6 router (RA, NDP)", False, sending(advertise_router)),
    Attempt("choose the route (source routing)", False, sending(route_by_source)),
    Attempt("use up DHCP by many MACs", False, starving(many_stations)),
    Attempt("use up DHCP by many client ids", False, starving(many_identifiers)),
)
