"""The IPv4 addresses of the host's own interfaces, from getifaddrs(3)."""

import ctypes
import sys
from collections.abc import Iterator
from ctypes import POINTER, byref, c_char_p, c_int, c_uint, c_void_p
from typing import Any

from softnet.errors import UplinkError

AF_INET = 2
_ADDRESS_AT = 4  # sin_addr in struct sockaddr_in


class _InterfaceAddress(ctypes.Structure):
    """struct ifaddrs, up to the members that are used; its order is the same on macOS and Linux."""


_InterfaceAddress._fields_ = (
    ("ifa_next", POINTER(_InterfaceAddress)),
    ("ifa_name", c_char_p),
    ("ifa_flags", c_uint),
    ("ifa_addr", c_void_p),
)


def ipv4_addresses() -> tuple[int, ...]:
    """Sorted, without duplicates and without 127.0.0.0/8; UplinkError when the system does not say."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.getifaddrs.argtypes, libc.getifaddrs.restype = [POINTER(POINTER(_InterfaceAddress))], c_int
    libc.freeifaddrs.argtypes, libc.freeifaddrs.restype = [POINTER(_InterfaceAddress)], None
    head = POINTER(_InterfaceAddress)()
    if libc.getifaddrs(byref(head)) != 0:
        raise UplinkError(f"getifaddrs: error {ctypes.get_errno()} while listing the host's own addresses")
    try:
        return tuple(sorted({address for address in _ipv4(head) if address >> 24 != 127}))
    finally:
        libc.freeifaddrs(head)


def _ipv4(entry: Any) -> Iterator[int]:
    while entry:
        address = entry.contents.ifa_addr
        if address and _family(address) == AF_INET:
            yield int.from_bytes(ctypes.string_at(address + _ADDRESS_AT, 4), "big")
        entry = entry.contents.ifa_next


def _family(address: int) -> int:
    """Darwin's sockaddr starts with its length, then the family, a byte each; Linux's family is 16 bits."""
    first, second = ctypes.string_at(address, 2)
    return second if sys.platform == "darwin" else int.from_bytes((first, second), sys.byteorder)
