"""The grammar of a rule: what `--allow`, `--block`, the control channel and policy files may carry.

    RULE    = ["in " | "out "] TARGET
    TARGET  = PLACE [":" PORT ["-" PORT] ["/tcp" | "/udp"]]
    PLACE   = ADDRESS ["/" LENGTH] | "@host" | "@dns"

Exactly one blank follows a direction and no other blank is read. A prefix's host bits are cut off;
ports are 1 to 65535, ascending, both ends included; without a protocol they are TCP's and UDP's.
`in` is what comes to the VM: the place is then the sender, the ports are the VM's own. `str` of a
rule's target, and `Rule.text`, are the normal spelling, which `parse_rule` reads again.

Nothing here knows a network: what `@host` and `@dns` stand for is `softnet.policy`'s to say.
"""

from typing import NamedTuple

from softnet.core.address import format_ipv4, mask_of, parse_ipv4
from softnet.core.numbers import TCP, UDP

ALLOW = "allow"
BLOCK = "block"
HOST = "@host"
DNS = "@dns"

IN = "in"
OUT = "out"

LAST_PORT = 65535

_LENGTHS = frozenset(str(length) for length in range(33))
_PROTOCOLS = {"tcp": TCP, "udp": UDP}
_PROTOCOL_NAMES = {TCP: "/tcp", UDP: "/udp"}


class Ports(NamedTuple):
    """The ports `first` to `last`; `protocol` 0 is TCP and UDP."""

    first: int
    last: int
    protocol: int = 0

    def __str__(self) -> str:
        span = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        return f":{span}{_PROTOCOL_NAMES.get(self.protocol, '')}"

    def cover(self, protocol: int, port: int) -> bool:
        wanted = (TCP, UDP) if self.protocol == 0 else (self.protocol,)
        return protocol in wanted and self.first <= port <= self.last


class Target(NamedTuple):
    """An IPv4 prefix with its host bits cut off, or where `address` is None, `@dns` or `@host`."""

    address: int | None
    length: int
    ports: Ports | None = None
    dns: bool = False

    @property
    def place(self) -> str:
        if self.address is None:
            return DNS if self.dns else HOST
        return f"{format_ipv4(self.address)}/{self.length}"

    def __str__(self) -> str:
        return self.place if self.ports is None else f"{self.place}{self.ports}"


class Rule(NamedTuple):
    """`direction` is IN, OUT or, for a bare rule, empty."""

    action: str
    target: Target
    direction: str = ""

    @property
    def text(self) -> str:
        """The rule as its list spells it."""
        return f"{self.direction} {self.target}" if self.direction else str(self.target)

    def __str__(self) -> str:
        return f"--{self.action} {self.text!r}" if self.direction else f"--{self.action} {self.target}"

    def applies(self, direction: str) -> bool:
        return self.direction in ("", direction)


def parse_target(text: str) -> Target:
    """`10.0.0.0/8`, `192.0.2.1:443/tcp`, `@host:80-90`; ValueError says what is wrong with it."""
    place, colon, ports_text = text.partition(":")
    ports = _parse_ports(ports_text) if colon else None
    if place in (HOST, DNS):
        return Target(None, 32, ports, place == DNS)
    address_text, slash, length_text = place.partition("/")
    length = 32
    if slash:
        if length_text not in _LENGTHS:
            raise ValueError(f"the prefix length {length_text!r} is not a number from 0 to 32")
        length = int(length_text)
    try:
        address = parse_ipv4(address_text)
    except ValueError:
        raise ValueError("not an IPv4 address, a prefix, @host or @dns") from None
    return Target(address & mask_of(length), length, ports)


def parse_rule(action: str, text: str) -> Rule:
    """A rule as a list spells it; ValueError says what is wrong with it."""
    direction, blank, rest = text.partition(" ")
    if not blank:
        return Rule(action, parse_target(text))
    if direction not in (IN, OUT):
        raise ValueError("only 'in ' or 'out ' may stand before a target, and no other blank anywhere")
    return Rule(action, parse_target(rest), direction)


def order(rule: Rule) -> tuple[bool, int, int, bool, int, int, int, str]:
    """The order of normalised lists: addresses first, then `@dns`, `@host`, each by ports and direction."""
    target = rule.target
    ports = target.ports or Ports(0, 0)
    named = target.address is None
    return (named, target.address or 0, target.length, named and not target.dns, *ports, rule.direction)


def _parse_port(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or text[0] == "0" or len(text) > 5 or int(text) > LAST_PORT:
        raise ValueError(f"the port {text!r} is not a number from 1 to 65535")
    return int(text)


def _parse_ports(text: str) -> Ports:
    span, slash, protocol_text = text.partition("/")
    if slash and protocol_text not in _PROTOCOLS:
        raise ValueError(f"the protocol {protocol_text!r} is neither tcp nor udp")
    first_text, dash, last_text = span.partition("-")
    first = _parse_port(first_text)
    last = _parse_port(last_text) if dash else first
    if last < first:
        raise ValueError(f"the ports {span} run backwards")
    return Ports(first, last, _PROTOCOLS.get(protocol_text, 0))
