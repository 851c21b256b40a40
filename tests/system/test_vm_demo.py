"""The table of `make demo`, row by row, in real VMs; and that the demo notices a hole."""

import io
import secrets
from collections.abc import Iterator
from contextlib import closing

import pytest

from lab import demo, image
from lab.attempts import ATTEMPTS, Attempt
from lab.stage import LAN_HOST
from lab.worlds import BehindSoftnet

pytestmark = [pytest.mark.root, pytest.mark.vm]

REASONS = {
    "get an address by DHCP": "pass-dhcp",
    "resolve a name": "pass-dns",
    "fetch a page from the internet": "pass-global",
    "forge the source MAC address": "src-mac",
    "forge the source IP address": "src-ip",
    "claim the gateway's address (ARP)": "arp-spa",
    "play DHCP server": "dhcp-server",
    "reach a machine on the LAN": "not-global",
    "reach another VM": "not-global",
    "reach another VM past the gateway": "not-global",
    "read the cloud's metadata": "not-global",
    "hop into another VLAN (802.1Q)": "ethertype",
    "become the IPv6 router (RA, NDP)": "ipv6",
    "choose the route (source routing)": "ip-options",
    "use up DHCP by many MACs": "dhcp-chaddr",
    "use up DHCP by many client ids": "dhcp-client-id",
}


@pytest.fixture(scope="module")
def table() -> dict[str, demo.Row]:
    """The whole demo, once."""
    assert demo.obstacle() == ""
    return {row.attempt.title: row for row in demo.demonstrate(demo.Screen(io.StringIO()))}


def test_every_attempt_has_an_expected_reason() -> None:
    assert {attempt.title for attempt in ATTEMPTS} == set(REASONS)


@pytest.mark.parametrize("title", REASONS)
def test_row(table: dict[str, demo.Row], title: str) -> None:
    row = table[title]
    assert row.telling, "the attempt gets nowhere even without Softnet"
    assert row.right, row
    assert REASONS[title] in row.reasons, row


class Holed(BehindSoftnet):
    """Behind Softnet, but told to let one machine of the LAN be reached."""

    options = ("--allow", LAN_HOST)


@pytest.fixture(scope="module")
def holed() -> Iterator[Holed]:
    with closing(Holed(image.build(), PREFIX)) as world:
        world.ready()
        world.lease(world.attacker)
        yield world


PREFIX = f"softnet-{secrets.token_hex(3)}-".encode()


def attempt_named(title: str) -> Attempt:
    return next(attempt for attempt in ATTEMPTS if attempt.title == title)


def test_a_hole_shows_and_fails_the_verdict(holed: Holed) -> None:
    attempt = attempt_named("reach a machine on the LAN")
    before = holed.verdicts()
    reached = attempt.perform(holed, PREFIX + b"90")
    row = demo.Row(attempt, "LAN", reached, demo.relevant(attempt, holed.verdicts() - before))
    assert reached == "LAN"
    assert not row.right
    out = io.StringIO()
    assert not demo.verdict([row], demo.Screen(out), 1)
    assert "FAIL" in out.getvalue()


def test_a_hole_for_one_machine_is_not_one_for_another(holed: Holed) -> None:
    assert attempt_named("read the cloud's metadata").perform(holed, PREFIX + b"91") == ""
