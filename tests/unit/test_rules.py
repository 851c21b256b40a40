"""The grammar of a rule, and what a whole policy says about it."""

import pytest

from softnet import policy
from softnet.core import numbers, reasons
from softnet.core.prefix import Table
from softnet.errors import ConfigError
from softnet.policy import Facts, Policy
from softnet.rules import ALLOW, BLOCK, IN, Ports, Rule, Target, order, parse_rule
from softnet.ruleset import RuleSet

FACTS = Facts(0xC0A84001, None, (0x0A000005,), (0x08080808,))
TCP, UDP, ICMP = 6, 17, 1


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("10.0.0.0/8", Rule(ALLOW, Target(0x0A000000, 8))),
        ("10.1.2.3/8", Rule(ALLOW, Target(0x0A000000, 8))),
        ("10.1.2.3", Rule(ALLOW, Target(0x0A010203, 32))),
        ("@host", Rule(ALLOW, Target(None, 32))),
        ("@dns", Rule(ALLOW, Target(None, 32, None, True))),
        ("in @host", Rule(ALLOW, Target(None, 32), "in")),
        ("out 0.0.0.0/0", Rule(ALLOW, Target(0, 0), "out")),
        ("@host:22", Rule(ALLOW, Target(None, 32, Ports(22, 22)))),
        ("@host:11434/tcp", Rule(ALLOW, Target(None, 32, Ports(11434, 11434, TCP)))),
        ("10.0.0.0/8:443/tcp", Rule(ALLOW, Target(0x0A000000, 8, Ports(443, 443, TCP)))),
        ("in 10.0.0.1:1-65535/udp", Rule(ALLOW, Target(0x0A000001, 32, Ports(1, 65535, UDP)), "in")),
        ("10.0.0.1:80-80", Rule(ALLOW, Target(0x0A000001, 32, Ports(80, 80)))),
    ],
)
def test_accepted(text: str, rule: Rule) -> None:
    assert parse_rule(ALLOW, text) == rule


REFUSED_PORTS = (
    *(":", ":0", ":65536", ":+80", ": 80", ":80-", ":-80", ":90-80", ":80:90", ":ssh"),
    *(":80/sctp", ":80/", ":80/TCP", ":080", ":1-65536", ":80 ", ":80-90-100", ":8\u0660", "/tcp", ":/tcp"),
)


@pytest.mark.parametrize("place", ["", "@host", "@dns", "10.0.0.1", "10.0.0.0/8", "in @host", "out @dns"])
@pytest.mark.parametrize("ports_text", REFUSED_PORTS)
def test_refused_ports(place: str, ports_text: str) -> None:
    with pytest.raises(ValueError):
        parse_rule(BLOCK, place + ports_text)


REFUSED = (
    *("", "from @host", "in", "out", "infrom @host", " in @host", "in @host ", "in\t@host", "in  @host"),
    *("in in @host", "IN @host", "@HOST", "@hosts", "host", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/08"),
    *("10.0.0.0/", "10.0.0", "10.0.0.256", "010.0.0.1", "::1", "example.com", "10.0.0.0/8/8", "@host/32"),
    *("0x0a.0.0.1", "10.0.0.1\n"),
)


@pytest.mark.parametrize("text", REFUSED)
def test_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_rule(ALLOW, text)


def test_an_error_names_the_option_and_the_part() -> None:
    with pytest.raises(ConfigError) as caught:
        policy.parse(allow=["10.0.0.0/8,@host:ssh"])
    assert "--allow '@host:ssh': the port 'ssh' is not a number from 1 to 65535; " in str(caught.value)


def test_normal_order_is_addresses_by_number_then_names() -> None:
    texts = ["@host", "10.0.0.0/8", "9.0.0.0/8", "@dns", "in 9.0.0.0/8", "9.0.0.0/8:80", "9.0.0.0/16"]
    ordered = sorted((parse_rule(ALLOW, text) for text in texts), key=order)
    assert [rule.text for rule in ordered] == [
        "9.0.0.0/8",
        "in 9.0.0.0/8",
        "9.0.0.0/8:80",
        "9.0.0.0/16",
        "10.0.0.0/8",
        "@dns",
        "@host",
    ]


def verdict(table: Table | None, address: int, protocol: int = 0, port: int = 0) -> str:
    assert table is not None
    value = table.lookup(address)
    if value >= numbers.PORT_RULES:
        assert table.ports is not None
        value = table.ports.lookup(value, protocol, port)
    return reasons.BY_CODE[value].name


def outbound(allow: str = "", block: str = "") -> Table:
    return policy.compile_policy(policy.parse([allow] if allow else [], [block] if block else []), FACTS)


def test_ports_outrank_none_whatever_the_prefix() -> None:
    table = outbound(allow="0.0.0.0/0:443", block="1.2.3.4")
    assert verdict(table, 0x01020304, TCP, 443) == "pass-rule"
    assert verdict(table, 0x01020304, TCP, 80) == "blocked"
    assert verdict(table, 0x01020304, ICMP) == "blocked"


def test_among_rules_with_ports_the_longest_prefix_then_block() -> None:
    table = outbound(allow="10.0.0.0/8:80,10.1.0.0/16:80-90", block="10.0.0.0/8:80-100,10.1.0.0/16:85")
    assert verdict(table, 0x0A000001, TCP, 80) == "blocked"
    assert verdict(table, 0x0A010001, TCP, 80) == "pass-rule"
    assert verdict(table, 0x0A010001, TCP, 85) == "blocked"
    assert verdict(table, 0x0A010001, TCP, 95) == "blocked", "where the longer is silent"
    assert verdict(table, 0x0A010001, TCP, 101) == "not-global"


def test_protocols_are_apart() -> None:
    table = outbound(allow="@host:53/udp", block="@host")
    assert verdict(table, 0xC0A84001, UDP, 53) == "pass-rule"
    assert verdict(table, 0xC0A84001, TCP, 53) == "blocked"
    assert verdict(table, 0xC0A84001, UDP, numbers.NO_PORT) == "fragment"
    assert verdict(table, 0xC0A84001, TCP, numbers.NO_PORT) == "blocked"


def test_no_rule_with_ports_opens_a_martian() -> None:
    assert verdict(outbound(allow="0.0.0.0/0:80"), 0x7F000001, TCP, 80) == "martian"


def test_dns_names_the_servers_of_the_lease() -> None:
    table = outbound(block="@dns:53/tcp")
    assert verdict(table, 0x08080808, TCP, 53) == "blocked"
    assert verdict(table, 0x08080808, UDP, 53) == "pass-global"
    assert policy.parse(block=["@dns"]).follows_lease
    assert not policy.parse(block=["@host"]).follows_lease


def test_bare_rules_alone_are_about_what_the_vm_sends() -> None:
    assert policy.compile_inbound(policy.parse(block=["0.0.0.0/0"]), FACTS) is None


def test_one_directional_rule_gives_bare_rules_both_ways() -> None:
    table = policy.compile_inbound(policy.parse(allow=["in 10.0.0.0/8:22"], block=["0.0.0.0/0"]), FACTS)
    assert verdict(table, 0x01020304, TCP, 80) == "blocked"
    assert verdict(table, 0x0A020304, TCP, 22) == "pass-rule"


def test_directions_at_one_prefix_are_independent() -> None:
    rules = policy.parse(allow=["in 10.0.0.0/8"], block=["out 10.0.0.0/8"])
    assert verdict(policy.compile_policy(rules, FACTS), 0x0A000001) == "blocked"
    assert verdict(policy.compile_inbound(rules, FACTS), 0x0A000001) == "pass-rule"
    assert policy.deciding_rule(rules, FACTS, 0x0A000001, TCP, 80, IN) == next(iter(rules.rules))


def test_only_the_bare_rule_for_everything_ends_isolation() -> None:
    assert not policy.parse(allow=["10.1.2.3/0"]).isolated
    for text in ("in 0.0.0.0/0", "out 0.0.0.0/0", "0.0.0.0/0:80", "0.0.0.0/1"):
        assert policy.parse(allow=[text]).isolated
    assert policy.parse(block=["0.0.0.0/0"]).isolated


def test_what_a_rule_opens_within_a_range_counts_ports_and_ignores_inbound() -> None:
    rules = policy.parse(allow=["10.0.0.0/30", "10.0.0.9:80", "in 10.0.0.12"], block=["10.0.0.1"])
    assert policy.allowed_within(rules, FACTS, 0x0A000000, 0x0A0000FF) == [
        (0x0A000000, 0x0A000000),
        (0x0A000002, 0x0A000003),
        (0x0A000009, 0x0A000009),
    ]


def test_four_thousand_rules_with_ports_stay_small() -> None:
    rules = tuple(parse_rule(ALLOW, f"10.{at >> 8}.{at & 255}.0/24:{at % 7 + 1}") for at in range(2048))
    rules += tuple(parse_rule(BLOCK, f"0.0.0.0/0:{2 * at + 9}") for at in range(2048))
    table = policy.compile_policy(Policy(RuleSet(rules)), FACTS)
    assert len(table) < 5000
    assert verdict(table, 0x0A000001, TCP, 1) == "pass-rule"
    assert verdict(table, 0x0A000001, TCP, 9) == "blocked"
    assert verdict(table, 0x0A000001, TCP, 10) == "not-global"


def test_more_prefixes_with_ports_than_there_is_room_for_are_refused() -> None:
    rules = tuple(Rule(ALLOW, Target(at << 8, 24, Ports(80, 80))) for at in range(numbers.NODES))
    with pytest.raises(ConfigError, match="too many prefixes with ports"):
        policy.compile_policy(Policy(RuleSet(rules)), FACTS)
