"""What the VM may reach: the user's rules, read from text, and compiled with the uplink's facts.

Three steps, so that neither side has to know the other: `parse` reads rules and knows no
network; an uplink is opened (it may ask whether isolation is wanted) and states its `Facts`;
`compile_policy` turns rules and facts into one `Table` that maps every destination to the reason
code of steps 7 to 9, 11 and 12 of the order in which a VM's IPv4 packet is judged, or to a value
that the table's `ports` resolve (`softnet.core.ports`). What depends on the lease (DNS servers, the
subnet's broadcast) stays with the filter. The tables are data: nothing here assumes that a
userspace filter reads them.

Which rule decides: one with ports before one without, then the longer prefix, then block before
allow. Bare rules alone are stateless and about what the VM sends. One rule with a direction makes
the policy `stateful`: bare rules then hold both ways, `compile_inbound` gives the table of what comes
to the VM, and the return traffic of what is let through passes.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from softnet.core import numbers, prefix, reasons
from softnet.core.address import mask_of
from softnet.core.numbers import TCP, UDP
from softnet.core.ports import PortRules, port_key, port_value
from softnet.core.prefix import Layer, Table, entry
from softnet.core.special import NOT_GLOBALLY_REACHABLE
from softnet.errors import ConfigError
from softnet.rules import ALLOW, BLOCK, IN, OUT, Rule, Target, parse_rule
from softnet.rules import parse_target as parse_target
from softnet.ruleset import RuleSet


class Facts(NamedTuple):
    """What an uplink knows about its network; None and empty where it does not know.

    `dns` is what `@dns` means: the servers that the VM's lease names, so no uplink's to say.
    `host_open` is false where the gateway, if anything, is the host's loopback: then the host is closed by
    default, and no rule but one that says `@host` opens the gateway.
    """

    gateway: int | None = None
    gateway_mac: int | None = None
    host_addresses: tuple[int, ...] = ()
    dns: tuple[int, ...] = ()
    host_open: bool = True


class Policy(NamedTuple):
    rules: RuleSet = RuleSet()

    @property
    def isolated(self) -> bool:
        """Whether this VM is kept apart from other VMs of the uplink: unless 0.0.0.0/0 is allowed."""
        return Rule(ALLOW, Target(0, 0)) not in self.rules

    @property
    def stateful(self) -> bool:
        return self.rules.directed

    @property
    def follows_lease(self) -> bool:
        """Whether a lease's DNS servers change what this compiles to."""
        return any(rule.target.dns for rule in self.rules.others)

    @property
    def opens_host(self) -> bool:
        """Whether a rule lets the VM reach `@host`, or some port of it."""
        return any(
            rule.action == ALLOW and rule.applies(OUT) and rule.target.address is None and not rule.target.dns
            for rule in self.rules.others
        )


def parse(allow: Iterable[str] = (), block: Iterable[str] = ()) -> Policy:
    """Rules from comma-separated lists; ConfigError names the option and the part that is wrong."""
    return Policy(RuleSet(chain(_parsed(ALLOW, allow), _parsed(BLOCK, block))))


def _parsed(action: str, lists: Iterable[str]) -> Iterator[Rule]:
    for text in lists:
        for part in text.split(","):
            try:
                yield parse_rule(action, part)
            except ValueError as error:
                remedy = "write for example 10.0.0.0/8, 192.0.2.1:443/tcp, @host or 'in @host:22'"
                raise ConfigError(f"--{action}", repr(part), str(error), remedy) from None


def host_addresses(facts: Facts) -> frozenset[int]:
    """What `@host` means: the gateway and every address of the host's own interfaces."""
    gateway = () if facts.gateway is None else (facts.gateway,)
    return frozenset(facts.host_addresses).union(gateway)


def _places(target: Target, facts: Facts) -> Iterable[int]:
    """The network addresses that a target stands for."""
    if target.address is not None:
        return (target.address,)
    return facts.dns if target.dns else host_addresses(facts)


def deciding_rule(
    policy: Policy, facts: Facts, address: int, protocol: int = 0, port: int = 0, direction: str = OUT
) -> Rule | None:
    """The rule that decides about a packet to (`in`: from) `address`; port 0 is a packet without ports."""
    best: tuple[bool, int, bool] | None = None
    found = None
    for rule in chain(policy.rules.around(address), policy.rules.others):
        target = rule.target
        if not rule.applies(direction) or address & mask_of(target.length) not in _places(target, facts):
            continue
        if target.ports is not None and not target.ports.cover(protocol, port):
            continue
        rank = (target.ports is not None, target.length, rule.action == BLOCK)
        if best is None or rank > best:
            best, found = rank, rule
    return found


class Explanation(NamedTuple):
    """The verdict on a packet, and the rule that decided it, if one did."""

    reason: int
    rule: Rule | None


def explain(
    policy: Policy, facts: Facts, address: int, protocol: int = 0, port: int = 0, direction: str = OUT
) -> Explanation:
    """What becomes of a packet that is to (`in`: from) `address` and honest in all else."""
    table = compile_policy(policy, facts) if direction == OUT else compile_inbound(policy, facts)
    reason = reasons.PASS_INBOUND if table is None else table.lookup(address)
    if table is None:
        return Explanation(reason, None)
    if table.ports is not None and reason >= numbers.PORT_RULES:
        reason = table.ports.lookup(reason, protocol, port or numbers.NO_PORT)
    rule = deciding_rule(policy, facts, address, protocol, port, direction)
    if rule is None and reason == reasons.BLOCKED and facts.gateway is not None:
        rule = deciding_rule(policy, facts, facts.gateway)  # the host's other addresses follow the gateway
    opened_by_default = reason in (reasons.NOT_GLOBAL, reasons.PASS_GLOBAL)
    if opened_by_default and direction == OUT and port == 53 and address in facts.dns:
        reason = reasons.PASS_DNS
    return Explanation(reason, None if reason in (reasons.MARTIAN, reasons.NOT_GLOBAL) else rule)


def _plain_layer(policy: Policy, facts: Facts, direction: str) -> Layer:
    """What the rules without ports say, where they say anything."""
    named = [
        entry(address, 32, _REASONS[rule.action])
        for rule in policy.rules.others
        if rule.target.ports is None and rule.applies(direction)
        for address in _places(rule.target, facts)
    ]
    return prefix.build(chain(policy.rules.entries(direction), named))


def _host_layer(facts: Facts, rules: Layer) -> Layer:
    """The gateway passes, where the host is open; the host's other addresses get the gateway's verdict."""
    gateway = other = reasons.PASS_GATEWAY if facts.host_open else reasons.NOT_GLOBAL
    if facts.gateway is not None and prefix.value_at(rules, facts.gateway) == reasons.BLOCKED:
        other = reasons.BLOCKED
    layer = dict.fromkeys(facts.host_addresses, other)
    if facts.gateway is not None:
        layer[facts.gateway] = gateway
    return prefix.build(entry(address, 32, value) for address, value in layer.items())


_REASONS = {ALLOW: reasons.PASS_RULE, BLOCK: reasons.BLOCKED}
_MARTIANS = prefix.build([entry(0x00000000, 8, reasons.MARTIAN), entry(0x7F000000, 8, reasons.MARTIAN)])
_DEFAULTS = prefix.overlay(
    prefix.build(
        [
            entry(0xFFFFFFFF, 32, reasons.BROADCAST),
            entry(0xE0000000, 4, reasons.MULTICAST),
            *(
                entry(address, length, reasons.NOT_GLOBAL)
                for address, length, _name in NOT_GLOBALLY_REACHABLE
                if address != 0xE0000000
            ),
        ]
    ),
    prefix.everywhere(reasons.PASS_GLOBAL),
)


def compile_policy(policy: Policy, facts: Facts) -> Table:
    """Every destination's reason code: martians over rules over the host over the defaults."""
    rules = _plain_layer(policy, facts, OUT)
    below = prefix.overlay(_host_layer(facts, rules), _DEFAULTS)
    return _with_ports(policy, facts, OUT, prefix.overlay(rules, below), _never(policy, facts))


def _never(policy: Policy, facts: Facts) -> Layer:
    """What no rule opens; of the host's loopback, what no rule has opened by its name."""
    if facts.host_open or facts.gateway is None or policy.opens_host:
        return _MARTIANS
    closed = prefix.build([entry(facts.gateway, 32, reasons.NOT_GLOBAL)])
    return prefix.overlay(_MARTIANS, closed)


def compile_inbound(policy: Policy, facts: Facts) -> Table | None:
    """Every sender's reason code for what comes to the VM; None unless the policy is stateful."""
    if not policy.stateful:
        return None
    rules = prefix.overlay(_plain_layer(policy, facts, IN), prefix.everywhere(reasons.PASS_INBOUND))
    return _with_ports(policy, facts, IN, rules, prefix.everywhere(prefix.NOTHING))


class _Node:
    """A prefix with port rules: every place where the count of open allow or block spans changes."""

    def __init__(self) -> None:
        self.edges: dict[int, list[int]] = {}
        self.protocols = 0

    def add(self, rule: Rule) -> None:
        span = rule.target.ports
        if span is None:
            return
        kind = rule.action == BLOCK
        for protocol, bit in ((TCP, numbers.TCP_BIT), (UDP, numbers.UDP_BIT)):
            if span.cover(protocol, span.first):
                self.protocols |= bit
                self.edges.setdefault(port_key(0, protocol, span.first), [0, 0])[kind] += 1
                self.edges.setdefault(port_key(0, protocol, span.last) + 1, [0, 0])[kind] -= 1

    def spans(self, base: int) -> Iterable[tuple[int, int]]:
        """(key, verdict from there on), from `base` on; blocked before allowed."""
        opened = [0, 0]
        yield base, numbers.UNDECIDED
        for edge in sorted(self.edges):
            for kind in (0, 1):
                opened[kind] += self.edges[edge][kind]
            verdict = reasons.BLOCKED if opened[1] else reasons.PASS_RULE if opened[0] else numbers.UNDECIDED
            yield base + edge, verdict


def _port_nodes(policy: Policy, facts: Facts, direction: str) -> dict[tuple[int, int], _Node]:
    nodes: dict[tuple[int, int], _Node] = {}
    for rule in policy.rules.others:
        if rule.target.ports is None or not rule.applies(direction):
            continue
        for address in _places(rule.target, facts):
            nodes.setdefault((address, rule.target.length), _Node()).add(rule)
    most = numbers.NODES - 1
    if len(nodes) > most:
        remedy = f"use at most {most}"
        raise ConfigError("--allow/--block", len(nodes), "too many prefixes with ports", remedy)
    return dict(sorted(nodes.items()))


def _with_ports(policy: Policy, facts: Facts, direction: str, plain: Layer, top: Layer) -> Table:
    """`plain` below what the rules with ports say, below `top`."""
    nodes = _port_nodes(policy, facts, direction)
    if not nodes:
        return Table(prefix.overlay(top, plain))
    where = prefix.build(entry(*place, port_value(at, 0)) for at, place in enumerate(nodes))
    layer = prefix.overlay(top, prefix.overlay(where, plain, through=numbers.PORT_RULES - 1))
    parents = _parents(list(nodes))
    protocols: list[int] = []
    for node, parent in zip(nodes.values(), parents, strict=True):
        protocols.append(node.protocols | (0 if parent == numbers.ROOT else protocols[parent]))
    return Table(layer, PortRules(_spans(list(nodes.values())), parents, protocols))


def _parents(prefixes: list[tuple[int, int]]) -> list[int]:
    """For each of the sorted prefixes, the index of the longest one around it."""
    parents: list[int] = []
    around: list[int] = []
    for at, (address, _length) in enumerate(prefixes):
        while around and address & mask_of(prefixes[around[-1]][1]) != prefixes[around[-1]][0]:
            around.pop()
        parents.append(around[-1] if around else numbers.ROOT)
        around.append(at)
    return parents


def _spans(nodes: list[_Node]) -> Table:
    rows = prefix.Rows(sum(len(node.edges) + 1 for node in nodes) + 1)
    for at, node in enumerate(nodes):
        for key, verdict in node.spans(port_key(at, TCP, 0)):
            rows.put(key, verdict)
    rows.put(port_key(len(nodes), TCP, 0), numbers.UNDECIDED)
    return Table(rows.layer())


def allowed_within(policy: Policy, facts: Facts, first: int, last: int) -> list[tuple[int, int]]:
    """The parts of `first` to `last` where a rule opens anything to the VM, as inclusive pairs."""
    with_ports = prefix.build(
        entry(address, rule.target.length, reasons.PASS_RULE)
        for rule in policy.rules.others
        if rule.target.ports is not None and rule.action == ALLOW and rule.applies(OUT)
        for address in _places(rule.target, facts)
    )
    opened = prefix.overlay(with_ports, _plain_layer(policy, facts, OUT))
    return [
        (max(first, low), min(last, high))
        for low, high, value in prefix.intervals(opened)
        if value == reasons.PASS_RULE and low <= last and high >= first
    ]
