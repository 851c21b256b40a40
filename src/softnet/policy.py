"""What the VM may reach: the user's rules, read from text, and compiled with the uplink's facts.

Three steps, so that neither side has to know the other: `parse` reads targets and knows no
network; an uplink is opened (it may ask whether isolation is wanted) and states its `Facts`;
`compile_policy` turns rules and facts into one `Table` that maps every destination to the reason
code of steps 7 to 9, 11 and 12 of the order in which a VM's IPv4 packet is judged. What depends on
the lease (DNS servers, the subnet's broadcast) stays with the filter. The table is data: nothing
here assumes that a userspace filter reads it.
"""

from collections.abc import Iterable
from typing import NamedTuple

from softnet.core import prefix, reasons
from softnet.core.address import format_ipv4, mask_of, parse_ipv4
from softnet.core.prefix import Interval, Prefix, Table
from softnet.core.special import NOT_GLOBALLY_REACHABLE
from softnet.errors import ConfigError

ALLOW = "allow"
BLOCK = "block"
HOST = "@host"
_LENGTHS = frozenset(str(length) for length in range(33))


class Facts(NamedTuple):
    """What an uplink knows about its network; None and empty where it does not know."""

    gateway: int | None = None
    gateway_mac: int | None = None
    host_addresses: tuple[int, ...] = ()


class Target(NamedTuple):
    """An IPv4 prefix with its host bits cut off, or `@host` (`address` is then None)."""

    address: int | None
    length: int

    def __str__(self) -> str:
        return HOST if self.address is None else f"{format_ipv4(self.address)}/{self.length}"


class Rule(NamedTuple):
    action: str
    target: Target

    def __str__(self) -> str:
        return f"--{self.action} {self.target}"


class Policy(NamedTuple):
    rules: tuple[Rule, ...] = ()

    @property
    def isolated(self) -> bool:
        """Whether this VM is kept apart from other VMs of the uplink: unless 0.0.0.0/0 is allowed."""
        return not any(rule.action == ALLOW and rule.target == Target(0, 0) for rule in self.rules)


def parse_target(text: str) -> Target:
    """`10.0.0.0/8`, `192.0.2.1` or `@host`; ValueError says what is wrong with it."""
    if text == HOST:
        return Target(None, 32)
    address_text, slash, length_text = text.partition("/")
    length = 32
    if slash:
        if length_text not in _LENGTHS:
            raise ValueError(f"the prefix length {length_text!r} is not a number from 0 to 32")
        length = int(length_text)
    try:
        address = parse_ipv4(address_text)
    except ValueError:
        raise ValueError("not an IPv4 address, a prefix or @host") from None
    return Target(address & mask_of(length), length)


def parse(allow: Iterable[str] = (), block: Iterable[str] = ()) -> Policy:
    """Rules from comma-separated lists; ConfigError names the option and the part that is wrong."""
    rules: dict[Rule, None] = {}
    for action, lists in ((ALLOW, allow), (BLOCK, block)):
        for text in lists:
            for part in text.split(","):
                try:
                    rules[Rule(action, parse_target(part.strip()))] = None
                except ValueError as error:
                    remedy = "write for example 10.0.0.0/8, 192.0.2.1 or @host"
                    raise ConfigError(f"--{action}", repr(part), str(error), remedy) from None
    return Policy(tuple(rules))


def host_addresses(facts: Facts) -> frozenset[int]:
    """What `@host` means: the gateway and every address of the host's own interfaces."""
    gateway = () if facts.gateway is None else (facts.gateway,)
    return frozenset(facts.host_addresses).union(gateway)


def deciding_rule(policy: Policy, facts: Facts, address: int) -> Rule | None:
    """The rule that decides about `address`: the longest prefix, blocked before allowed."""
    best: tuple[int, bool] | None = None
    found = None
    for rule in policy.rules:
        target = rule.target
        if target.address is None:
            matches = address in host_addresses(facts)
        else:
            matches = address & mask_of(target.length) == target.address
        rank = (target.length, rule.action == BLOCK)
        if matches and (best is None or rank > best):
            best, found = rank, rule
    return found


def _rule_layer(policy: Policy, facts: Facts) -> list[Interval]:
    verdicts: dict[tuple[int, int], int] = {}
    for rule in policy.rules:
        target = rule.target
        addresses = host_addresses(facts) if target.address is None else (target.address,)
        for address in addresses:
            key = (address, target.length)
            if verdicts.get(key) != reasons.BLOCKED:
                verdicts[key] = reasons.PASS_RULE if rule.action == ALLOW else reasons.BLOCKED
    return prefix.build(Prefix(address, length, value) for (address, length), value in verdicts.items())


def _host_layer(facts: Facts, rules: list[Interval]) -> list[Interval]:
    """The gateway passes; the host's other addresses get the gateway's verdict."""
    other = reasons.PASS_GATEWAY
    if facts.gateway is not None:
        for first, last, value in rules:
            if first <= facts.gateway <= last and value == reasons.BLOCKED:
                other = reasons.BLOCKED
    layer = dict.fromkeys(facts.host_addresses, other)
    if facts.gateway is not None:
        layer[facts.gateway] = reasons.PASS_GATEWAY
    return prefix.build(Prefix(address, 32, value) for address, value in layer.items())


_MARTIANS = prefix.build([Prefix(0x00000000, 8, reasons.MARTIAN), Prefix(0x7F000000, 8, reasons.MARTIAN)])
_DEFAULTS = prefix.overlay(
    prefix.build(
        [
            Prefix(0xFFFFFFFF, 32, reasons.BROADCAST),
            Prefix(0xE0000000, 4, reasons.MULTICAST),
            *(
                Prefix(address, length, reasons.NOT_GLOBAL)
                for address, length, _name in NOT_GLOBALLY_REACHABLE
                if address != 0xE0000000
            ),
        ]
    ),
    [Interval(0, prefix.LAST_ADDRESS, reasons.PASS_GLOBAL)],
)


def compile_policy(policy: Policy, facts: Facts) -> Table:
    """Every destination's reason code: martians over rules over the host over the defaults."""
    rules = _rule_layer(policy, facts)
    below = prefix.overlay(_host_layer(facts, rules), _DEFAULTS)
    return Table(prefix.overlay(_MARTIANS, prefix.overlay(rules, below)))


def allowed_within(policy: Policy, facts: Facts, first: int, last: int) -> list[tuple[int, int]]:
    """The parts of `first` to `last` that a rule opens, as inclusive pairs of addresses."""
    return [
        (max(first, low), min(last, high))
        for low, high, value in _rule_layer(policy, facts)
        if value == reasons.PASS_RULE and low <= last and high >= first
    ]
