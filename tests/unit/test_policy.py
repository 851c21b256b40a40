"""Plain rules: what `--allow` and `--block` may say, which one decides, and what `@host` stands for.

Rules with ports and directions: `test_rules.py`.
"""

import pytest

from softnet.core import reasons
from softnet.core.address import parse_ipv4
from softnet.errors import ConfigError
from softnet.policy import (
    Facts,
    Policy,
    allowed_within,
    compile_policy,
    deciding_rule,
    host_addresses,
    parse,
)
from softnet.rules import ALLOW, BLOCK, Rule, Target
from softnet.ruleset import RuleSet

GATEWAY = parse_ipv4("192.168.64.1")
OWN = tuple(parse_ipv4(address) for address in ("10.0.0.2", "100.64.0.1", "8.8.4.4"))
FACTS = Facts(GATEWAY, None, OWN)


def verdict(policy: Policy, address: str, facts: Facts = FACTS) -> str:
    return reasons.BY_CODE[compile_policy(policy, facts).lookup(parse_ipv4(address))].name


def target(text: str, length: int = 32) -> Target:
    return Target(parse_ipv4(text), length)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.0/8", target("10.0.0.0", 8)),
        ("10.1.2.3/8", target("10.0.0.0", 8)),
        ("255.255.255.255/1", target("128.0.0.0", 1)),
        ("1.2.3.4/0", target("0.0.0.0", 0)),
        ("0.0.0.0/0", target("0.0.0.0", 0)),
        ("1.2.3.4/32", target("1.2.3.4")),
        ("1.2.3.4", target("1.2.3.4")),
        ("255.255.255.255", target("255.255.255.255")),
        ("@host", Target(None, 32)),
    ],
)
def test_parse(text: str, expected: Target) -> None:
    assert parse([text]) == Policy(RuleSet([Rule(ALLOW, expected)]))
    assert parse([], [text]) == Policy(RuleSet([Rule(BLOCK, expected)]))


def test_lists_are_split_at_commas_and_options_add_up() -> None:
    read = parse(["10.0.0.0/8,@host", "1.1.1.1"], ["2.2.2.2,3.3.3.0/24"])
    assert [str(rule) for rule in read.rules] == [
        "--allow 1.1.1.1/32",
        "--block 2.2.2.2/32",
        "--block 3.3.3.0/24",
        "--allow 10.0.0.0/8",
        "--allow @host",
    ]


def test_a_rule_said_twice_is_one_rule() -> None:
    assert len(parse(["10.0.0.0/8,10.0.0.0/8", "10.9.9.9/8"]).rules) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "10.0.0.0/8,",
        ",10.0.0.0/8",
        "10.0.0.0/33",
        "10.0.0.0/",
        "10.0.0.0/-1",
        "10.0.0.0/+8",
        "10.0.0.0/08",
        "10.0.0.0/8/8",
        "10.0.0.0/255.0.0.0",
        "10.0.0.0/a",
        "10.0.0.0/٨",
        "10.0.0/8",
        "10",
        "10.0.0.0.0",
        "256.0.0.1",
        "1.2.3.-4",
        "01.2.3.4",
        "1.2.3.4 ",
        "1.2.3.٤",
        "0x0a.0.0.1",
        "1.2.3.",
        "::1",
        "fe80::/10",
        "localhost",
        "example.com",
        "host",
        "@hosts",
        "@HOST",
        "@",
        "@host/32",
        "/8",
        "10.0.0.0/8;10.1.0.0/16",
        "10.0.0.0 /8",
    ],
)
@pytest.mark.parametrize("option", ["--allow", "--block"])
def test_refused_in_one_line_that_names_the_option_and_the_part(option: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse([text], []) if option == "--allow" else parse([], [text])
    message = str(caught.value)
    assert message.startswith(f"{option} ")
    assert "\n" not in message
    assert any(repr(part) in message for part in text.split(","))
    assert "write for example" in message


def test_the_wrong_part_of_a_list_is_named() -> None:
    with pytest.raises(ConfigError, match=r"--block '10\.0\.0\.0/33'"):
        parse(["10.0.0.0/8"], ["1.1.1.1,10.0.0.0/33,2.2.2.2"])


@pytest.mark.parametrize(
    ("allow", "isolated"),
    [([], True), (["10.0.0.0/8"], True), (["0.0.0.0/1", "128.0.0.0/1"], True), (["0.0.0.0/0"], False),
     (["9.9.9.9/0"], False), (["@host"], True)],
)  # fmt: skip
def test_only_allow_everything_ends_isolation(allow: list[str], isolated: bool) -> None:
    assert parse(allow).isolated is isolated
    assert parse(allow, ["0.0.0.0/0"]).isolated is isolated


def test_blocking_everything_keeps_isolation() -> None:
    assert parse([], ["0.0.0.0/0"]).isolated


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("9.255.255.255", "pass-global"),
        ("10.0.0.0", "pass-rule"),
        ("10.0.255.255", "pass-rule"),
        ("10.1.0.0", "blocked"),
        ("10.1.1.255", "blocked"),
        ("10.1.2.0", "pass-rule"),
        ("10.1.2.255", "pass-rule"),
        ("10.1.3.0", "blocked"),
        ("10.1.255.255", "blocked"),
        ("10.2.0.0", "pass-rule"),
        ("10.255.255.255", "pass-rule"),
        ("11.0.0.0", "pass-global"),
    ],
)
def test_the_longest_prefix_decides(address: str, expected: str) -> None:
    rules = parse(["10.0.0.0/8", "10.1.2.0/24"], ["10.1.0.0/16"])
    assert verdict(rules, address, Facts()) == expected


@pytest.mark.parametrize("address", ["1.1.1.0", "1.1.1.1", "1.1.1.255"])
def test_block_wins_a_tie_whatever_the_order(address: str) -> None:
    tied = (Rule(ALLOW, target("1.1.1.0", 24)), Rule(BLOCK, target("1.1.1.0", 24)))
    assert verdict(Policy(RuleSet(tied)), address) == "blocked"
    assert verdict(Policy(RuleSet(tied[::-1])), address) == "blocked"


def test_a_tie_between_host_and_an_address_is_blocked() -> None:
    assert verdict(parse(["@host"], ["10.0.0.2"]), "10.0.0.2") == "blocked"
    assert verdict(parse(["10.0.0.2"], ["@host"]), "10.0.0.2") == "blocked"


@pytest.mark.parametrize("address", ["0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.255.255"])
@pytest.mark.parametrize("allow", ["0.0.0.0/0", "127.0.0.0/8,0.0.0.0/8", "127.0.0.1,0.0.0.0"])
def test_no_rule_opens_a_martian(allow: str, address: str) -> None:
    assert verdict(parse([allow]), address) == "martian"
    assert verdict(parse([], [allow]), address) == "martian"


def test_a_martian_of_the_host_itself_stays_one() -> None:
    facts = Facts(GATEWAY, None, (parse_ipv4("127.0.0.1"),))
    assert verdict(parse(["@host"]), "127.0.0.1", facts) == "martian"


def test_host_is_the_gateway_and_every_address_of_the_host() -> None:
    assert host_addresses(FACTS) == {GATEWAY, *OWN}
    assert host_addresses(Facts()) == frozenset()
    assert host_addresses(Facts(GATEWAY, None, (GATEWAY,))) == {GATEWAY}


@pytest.mark.parametrize("address", ["192.168.64.1", "10.0.0.2", "100.64.0.1", "8.8.4.4"])
@pytest.mark.parametrize(
    ("allow", "block", "expected"),
    [
        ([], [], "pass-gateway"),
        (["@host"], [], "pass-rule"),
        ([], ["@host"], "blocked"),
        ([], ["192.168.64.1"], "blocked"),
        ([], ["192.168.64.0/24"], "blocked"),
        ([], ["0.0.0.0/0"], "blocked"),
        (["@host"], ["0.0.0.0/0"], "pass-rule"),
        (["0.0.0.0/0"], ["@host"], "blocked"),
    ],
)
def test_the_hosts_other_addresses_get_the_gateways_verdict(
    allow: list[str], block: list[str], expected: str, address: str
) -> None:
    assert verdict(parse(allow, block), address) == expected


@pytest.mark.parametrize("address", ["10.0.0.1", "10.0.0.3", "192.168.64.2", "192.168.64.0"])
def test_beside_the_host_nothing_changes(address: str) -> None:
    for rules in (parse(), parse(["@host"]), parse([], ["@host"])):
        assert verdict(rules, address) == "not-global"


def test_without_a_known_gateway_the_hosts_addresses_still_pass() -> None:
    facts = Facts(None, None, OWN)
    assert verdict(parse(), "10.0.0.2", facts) == "pass-gateway"
    assert verdict(parse(), "192.168.64.1", facts) == "not-global"
    assert verdict(parse([], ["@host"]), "10.0.0.2", facts) == "blocked"


@pytest.mark.parametrize(
    "address", ["255.255.255.255", "224.0.0.1", "240.0.0.1", "169.254.169.254", "168.63.129.16"]
)
def test_a_rule_opens_what_is_closed_by_default(address: str) -> None:
    assert verdict(parse([address]), address) == "pass-rule"
    assert verdict(parse(["0.0.0.0/0"]), address) == "pass-rule"


@pytest.mark.parametrize(
    ("allow", "block"),
    [
        ([], []),
        (["10.0.0.0/8", "10.1.2.0/24"], ["10.1.0.0/16"]),
        (["@host"], ["0.0.0.0/0"]),
        (["0.0.0.0/0"], ["@host", "10.0.0.0/8"]),
        (["1.1.1.0/24"], ["1.1.1.0/24", "1.1.1.1"]),
    ],
)
def test_the_deciding_rule_agrees_with_the_table(allow: list[str], block: list[str]) -> None:
    rules = parse(allow, block)
    table = compile_policy(rules, FACTS)
    edges = {interval.first for interval in table.intervals()} | {
        interval.last for interval in table.intervals()
    }
    for address in edges:
        rule, found = deciding_rule(rules, FACTS, address), table.lookup(address)
        if found == reasons.MARTIAN:
            continue
        assert (found == reasons.PASS_RULE) == (rule is not None and rule.action == ALLOW)
        assert found == reasons.BLOCKED or rule is None or rule.action == ALLOW
        other_host = address in OWN and deciding_rule(rules, FACTS, GATEWAY) is not None
        assert rule is not None or found != reasons.BLOCKED or other_host


def test_allowed_within() -> None:
    rules = parse(["10.0.0.0/8", "192.168.64.0/24"], ["10.1.0.0/16"])
    first, last = parse_ipv4("10.0.255.0"), parse_ipv4("10.2.0.255")
    assert allowed_within(rules, FACTS, first, last) == [
        (first, parse_ipv4("10.0.255.255")),
        (parse_ipv4("10.2.0.0"), last),
    ]
    assert allowed_within(rules, FACTS, parse_ipv4("11.0.0.0"), parse_ipv4("12.0.0.0")) == []


CLOSED = FACTS._replace(host_open=False)


@pytest.mark.parametrize("address", ["192.168.64.1", "10.0.0.2", "8.8.4.4"])
def test_a_host_that_is_not_open_is_closed_by_default(address: str) -> None:
    assert verdict(parse(), address, CLOSED) == "not-global"
    assert verdict(parse(["@host"]), address, CLOSED) == "pass-rule"


@pytest.mark.parametrize("rules", ["0.0.0.0/0", "192.168.64.1", "192.168.0.0/16", "in @host", "@dns"])
def test_only_its_name_opens_the_loopback_of_a_host_that_is_not_open(rules: str) -> None:
    assert verdict(parse([rules]), "192.168.64.1", CLOSED) == "not-global"


def test_other_addresses_of_a_host_that_is_not_open_follow_the_rules() -> None:
    assert verdict(parse(["10.0.0.0/8"]), "10.0.0.2", CLOSED) == "pass-rule"
    assert verdict(parse(["10.0.0.0/8"]), "192.168.64.1", CLOSED) == "not-global"


def test_a_port_of_a_host_that_is_not_open() -> None:
    table = compile_policy(parse(["@host:22"]), CLOSED)
    assert table.ports is not None
    entry = table.lookup(GATEWAY)
    assert table.ports.lookup(entry, 6, 22) == reasons.PASS_RULE
    assert table.ports.lookup(entry, 6, 23) == reasons.NOT_GLOBAL
