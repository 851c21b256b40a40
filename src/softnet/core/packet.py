"""Checked reading of frames, and the writing of the few that Softnet sends itself.

`View` is a window on a batch's arena: every read is checked against the frame's own end, so that a
parser's mistake is an IndexError and never a neighbour's bytes. Offsets count from the frame's
first byte; all fields are network order. Header layouts: Ethernet II (RFC 894), ARP (RFC 826),
IPv4 (RFC 791), UDP (RFC 768).
"""

ETHERNET_HEADER = 14
ARP_LENGTH = 28
IPV4_HEADER = 20
UDP_HEADER = 8

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_ARP = 0x0806
ETHERTYPE_IPV6 = 0x86DD

PROTOCOL_ICMP = 1
PROTOCOL_TCP = 6
PROTOCOL_UDP = 17

BROADCAST_MAC = 0xFFFFFFFFFFFF


class View:
    """The frame of `length` bytes at `start` in `data`; `place` moves the window."""

    __slots__ = ("data", "length", "start")

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self.data = memoryview(data)
        self.start = 0
        self.length = len(self.data)

    def over(self, data: memoryview) -> None:
        """Another arena; `place` says where in it."""
        self.data = data
        self.length = 0

    def place(self, start: int, length: int) -> None:
        """Look at another frame; IndexError when it is not wholly inside the arena."""
        if start + length > len(self.data):
            raise IndexError("frame outside the arena")
        self.start = start
        self.length = length

    def u8(self, at: int) -> int:
        if at + 1 > self.length:
            raise IndexError("read past the frame")
        return self.data[self.start + at]

    def u16(self, at: int) -> int:
        if at + 2 > self.length:
            raise IndexError("read past the frame")
        start = self.start + at
        return self.data[start] << 8 | self.data[start + 1]

    def u32(self, at: int) -> int:
        if at + 4 > self.length:
            raise IndexError("read past the frame")
        start = self.start + at
        value = self.data[start]
        value = value << 8 | self.data[start + 1]
        value = value << 8 | self.data[start + 2]
        return value << 8 | self.data[start + 3]

    def u48(self, at: int) -> int:
        if at + 6 > self.length:
            raise IndexError("read past the frame")
        start = self.start + at
        value = self.data[start]
        value = value << 8 | self.data[start + 1]
        value = value << 8 | self.data[start + 2]
        value = value << 8 | self.data[start + 3]
        value = value << 8 | self.data[start + 4]
        return value << 8 | self.data[start + 5]

    def copy(self, first: int, last: int) -> bytes:
        """The bytes from `first` up to, not including, `last`."""
        if first > last or last > self.length:
            raise IndexError("read past the frame")
        return bytes(self.data[self.start + first : self.start + last])


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of `data`, padded with a zero byte to an even length."""
    if len(data) % 2:
        data += b"\0"
    total = sum(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ethernet(destination: int, source: int, ethertype: int, payload: bytes) -> bytes:
    return destination.to_bytes(6, "big") + source.to_bytes(6, "big") + ethertype.to_bytes(2, "big") + payload


def ipv4(source: int, destination: int, protocol: int, payload: bytes, identification: int = 0) -> bytes:
    """An IPv4 packet without options, TTL 64, DF set."""
    header = bytearray(IPV4_HEADER)
    header[0] = 0x45
    header[2:4] = (IPV4_HEADER + len(payload)).to_bytes(2, "big")
    header[4:6] = identification.to_bytes(2, "big")
    header[6] = 0x40
    header[8] = 64
    header[9] = protocol
    header[12:16] = source.to_bytes(4, "big")
    header[16:20] = destination.to_bytes(4, "big")
    header[10:12] = checksum(bytes(header)).to_bytes(2, "big")
    return bytes(header) + payload


def transport_checksum(source: int, destination: int, protocol: int, segment: bytes) -> int:
    """The TCP or UDP checksum over the pseudo-header (RFC 9293 3.1, RFC 768) and `segment`."""
    pseudo = (
        source.to_bytes(4, "big")
        + destination.to_bytes(4, "big")
        + protocol.to_bytes(2, "big")
        + len(segment).to_bytes(2, "big")
    )
    return checksum(pseudo + segment)


def udp(source: int, destination: int, source_port: int, destination_port: int, payload: bytes) -> bytes:
    """A UDP datagram with its checksum, ready for `ipv4`."""
    header = (
        source_port.to_bytes(2, "big")
        + destination_port.to_bytes(2, "big")
        + (UDP_HEADER + len(payload)).to_bytes(2, "big")
    )
    value = transport_checksum(source, destination, PROTOCOL_UDP, header + b"\0\0" + payload)
    return header + (value or 0xFFFF).to_bytes(2, "big") + payload


def udp_frame(
    destination_mac: int,
    source_mac: int,
    source: int,
    destination: int,
    source_port: int,
    destination_port: int,
    payload: bytes,
) -> bytes:
    """A whole Ethernet frame around a UDP datagram."""
    datagram = udp(source, destination, source_port, destination_port, payload)
    packet = ipv4(source, destination, PROTOCOL_UDP, datagram)
    return ethernet(destination_mac, source_mac, ETHERTYPE_IPV4, packet)
