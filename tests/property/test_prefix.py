"""The prefix table against a slow twin: a plain list of prefixes, asked one by one."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from softnet.core.address import mask_of
from softnet.core.prefix import LAST_ADDRESS, Interval, Prefix, Table, build, overlay

NOTHING = 99
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
lists = st.lists(prefixes, max_size=20, unique_by=lambda prefix: (prefix.address, prefix.length))


def twin(prefixes: list[Prefix], address: int) -> int:
    """The value of the longest prefix that holds `address`."""
    found = [prefix for prefix in prefixes if address & mask_of(prefix.length) == prefix.address]
    return max(found, key=lambda prefix: prefix.length).value if found else NOTHING


def edges(prefixes: list[Prefix]) -> set[int]:
    """Where an answer may change: the first and last address of each prefix, and their neighbours."""
    firsts = [prefix.address for prefix in prefixes]
    lasts = [prefix.address | LAST_ADDRESS >> prefix.length for prefix in prefixes]
    near = {edge + step for edge in firsts + lasts for step in (-1, 0, 1)} | {0, LAST_ADDRESS}
    return {address for address in near if 0 <= address <= LAST_ADDRESS}


@settings(max_examples=300, deadline=None)
@given(lists, st.lists(addresses, max_size=10))
def test_the_table_answers_like_a_plain_list(prefixes: list[Prefix], others: list[int]) -> None:
    table = Table(overlay(build(prefixes), [Interval(0, LAST_ADDRESS, NOTHING)]))
    for address in edges(prefixes) | set(others):
        assert table.lookup(address) == twin(prefixes, address), hex(address)


@settings(max_examples=200, deadline=None)
@given(lists, lists, st.lists(addresses, max_size=10))
def test_overlay_answers_like_the_top_and_then_the_bottom(
    top: list[Prefix], bottom: list[Prefix], others: list[int]
) -> None:
    both = overlay(build(top), build(bottom))
    table = Table(overlay(both, [Interval(0, LAST_ADDRESS, NOTHING)]))
    for address in edges(top) | edges(bottom) | set(others):
        upper = twin(top, address)
        assert table.lookup(address) == (twin(bottom, address) if upper == NOTHING else upper), hex(address)


@settings(max_examples=200, deadline=None)
@given(lists)
def test_intervals_are_sorted_disjoint_and_inside_what_was_asked(prefixes: list[Prefix]) -> None:
    intervals = build(prefixes)
    for before, after in pairwise(intervals):
        assert before.last < after.first
    for interval in intervals:
        assert interval.first <= interval.last
        assert twin(prefixes, interval.first) == twin(prefixes, interval.last) == interval.value


@settings(max_examples=100, deadline=None)
@given(lists)
def test_a_table_reads_back_as_its_intervals(prefixes: list[Prefix]) -> None:
    table = Table(overlay(build(prefixes), [Interval(0, LAST_ADDRESS, NOTHING)]))
    assert Table(table.intervals()).intervals() == table.intervals()
    assert len(table) == len(table.intervals())
