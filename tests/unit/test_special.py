"""The globally reachable table, entry by entry, at both edges.

The blocks are written out here once more, by first and last address and from the list in
docs/spec.md, so that a slip in the table is a difference and not the same slip twice.
"""

import pytest

from softnet.core.address import mask_of, parse_ipv4
from softnet.core.reasons import BROADCAST, MARTIAN, MULTICAST, NOT_GLOBAL, PASS_GLOBAL
from softnet.core.special import NOT_GLOBALLY_REACHABLE
from softnet.policy import Facts, Policy, compile_policy

# first, last, the address before and the one after where those are globally reachable
BLOCKS = [
    ("0.0.0.0", "0.255.255.255", None, "1.0.0.0"),
    ("10.0.0.0", "10.255.255.255", "9.255.255.255", "11.0.0.0"),
    ("100.64.0.0", "100.127.255.255", "100.63.255.255", "100.128.0.0"),
    ("127.0.0.0", "127.255.255.255", "126.255.255.255", "128.0.0.0"),
    ("168.63.129.16", "168.63.129.16", "168.63.129.15", "168.63.129.17"),
    ("169.254.0.0", "169.254.255.255", "169.253.255.255", "169.255.0.0"),
    ("172.16.0.0", "172.31.255.255", "172.15.255.255", "172.32.0.0"),
    ("192.0.0.0", "192.0.0.255", "191.255.255.255", "192.0.1.0"),
    ("192.0.2.0", "192.0.2.255", "192.0.1.255", "192.0.3.0"),
    ("192.88.99.0", "192.88.99.255", "192.88.98.255", "192.88.100.0"),
    ("192.168.0.0", "192.168.255.255", "192.167.255.255", "192.169.0.0"),
    ("198.18.0.0", "198.19.255.255", "198.17.255.255", "198.20.0.0"),
    ("198.51.100.0", "198.51.100.255", "198.51.99.255", "198.51.101.0"),
    ("203.0.113.0", "203.0.113.255", "203.0.112.255", "203.0.114.0"),
    ("224.0.0.0", "239.255.255.255", "223.255.255.255", None),
    ("240.0.0.0", "255.255.255.255", None, None),
]
INSIDE = [
    "10.128.0.1",
    "100.100.100.100",
    "169.254.169.254",
    "172.20.1.1",
    "192.0.0.9",
    "192.0.0.10",
    "192.0.0.170",
    "192.168.64.1",
    "198.18.255.255",
    "198.19.0.0",
    "250.1.2.3",
]
OUTSIDE = [
    "1.1.1.1",
    "8.8.8.8",
    "100.0.0.1",
    "168.63.129.1",
    "172.217.16.14",
    "185.199.108.153",
    "192.31.196.1",
    "192.52.193.1",
    "192.175.48.1",
    "223.255.255.254",
]

TABLE = compile_policy(Policy(), Facts())


def verdict(address: str) -> int:
    return TABLE.lookup(parse_ipv4(address))


def closed(address: str) -> int:
    """What a closed address is called."""
    if address.startswith(("0.", "127.")):
        return MARTIAN
    if address == "255.255.255.255":
        return BROADCAST
    return MULTICAST if 224 <= int(address.split(".")[0]) <= 239 else NOT_GLOBAL


def test_the_table_has_exactly_these_blocks() -> None:
    written = {(parse_ipv4(first), parse_ipv4(last)) for first, last, _before, _after in BLOCKS}
    kept = {(first, first | ~mask_of(length) & 0xFFFFFFFF) for first, length, _name in NOT_GLOBALLY_REACHABLE}
    assert kept == written
    assert len(NOT_GLOBALLY_REACHABLE) == len(BLOCKS) == 16


@pytest.mark.parametrize(("first", "last", "before", "after"), BLOCKS)
def test_both_edges(first: str, last: str, before: str | None, after: str | None) -> None:
    assert verdict(first) == closed(first)
    assert verdict(last) == closed(last)
    assert before is None or verdict(before) == PASS_GLOBAL
    assert after is None or verdict(after) == PASS_GLOBAL


@pytest.mark.parametrize("address", INSIDE)
def test_inside(address: str) -> None:
    assert verdict(address) == NOT_GLOBAL


@pytest.mark.parametrize("address", OUTSIDE)
def test_outside(address: str) -> None:
    assert verdict(address) == PASS_GLOBAL


def test_every_entry_names_its_own_block() -> None:
    for address, length, name in NOT_GLOBALLY_REACHABLE:
        text, rest = name.split("/", 1)
        assert (parse_ipv4(text), int(rest.split()[0])) == (address, length)
        assert address & mask_of(length) == address


def test_nothing_else_is_closed() -> None:
    """Every address is in exactly one interval, and what passes is what no block covers."""
    open_addresses = sum(last - first + 1 for first, last, value in TABLE.intervals() if value == PASS_GLOBAL)
    closed_addresses = sum(
        parse_ipv4(last) - parse_ipv4(first) + 1 for first, last, _before, _after in BLOCKS
    )
    assert open_addresses + closed_addresses == 2**32
