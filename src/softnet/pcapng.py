"""pcapng blocks (draft-ietf-opsawg-pcapng), as much as a capture of one Ethernet interface needs.

`header` is a section and its interface, `packet` one frame with a comment. Numbers are little-endian,
timestamps nanoseconds since 1970. Nothing is read here but `blocks`, which cuts a stream at block ends.
"""

import struct
from collections.abc import Iterator

SECTION_HEADER = 0x0A0D0D0A
INTERFACE = 1
ENHANCED_PACKET = 6
BYTE_ORDER = 0x1A2B3C4D
LINKTYPE_ETHERNET = 1

OPTION_END = 0
OPTION_COMMENT = 1
SHB_APPLICATION = 4
IF_NAME = 2
IF_DESCRIPTION = 3
IF_RESOLUTION = 9
EPB_FLAGS = 2
EPB_DROPS = 4

INBOUND = 1
OUTBOUND = 2
NANOSECONDS = b"\x09"


def header(application: str, name: str, description: str, snaplen: int) -> bytes:
    """Section header and interface description: what a file starts with."""
    section = struct.pack("<IHHq", BYTE_ORDER, 1, 0, -1) + _options((SHB_APPLICATION, application.encode()))
    interface = struct.pack("<HHI", LINKTYPE_ETHERNET, 0, snaplen) + _options(
        (IF_NAME, name.encode()), (IF_DESCRIPTION, description.encode()), (IF_RESOLUTION, NANOSECONDS)
    )
    return _block(SECTION_HEADER, section) + _block(INTERFACE, interface)


def packet(frame: bytes, length: int, nanoseconds: int, direction: int, comment: str, dropped: int) -> bytes:
    """One frame of `length` bytes on the wire; `dropped` frames before it are missing from the capture."""
    fields = struct.pack(
        "<IIIII", 0, nanoseconds >> 32 & 0xFFFFFFFF, nanoseconds & 0xFFFFFFFF, len(frame), length
    )
    options = [(OPTION_COMMENT, comment.encode()), (EPB_FLAGS, struct.pack("<I", direction))]
    if dropped:
        options.append((EPB_DROPS, struct.pack("<Q", dropped)))
    return _block(ENHANCED_PACKET, fields + _padded(frame) + _options(*options))


def blocks(stream: bytearray) -> Iterator[bytes]:
    """Takes whole blocks off the front of `stream`; ValueError when it is not pcapng."""
    while len(stream) >= 12:
        kind, length = struct.unpack_from("<II", stream)
        if (
            length < 12
            or length % 4
            or length > 1 << 24
            or kind not in (SECTION_HEADER, INTERFACE, ENHANCED_PACKET)
        ):
            raise ValueError("not a pcapng block")
        if len(stream) < length:
            return
        yield bytes(stream[:length])
        del stream[:length]


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _options(*options: tuple[int, bytes]) -> bytes:
    packed = [struct.pack("<HH", code, len(data)) + _padded(data) for code, data in options]
    return b"".join(packed) + struct.pack("<HH", OPTION_END, 0)


def _block(kind: int, body: bytes) -> bytes:
    length = struct.pack("<I", 12 + len(body))
    return struct.pack("<I", kind) + length + body + length
