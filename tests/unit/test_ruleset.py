"""Sets of rules: nothing is lost in the small form, and what lies around an address is found in it."""

from hypothesis import given
from hypothesis import strategies as st

from softnet.core.address import mask_of
from softnet.rules import ALLOW, BLOCK, IN, OUT, Ports, Rule, Target, order
from softnet.ruleset import RuleSet

addresses = st.one_of(st.sampled_from([0, 0x0A000000, 0x0A0000FF, 0xFFFFFFFF]), st.integers(0, 0xFFFFFFFF))
places = st.one_of(
    st.builds(lambda address, length: (address & mask_of(length), length), addresses, st.integers(0, 32)),
    st.just((None, 32)),
)
rules = st.builds(
    lambda action, place, ports, dns, direction: Rule(
        action, Target(*place, ports, dns and place[0] is None), direction
    ),
    st.sampled_from([ALLOW, BLOCK]),
    places,
    st.sampled_from([None, None, Ports(80, 80), Ports(1, 65535, 17)]),
    st.booleans(),
    st.sampled_from(["", IN, OUT]),
)
lists = st.lists(rules, max_size=12)


@given(lists, lists)
def test_a_set_of_rules_is_a_set_of_rules(some: list[Rule], more: list[Rule]) -> None:
    one, other = RuleSet(some + some), RuleSet(more)
    assert set(one) == set(some)
    assert len(one) == len(set(some))
    assert set(one | other) == set(some) | set(more)
    assert (one == other) == (set(some) == set(more))
    assert one == RuleSet(reversed(some))
    assert hash(one) == hash(RuleSet(reversed(some)))
    assert one.directed == any(rule.direction for rule in some)
    for rule in some + more:
        assert (rule in one) == (rule in some)


@given(lists, addresses)
def test_around_an_address_are_the_plain_rules_that_hold_it(chosen: list[Rule], address: int) -> None:
    found = list(RuleSet(chosen).around(address))
    held = {
        rule
        for rule in chosen
        if rule.target.ports is None and rule.target.address == address & mask_of(rule.target.length)
    }
    assert set(found) == held
    assert len(found) == len(held)
    assert [rule.target.length for rule in found] == sorted(rule.target.length for rule in found)


@given(lists)
def test_rules_come_in_the_order_of_normalised_lists(chosen: list[Rule]) -> None:
    rules = RuleSet(chosen)
    assert list(map(order, rules)) == sorted(map(order, set(chosen)))
    assert list(rules.others) == [
        rule for rule in dict.fromkeys(chosen) if rule.target.address is None or rule.target.ports is not None
    ]


def test_a_hundred_thousand_prefixes_are_eight_bytes_each() -> None:
    """What a VM pays for a block list for as long as it runs."""
    import tracemalloc

    tracemalloc.start()
    try:
        rules = RuleSet(Rule(BLOCK, Target(at << 8, 24)) for at in range(100_000))
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(rules) == 100_000
    assert kept < 1_000_000
    assert most < 16_000_000
