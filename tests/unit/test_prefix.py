"""Layers and tables at their edges; `tests/property/test_prefix.py` compares with a slow twin."""

import random
from array import array
from bisect import bisect_right

import pytest

from softnet.core.frames import Batch
from softnet.core.prefix import (
    LAST_ADDRESS,
    NOTHING,
    Interval,
    Rows,
    Table,
    build,
    entry,
    everywhere,
    intervals,
    overlay,
    value_at,
)

EVERYTHING = everywhere(9)


def layer(*rows: tuple[int, int]) -> "array[int]":
    return array("Q", [address << 32 | value for address, value in rows])


def test_nothing_covers_nothing() -> None:
    assert build([]) == everywhere(NOTHING)
    assert intervals(build([])) == []


def test_everything() -> None:
    assert build([entry(0, 0, 1)]) == everywhere(1)
    assert intervals(everywhere(1)) == [Interval(0, LAST_ADDRESS, 1)]


def test_one_address() -> None:
    assert intervals(build([entry(5, 32, 1)])) == [Interval(5, 5, 1)]
    assert build([entry(5, 32, 1)]) == layer((0, NOTHING), (5, 1), (6, NOTHING))


def test_the_longest_prefix_wins_whatever_the_order() -> None:
    entries = [entry(0x0A000000, 8, 1), entry(0x0A010000, 16, 2), entry(0x0A010200, 24, 3)]
    expected = [
        Interval(0x0A000000, 0x0A00FFFF, 1),
        Interval(0x0A010000, 0x0A0101FF, 2),
        Interval(0x0A010200, 0x0A0102FF, 3),
        Interval(0x0A010300, 0x0A01FFFF, 2),
        Interval(0x0A020000, 0x0AFFFFFF, 1),
    ]
    assert intervals(build(entries)) == expected
    assert intervals(build(reversed(entries))) == expected


def test_an_inner_prefix_at_the_first_and_at_the_last_address() -> None:
    assert intervals(build([entry(0, 0, 1), entry(0, 32, 2), entry(LAST_ADDRESS, 32, 3)])) == [
        Interval(0, 0, 2),
        Interval(1, LAST_ADDRESS - 1, 1),
        Interval(LAST_ADDRESS, LAST_ADDRESS, 3),
    ]


def test_prefixes_that_begin_or_end_together_nest() -> None:
    assert intervals(build([entry(0, 31, 2), entry(0, 30, 1), entry(0, 32, 3)])) == [
        Interval(0, 0, 3),
        Interval(1, 1, 2),
        Interval(2, 3, 1),
    ]
    assert intervals(build([entry(2, 31, 2), entry(0, 30, 1), entry(3, 32, 3)])) == [
        Interval(0, 1, 1),
        Interval(2, 2, 2),
        Interval(3, 3, 3),
    ]


def test_of_one_prefix_twice_the_larger_value_holds() -> None:
    assert intervals(build([entry(4, 30, 2), entry(4, 30, 1), entry(5, 32, 1)])) == [
        Interval(4, 4, 2),
        Interval(5, 5, 1),
        Interval(6, 7, 2),
    ]


def test_neighbours_of_one_value_are_one_interval() -> None:
    assert intervals(build([entry(0, 31, 1), entry(2, 31, 1), entry(4, 31, 2)])) == [
        Interval(0, 3, 1),
        Interval(4, 5, 2),
    ]


def test_an_inner_prefix_of_the_same_value_changes_nothing() -> None:
    assert intervals(build([entry(0, 8, 1), entry(0x10000, 16, 1)])) == [Interval(0, 0x00FFFFFF, 1)]


def test_prefixes_of_every_length_inside_one_another() -> None:
    inside = build(entry(0, length, length) for length in range(33))
    assert len(inside) == 33
    assert [value_at(inside, 1 << bit) for bit in range(32)] == list(range(31, -1, -1))


def test_everything_but_holes() -> None:
    """A hole a /16 in 0.0.0.0/0: two rows each."""
    holes = [entry(at << 16 | 0x8000, 32, 2) for at in range(1 << 16)]
    rows = build([entry(0, 0, 1), *holes])
    assert len(rows) == 2 * len(holes) + 1
    table = Table(rows)
    for at in (0, 1, 0x7FFF, 0xFFFF):
        around = [table.lookup(at << 16 | low) for low in (0, 0x7FFF, 0x8000, 0x8001, 0xFFFF)]
        assert around == [1, 1, 2, 1, 1]


def test_every_address_of_one_16_apart() -> None:
    """As many rows as one entry of the directory can lead to."""
    table = Table(overlay(build(entry(0x0A0B0000 | at, 32, at & 1) for at in range(1 << 16)), EVERYTHING))
    assert len(table) == (1 << 16) + 2
    assert [table.lookup(0x0A0B0000 | at) for at in range(1 << 16)] == [0, 1] * (1 << 15)
    assert table.lookup(0x0A0AFFFF) == table.lookup(0x0A0C0000) == 9


def test_overlay_shows_the_bottom_where_the_top_has_nothing() -> None:
    top = layer((0, NOTHING), (10, 1), (20, NOTHING), (30, 2), (31, NOTHING))
    assert intervals(overlay(top, EVERYTHING)) == [
        Interval(0, 9, 9),
        Interval(10, 19, 1),
        Interval(20, 29, 9),
        Interval(30, 30, 2),
        Interval(31, LAST_ADDRESS, 9),
    ]


def test_overlay_with_one_empty_side() -> None:
    assert overlay(build([]), EVERYTHING) == EVERYTHING
    assert overlay(EVERYTHING, build([])) == EVERYTHING
    assert overlay(EVERYTHING, build([entry(3, 32, 1)])) == EVERYTHING


def test_overlay_of_one_interval_on_several() -> None:
    bottom = layer((0, 1), (10, 2), (20, 3), (30, NOTHING))
    assert intervals(overlay(layer((0, NOTHING), (5, 7), (25, NOTHING)), bottom)) == [
        Interval(0, 4, 1),
        Interval(5, 24, 7),
        Interval(25, 29, 3),
    ]


def test_overlay_lets_some_bits_through() -> None:
    both = overlay(build([entry(8, 29, 0x300)]), layer((0, 1), (10, 2), (12, 3)), through=0xFF)
    assert both == layer((0, 1), (8, 0x301), (10, 0x302), (12, 0x303), (16, 3))


def test_rows_keep_the_last_word_and_never_leave_the_addresses() -> None:
    rows = Rows(3)
    for address, value in ((0, 1), (5, 2), (5, 1), (7, 3), (LAST_ADDRESS + 1, 4)):
        rows.put(address, value)
    assert rows.layer() == layer((0, 1), (7, 3))


def test_a_table_at_the_edges_of_its_intervals() -> None:
    rows = overlay(layer((0, NOTHING), (10, 1), (20, 2), (21, NOTHING)), EVERYTHING)
    table = Table(rows)
    edges = (0, 9, 10, 19, 20, 21, LAST_ADDRESS)
    assert [table.lookup(address) for address in edges] == [9, 9, 1, 1, 2, 9, 9]
    assert [value_at(rows, address) for address in edges] == [9, 9, 1, 1, 2, 9, 9]


def test_a_table_of_one_value() -> None:
    table = Table(EVERYTHING)
    assert len(table) == 1
    assert {table.lookup(address) for address in (0, 1, 0x7FFFFFFF, 0x80000000, LAST_ADDRESS)} == {9}


@pytest.mark.parametrize(
    "rows",
    [
        layer(),
        layer((1, 1)),
        layer((0, NOTHING), (10, 1)),
        layer((0, 1), (10, NOTHING)),
        layer((0, 1), (10, 2), (10, 3)),
        layer((0, 1), (10, 2), (5, 3)),
    ],
    ids=["empty", "no-start", "gap", "no-end", "overlap", "unsorted"],
)
def test_a_table_refuses_what_does_not_map_every_address_once(rows: "array[int]") -> None:
    with pytest.raises(ValueError):
        Table(rows)


@pytest.mark.parametrize("count", [1, 40, 1000, 6000])
def test_a_table_of_any_size_answers_like_its_rows(count: int) -> None:
    """Each size has a directory of its own; where its entries meet, as well as where rows do."""
    numbers = random.Random(count)
    places = {numbers.randrange(1 << 24) << 8 for _ in range(count)} | {0x0AFFFF00, 0xFFFFFF00}
    rows = overlay(
        build(entry(address, 24, number % 3) for number, address in enumerate(sorted(places))), EVERYTHING
    )
    table = Table(rows)
    firsts = [row >> 32 for row in rows]
    meet = [slot << 16 for slot in numbers.sample(range(1 << 16), 2000)] + [slot << 24 for slot in range(256)]
    for edge in {*firsts, *meet, LAST_ADDRESS + 1}:
        for address in {max(edge - 1, 0), min(edge, LAST_ADDRESS)}:
            expected = rows[bisect_right(firsts, address) - 1] & NOTHING
            assert table.lookup(address) == expected, hex(address)


@pytest.mark.parametrize("count", [1, 1000, 6000])
def test_warming_reads_no_further_than_the_batch(count: int) -> None:
    """Frames shorter than the field, of nothing, at the arena's very end: never an error."""
    table = Table(overlay(build(entry(at << 12, 20, at & 1) for at in range(count)), EVERYTHING))
    batch = Batch(4, 64)
    for at, frame in enumerate((bytes(64), b"\xff" * 64, b"", bytes(range(31)))):
        batch.append(frame)
        batch.offset[at] = (0, 64, 256, 225)[at]
    for field in (0, 26, 30, 31, 63, 64, 1 << 20):
        table.warm(batch, field)
    assert [table.lookup(0), table.lookup(LAST_ADDRESS)] == [0, 9]
