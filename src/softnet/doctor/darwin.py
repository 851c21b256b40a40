"""The findings on macOS: root, the application firewall, bootpd's leases."""

import os
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from softnet import privilege
from softnet.doctor import NOTE, OK, PROBLEM, Finding

LEASES = "/var/db/dhcpd_leases"
FIREWALL = "/Library/Preferences/com.apple.alf.plist"
SHARED_NETWORK_VMS = 253  # what vmnet's /24 has room for


class DhcpLease(NamedTuple):
    """A block of bootpd's leases file: the address, and its absolute expiry in epoch seconds."""

    address: str
    expiry: int


def examine(_pool: tuple[int, int]) -> Iterator[Finding]:
    """`_pool` is the nat uplink's, which macOS does not have."""
    yield _privileges()
    yield _leases()
    yield _firewall()


def _privileges() -> Finding:
    if privilege.has_net_admin():
        return Finding("privileges", OK, "runs as root: vmnet interfaces can be started")
    remedy = "`make install`, which writes a sudoers rule"
    return Finding("privileges", NOTE, "vmnet needs root, which Softnet gets through sudo", remedy)


def parse_leases(lines: Iterable[str]) -> list[DhcpLease]:
    """bootpd's blocks of `key=value` lines between braces; what is not like that is passed over."""
    leases: list[DhcpLease] = []
    block: dict[str, str] = {}
    for line in lines:
        key, equals, value = line.strip().partition("=")
        if key == "{":
            block = {}
        elif equals:
            block[key] = value
        elif key == "}" and "ip_address" in block:
            try:
                leases.append(DhcpLease(block["ip_address"], int(block.get("lease", "0"), 16)))
            except ValueError:
                continue
    return leases


def judge_leases(leases: Iterable[DhcpLease], now: float) -> Finding:
    """Whether the addresses that are given away leave room."""
    held = sum(1 for lease in leases if lease.expiry > now)
    text = f"{held} of about {SHARED_NETWORK_VMS} addresses of the shared network are leased"
    if held < SHARED_NETWORK_VMS * 3 // 4:
        return Finding("leases", OK, text)
    remedy = f"stop all VMs, then: sudo rm {LEASES}; new leases are short with --bootpd-lease-time"
    return Finding("leases", PROBLEM, text, remedy)


def _leases() -> Finding:
    try:
        with open(LEASES, encoding="utf-8", errors="replace") as stream:
            return judge_leases(parse_leases(stream), time.time())
    except FileNotFoundError:
        return Finding("leases", OK, "bootpd has given no leases yet")
    except OSError as error:
        return Finding("leases", NOTE, f"{LEASES}: {error.strerror}", "run as root to see the leases")


def _firewall() -> Finding:
    """The application firewall can keep bootpd from answering VMs."""
    if not os.path.exists(FIREWALL):
        return Finding("firewall", OK, "the application firewall was never configured")
    import plistlib

    try:
        with open(FIREWALL, "rb") as stream:
            state = int(plistlib.load(stream).get("globalstate", 0))
    except (OSError, ValueError, plistlib.InvalidFileException):
        return Finding("firewall", NOTE, f"{FIREWALL} cannot be read", "look in System Settings, Network")
    if state == 0:
        return Finding("firewall", OK, "the application firewall is off")
    remedy = "let bootpd in: socketfilterfw --add /usr/libexec/bootpd --unblockapp /usr/libexec/bootpd"
    if state == 2:
        return Finding(
            "firewall", PROBLEM, "the application firewall blocks all incoming connections", remedy
        )
    return Finding(
        "firewall", NOTE, "the application firewall is on; VMs without an address need bootpd", remedy
    )
