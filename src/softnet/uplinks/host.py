"""What the host's network looks like: routes, addresses, DNS servers, and who drops forwarded packets.

Everything here reads; the only processes started are iproute2's and, where legacy iptables is in use,
`iptables-legacy`, always from the system's own directories and with an empty environment, because
this may run set-user-ID.
"""

import os
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from softnet.core.address import mask_of, parse_ipv4
from softnet.core.prefix import LAST_ADDRESS
from softnet.errors import UplinkError

TAP_PREFIX = "sn"
DIRECTORIES = ("/usr/sbin", "/usr/bin", "/sbin", "/bin", "/run/current-system/sw/bin")

_ROUTE_KINDS = frozenset(
    [
        "unicast",
        "local",
        "broadcast",
        "multicast",
        "anycast",
        "unreachable",
        "prohibit",
        "blackhole",
        "throw",
        "nat",
    ]
)
_HEX = frozenset("0123456789abcdef")

# After the first: where systemd-resolved and NetworkManager note the servers behind their local stubs.
RESOLV_CONFS = (
    "/etc/resolv.conf",
    "/run/systemd/resolve/resolv.conf",
    "/run/NetworkManager/no-stub-resolv.conf",
)
MAX_DNS_SERVERS = 8


class Route(NamedTuple):
    """The addresses `first` to `last`, the devices they leave by (none: they go nowhere), and its text."""

    kind: str
    first: int
    last: int
    devices: tuple[str, ...]
    text: str

    @property
    def is_default(self) -> bool:
        """0.0.0.0/0, or one of the two halves of it that VPNs use in its place."""
        return self.last - self.first >= LAST_ADDRESS >> 1


def find_program(name: str) -> str | None:
    for directory in DIRECTORIES:
        path = f"{directory}/{name}"
        if os.access(path, os.X_OK):
            return path
    return None


def run(argv: Sequence[str], text: str = "") -> tuple[int, str]:
    """Runs a program of the system with `text` as its input; returns its exit code and all it wrote."""
    program = find_program(argv[0])
    if program is None:
        raise UplinkError(f"the host's network needs `{argv[0]}`: apt-get install iproute2")
    with os.fdopen(os.memfd_create("in"), "w+b") as stdin, os.fdopen(os.memfd_create("out"), "w+b") as stdout:
        stdin.write(text.encode())
        stdin.seek(0)
        files = ((stdin, 0), (stdout, 1), (stdout, 2))
        actions = [(os.POSIX_SPAWN_DUP2, file.fileno(), number) for file, number in files]
        child = os.posix_spawn(program, list(argv), {"LC_ALL": "C"}, file_actions=actions)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        stdout.seek(0)
        return status, stdout.read().decode(errors="replace")


# Routes and addresses.


def is_tap_name(name: str) -> bool:
    """Whether a device is one of Softnet's: "sn" and the VM's address in hexadecimal."""
    return len(name) == 10 and name.startswith(TAP_PREFIX) and _HEX.issuperset(name[2:])


def parse_route(line: str) -> Route | None:
    """One line of `ip -4 -o route show table all`; None for what is not a route to somewhere."""
    words = line.split()
    kind = words.pop(0) if words and words[0] in _ROUTE_KINDS else "unicast"
    if not words or kind == "multicast":
        return None
    address, _slash, length_text = words[0].partition("/")
    try:
        length = int(length_text or (0 if address == "default" else 32))
        first = 0 if address == "default" else parse_ipv4(address)
    except ValueError:
        return None
    devices = tuple(dict.fromkeys(words[at + 1] for at, word in enumerate(words[:-1]) if word == "dev"))
    last = first | ~mask_of(length) & LAST_ADDRESS
    return Route(kind, first, last, devices, " ".join(line.replace("\\", " ").split()))


def _is_gone(device: str) -> bool:
    """Whether `ip` could not name a device ("if17"), because it went, with its routes, meanwhile."""
    if not (device.startswith("if") and device[2:].isdecimal()):
        return False
    try:
        return socket.if_nametoindex(device) == 0
    except OSError:
        return True


def routes() -> list[Route]:
    """Every IPv4 route of every table, the host's own addresses (kind `local`) among them."""
    status, output = run(("ip", "-4", "-o", "route", "show", "table", "all"))
    if status:
        raise UplinkError(f"`ip route show` failed: {' '.join(output.split())}")
    known = [route for route in map(parse_route, output.splitlines()) if route is not None]
    return [route for route in known if not any(map(_is_gone, route.devices))]


def addresses(known: Iterable[Route]) -> tuple[int, ...]:
    """Every IPv4 address of the host's interfaces but loopback's, which no VM can reach anyway."""
    own = {
        route.first
        for route in known
        if route.kind == "local" and route.first == route.last and route.first >> 24 != 127
    }
    return tuple(sorted(own))


def overlap(known: Iterable[Route], first: int, last: int) -> Route | None:
    """A route or address of the host, other than default routes and Softnet's own, inside the range."""
    for route in known:
        ours = bool(route.devices) and all(map(is_tap_name, route.devices))
        if route.first <= last and route.last >= first and not route.is_default and not ours:
            return route
    return None


def devices_towards(known: Iterable[Route], ranges: Sequence[tuple[int, int]]) -> list[str]:
    """The devices by which any address of `ranges` may leave."""
    found: dict[str, None] = {}
    for route in known:
        met = any(route.first <= last and route.last >= first for first, last in ranges)
        if met and route.kind == "unicast":
            found.update(dict.fromkeys(route.devices))
    return [device for device in found if device != "lo" and not is_tap_name(device)]


# DNS servers.


def _nameservers(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            lines = [line.split() for line in stream]
    except OSError:
        return []
    return [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]


def _reachable(servers: Iterable[str]) -> tuple[int, ...]:
    """The IPv4 servers that are not on the host's loopback, in order, each once."""
    found: dict[int, None] = {}
    for text in servers:
        try:
            address = parse_ipv4(text)
        except ValueError:
            continue  # IPv6
        if address >> 24 not in (0, 127):
            found[address] = None
    return tuple(found)[:MAX_DNS_SERVERS]


NO_DNS_SERVER = "no DNS server of this host can be reached from a VM; name one with --dns ADDRESS"


def notice(text: str) -> None:
    """A line for the operator about something that is no error."""
    print(f"softnet: {text}", file=sys.stderr)


def dns_servers(files: Sequence[str] = RESOLV_CONFS) -> tuple[int, ...]:
    """The servers that the host really asks, also when it asks them through a local stub."""
    for path in files:
        servers = _reachable(_nameservers(path))
        if servers:
            return servers
    return ()


# Who drops what is forwarded.


_DROPPED = "forwarded packets, the VM's among them"


class ForwardDrop(NamedTuple):
    """A base chain on the forward hook whose policy is to drop."""

    family: str
    table: str
    chain: str

    def __str__(self) -> str:
        """As `nft` wants it named."""
        return f"{self.family} {self.table} {self.chain}"


def forward_drops(chains: str) -> list[ForwardDrop]:
    """The dropping forward chains in the text that `nft list chains` prints."""
    found, family, table, chain = [], "", "", ""
    for line in chains.splitlines():
        words = line.split()
        if words[:1] == ["table"]:
            family, table = words[1], words[2]
        elif words[:1] == ["chain"]:
            chain = words[1]
        elif "hook forward " in line and "policy drop" in line and family in ("ip", "inet"):
            found.append(ForwardDrop(family, table, chain))
    return found


def legacy_forward_drops() -> bool:
    """Whether the FORWARD chain of legacy iptables, where that is loaded at all, drops by policy."""
    try:
        with open("/proc/net/ip_tables_names", encoding="ascii") as stream:
            loaded = "filter" in stream.read().split()
    except OSError:
        return False
    if not loaded or find_program("iptables-legacy") is None:
        return False
    _status, output = run(("iptables-legacy", "-w", "-S", "FORWARD"))
    return "-P FORWARD DROP" in output and f"-i {TAP_PREFIX}+" not in output


def forward_notice(nft: Callable[[str], str]) -> str | None:
    """What to do when the host drops what VMs forward, or None. `nft` runs a command and returns its output.

    A ruleset that already accepts the TAPs by name says that its owner knows.
    """
    unaware = [
        drop
        for drop in forward_drops(nft("list chains"))
        if f'iifname "{TAP_PREFIX}*"' not in nft(f"list table {drop.family} {drop.table}")
    ]
    if unaware:
        return f"the nftables chain {unaware[0]} drops {_DROPPED}; run: {_accept(unaware[0], nft)}"
    if legacy_forward_drops():
        return (
            f"legacy iptables' FORWARD chain drops {_DROPPED}; run: {_iptables('iptables-legacy', 'FORWARD')}"
        )
    return None


def _accept(drop: ForwardDrop, nft: Callable[[str], str]) -> str:
    """The exact commands that let the TAPs through `drop`."""
    if (drop.family, drop.table, drop.chain) == ("ip", "filter", "FORWARD"):
        docker = "chain DOCKER-USER" in nft("list table ip filter")
        return _iptables("iptables", "DOCKER-USER" if docker else "FORWARD")
    insert = f"nft insert rule {drop}"
    return (
        f"{insert} iifname '\"{TAP_PREFIX}*\"' accept"
        f" && {insert} oifname '\"{TAP_PREFIX}*\"' ct state established,related accept"
    )


def _iptables(program: str, chain: str) -> str:
    return (
        f"{program} -I {chain} -i {TAP_PREFIX}+ -j ACCEPT"
        f" && {program} -I {chain} -o {TAP_PREFIX}+ -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"
    )
