"""The prefix table against a slow twin: a plain list of prefixes, asked one by one."""

from itertools import pairwise
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from softnet.core.address import mask_of
from softnet.core.prefix import LAST_ADDRESS, Layer, Table, everywhere, intervals, overlay, value_at
from softnet.core.prefix import build as build_layer
from softnet.core.prefix import entry as prefix_entry

NOTHING = 99


class Prefix(NamedTuple):
    address: int
    length: int
    value: int


def build(prefixes: list[Prefix]) -> Layer:
    return build_layer(prefix_entry(*prefix) for prefix in prefixes)


# Few places and short distances, so that prefixes nest, touch and repeat.
addresses = st.one_of(
    st.integers(0, LAST_ADDRESS),
    st.builds(
        lambda base, near: (base + near) & LAST_ADDRESS,
        st.sampled_from([0, 0x0A000000, 0x7FFFFFFF, LAST_ADDRESS]),
        st.integers(-600, 600),
    ),
)
prefixes = st.builds(
    lambda address, length, value: Prefix(address & mask_of(length), length, value),
    addresses,
    st.one_of(st.integers(0, 32), st.integers(22, 32)),
    st.integers(0, 3),
)
lists = st.lists(prefixes, max_size=20)


def twin(prefixes: list[Prefix], address: int) -> int:
    """The value of the longest prefix that holds `address`; the largest, where it is there twice."""
    found = [prefix for prefix in prefixes if address & mask_of(prefix.length) == prefix.address]
    return max(found, key=lambda prefix: (prefix.length, prefix.value)).value if found else NOTHING


def edges(prefixes: list[Prefix]) -> set[int]:
    """Where an answer may change: the first and last address of each prefix, and their neighbours."""
    firsts = [prefix.address for prefix in prefixes]
    lasts = [prefix.address | LAST_ADDRESS >> prefix.length for prefix in prefixes]
    near = {edge + step for edge in firsts + lasts for step in (-1, 0, 1)} | {0, LAST_ADDRESS}
    return {address for address in near if 0 <= address <= LAST_ADDRESS}


@settings(max_examples=300, deadline=None)
@given(lists, st.lists(addresses, max_size=10))
def test_the_table_answers_like_a_plain_list(prefixes: list[Prefix], others: list[int]) -> None:
    table = Table(overlay(build(prefixes), everywhere(NOTHING)))
    for address in edges(prefixes) | set(others):
        assert table.lookup(address) == twin(prefixes, address), hex(address)


@settings(max_examples=200, deadline=None)
@given(lists, lists, st.lists(addresses, max_size=10))
def test_overlay_answers_like_the_top_and_then_the_bottom(
    top: list[Prefix], bottom: list[Prefix], others: list[int]
) -> None:
    both = overlay(build(top), build(bottom))
    table = Table(overlay(both, everywhere(NOTHING)))
    for address in edges(top) | edges(bottom) | set(others):
        upper = twin(top, address)
        assert table.lookup(address) == (twin(bottom, address) if upper == NOTHING else upper), hex(address)


@settings(max_examples=200, deadline=None)
@given(lists)
def test_intervals_are_sorted_disjoint_and_inside_what_was_asked(prefixes: list[Prefix]) -> None:
    found = intervals(build(prefixes))
    for before, after in pairwise(found):
        assert before.last < after.first
        assert before.last + 1 < after.first or before.value != after.value
    for interval in found:
        assert interval.first <= interval.last
        assert twin(prefixes, interval.first) == twin(prefixes, interval.last) == interval.value


@settings(max_examples=100, deadline=None)
@given(lists)
def test_a_table_reads_back_as_its_layer(prefixes: list[Prefix]) -> None:
    layer = overlay(build(prefixes), everywhere(NOTHING))
    table = Table(layer)
    assert table.intervals() == intervals(layer)
    assert len(table) == len(layer) == len(table.intervals())
    assert all(value_at(layer, first) == value for first, _last, value in table.intervals())
