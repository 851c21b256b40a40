"""What the host's network looks like, read from texts as the tools print them."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from softnet.core.address import parse_ipv4
from softnet.errors import UplinkError
from softnet.uplinks import host
from softnet.uplinks.host import Route, parse_route

POOL = (parse_ipv4("10.231.0.0"), parse_ipv4("10.231.15.255"))

# Lines of `ip -4 -o route show table all`.
DEFAULT = "default via 192.0.2.1 dev eth0 proto dhcp src 192.0.2.2 metric 100 "
CONNECTED = "192.0.2.0/24 dev eth0 proto kernel scope link src 192.0.2.2 "
MULTIPATH = (
    "default \\	nexthop via 192.0.2.1 dev eth0 weight 1 \\	nexthop via 198.51.100.1 dev eth1 weight 1 "
)
HALVES = ("0.0.0.0/1 via 10.8.0.1 dev tun0 ", "128.0.0.0/1 via 10.8.0.1 dev tun0 ")
OUR_ROUTE = "10.231.0.5 dev sn0ae70005 scope link "
OUR_GATEWAY = "local 10.231.0.1 dev sn0ae70005 table local proto kernel scope host src 10.231.0.1 "
LOCAL = "local 192.0.2.2 dev eth0 table local proto kernel scope host src 192.0.2.2 "
LOOPBACK = "local 127.0.0.1 dev lo table local proto kernel scope host src 127.0.0.1 "
LOOPBACK_NET = "local 127.0.0.0/8 dev lo table local proto kernel scope host src 127.0.0.1 "
BROADCAST = "broadcast 192.0.2.255 dev eth0 table local proto kernel scope link src 192.0.2.2 "


def known(*lines: str) -> list[Route]:
    return [route for route in map(parse_route, lines) if route is not None]


@pytest.mark.parametrize(
    ("line", "kind", "first", "last", "devices"),
    [
        (DEFAULT, "unicast", "0.0.0.0", "255.255.255.255", ("eth0",)),
        (CONNECTED, "unicast", "192.0.2.0", "192.0.2.255", ("eth0",)),
        (MULTIPATH, "unicast", "0.0.0.0", "255.255.255.255", ("eth0", "eth1")),
        (OUR_ROUTE, "unicast", "10.231.0.5", "10.231.0.5", ("sn0ae70005",)),
        (LOCAL, "local", "192.0.2.2", "192.0.2.2", ("eth0",)),
        (BROADCAST, "broadcast", "192.0.2.255", "192.0.2.255", ("eth0",)),
        ("unreachable 10.0.0.0/8 metric 4278198272 ", "unreachable", "10.0.0.0", "10.255.255.255", ()),
        ("blackhole default table 7 ", "blackhole", "0.0.0.0", "255.255.255.255", ()),
        (
            "10.9.0.0/16 nhid 12 via 192.0.2.9 dev eth0 table 100 ",
            "unicast",
            "10.9.0.0",
            "10.9.255.255",
            ("eth0",),
        ),
    ],
)
def test_a_route(line: str, kind: str, first: str, last: str, devices: tuple[str, ...]) -> None:
    route = parse_route(line)
    assert route is not None
    assert route[:4] == (kind, parse_ipv4(first), parse_ipv4(last), devices)


@pytest.mark.parametrize(
    "line", ["", "multicast 224.0.0.0/4 dev eth0 ", "unicast", "fe80::/64 dev eth0 ", "10.0.0.0/x dev e"]
)
def test_what_is_no_route_to_somewhere(line: str) -> None:
    assert parse_route(line) is None


def test_addresses_are_the_interfaces_own_without_loopback() -> None:
    routes = known(DEFAULT, CONNECTED, LOCAL, LOOPBACK, LOOPBACK_NET, BROADCAST, OUR_GATEWAY, LOCAL)
    assert host.addresses(routes) == (parse_ipv4("10.231.0.1"), parse_ipv4("192.0.2.2"))


@pytest.mark.parametrize(
    "line",
    [
        "10.231.4.0/24 dev eth1 proto kernel scope link src 10.231.4.1 ",
        "10.0.0.0/8 via 192.0.2.9 dev eth0 ",
        "local 10.231.15.255 dev eth1 table local proto kernel scope host src 10.231.15.255 ",
        "10.231.0.0 dev eth0 scope link ",
        "unreachable 10.231.0.0/16 metric 1 ",
        "10.231.1.0/24 dev wg0 table 51820 ",
        "10.231.1.0/24 dev snap0 ",
    ],
)
def test_overlap(line: str) -> None:
    route = host.overlap(known(DEFAULT, CONNECTED, line), *POOL)
    assert route is not None
    assert route.text == line.strip()


@pytest.mark.parametrize(
    "line",
    [
        *HALVES,
        MULTIPATH,
        OUR_ROUTE,
        OUR_GATEWAY,
        "10.230.0.0/16 dev e ",
        "10.231.16.0/20 dev e ",
        LOOPBACK_NET,
    ],
)
def test_no_overlap(line: str) -> None:
    assert host.overlap(known(DEFAULT, CONNECTED, LOCAL, line), *POOL) is None


def test_devices_towards_what_the_vm_may_reach() -> None:
    routes = known(
        DEFAULT, CONNECTED, LOCAL, OUR_ROUTE, "10.8.0.0/24 dev tun0 ", "10.9.0.0/24 dev tun1 ", *HALVES
    )
    internet = (parse_ipv4("8.0.0.0"), parse_ipv4("8.255.255.255"))
    server = (parse_ipv4("10.8.0.53"),) * 2
    assert host.devices_towards(routes, [internet]) == ["eth0", "tun0"]
    assert host.devices_towards(known(DEFAULT, "10.8.0.0/24 dev tun0 "), [internet, server]) == [
        "eth0",
        "tun0",
    ]
    assert host.devices_towards(known(CONNECTED), [internet]) == []


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("sn0ae70005", True),
        ("snap0", False),
        ("sn0", False),
        ("sn0ae7000g", False),
        ("sn0ae700051", False),
        ("eth0", False),
    ],
)
def test_names_of_our_taps(name: str, ours: bool) -> None:
    assert host.is_tap_name(name) == ours


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="runs iproute2")
def test_a_device_that_went_meanwhile_has_no_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ip` prints a device that it can no longer name by its number."""
    listing = f"{DEFAULT}\n10.231.2.123 dev if4294967 scope link \n{LOCAL}\n"
    monkeypatch.setattr(host, "run", lambda argv: (0, listing))
    assert [route.text for route in host.routes()] == [DEFAULT.strip(), LOCAL.strip()]


# DNS.


@pytest.fixture
def resolv(tmp_path: Path) -> Callable[..., tuple[int, ...]]:
    """Writes files with these texts (None: there is no such file) and asks for the servers."""

    def ask(*texts: str | None) -> tuple[int, ...]:
        paths = []
        for number, text in enumerate(texts):
            path = tmp_path / f"resolv{number}.conf"
            if text is not None:
                path.write_text(text)
            paths.append(str(path))
        return host.dns_servers(paths)

    return ask


Ask = Callable[..., tuple[int, ...]]


def addresses(*texts: str) -> tuple[int, ...]:
    return tuple(map(parse_ipv4, texts))


def test_dns_of_a_plain_host(resolv: Ask) -> None:
    text = "# by hand\nsearch a.b\nnameserver 192.0.2.53\nnameserver 9.9.9.9\noptions ndots:1\nnameserver\n"
    assert resolv(text, "nameserver 198.51.100.1\n") == addresses("192.0.2.53", "9.9.9.9")


@pytest.mark.parametrize("stub", ["127.0.0.53", "127.0.0.54", "127.0.0.1", "127.0.1.1", "::1"])
def test_dns_behind_a_stub(resolv: Ask, stub: str) -> None:
    assert resolv(f"nameserver {stub}\n", "nameserver 192.0.2.1\n") == addresses("192.0.2.1")
    assert resolv(f"nameserver {stub}\n", None, "nameserver 192.0.2.1\n") == addresses("192.0.2.1")


def test_dns_leaves_out_what_a_vm_cannot_ask(resolv: Ask) -> None:
    servers = ("2001:db8::53", "fe80::1%eth0", "0.0.0.0", "127.0.0.1", "192.0.2.1", "192.0.2.1")
    text = "".join(f"nameserver {server}\n" for server in servers)
    assert resolv(text) == addresses("192.0.2.1")


def test_dns_of_a_host_without(resolv: Ask) -> None:
    assert resolv(None, None) == ()
    assert resolv("nameserver 127.0.0.53\n", "nameserver 2001:db8::53\n") == ()


def test_dns_servers_are_bounded(resolv: Ask) -> None:
    many = "".join(f"nameserver 192.0.2.{number}\n" for number in range(1, 100))
    assert len(resolv(many)) == host.MAX_DNS_SERVERS


# Dropping forward chains, from texts of `nft list chains` and `nft list table`.

DOCKER_CHAINS = """table ip filter {
	chain DOCKER {
	}
	chain FORWARD {
		type filter hook forward priority filter; policy drop;
	}
	chain DOCKER-USER {
	}
	chain INPUT {
		type filter hook input priority filter; policy accept;
	}
}
table ip6 filter {
	chain FORWARD {
		type filter hook forward priority filter; policy drop;
	}
}
table bridge nat {
	chain x {
		type filter hook forward priority filter; policy drop;
	}
}
"""
DOCKER_TABLE = "table ip filter {\n\tchain DOCKER-USER {\n\t\tcounter packets 0 bytes 0 return\n\t}\n}\n"
OWN_CHAINS = """table inet firewall {
	chain routed {
		type filter hook forward priority filter; policy drop;
	}
}
"""
ACCEPTING = """table ip filter {
	chain FORWARD {
		type filter hook forward priority filter; policy accept;
	}
	chain input {
		type filter hook input priority filter; policy drop;
	}
}
"""


def nft(chains: str, table: str) -> Callable[[str], str]:
    return lambda command: chains if command == "list chains" else table


def test_only_ipv4_forwarding_counts() -> None:
    assert [str(drop) for drop in host.forward_drops(DOCKER_CHAINS)] == ["ip filter FORWARD"]
    assert [str(drop) for drop in host.forward_drops(OWN_CHAINS)] == ["inet firewall routed"]
    assert host.forward_drops(ACCEPTING) == []


def test_docker_notice_gives_the_commands() -> None:
    notice = host.forward_notice(nft(DOCKER_CHAINS, DOCKER_TABLE))
    assert notice is not None
    assert "ip filter FORWARD" in notice
    assert "iptables -I DOCKER-USER -i sn+ -j ACCEPT" in notice
    assert "iptables -I DOCKER-USER -o sn+ -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT" in notice
    assert "\n" not in notice


def test_iptables_without_docker_notice() -> None:
    notice = host.forward_notice(nft(DOCKER_CHAINS, "table ip filter {\n}\n"))
    assert notice is not None
    assert "iptables -I FORWARD -i sn+ -j ACCEPT" in notice


def test_own_ruleset_notice() -> None:
    notice = host.forward_notice(nft(OWN_CHAINS, OWN_CHAINS))
    assert notice is not None
    assert "nft insert rule inet firewall routed iifname '\"sn*\"' accept" in notice


def test_no_notice_once_the_taps_are_let_through() -> None:
    rule = 'iifname "sn*" counter packets 0 bytes 0 accept'
    table = f"table ip filter {{\n\tchain DOCKER-USER {{\n\t\t{rule}\n\t}}\n}}\n"
    assert host.forward_notice(nft(DOCKER_CHAINS, table)) is None


def test_no_notice_without_a_drop() -> None:
    assert host.forward_notice(nft(ACCEPTING, ACCEPTING)) is None


# Programs of the system.


def test_run_gives_exit_code_output_and_errors() -> None:
    assert host.run(("sh", "-c", "cat; echo wrong >&2; exit 3"), "text\n") == (3, "text\nwrong\n")


def test_run_takes_much_text_both_ways() -> None:
    text = "x" * 1_000_000
    assert host.run(("cat",), text) == (0, text)


def test_run_hands_no_environment_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/nonexistent.so")
    monkeypatch.setenv("PATH", "/tmp")
    status, output = host.run(("env",))
    assert status == 0
    assert output.split() == ["LC_ALL=C"]


def test_run_leaves_no_descriptor_open() -> None:
    before = os.listdir("/proc/self/fd")
    host.run(("true",))
    assert os.listdir("/proc/self/fd") == before


def test_a_missing_program_is_one_line() -> None:
    with pytest.raises(UplinkError, match="softnet-no-such-program"):
        host.run(("softnet-no-such-program",))
