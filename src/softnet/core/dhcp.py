"""BOOTP and DHCP messages, read and written (RFC 951, RFC 2131, RFC 2132, RFC 3396).

`parse` is strict about what it must walk: the options, those that option 52 hides in the `file` and
`sname` fields too, and split options joined as RFC 3396 says, so that no client identifier can be
shown to a server and hidden from the filter. It knows nothing about who may send what.
"""

from collections.abc import Iterable
from typing import NamedTuple

CLIENT_PORT = 68
SERVER_PORT = 67

BOOTREQUEST = 1
BOOTREPLY = 2
HTYPE_ETHERNET = 1
HLEN_ETHERNET = 6

DISCOVER = 1
OFFER = 2
REQUEST = 3
DECLINE = 4
ACK = 5
NAK = 6
RELEASE = 7
INFORM = 8

OPTION_PAD = 0
OPTION_SUBNET_MASK = 1
OPTION_ROUTER = 3
OPTION_DNS = 6
OPTION_MTU = 26
OPTION_BROADCAST = 28
OPTION_REQUESTED_ADDRESS = 50
OPTION_LEASE_TIME = 51
OPTION_OVERLOAD = 52
OPTION_MESSAGE_TYPE = 53
OPTION_SERVER_ID = 54
OPTION_PARAMETERS = 55
OPTION_T1 = 58
OPTION_T2 = 59
OPTION_CLIENT_ID = 61
OPTION_END = 255

FLAG_BROADCAST = 0x8000
FIXED_LENGTH = 236
COOKIE = b"\x63\x82\x53\x63"
MINIMUM_LENGTH = 300  # what RFC 951 clients and relays expect at least

_LENGTHS = {
    OPTION_SUBNET_MASK: 4,
    OPTION_REQUESTED_ADDRESS: 4,
    OPTION_LEASE_TIME: 4,
    OPTION_OVERLOAD: 1,
    OPTION_MESSAGE_TYPE: 1,
    OPTION_SERVER_ID: 4,
}
_SNAME = slice(44, 108)
_FILE = slice(108, 236)


class Message(NamedTuple):
    """A message as it was on the wire; addresses are integers, `options` maps code to bytes."""

    op: int
    htype: int
    hlen: int
    xid: int
    flags: int
    ciaddr: int
    yiaddr: int
    giaddr: int
    chaddr: int
    options: dict[int, bytes]

    def _number(self, option: int) -> int | None:
        value = self.options.get(option)
        return None if value is None else int.from_bytes(value, "big")

    def _addresses(self, option: int) -> tuple[int, ...]:
        value = self.options.get(option, b"")
        return tuple(int.from_bytes(value[at : at + 4], "big") for at in range(0, len(value) - 3, 4))

    @property
    def message_type(self) -> int | None:
        return self._number(OPTION_MESSAGE_TYPE)

    @property
    def requested_address(self) -> int | None:
        return self._number(OPTION_REQUESTED_ADDRESS)

    @property
    def server_id(self) -> int | None:
        return self._number(OPTION_SERVER_ID)

    @property
    def lease_time(self) -> int | None:
        """Seconds; 0xffffffff is for ever (RFC 2131 3.3)."""
        return self._number(OPTION_LEASE_TIME)

    @property
    def subnet_mask(self) -> int | None:
        return self._number(OPTION_SUBNET_MASK)

    @property
    def routers(self) -> tuple[int, ...]:
        return self._addresses(OPTION_ROUTER)

    @property
    def dns_servers(self) -> tuple[int, ...]:
        return self._addresses(OPTION_DNS)

    @property
    def client_id(self) -> bytes | None:
        return self.options.get(OPTION_CLIENT_ID)


def _walk(area: bytes, options: dict[int, bytes]) -> bool:
    """Adds the options of one area, joining split ones (RFC 3396); False when it cannot be walked."""
    at = 0
    while at < len(area):
        code = area[at]
        at += 1
        if code == OPTION_PAD:
            continue
        if code == OPTION_END:
            return True
        if at >= len(area) or at + 1 + area[at] > len(area):
            return False
        options[code] = options.get(code, b"") + area[at + 1 : at + 1 + area[at]]
        at += 1 + area[at]
    return True


def _overloaded(payload: bytes, options: dict[int, bytes]) -> bool:
    """Walks `file`, then `sname`, where option 52 says that they hold options (RFC 2131 4.1)."""
    overload = options.get(OPTION_OVERLOAD)
    if overload is None:
        return True
    if overload not in (b"\x01", b"\x02", b"\x03"):
        return False
    areas = [payload[_FILE]] if overload[0] & 1 else []
    areas += [payload[_SNAME]] if overload[0] & 2 else []
    return all(_walk(area, options) for area in areas)


def parse(payload: bytes) -> Message | None:
    """The message in a UDP payload, or None when it cannot be walked to its end."""
    if len(payload) < FIXED_LENGTH + len(COOKIE) or payload[FIXED_LENGTH : FIXED_LENGTH + 4] != COOKIE:
        return None
    options: dict[int, bytes] = {}
    if not _walk(payload[FIXED_LENGTH + 4 :], options) or not _overloaded(payload, options):
        return None
    if any(code in options and len(options[code]) != length for code, length in _LENGTHS.items()):
        return None
    return Message(
        op=payload[0],
        htype=payload[1],
        hlen=payload[2],
        xid=int.from_bytes(payload[4:8], "big"),
        flags=int.from_bytes(payload[10:12], "big"),
        ciaddr=int.from_bytes(payload[12:16], "big"),
        yiaddr=int.from_bytes(payload[16:20], "big"),
        giaddr=int.from_bytes(payload[24:28], "big"),
        chaddr=int.from_bytes(payload[28:34], "big"),
        options=options,
    )


def address_option(*addresses: int) -> bytes:
    """The value of an option that holds IPv4 addresses."""
    return b"".join(address.to_bytes(4, "big") for address in addresses)


def build(
    op: int,
    message_type: int,
    xid: int,
    chaddr: int,
    *,
    flags: int = 0,
    ciaddr: int = 0,
    yiaddr: int = 0,
    siaddr: int = 0,
    options: Iterable[tuple[int, bytes]] = (),
) -> bytes:
    """A UDP payload: option 53 first, then `options` in order (split past 255 bytes), padded."""
    fixed = bytearray(FIXED_LENGTH)
    fixed[0:4] = bytes((op, HTYPE_ETHERNET, HLEN_ETHERNET, 0))
    fixed[4:8] = xid.to_bytes(4, "big")
    fixed[10:12] = flags.to_bytes(2, "big")
    fixed[12:24] = address_option(ciaddr, yiaddr, siaddr)
    fixed[28:34] = chaddr.to_bytes(6, "big")
    area = bytearray((OPTION_MESSAGE_TYPE, 1, message_type))
    for code, value in options:
        for at in range(0, max(len(value), 1), 255):
            part = value[at : at + 255]
            area += bytes((code, len(part))) + part
    area.append(OPTION_END)
    return (bytes(fixed) + COOKIE + bytes(area)).ljust(MINIMUM_LENGTH, b"\0")
