"""Frames as bytes, right or deliberately wrong. Addresses are text, as in the tables people read."""

import socket
import struct

ARP, IPV4, IPV6, VLAN = 0x0806, 0x0800, 0x86DD, 0x8100
BROADCAST = "ff:ff:ff:ff:ff:ff"
ANY, EVERYBODY = "0.0.0.0", "255.255.255.255"
ICMP, UDP, ICMPV6 = 1, 17, 58
DHCP_SERVER, DHCP_CLIENT = 67, 68
DISCOVER, OFFER, REQUEST = 1, 2, 3
OPTION_REQUESTED_ADDRESS, OPTION_MESSAGE_TYPE, OPTION_SERVER, OPTION_CLIENT_ID = 50, 53, 54, 61
LOOSE_SOURCE_ROUTE = 131


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def checksum(data: bytes) -> int:
    """The internet checksum, RFC 1071."""
    total: int = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ethernet(destination: str, source: str, ethertype: int, payload: bytes) -> bytes:
    return mac_bytes(destination) + mac_bytes(source) + struct.pack(">H", ethertype) + payload


def vlan(tag: int, ethertype: int, payload: bytes) -> bytes:
    """What follows the ethertype 0x8100 of IEEE 802.1Q."""
    return struct.pack(">HH", tag, ethertype) + payload


def arp_reply(sha: str, spa: str, tha: str, tpa: str) -> bytes:
    """`spa` is at `sha`, RFC 826."""
    header = struct.pack(">HHBBH", 1, IPV4, 6, 4, 2)
    return header + mac_bytes(sha) + socket.inet_aton(spa) + mac_bytes(tha) + socket.inet_aton(tpa)


def ipv4(source: str, destination: str, protocol: int, payload: bytes, options: bytes = b"") -> bytes:
    options += bytes(-len(options) % 4)
    length = 20 + len(options)
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    start = struct.pack(">BBHHHBB", 0x40 | length // 4, 0, length + len(payload), 1, 0, 64, protocol)
    check = checksum(start + bytes(2) + addresses + options)
    return start + struct.pack(">H", check) + addresses + options + payload


def udp(source_port: int, destination_port: int, payload: bytes) -> bytes:
    """Without a checksum, which IPv4 allows."""
    return struct.pack(">HHHH", source_port, destination_port, 8 + len(payload), 0) + payload


def source_route(*hops: str) -> bytes:
    """A loose source route with its pointer at the first hop, RFC 791 section 3.1."""
    route = b"".join(map(socket.inet_aton, hops))
    return bytes((LOOSE_SOURCE_ROUTE, 3 + len(route), 4)) + route


def option(code: int, value: bytes) -> bytes:
    return bytes((code, len(value))) + value


def dhcp(
    kind: int, chaddr: str, *options: bytes, yiaddr: str = ANY, server: str = ANY, sname: bytes = b""
) -> bytes:
    """A BOOTP message of the DHCP type `kind`, RFC 2131; a server's kinds make it a reply."""
    operation = 2 if kind == OFFER else 1
    start = struct.pack(">BBBBIHH", operation, 1, 6, 0, 0x5EED0000, 0, 0)
    addresses = b"".join(map(socket.inet_aton, (ANY, yiaddr, server, ANY)))
    fixed = start + addresses + mac_bytes(chaddr).ljust(16, b"\0") + sname.ljust(64, b"\0") + bytes(128)
    cookie = bytes((99, 130, 83, 99))
    return fixed + cookie + option(OPTION_MESSAGE_TYPE, bytes((kind,))) + b"".join(options) + b"\xff"


def icmpv6(source: str, destination: str, message: bytes) -> bytes:
    """An IPv6 packet with an ICMPv6 message whose checksum (bytes 2 and 3) is filled in."""
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, destination)
    check = checksum(addresses + struct.pack(">II", len(message), ICMPV6) + message)
    header = struct.pack(">IHBB", 6 << 28, len(message), ICMPV6, 255)
    return header + addresses + message[:2] + struct.pack(">H", check) + message[4:]


def router_advertisement(mac: str, prefix: str, extra: bytes) -> bytes:
    """ "I am your default router for an hour, and this is your prefix", RFC 4861 section 4.2.

    `extra` (at most 22 bytes) travels in an option of an experimental type, which hosts skip.
    """
    start = struct.pack(">BBHBBHII", 134, 0, 0, 64, 0, 3600, 0, 0)
    source = bytes((1, 1)) + mac_bytes(mac)
    network = socket.inet_pton(socket.AF_INET6, prefix)
    information = struct.pack(">BBBBIII", 3, 4, 64, 0xC0, 86400, 14400, 0) + network
    return start + source + information + bytes((253, 3)) + extra.ljust(22, b"\0")


def neighbor_advertisement(mac: str, address: str, extra: bytes) -> bytes:
    """ "`address` is at `mac`, forget what you knew", RFC 4861 section 4.4."""
    target = socket.inet_pton(socket.AF_INET6, address)
    link_layer = bytes((2, 1)) + mac_bytes(mac)
    start = struct.pack(">BBHI", 136, 0, 0, 0xA0000000)
    return start + target + link_layer + bytes((253, 3)) + extra.ljust(22, b"\0")
