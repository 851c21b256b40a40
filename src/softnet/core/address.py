"""IPv4 and MAC addresses as integers (host order: 10.0.0.1 is 0x0a000001), and their text.

Only the unambiguous spellings are read: four decimal octets without leading zeros, six two-digit
hexadecimal octets separated by colons.
"""

BROADCAST_IPV4 = 0xFFFFFFFF
MAC_GROUP_BIT = 0x010000000000
MAC_LOCAL_BIT = 0x020000000000

_OCTETS = {str(octet): octet for octet in range(256)}  # a block list has 100,000 addresses
_HEX = frozenset("0123456789abcdefABCDEF")


def parse_ipv4(text: str) -> int:
    """ValueError unless `text` is a dotted quad."""
    try:
        first, second, third, fourth = [_OCTETS[octet] for octet in text.split(".")]
    except (KeyError, ValueError):
        raise ValueError(text) from None
    return first << 24 | second << 16 | third << 8 | fourth


def format_ipv4(address: int) -> str:
    return f"{address >> 24}.{address >> 16 & 255}.{address >> 8 & 255}.{address & 255}"


def mask_of(length: int) -> int:
    """The network mask of a prefix length, 0 to 32."""
    return 0xFFFFFFFF << (32 - length) & 0xFFFFFFFF


def parse_mac(text: str) -> int:
    """ValueError unless `text` is six colon-separated octets of two hexadecimal digits."""
    octets = text.split(":")
    if len(octets) != 6 or any(len(octet) != 2 or not _HEX.issuperset(octet) for octet in octets):
        raise ValueError(text)
    return int("".join(octets), 16)


def format_mac(address: int) -> str:
    text = f"{address:012x}"
    return ":".join(text[at : at + 2] for at in range(0, 12, 2))
