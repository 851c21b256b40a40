"""Compiled rules against a slow twin that asks every rule about every packet."""

from hypothesis import given, settings
from hypothesis import strategies as st

from softnet import policy
from softnet.core import numbers, reasons
from softnet.core.address import format_ipv4, mask_of
from softnet.core.prefix import Table
from softnet.policy import Facts, Policy
from softnet.rules import ALLOW, BLOCK, IN, OUT, Rule, parse_rule
from softnet.ruleset import RuleSet

GATEWAY, OTHER, SERVER = 0x0A000001, 0xC0A80105, 0x08080808
FACTS = Facts(GATEWAY, None, (OTHER,), (SERVER,))
HOSTS = {"@host": (GATEWAY, OTHER), "@dns": (SERVER,)}
INTERESTING = [GATEWAY, OTHER, SERVER, 0x0A000002, 0x0A0000FF, 0xC0A80101, 0x01010101, 0x7F000001, 0xE0000001]

places = st.one_of(
    st.sampled_from(["@host", "@dns"]),
    st.builds(
        lambda address, length: f"{format_ipv4(address)}/{length}",
        st.sampled_from(INTERESTING),
        st.sampled_from([0, 8, 16, 24, 28, 31, 32]),
    ),
)
spans = st.builds(
    lambda a, b, protocol: f":{min(a, b)}-{max(a, b)}{protocol}",
    st.sampled_from([1, 52, 53, 54, 80, 443, 65535]),
    st.sampled_from([1, 52, 53, 54, 80, 443, 65535]),
    st.sampled_from(["", "/tcp", "/udp"]),
)
texts = st.builds(
    lambda direction, place, span: direction + place + span,
    st.sampled_from(["", "", "in ", "out "]),
    places,
    st.one_of(st.just(""), spans),
)
rules = st.builds(parse_rule, st.sampled_from([ALLOW, BLOCK]), texts)
packets = st.tuples(
    st.one_of(st.sampled_from(INTERESTING), st.integers(0, 0xFFFFFFFF)),
    st.sampled_from([1, 6, 17, 47]),
    st.sampled_from([1, 51, 52, 53, 54, 55, 80, 443, 444, 65535]),
)


def matches(rule: Rule, direction: str, address: int, protocol: int, port: int) -> bool:
    target = rule.target
    if rule.direction and rule.direction != direction:
        return False
    if target.address is None:
        if address not in HOSTS[target.place]:
            return False
    elif address & mask_of(target.length) != target.address:
        return False
    if target.ports is None:
        return True
    names = {0: (6, 17), 6: (6,), 17: (17,)}[target.ports.protocol]
    return protocol in names and target.ports.first <= port <= target.ports.last


def twin(rules: list[Rule], direction: str, address: int, protocol: int, port: int) -> str | None:
    """The action of the rule that decides, by sorting all that match."""
    found = [rule for rule in rules if matches(rule, direction, address, protocol, port)]
    found.sort(key=lambda rule: (rule.target.ports is not None, rule.target.length, rule.action == BLOCK))
    return found[-1].action if found else None


def lookup(table: Table, address: int, protocol: int, port: int) -> int:
    value = table.lookup(address)
    if value < numbers.PORT_RULES:
        return value
    assert table.ports is not None
    return table.ports.lookup(value, protocol, port)


@settings(max_examples=150, deadline=None)
@given(st.lists(rules, max_size=8), st.lists(packets, min_size=1, max_size=12))
def test_outbound(chosen: list[Rule], seen: list[tuple[int, int, int]]) -> None:
    rulebook = Policy(RuleSet(chosen))
    table = policy.compile_policy(rulebook, FACTS)
    bare = policy.compile_policy(Policy(), FACTS)
    for address, protocol, port in seen:
        verdict = lookup(table, address, protocol, port)
        action = twin(chosen, OUT, address, protocol, port)
        if bare.lookup(address) == reasons.MARTIAN:
            assert verdict == reasons.MARTIAN
        elif action is not None:
            assert verdict == (reasons.PASS_RULE if action == ALLOW else reasons.BLOCKED)
        elif address == OTHER:
            plain = [rule for rule in chosen if rule.target.ports is None]
            blocked = twin(plain, OUT, GATEWAY, 0, 0) == BLOCK
            assert verdict == (reasons.BLOCKED if blocked else reasons.PASS_GATEWAY)
        else:
            assert verdict == bare.lookup(address)


@settings(max_examples=100, deadline=None)
@given(st.lists(rules, max_size=8), st.lists(packets, min_size=1, max_size=12))
def test_inbound(chosen: list[Rule], seen: list[tuple[int, int, int]]) -> None:
    table = policy.compile_inbound(Policy(RuleSet(chosen)), FACTS)
    assert (table is None) == all(not rule.direction for rule in chosen)
    if table is None:
        return
    codes = {None: reasons.PASS_INBOUND, ALLOW: reasons.PASS_RULE, BLOCK: reasons.BLOCKED}
    for address, protocol, port in seen:
        assert lookup(table, address, protocol, port) == codes[twin(chosen, IN, address, protocol, port)]


@settings(max_examples=100, deadline=None)
@given(st.lists(rules, max_size=8), packets)
def test_a_packet_without_ports_never_passes_where_ports_are_read(
    chosen: list[Rule], packet: tuple[int, int, int]
) -> None:
    table = policy.compile_policy(Policy(RuleSet(chosen)), FACTS)
    address, protocol, _port = packet
    with_ports = [rule for rule in chosen if rule.target.ports is not None]
    read = any(
        matches(rule, OUT, address, protocol, rule.target.ports.first)
        for rule in with_ports
        if rule.target.ports is not None
    )
    if read and table.lookup(address) != reasons.MARTIAN:
        assert lookup(table, address, protocol, numbers.NO_PORT) == reasons.FRAGMENT


@settings(max_examples=100, deadline=None)
@given(st.lists(rules, max_size=8), packets)
def test_the_deciding_rule_is_the_twins(chosen: list[Rule], packet: tuple[int, int, int]) -> None:
    found = policy.deciding_rule(Policy(RuleSet(chosen)), FACTS, *packet)
    assert (None if found is None else found.action) == twin(chosen, OUT, *packet)


@given(rules)
def test_the_normal_spelling_reads_back(rule: Rule) -> None:
    assert parse_rule(rule.action, rule.text) == rule
