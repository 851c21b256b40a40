"""The findings on Linux: privileges, what each uplink needs, and what stands in its way."""

import os
import shutil
from collections.abc import Iterator

from softnet import privilege
from softnet.core.address import format_ipv4, mask_of
from softnet.core.prefix import LAST_ADDRESS
from softnet.doctor import NOTE, OK, PROBLEM, Finding
from softnet.errors import SoftnetError
from softnet.uplinks import forwarding, host, user
from softnet.uplinks.nftables import Nftables

TUN_DEVICE = "/dev/net/tun"
SEND_BUFFERS = "/proc/sys/net/core/wmem_max"
OWNED_TABLES = (5, 12)  # the first kernel whose nftables tables can have an owner
EMULATORS = ("qemu-system-x86_64", "qemu-system-aarch64", "cloud-hypervisor", "firecracker")


def examine(pool: tuple[int, int]) -> Iterator[Finding]:
    """Ordered so that the first problem is the one to mend first."""
    yield _privileges()
    yield _tap()
    yield _iproute2()
    yield from _nftables()
    yield _passt()
    yield from _send_buffers()
    yield _emulators()
    yield _forwarding()
    yield _dns()
    yield _pool(pool)


def _privileges() -> Finding:
    if privilege.has_net_admin():
        return Finding("privileges", OK, "may make interfaces: uplinks nat and bridge work")
    remedy = "run as root for nat and bridge, or `make install` for a sudoers rule; user needs no privileges"
    return Finding("privileges", NOTE, "may not make interfaces: only uplink user works as it is", remedy)


def _tap() -> Finding:
    if not os.path.exists(TUN_DEVICE):
        return Finding("tap", PROBLEM, f"{TUN_DEVICE} does not exist", "modprobe tun")
    if os.access(TUN_DEVICE, os.R_OK | os.W_OK):
        return Finding("tap", OK, f"{TUN_DEVICE} can be opened")
    return Finding("tap", NOTE, f"{TUN_DEVICE} can be opened by root alone", "run as root for nat and bridge")


def _iproute2() -> Finding:
    path = host.find_program("ip")
    if path is None:
        return Finding("iproute2", PROBLEM, "`ip` is not installed", "apt-get install iproute2")
    return Finding("iproute2", OK, path)


def _nftables() -> Iterator[Finding]:
    """The library, the kernel's part in it, and, where we may look, who drops what VMs forward."""
    release = os.uname().release
    version = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    if version < OWNED_TABLES:
        remedy = "use Linux 5.12 or newer for nat"
        yield Finding("nftables", PROBLEM, f"Linux {release} has no nftables tables with an owner", remedy)
        return
    try:
        nft = Nftables()
    except SoftnetError as error:
        yield Finding("nftables", PROBLEM, str(error), "apt-get install nftables")
        return
    yield Finding("nftables", OK, f"libnftables on Linux {release}")
    try:
        if privilege.has_net_admin():
            yield _forward_drop(nft)
    finally:
        nft.close()


def _forward_drop(nft: Nftables) -> Finding:
    try:
        notice = host.forward_notice(nft.run)
    except SoftnetError as error:
        return Finding("forward-drop", NOTE, str(error), "look at `nft list ruleset`")
    if notice is None:
        return Finding("forward-drop", OK, "no firewall here drops what VMs forward")
    problem, _, remedy = notice.partition("; ")
    return Finding("forward-drop", PROBLEM, problem, remedy)


def _passt() -> Finding:
    try:
        return Finding("passt", OK, user.find_passt())
    except SoftnetError as error:
        return Finding("passt", NOTE, str(error), "apt-get install passt, for VMs without root")


def _send_buffers() -> Iterator[Finding]:
    """What an unprivileged process may ask for, which `user` does. Some containers do not show it."""
    try:
        with open(SEND_BUFFERS, encoding="ascii") as file:
            granted = int(file.read())
    except OSError:
        return
    if granted >= user.ROOM or privilege.has_net_admin():
        yield Finding("send-buffers", OK, "sockets may hold what uplink user asks for")
        return
    text = f"sockets may hold {granted} bytes: downloads over uplink user slow down when a VM falls behind"
    yield Finding("send-buffers", NOTE, text, f"sysctl -w net.core.wmem_max={user.ROOM}")


def _emulators() -> Finding:
    found = [path for path in map(shutil.which, EMULATORS) if path]
    if not found:
        remedy = "apt-get install qemu-system-x86"
        return Finding("hypervisors", NOTE, f"none of {', '.join(EMULATORS)} is in PATH", remedy)
    accelerated = os.access("/dev/kvm", os.R_OK | os.W_OK)
    text = ", ".join(found) + (" with KVM" if accelerated else " without KVM: VMs will be slow")
    remedy = "" if accelerated else "add yourself to the group that owns /dev/kvm"
    return Finding("hypervisors", OK if accelerated else NOTE, text, remedy)


def _forwarding() -> Finding:
    if forwarding.is_router():
        return Finding("forwarding", OK, "this host forwards IPv4")
    text = "this host forwards no IPv4; nat turns it on for the devices that it needs, while VMs run"
    return Finding("forwarding", NOTE, text, "sysctl -w net.ipv4.ip_forward=1, if its routes change often")


def _dns() -> Finding:
    servers = host.dns_servers()
    if not servers:
        text = "no DNS server of this host can be reached from a VM"
        return Finding("dns", PROBLEM, text, "name one with --dns ADDRESS")
    return Finding("dns", OK, "VMs are told " + ", ".join(map(format_ipv4, servers)))


def _pool(pool: tuple[int, int]) -> Finding:
    address, length = pool
    name = f"{format_ipv4(address)}/{length}"
    try:
        found = host.overlap(host.routes(), address, address | ~mask_of(length) & LAST_ADDRESS)
    except SoftnetError as error:
        return Finding("pool", PROBLEM, str(error), "apt-get install iproute2")
    if found is not None:
        text = f"{name} overlaps this host's route `{found.text}`"
        return Finding("pool", PROBLEM, text, "choose a free prefix with --pool")
    return Finding("pool", OK, f"{name} is free")
