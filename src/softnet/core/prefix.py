"""A map from every IPv4 address to a small number, as sorted disjoint intervals.

`build` turns prefixes, where the longest match wins, into intervals; `overlay` lays one map over
another. `Table` is the read side: a binary search over two flat arrays, so that its cost a lookup
and its bytes an interval stay small at 100,000 rules.
"""

from array import array
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from softnet.core.ports import PortRules

LAST_ADDRESS = 0xFFFFFFFF


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

    __slots__ = ("_starts", "_values", "ports", "size")

    def __init__(self, intervals: Sequence[Interval], ports: "PortRules | None" = None) -> None:
        """ValueError unless `intervals` are sorted, disjoint, and cover 0.0.0.0 to the end."""
        self.ports = ports
        expected = 0
        starts = array("I")
        values = array("I")
        for first, last, value in intervals:
            if first != expected or last < first:
                raise ValueError(f"intervals do not join at {first:#x}")
            expected = last + 1
            if values and values[-1] == value:
                continue
            starts.append(first)
            values.append(value)
        if expected != LAST_ADDRESS + 1:
            raise ValueError("intervals do not cover every address")
        self._starts = memoryview(starts)
        self._values = memoryview(values)
        self.size = len(starts)

    def __len__(self) -> int:
        return self.size

    def lookup(self, address: int) -> int:
        """What `address` maps to."""
        low = 0
        high = self.size
        while high - low > 1:
            middle = (low + high) >> 1
            if self._starts[middle] <= address:
                low = middle
            else:
                high = middle
        return self._values[low]

    def intervals(self) -> list[Interval]:
        """The intervals again, adjacent ones of one value joined."""
        ends = [start - 1 for start in list(self._starts)[1:]] + [LAST_ADDRESS]
        rows = zip(self._starts, ends, self._values, strict=True)
        return [Interval(first, last, value) for first, last, value in rows]
