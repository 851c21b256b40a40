"""Intervals and tables at their edges; `tests/property/test_prefix.py` compares with a slow twin."""

import random
from bisect import bisect_right

import pytest

from softnet.core.prefix import LAST_ADDRESS, Interval, Prefix, Table, build, overlay

EVERYTHING = [Interval(0, LAST_ADDRESS, 9)]


def test_nothing_covers_nothing() -> None:
    assert build([]) == []


def test_everything() -> None:
    assert build([Prefix(0, 0, 1)]) == [Interval(0, LAST_ADDRESS, 1)]


def test_one_address() -> None:
    assert build([Prefix(5, 32, 1)]) == [Interval(5, 5, 1)]


def test_the_longest_prefix_wins_whatever_the_order() -> None:
    prefixes = [Prefix(0x0A000000, 8, 1), Prefix(0x0A010000, 16, 2), Prefix(0x0A010200, 24, 3)]
    expected = [
        Interval(0x0A000000, 0x0A00FFFF, 1),
        Interval(0x0A010000, 0x0A0101FF, 2),
        Interval(0x0A010200, 0x0A0102FF, 3),
        Interval(0x0A010300, 0x0A01FFFF, 2),
        Interval(0x0A020000, 0x0AFFFFFF, 1),
    ]
    assert build(prefixes) == expected
    assert build(reversed(prefixes)) == expected


def test_an_inner_prefix_at_the_first_and_at_the_last_address() -> None:
    assert build([Prefix(0, 0, 1), Prefix(0, 32, 2), Prefix(LAST_ADDRESS, 32, 3)]) == [
        Interval(0, 0, 2),
        Interval(1, LAST_ADDRESS - 1, 1),
        Interval(LAST_ADDRESS, LAST_ADDRESS, 3),
    ]


def test_prefixes_that_begin_together_nest() -> None:
    assert build([Prefix(0, 31, 2), Prefix(0, 30, 1), Prefix(0, 32, 3)]) == [
        Interval(0, 0, 3),
        Interval(1, 1, 2),
        Interval(2, 3, 1),
    ]


def test_neighbours_of_one_value_are_one_interval() -> None:
    assert build([Prefix(0, 31, 1), Prefix(2, 31, 1), Prefix(4, 31, 2)]) == [
        Interval(0, 3, 1),
        Interval(4, 5, 2),
    ]


def test_an_inner_prefix_of_the_same_value_changes_nothing() -> None:
    assert build([Prefix(0, 8, 1), Prefix(0x10000, 16, 1)]) == [Interval(0, 0x00FFFFFF, 1)]


def test_overlay_shows_the_bottom_where_the_top_has_nothing() -> None:
    top = [Interval(10, 19, 1), Interval(30, 30, 2)]
    assert overlay(top, EVERYTHING) == [
        Interval(0, 9, 9),
        Interval(10, 19, 1),
        Interval(20, 29, 9),
        Interval(30, 30, 2),
        Interval(31, LAST_ADDRESS, 9),
    ]


def test_overlay_with_one_empty_side() -> None:
    assert overlay([], EVERYTHING) == EVERYTHING
    assert overlay(EVERYTHING, []) == EVERYTHING
    assert overlay(EVERYTHING, [Interval(3, 4, 1)]) == EVERYTHING


def test_overlay_of_one_interval_on_several() -> None:
    bottom = [Interval(0, 9, 1), Interval(10, 19, 2), Interval(20, 29, 3)]
    assert overlay([Interval(5, 24, 7)], bottom) == [
        Interval(0, 4, 1),
        Interval(5, 24, 7),
        Interval(25, 29, 3),
    ]


def test_a_table_at_the_edges_of_its_intervals() -> None:
    table = Table(overlay([Interval(10, 19, 1), Interval(20, 20, 2)], EVERYTHING))
    assert [table.lookup(address) for address in (0, 9, 10, 19, 20, 21, LAST_ADDRESS)] == [
        9,
        9,
        1,
        1,
        2,
        9,
        9,
    ]


def test_a_table_of_one_value() -> None:
    table = Table(EVERYTHING)
    assert len(table) == 1
    assert {table.lookup(address) for address in (0, 1, 0x7FFFFFFF, 0x80000000, LAST_ADDRESS)} == {9}


def test_a_table_joins_neighbours_of_one_value() -> None:
    table = Table([Interval(0, 9, 1), Interval(10, 19, 1), Interval(20, LAST_ADDRESS, 2)])
    assert len(table) == 2
    assert table.intervals() == [Interval(0, 19, 1), Interval(20, LAST_ADDRESS, 2)]


@pytest.mark.parametrize(
    "intervals",
    [
        [],
        [Interval(1, LAST_ADDRESS, 1)],
        [Interval(0, LAST_ADDRESS - 1, 1)],
        [Interval(0, 9, 1), Interval(11, LAST_ADDRESS, 1)],
        [Interval(0, 9, 1), Interval(9, LAST_ADDRESS, 1)],
        [Interval(10, LAST_ADDRESS, 1), Interval(0, 9, 1)],
        [Interval(0, 9, 1), Interval(10, 5, 1), Interval(6, LAST_ADDRESS, 1)],
    ],
    ids=["empty", "no-start", "no-end", "hole", "overlap", "unsorted", "backwards"],
)
def test_a_table_refuses_what_does_not_cover_every_address_once(intervals: list[Interval]) -> None:
    with pytest.raises(ValueError):
        Table(intervals)


@pytest.mark.parametrize("count", [1, 40, 1000, 6000])
def test_a_table_of_any_size_answers_like_its_intervals(count: int) -> None:
    """Each size has a directory of its own; where its entries meet, as well as where intervals do."""
    numbers = random.Random(count)
    rows = {numbers.randrange(1 << 24) << 8 for _ in range(count)} | {0x0AFFFF00, 0xFFFFFF00}
    intervals = overlay(
        build(Prefix(address, 24, number % 3) for number, address in enumerate(sorted(rows))),
        [Interval(0, LAST_ADDRESS, 9)],
    )
    table = Table(intervals)
    firsts = [interval.first for interval in intervals]
    meet = [slot << 16 for slot in numbers.sample(range(1 << 16), 2000)] + [slot << 24 for slot in range(256)]
    for edge in {*firsts, *meet, LAST_ADDRESS + 1}:
        for address in {max(edge - 1, 0), min(edge, LAST_ADDRESS)}:
            assert table.lookup(address) == intervals[bisect_right(firsts, address) - 1].value, hex(address)
