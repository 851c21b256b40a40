"""A map from every IPv4 address to a small number, as sorted disjoint intervals.

`build` turns prefixes, where the longest match wins, into intervals; `overlay` lays one map over
another. `Table` is the read side: a binary search over a flat array, between bounds that a
directory over an address's top bits gives. The directory grows with the table (4 bytes to 256 KiB), so
that a lookup stays a few steps at 100,000 rules, and a small policy pays nothing for it.
"""

from array import array
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from softnet.core.ports import PortRules

LAST_ADDRESS = 0xFFFFFFFF
DIRECTORIES = ((64, 0), (4096, 8), (LAST_ADDRESS, 16))  # up to so many intervals, so many top bits


class Prefix(NamedTuple):
    """`address` with its host bits cut off, `length` bits of it, and what it maps to."""

    address: int
    length: int
    value: int


class Interval(NamedTuple):
    """The addresses `first` to `last`, both included."""

    first: int
    last: int
    value: int


def build(prefixes: Iterable[Prefix]) -> list[Interval]:
    """The intervals that some prefix covers, sorted; the longest prefix wins.

    Prefixes nest or are disjoint, so one sweep with a stack of the open ones does it. Two entries
    for the same prefix are the caller's mistake: which of them wins is the caller's to decide.
    """
    intervals: list[Interval] = []
    open_prefixes: list[Interval] = []
    cursor = 0

    def emit(until: int, value: int) -> None:
        nonlocal cursor
        if until < cursor:
            return
        if intervals and intervals[-1].value == value and intervals[-1].last + 1 == cursor:
            intervals[-1] = Interval(intervals[-1].first, until, value)
        else:
            intervals.append(Interval(cursor, until, value))
        cursor = until + 1

    for prefix in sorted(prefixes, key=lambda p: (p.address, p.length)):
        first = prefix.address
        last = first | (LAST_ADDRESS >> prefix.length)
        while open_prefixes and open_prefixes[-1].last < first:
            closed = open_prefixes.pop()
            emit(closed.last, closed.value)
        if open_prefixes:
            emit(first - 1, open_prefixes[-1].value)
        cursor = max(cursor, first)
        open_prefixes.append(Interval(first, last, prefix.value))
    while open_prefixes:
        closed = open_prefixes.pop()
        emit(closed.last, closed.value)
    return intervals


def overlay(top: Sequence[Interval], bottom: Sequence[Interval]) -> list[Interval]:
    """The sorted disjoint intervals of `top`, and those of `bottom` where `top` has none."""
    merged: list[Interval] = list(top)
    at = 0
    for first, last, value in bottom:
        while at < len(top) and top[at].last < first:
            at += 1
        cursor, look = first, at
        while look < len(top) and top[look].first <= last:
            if top[look].first > cursor:
                merged.append(Interval(cursor, top[look].first - 1, value))
            cursor = max(cursor, top[look].last + 1)
            look += 1
        if cursor <= last:
            merged.append(Interval(cursor, last, value))
    merged.sort()
    return merged


def cross(top: Sequence[Interval], bottom: Sequence[Interval]) -> list[tuple[int, int, int, int]]:
    """(first, last, value of `top`, value of `bottom`) wherever both have one; both sorted and disjoint."""
    crossed: list[tuple[int, int, int, int]] = []
    at = 0
    for first, last, value in top:
        while at < len(bottom) and bottom[at].last < first:
            at += 1
        look = at
        while look < len(bottom) and bottom[look].first <= last:
            low, high, below = bottom[look]
            crossed.append((max(first, low), min(last, high), value, below))
            look += 1
    return crossed


class Table:
    """Intervals that cover all addresses, frozen for lookups. `len()` is their number.

    `ports` is what resolves the values that are no reason codes (`softnet.core.ports`), if any is.
    """

    __slots__ = ("_directory", "_rows", "_shift", "ports", "size")

    def __init__(self, intervals: Sequence[Interval], ports: "PortRules | None" = None) -> None:
        """ValueError unless `intervals` are sorted, disjoint, and cover 0.0.0.0 to the end."""
        self.ports = ports
        expected = 0
        rows = array("I")  # where an interval starts and its value, side by side: one line of the cache
        for first, last, value in intervals:
            if first != expected or last < first:
                raise ValueError(f"intervals do not join at {first:#x}")
            expected = last + 1
            if rows and rows[-1] == value:
                continue
            rows.append(first)
            rows.append(value)
        if expected != LAST_ADDRESS + 1:
            raise ValueError("intervals do not cover every address")
        self._rows = memoryview(rows)
        self.size = len(rows) // 2
        self._index(next(bits for most, bits in DIRECTORIES if self.size <= most))

    def _index(self, bits: int) -> None:
        """Entry `n` is the interval of the first address whose top `bits` are `n`; one more, the last."""
        self._shift = 32 - bits
        self._directory = memoryview(array("I", bytes(4 * ((1 << bits) + 1))))
        at = 0
        for slot in range(1 << bits):
            while at + 1 < self.size and self._rows[2 * at + 2] <= slot << self._shift:
                at += 1
            self._directory[slot] = at
        self._directory[1 << bits] = self.size - 1

    def __len__(self) -> int:
        return self.size

    def lookup(self, address: int) -> int:
        """What `address` maps to."""
        slot = address
        slot >>= self._shift  # by up to 32: in C, what is shifted has to have more bits than that
        low = self._directory[slot]
        high = self._directory[slot + 1] + 1
        while high - low > 1:
            middle = (low + high) >> 1
            if self._rows[2 * middle] <= address:
                low = middle
            else:
                high = middle
        return self._rows[2 * low + 1]

    def intervals(self) -> list[Interval]:
        """The intervals again, adjacent ones of one value joined."""
        starts, values = list(self._rows)[::2], list(self._rows)[1::2]
        ends = [start - 1 for start in starts[1:]] + [LAST_ADDRESS]
        rows = zip(starts, ends, values, strict=True)
        return [Interval(first, last, value) for first, last, value in rows]
