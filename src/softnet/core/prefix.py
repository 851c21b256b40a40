"""A map from every IPv4 address to a small number.

A *layer* is an array of rows, one number each: an address above 32 bits of value. Rows are sorted, the
first is at 0.0.0.0, and each holds up to the next. NOTHING is the value of addresses that a layer
leaves to the one below. `build` makes a layer of prefixes, where the longest match wins; `overlay` lays
one over another; `Table` is the read side.

No object stands for a row: 100,000 rules are 100,000 numbers in, and 8 bytes a row all the way. A lookup is
a binary search between bounds that a directory over an address's top bits gives; the directory grows with
the table (8 bytes to 256 KiB), so that a small policy pays nothing for it. What a lookup then costs is
the wait for memory that the kernel's own work has pushed out of the caches: `warm` waits once a batch.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from softnet.core.frames import Batch

if TYPE_CHECKING:
    from softnet.core.ports import PortRules

Layer: TypeAlias = "array[int]"

LAST_ADDRESS = 0xFFFFFFFF
NOTHING = 0xFFFFFFFF
NOWHERE = 1 << 32  # behind the last address
DIRECTORIES = ((64, 0), (4096, 8), (1 << 33, 16))  # up to so many rows, so many top bits


class Interval(NamedTuple):
    """The addresses `first` to `last`, both included."""

    first: int
    last: int
    value: int


def entry(address: int, length: int, value: int) -> int:
    """A prefix, its host bits cut off, and what it maps to (24 bits), as a number that sorts that way."""
    return address << 32 | length << 24 | value


def everywhere(value: int) -> Layer:
    """The layer that maps every address to one value."""
    return array("Q", [value])


class Rows:
    """A layer while it is written, from 0.0.0.0 on. `room` is the most rows that it may take."""

    __slots__ = ("_rows", "_size", "_whole")

    def __init__(self, room: int) -> None:
        self._whole = array("Q", bytes(8 * room))
        self._rows = memoryview(self._whole)
        self._size = 0

    def put(self, address: int, value: int) -> None:
        """From `address` on it is `value`; the last word on an address holds. Behind the last is nowhere."""
        if address >= NOWHERE:
            return
        if self._size and self._rows[self._size - 1] >> 32 == address:
            self._size -= 1
        if self._size == 0 or self._rows[self._size - 1] & NOTHING != value:
            self._rows[self._size] = address << 32 | value
            self._size += 1

    def layer(self) -> Layer:
        return self._whole[: self._size]


def build(entries: Iterable[int]) -> Layer:
    """The layer of prefixes (`entry`): the longest wins; of one prefix's values, the largest.

    Prefixes nest or are disjoint, so one sweep with a stack of the open ones does it.
    """
    ordered = sorted(entries)
    rows = Rows(2 * len(ordered) + 1)
    rows.put(0, NOTHING)
    lasts, values, depth = [LAST_ADDRESS], [NOTHING], 0
    for code in ordered:
        first = code >> 32
        value = code & 0xFFFFFF
        while lasts[depth] < first:
            after = lasts.pop() + 1
            values.pop()
            depth -= 1
            rows.put(after, values[depth])
        rows.put(first, value)
        lasts.append(first | LAST_ADDRESS >> (code >> 24 & 0xFF))
        values.append(value)
        depth += 1
    while depth:
        after = lasts.pop() + 1
        values.pop()
        depth -= 1
        rows.put(after, values[depth])
    return rows.layer()


def overlay(top: Layer, bottom: Layer, through: int = 0) -> Layer:
    """`top`, and `bottom` where `top` says NOTHING. The bits `through` of `bottom` are added to `top`'s."""
    upper, lower = memoryview(top), memoryview(bottom)
    rows = Rows(len(top) + len(bottom))
    up = low = 0
    above = below = NOTHING
    while up < len(upper) or low < len(lower):
        rise = upper[up] >> 32 if up < len(upper) else NOWHERE
        turn = lower[low] >> 32 if low < len(lower) else NOWHERE
        if rise <= turn:
            above = upper[up] & NOTHING
            up += 1
        if turn <= rise:
            below = lower[low] & NOTHING
            low += 1
        rows.put(min(rise, turn), below if above == NOTHING else above | below & through)
    return rows.layer()


def value_at(layer: Layer, address: int) -> int:
    """What `layer` maps `address` to, for a question or two; a Table answers many."""
    return layer[bisect_right(layer, address << 32 | NOTHING) - 1] & NOTHING


def intervals(layer: Sequence[int]) -> list[Interval]:
    """What a layer says, where it says anything."""
    starts = [row >> 32 for row in layer] + [NOWHERE]
    return [
        Interval(row >> 32, after - 1, row & NOTHING)
        for row, after in zip(layer, starts[1:], strict=True)
        if row & NOTHING != NOTHING
    ]


class Table:
    """A layer without gaps, frozen for lookups. `len()` is the number of its rows.

    `ports` is what resolves the values that are no reason codes (`softnet.core.ports`), if any is.
    """

    __slots__ = ("_directory", "_rows", "_seen", "_shift", "ports", "size")

    def __init__(self, layer: Layer, ports: "PortRules | None" = None) -> None:
        """ValueError unless `layer` maps every address."""
        self.ports = ports
        self._rows = memoryview(layer)
        self._seen = 0
        self.size = len(layer)
        self._check()
        self._index(next(bits for most, bits in DIRECTORIES if self.size <= most))

    def _check(self) -> None:
        before = 0
        for at in range(self.size):
            row = self._rows[at]
            if row & NOTHING == NOTHING or (row >> 32 <= before >> 32 if at else row >> 32):
                raise ValueError(f"not every address is mapped once at {row >> 32:#x}")
            before = row
        if not self.size:
            raise ValueError("no address is mapped")

    def _index(self, bits: int) -> None:
        """Entry `n` is the row of the first address whose top `bits` are `n`; one more, the last."""
        self._shift = 32 - bits
        self._directory = memoryview(array("I", bytes(4 * ((1 << bits) + 1))))
        at = 0
        for slot in range(1 << bits):
            while at + 1 < self.size and self._rows[at + 1] >> 32 <= slot << self._shift:
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
            if self._rows[middle] >> 32 <= address:
                low = middle
            else:
                high = middle
        return self._rows[low] & NOTHING

    def warm(self, batch: Batch, field: int) -> None:
        """Reads what lookups of the addresses at `field` of each frame will read first, and looks at none.

        The loop has no branch that hangs on what it reads, so the processor waits for many of these reads
        at once; in lookups it would wait for one after the other, a frame's other work between them.
        """
        seen = 0
        for at in range(batch.count if self._shift < 32 else 0):
            place = batch.offset[at] + field
            if place + 1 < len(batch.data):
                slot = batch.data[place] << 8 | batch.data[place + 1]  # no directory has more than 16 bits
                slot = slot << 16 >> self._shift
                seen ^= self._rows[self._directory[slot]] ^ self._rows[self._directory[slot + 1]]
        self._seen = seen  # or a compiler would see that nobody asks

    def intervals(self) -> list[Interval]:
        return intervals(self._rows)
