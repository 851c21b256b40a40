"""Bulk work on bytes: the Internet checksum, copies, comparisons.

This is the interpreted half. Compiled modules take `octets_native.pxd` in its stead, which does the
same in C: `from softnet.core import octets` in the `.py`, `from softnet.core cimport octets_native
as octets` in the `.pxd`, and one call serves both builds. Every function checks its ranges and
raises IndexError; none reads or writes past an arena.
"""


def _check(data: memoryview, start: int, size: int) -> None:
    if start < 0 or size < 0 or start + size > len(data):
        raise IndexError(f"{size} bytes at {start} of {len(data)}")


def sum_of(data: memoryview, start: int, size: int) -> int:
    """The one's complement sum of `size` bytes as big-endian 16-bit words (RFC 1071), folded.

    An odd last byte counts as if a zero followed. The sum is 0 only when every byte is.
    """
    _check(data, start, size)
    total = int.from_bytes(data[start : start + size], "big") << 8 * (size & 1)
    return (total - 1) % 0xFFFF + 1 if total else 0


def fold(total: int) -> int:
    """A sum of 16-bit words with its carries added back in; `total` is below 2**32."""
    total = (total & 0xFFFF) + (total >> 16)
    return (total & 0xFFFF) + (total >> 16)


def copy(target: memoryview, at: int, source: memoryview, start: int, size: int) -> None:
    """Copies `size` bytes between two arenas that do not overlap."""
    _check(target, at, size)
    _check(source, start, size)
    target[at : at + size] = source[start : start + size]


def same(data: memoryview, one: int, other: int, size: int) -> bool:
    """Whether two runs of `size` bytes of one arena are equal."""
    _check(data, one, size)
    _check(data, other, size)
    return data[one : one + size] == data[other : other + size]


def load16(data: memoryview, at: int) -> int:
    """Two bytes in network order."""
    _check(data, at, 2)
    return data[at] << 8 | data[at + 1]


def load32(data: memoryview, at: int) -> int:
    """Four bytes in network order."""
    _check(data, at, 4)
    return data[at] << 24 | data[at + 1] << 16 | data[at + 2] << 8 | data[at + 3]


def store16(data: memoryview, at: int, value: int) -> None:
    """Two bytes in network order; higher bits of `value` are cut off."""
    _check(data, at, 2)
    data[at] = value >> 8 & 255
    data[at + 1] = value & 255


def store32(data: memoryview, at: int, value: int) -> None:
    """Four bytes in network order; higher bits of `value` are cut off."""
    store16(data, at, value >> 16)
    store16(data, at + 2, value)
