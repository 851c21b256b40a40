"""The options that `softnet` and `softnet run` share: argv in, `Settings` out.

Options are read as text and converted here, one by one, so that every mistake is one ConfigError
that names the option, the value and the remedy. Nothing is opened or changed.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

from softnet import policy, policyfile, privilege, rules
from softnet.cli.build import version_line
from softnet.config import (
    DEFAULT_DENY_RATE,
    DEFAULT_LEASE_TIME,
    DEFAULT_MTU,
    DEFAULT_POOL,
    DROP,
    MAX_MTU,
    MIN_MTU,
    REJECT,
    TCP,
    UDP,
    Expose,
    Settings,
)
from softnet.core.address import MAC_GROUP_BIT, format_ipv4, mask_of, parse_ipv4, parse_mac
from softnet.errors import ConfigError, SoftnetError
from softnet.limits import Rates, add_rate
from softnet.policy import Policy
from softnet.policyfile import PolicyFile
from softnet.uplinks.select import default_choice, parse_choice

MAX_DESCRIPTOR = 2**31 - 1
MAX_LEASE_TIME = 2**31 - 1  # what bootpd's preferences and every client can hold


_Part = TypeVar("_Part")


class UsageError(SoftnetError):
    """The words of the command line do not fit together."""

    exit_code = 2


class Parser(argparse.ArgumentParser):
    """argparse, but an error is one line and the caller's to print."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def new_parser(prog: str, usage: str, description: str) -> Parser:
    """A parser with what every command has."""
    parser = Parser(
        prog=prog,
        usage=usage,
        description=description,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=version_line())
    return parser


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """Everything but where the VM's frames come from."""
    add = parser.add_argument
    add("--vm-net-type", metavar="nat|host", default="nat", help="the internet, or this host alone")
    add(
        "--uplink",
        metavar="KIND",
        help="vmnet | nat | bridge=NAME | user | fd=N | unix=PATH: the network side "
        "(default: vmnet on macOS; on Linux nat with CAP_NET_ADMIN, else user)",
    )
    add_policy_options(parser)
    add("--bootpd-lease-time", metavar="SECONDS", default=str(DEFAULT_LEASE_TIME), help="(%(default)s)")
    add("--user", metavar="NAME", help="drop privileges to this user (default: the caller)")
    add("--group", metavar="NAME", help="drop privileges to this group")
    add("--gateway", metavar="IP", help="the gateway behind --uplink fd= or unix=")
    add(
        "--pool",
        metavar="CIDR",
        default=f"{format_ipv4(DEFAULT_POOL[0])}/{DEFAULT_POOL[1]}",
        help="addresses that --uplink nat gives out (%(default)s)",
    )
    add("--dns", metavar="LIST", action="append", default=[], help="DNS servers for --uplink nat to announce")
    add("--mtu", metavar="BYTES", default=str(DEFAULT_MTU), help="largest IP packet (%(default)s)")
    add("--no-offload", action="store_true", help="one frame a call on a TAP: no joined TCP segments")
    add("--ignore-client-id", action="store_true", help="key DHCP leases by MAC address alone")
    add("--control-fd", metavar="N", help="a connected stream socket for live policy (JSON-RPC)")
    add("--control", metavar="PATH", help="listen there for softnet policy, explain, capture and others")
    add("--events", metavar="PATH|fd=N", help="write what happens as JSON lines")
    add("--metrics", metavar="ADDRESS:PORT|unix:PATH", help="serve Prometheus metrics there")
    add("--summary", action="store_true", help="print frames by reason to standard error at the end")
    add("--sudo-escalation-probing", action="store_true", help=argparse.SUPPRESS)
    add("--sudo-escalation-done", action="store_true", help=argparse.SUPPRESS)
    add("--supervisor-fd", metavar="N", help=argparse.SUPPRESS)


def add_policy_options(parser: argparse.ArgumentParser) -> None:
    """What the VM may reach, and what becomes of the rest."""
    add = parser.add_argument
    add("--policy", metavar="FILE", help="read rules and more from a TOML file; options add to it")
    add(
        "--allow",
        metavar="LIST",
        action="append",
        default=[],
        help="open these: RULE,RULE,... (docs/rules.md)",
    )
    add("--block", metavar="LIST", action="append", default=[], help="close these; a tie is blocked")
    add(
        "--expose",
        metavar="LIST",
        action="append",
        default=[],
        help="[BIND:]EXTERNAL:INTERNAL[/tcp|/udp]: ports of the host that lead to the VM",
    )
    add("--deny", metavar="drop|reject", help="drop what is refused, or answer it (default: drop)")
    add(
        "--rate",
        metavar="RATE",
        action="append",
        default=[],
        help="[from-vm:|to-vm:]20mbit[,5kpps][,burst=50ms]: read no faster (docs/rate.md)",
    )


def policy_from(options: argparse.Namespace) -> PolicyFile:
    """The policy file with the options added; what neither says has its default."""
    file = PolicyFile()
    if options.policy is not None:
        with privilege.acting_as(privilege.asker()):  # a path of the caller's, not one of root's
            text = policyfile.read(options.policy)
        file = policyfile.parse(options.policy, text, parse_expose)
    rules = policy.parse(options.allow, options.block).rules
    remedy = "write for example 2222:22 or 5353:53/udp"
    expose = _each("--expose", options.expose, parse_expose, remedy)
    deny = None if options.deny is None else _one_of("--deny", options.deny, (DROP, REJECT))
    return PolicyFile(
        Policy(file.policy.rules | rules),
        tuple(dict.fromkeys(file.expose + expose)),
        deny or file.deny or DROP,
        file.deny_rate or DEFAULT_DENY_RATE,
        _rates(options.rate) if options.rate else file.rates,
    )


def settings_from(options: argparse.Namespace, vm_mac: int) -> Settings:
    """Settings from parsed options; ConfigError for the first value that is wrong."""
    chosen, control = options.uplink, options.control_fd
    wanted = policy_from(options)
    return Settings(
        vm_mac=vm_mac,
        uplink=parse_choice(chosen) if chosen is not None else default_choice(privilege.has_net_admin()),
        net_type=_one_of("--vm-net-type", options.vm_net_type, ("nat", "host")),
        lease_time=number("--bootpd-lease-time", options.bootpd_lease_time, 1, MAX_LEASE_TIME),
        user=options.user,
        group=options.group,
        policy=wanted.policy,
        expose=wanted.expose,
        deny=wanted.deny or DROP,
        deny_rate=wanted.deny_rate or DEFAULT_DENY_RATE,
        control=options.control,
        events=options.events,
        metrics=options.metrics,
        control_fd=None if control is None else number("--control-fd", control, 0, MAX_DESCRIPTOR),
        gateway=None if options.gateway is None else address("--gateway", options.gateway),
        pool=pool(options.pool),
        dns=_each("--dns", options.dns, parse_ipv4, "write IPv4 addresses, for example 192.0.2.53"),
        mtu=number("--mtu", options.mtu, MIN_MTU, MAX_MTU),
        ignore_client_id=options.ignore_client_id,
        offload=not options.no_offload,
        rates=wanted.rates,
    )


def vm_mac(option: str, text: str) -> int:
    """The VM's MAC address: six octets, not all zero, without the group bit."""
    try:
        address = parse_mac(text)
    except ValueError:
        remedy = "write for example 52:54:00:12:34:56"
        raise ConfigError(option, repr(text), "is not a MAC address", remedy) from None
    if address & MAC_GROUP_BIT:
        remedy = "give the address of one station (its first octet is even)"
        raise ConfigError(option, text, "has the group bit set", remedy)
    if address == 0:
        raise ConfigError(option, text, "is all zero", "give the address of the VM's network card")
    return address


def number(option: str, text: str, least: int, most: int) -> int:
    """A plain decimal number between two bounds."""
    if text.isascii() and text.isdigit() and len(text) <= 10 and least <= int(text) <= most:
        return int(text)
    remedy = f"give a whole number from {least} to {most}"
    raise ConfigError(option, repr(text), "is not such a number", remedy)


def parse_expose(text: str) -> Expose:
    """`[BIND:]EXTERNAL:INTERNAL[/tcp|/udp]`; ValueError says what is wrong."""
    ports, _, protocol = text.partition("/")
    if protocol not in (TCP, UDP) and (protocol or text.endswith("/")):
        raise ValueError(f"the protocol {protocol!r} is neither tcp nor udp")
    fields = ports.split(":")
    if len(fields) not in (2, 3):
        raise ValueError("not [BIND:]EXTERNAL:INTERNAL")
    for field in fields[-2:]:
        if not (field.isascii() and field.isdigit()) or len(field) > 5 or not 1 <= int(field) <= 65535:
            raise ValueError(f"the port {field!r} is not a number from 1 to 65535")
    try:
        bind = parse_ipv4(fields[0]) if len(fields) == 3 else None
    except ValueError:
        raise ValueError(f"the address {fields[0]!r} is not an IPv4 address") from None
    return Expose(bind or None, int(fields[-2]), int(fields[-1]), protocol or TCP)


def _rates(texts: Sequence[str]) -> Rates:
    """What `--rate`, given so often, says of both directions."""
    rates = Rates()
    for text in texts:
        try:
            rates = add_rate(rates, text)
        except ValueError as error:
            remedy = "write for example 20mbit or from-vm:20mbit,5kpps,burst=50ms"
            raise ConfigError("--rate", repr(text), str(error), remedy) from None
    return rates


def _each(option: str, lists: Sequence[str], parse: Callable[[str], _Part], remedy: str) -> tuple[_Part, ...]:
    """Every part of repeated, comma-separated lists, once."""
    found: dict[_Part, None] = {}
    for text in lists:
        for part in text.split(","):
            try:
                found[parse(part.strip())] = None
            except ValueError as error:
                problem = "is not an IPv4 address" if str(error) == part.strip() else str(error)
                raise ConfigError(option, repr(part), problem, remedy) from None
    return tuple(found)


def _one_of(option: str, text: str, choices: tuple[str, ...]) -> str:
    if text not in choices:
        raise ConfigError(option, repr(text), "is not a choice", f"choose {' or '.join(choices)}")
    return text


def address(option: str, text: str) -> int:
    try:
        return parse_ipv4(text)
    except ValueError:
        remedy = "write for example 192.168.64.1"
        raise ConfigError(option, repr(text), "is not an IPv4 address", remedy) from None


def pool(text: str) -> tuple[int, int]:
    """Room for the network, the gateway, one VM and the broadcast address at least."""
    try:
        target = rules.parse_target(text)
    except ValueError as error:
        raise ConfigError("--pool", repr(text), str(error), "write for example 10.231.0.0/20") from None
    if target.address is None or target.ports or not 8 <= target.length <= 30:
        raise ConfigError("--pool", repr(text), "is no pool of addresses", "give a prefix from /8 to /30")
    return target.address & mask_of(target.length), target.length
