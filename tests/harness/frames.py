"""Ethernet, ARP, IPv4, UDP, TCP, ICMP and DHCP frames for tests, one plain builder a header.

Every field can be given, also wrongly: a builder fills in what is left out and refuses nothing.
IPv4 header checksums are right unless given; UDP goes without one (0, RFC 768) and TCP's is left 0.
MAC addresses and IPv4 addresses are written as text. Nothing here knows softnet.
"""

from typing import NamedTuple

BROADCAST_MAC = "ff:ff:ff:ff:ff:ff"
ZERO_MAC = "00:00:00:00:00:00"
ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86DD
ICMP, TCP, UDP = 1, 6, 17

ETHERNET_BYTES, IPV4_BYTES, UDP_BYTES, BOOTP_BYTES = 14, 20, 8, 236
DHCP_OPTIONS_AT = ETHERNET_BYTES + IPV4_BYTES + UDP_BYTES + BOOTP_BYTES + 4
MAGIC_COOKIE = b"\x63\x82\x53\x63"
MORE_FRAGMENTS = 0x2000

DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = range(1, 9)
PAD, END = b"\x00", b"\xff"


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def ip(text: str) -> bytes:
    return bytes(int(octet) for octet in text.split("."))


def number(width: int, value: int) -> bytes:
    return value.to_bytes(width, "big")


def checksum(header: bytes) -> int:
    """The Internet checksum, RFC 1071."""
    padded = header + b"\0" * (len(header) % 2)
    total = sum(int.from_bytes(padded[at : at + 2], "big") for at in range(0, len(padded), 2))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def ethernet(dst: str, src: str, ethertype: int, payload: bytes = b"") -> bytes:
    return mac(dst) + mac(src) + number(2, ethertype) + payload


def arp(
    op: int,
    sha: str,
    spa: str,
    tpa: str,
    tha: str = ZERO_MAC,
    *,
    htype: int = 1,
    ptype: int = IPV4,
    hlen: int = 6,
    plen: int = 4,
) -> bytes:
    head = number(2, htype) + number(2, ptype) + number(1, hlen) + number(1, plen) + number(2, op)
    return head + mac(sha) + ip(spa) + mac(tha) + ip(tpa)


def ipv4(
    src: str,
    dst: str,
    protocol: int,
    payload: bytes = b"",
    *,
    version: int = 4,
    ihl: int | None = None,
    total: int | None = None,
    fragment: int = 0,
    options: bytes = b"",
    header_checksum: int | None = None,
) -> bytes:
    """`fragment` is the 16-bit field of flags and offset; `options` are padded to a multiple of four."""
    options += b"\0" * (-len(options) % 4)
    words = 5 + len(options) // 4 if ihl is None else ihl
    length = IPV4_BYTES + len(options) + len(payload) if total is None else total
    head = number(1, version << 4 | words) + b"\0" + number(2, length) + b"\x12\x34" + number(2, fragment)
    head += number(1, 64) + number(1, protocol)
    tail = ip(src) + ip(dst) + options
    sum_ = checksum(head + b"\0\0" + tail) if header_checksum is None else header_checksum
    return head + number(2, sum_) + tail + payload


def udp(sport: int, dport: int, payload: bytes = b"", *, length: int | None = None) -> bytes:
    size = UDP_BYTES + len(payload) if length is None else length
    return number(2, sport) + number(2, dport) + number(2, size) + b"\0\0" + payload


def tcp(sport: int, dport: int, payload: bytes = b"", *, flags: int = 0x02) -> bytes:
    return (
        number(2, sport)
        + number(2, dport)
        + bytes(8)
        + number(2, 0x5000 | flags)
        + b"\xff\xff"
        + bytes(4)
        + payload
    )


def icmp_echo(payload: bytes = b"ping") -> bytes:
    body = b"\x12\x34\x00\x01" + payload
    return b"\x08\x00" + number(2, checksum(b"\x08\x00\0\0" + body)) + body


def option(code: int, data: bytes = b"") -> bytes:
    """A DHCP option, RFC 2132 (PAD and END are constants: they have no length)."""
    return number(1, code) + number(1, len(data)) + data


class Bootp(NamedTuple):
    """A BOOTP message, RFC 951: what a DHCP message is before its options."""

    op: int = 1
    htype: int = 1
    hlen: int = 6
    hops: int = 0
    xid: int = 0xCAFE0001
    flags: int = 0
    ciaddr: str = "0.0.0.0"
    yiaddr: str = "0.0.0.0"
    siaddr: str = "0.0.0.0"
    giaddr: str = "0.0.0.0"
    chaddr: bytes = b""
    sname: bytes = b""
    file: bytes = b""
    cookie: bytes = MAGIC_COOKIE
    options: bytes = END

    def pack(self) -> bytes:
        head = bytes([self.op, self.htype, self.hlen, self.hops])
        head += number(4, self.xid) + number(2, 0) + number(2, self.flags)
        head += ip(self.ciaddr) + ip(self.yiaddr) + ip(self.siaddr) + ip(self.giaddr)
        head += self.chaddr.ljust(16, b"\0") + self.sname.ljust(64, b"\0") + self.file.ljust(128, b"\0")
        return head + self.cookie + self.options


def refit(frame: bytes, length: int) -> bytes:
    """An IPv4 frame cut to `length`, with its IPv4 and UDP lengths and header checksum made to fit.

    What is too short for a field loses it, and a length never goes below zero.
    """
    cut = bytearray(frame[:length])
    if len(cut) >= ETHERNET_BYTES + 4:
        cut[16:18] = number(2, len(cut) - ETHERNET_BYTES)
    if len(cut) >= ETHERNET_BYTES + IPV4_BYTES:
        header = ETHERNET_BYTES + 4 * (cut[14] & 15)
        cut[24:26] = b"\0\0"
        cut[24:26] = number(2, checksum(bytes(cut[ETHERNET_BYTES:header])))
        if cut[23] == UDP and len(cut) >= header + 6:
            cut[header + 4 : header + 6] = number(2, len(cut) - header)
    return bytes(cut)
