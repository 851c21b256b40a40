"""The Linux `nat` uplink: a TAP of the VM's own, no bridge, and an address that nobody else can have.

Nothing here outlives the process, however it ends, because the kernel owns the undoing:

    what                                     goes with
    TAP, its addresses, routes, neighbours,  the descriptor of the TAP
      sysctls, and the claim on the address
    nftables tables of this VM (owner flag)  the netlink socket of `Nftables`
    forwarding of the host's devices, where  the pipe of `Forwarding`'s janitor
      it had to be set

**The interface is the lock.** The TAP's name is "sn" and the VM's address in hexadecimal, created
exclusively: the kernel refuses the second one, so an address belongs to one VM a network namespace,
and a killed holder leaves no claim. The search starts at a hash of the VM's MAC address, so that the
same VM tends to get the same address again.

There is no layer 2 between VMs: the gateway's address is on every TAP, the VM's address is a /32 route
to its TAP and a permanent neighbour entry, and each VM's nftables tables say which other VMs of the pool
it will send to and hear from. Two VMs talk only if both say so. `docs/nat.md` has the whole of it.
"""

import errno
import fcntl
import os
import socket
import struct
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from softnet.config import HOST_ONLY, Settings
from softnet.core.address import format_ipv4, format_mac, mask_of
from softnet.core.frames import Batch
from softnet.core.reasons import PASS_DHCP, PASS_GLOBAL, PASS_RULE, UNJUDGED
from softnet.dhcp_server import DhcpServer, Offer
from softnet.errors import ConfigError, UplinkError
from softnet.links.tap import TapLink, create_tap, tap_link
from softnet.policy import Facts, Policy, allowed_within, compile_policy
from softnet.uplinks import host
from softnet.uplinks.forwarding import Forwarding, is_router
from softnet.uplinks.nftables import Nftables

TUN_DEVICE = "/dev/net/tun"
SIOCSIFHWADDR = 0x8924
CAP_NET_ADMIN = 12
MAX_ANSWERS = 16  # DHCP replies waiting for the VM; the oldest goes first
MAX_CONNECTIONS = 8192  # conntrack entries of one VM: the table (262,144 on most hosts) is shared

Ranges = Sequence[tuple[int, int]]


class Pool(NamedTuple):
    """The prefix that VMs' addresses come from. Its first usable address is the gateway's."""

    network: int
    length: int

    @property
    def broadcast(self) -> int:
        return self.network | ~mask_of(self.length) & 0xFFFFFFFF

    @property
    def gateway(self) -> int:
        return self.network + 1

    def candidates(self, mac: int) -> Iterator[int]:
        """Every address that a VM may have, from the one that belongs to `mac` on."""
        first, count = self.gateway + 1, self.broadcast - self.gateway - 1
        start = (mac * 0x9E3779B97F4A7C15 >> 24) % count
        return (first + (start + step) % count for step in range(count))

    def __str__(self) -> str:
        return f"{format_ipv4(self.network)}/{self.length}"


class Vm(NamedTuple):
    """What the kernel is told about: one VM, its TAP, and whom it may talk to."""

    tap: str
    mac: int
    address: int
    pool: Pool
    gateway_mac: int
    mtu: int
    peers: Ranges
    host_only: bool


# What is checked before anything is changed.


def _pool(settings: Settings) -> Pool:
    address, length = settings.pool
    pool = Pool(address & mask_of(length), length)
    if not 8 <= length <= 30:
        raise ConfigError(
            "--pool", pool, "cannot serve as a pool", "give a prefix of /8 to /30: 10.231.0.0/20"
        )
    return pool


def _check_privileges() -> None:
    with open("/proc/self/status", encoding="ascii", errors="replace") as stream:
        effective = next(int(line.split()[1], 16) for line in stream if line.startswith("CapEff:"))
    if not effective >> CAP_NET_ADMIN & 1:
        raise UplinkError("--uplink nat needs root (CAP_NET_ADMIN): run with sudo, or use --uplink user")
    if not os.access(TUN_DEVICE, os.R_OK | os.W_OK):
        raise UplinkError(
            f"--uplink nat needs {TUN_DEVICE}: run `modprobe tun` as root, or use --uplink user"
        )


def _check_overlap(pool: Pool, routes: Sequence[host.Route]) -> None:
    found = host.overlap(routes, pool.network, pool.broadcast)
    if found is not None:
        raise ConfigError(
            "--pool", pool, f"overlaps this host's route `{found.text}`", "choose a free prefix"
        )


# What the kernel is told, as data.


def ruleset(vm: Vm) -> str:
    """The VM's two tables. `from_vm` sees only this TAP's packets; the others see every VM's."""
    tap, address = vm.tap, format_ipv4(vm.address)
    elements = ", ".join(f"{format_ipv4(first)}-{format_ipv4(last)}" for first, last in vm.peers)
    peers = f"elements = {{ {elements} }}" if elements else ""
    way_out = "drop" if vm.host_only else "ct state { invalid, untracked } drop"
    way_in = "drop" if vm.host_only else ""
    return f"""\
table netdev softnet_{tap} {{
	flags owner
	chain from_vm {{
		type filter hook ingress device "{tap}" priority 0; policy drop;
		ether saddr != {format_mac(vm.mac)} drop
		arp saddr ether {format_mac(vm.mac)} arp saddr ip {{ 0.0.0.0, {address} }} accept
		icmp type redirect drop
		ip saddr {address} ip daddr != {{ 0.0.0.0/8, 127.0.0.0/8 }} accept
	}}
}}
table ip softnet_{tap} {{
	flags owner
	set peers {{
		type ipv4_addr
		flags interval
		{peers}
	}}
	chain prerouting {{
		type filter hook prerouting priority mangle; policy accept;
		iif "{tap}" ct state new ct count over {MAX_CONNECTIONS} drop
	}}
	chain forward {{
		type filter hook forward priority filter; policy accept;
		iif "{tap}" jump from_vm
		oif "{tap}" jump to_vm
	}}
	chain from_vm {{
		oifname "sn*" ip daddr @peers return
		oifname "sn*" drop
		ip daddr {vm.pool} drop
		{way_out}
	}}
	chain to_vm {{
		iifname "sn*" ip saddr @peers return
		iifname "sn*" drop
		{way_in}
	}}
	chain postrouting {{
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr {address} oifname != "sn*" masquerade
	}}
}}
"""


def guard(tap: str, device: str) -> str:
    """A device that forwards because of us does so for VMs only.

    What the host itself redirects (the published ports of a container engine that was started later)
    is none of our business.
    """
    elsewhere = f'iifname "{device}" oifname != "sn*" ct state new ct status & dnat == 0 drop'
    return f"add rule ip softnet_{tap} forward {elsewhere}"


def sysctls(vm: Vm) -> list[tuple[str, int]]:
    """Settings of the TAP alone, under /proc/sys/net, whatever an administrator made the default."""
    conf = f"ipv4/conf/{vm.tap}"
    return [
        (f"{conf}/forwarding", int(not vm.host_only or bool(vm.peers))),
        (f"{conf}/rp_filter", 1),  # strict: a source that is not routed to this TAP is not answered
        (f"{conf}/accept_redirects", 0),
        (f"{conf}/send_redirects", 0),
        (f"{conf}/accept_source_route", 0),
        (f"{conf}/accept_local", 0),
        (f"{conf}/route_localnet", 0),
        (f"{conf}/arp_ignore", 1),  # only for the gateway's address, not for the host's others
        (f"{conf}/arp_announce", 2),
        (f"{conf}/arp_accept", 0),
        # The VM has the pool's mask, so it looks for its peers by ARP: it gets the TAP's own MAC address.
        (f"{conf}/proxy_arp", int(bool(vm.peers))),
        (f"ipv4/neigh/{vm.tap}/proxy_delay", 0),
        (f"ipv6/conf/{vm.tap}/disable_ipv6", 1),
    ]


def ip_commands(vm: Vm) -> list[str]:
    """For `ip -batch`, in order. No address of the host is told as a route's source: the kernel drops
    such routes of all TAPs when the address goes from one of them."""
    address, tap = format_ipv4(vm.address), vm.tap
    return [
        f"link set dev {tap} mtu {vm.mtu} multicast off",
        f"address add {format_ipv4(vm.pool.gateway)}/32 dev {tap}",
        f"link set dev {tap} up",
        f"neighbour replace {address} lladdr {format_mac(vm.mac)} nud permanent dev {tap}",
        f"route add {address}/32 dev {tap} scope link",
    ]


def _apply(vm: Vm) -> None:
    for name, value in sysctls(vm):
        try:
            with open(f"/proc/sys/net/{name}", "w", encoding="ascii") as stream:
                stream.write(str(value))
        except FileNotFoundError:
            continue  # a kernel without IPv6
        except OSError as error:
            raise UplinkError(f"--uplink nat: cannot set net/{name} to {value}: {error.strerror}") from None
    commands = ip_commands(vm)
    status, output = host.run(("ip", "-batch", "-"), "\n".join(commands) + "\n")
    if status:
        # "RTNETLINK answers: No such device\nCommand failed -:3"
        *problem, place = output.strip().splitlines() or ["no reason given"]
        number = place.rpartition(":")[2]
        command = commands[int(number) - 1] if number.isdigit() and int(number) <= len(commands) else "-batch"
        raise UplinkError(f"--uplink nat: `ip {command}` failed: {' '.join(problem) or place}")


# The VM's address.


def _claim(pool: Pool, mac: int, offload: bool) -> tuple[int, str, int]:
    """The first free address of the pool, its TAP's name, and the descriptor that holds both."""
    taken = {name for _index, name in socket.if_nameindex()}
    for address in pool.candidates(mac):
        name = f"{host.TAP_PREFIX}{address:08x}"
        if name in taken:
            continue
        try:
            return address, name, create_tap(name, offload)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise UplinkError(f"--uplink nat: cannot create the TAP {name}: {error.strerror}") from None
    raise UplinkError(f"--uplink nat: every address of the pool {pool} is taken: give a larger --pool")


def _set_mac(tap: int, name: str, vm_mac: int, address: int) -> int:
    """Gives the TAP a MAC address of ours, at once: udev replaces one that is the kernel's random choice."""
    mac = 0x0253 << 32 | address
    if mac == vm_mac:
        mac ^= 0x0400 << 32
    request = struct.pack("16sH6s8x", name.encode(), socket.AF_UNIX, mac.to_bytes(6, "big"))
    fcntl.ioctl(tap, SIOCSIFHWADDR, request)
    return mac


def without(ranges: Ranges, address: int) -> list[tuple[int, int]]:
    """The same ranges, `address` cut out."""
    parts = []
    for first, last in ranges:
        if first <= address <= last:
            parts += [(first, address - 1), (address + 1, last)]
        else:
            parts.append((first, last))
    return [(first, last) for first, last in parts if first <= last]


def _ways_out(policy: Policy, facts: Facts, dns: Sequence[int]) -> list[tuple[int, int]]:
    """All that the VM may send to beyond this host: answers from there have to be let in."""
    table = compile_policy(policy, facts)
    opened = [(first, last) for first, last, value in table.intervals() if value in (PASS_RULE, PASS_GLOBAL)]
    return opened + [(server, server) for server in dns]


class NatLink:
    """The TAP, with DHCP answered on the way: a client message never reaches the TAP.

    The answers wait in a queue of MAX_ANSWERS and come out of `receive` before anything from the TAP.
    """

    needs_alive_check = False

    def __init__(self, tap: TapLink, server: DhcpServer) -> None:
        self._tap = tap
        self._server = server
        self._answers: deque[bytes] = deque(maxlen=MAX_ANSWERS)
        self.pending = False

    def fileno(self) -> int:
        return self._tap.fileno()

    def receive(self, batch: Batch) -> int:
        if self._answers:
            batch.clear()
            while self._answers and batch.append(self._answers[0]):
                self._answers.popleft()
        else:
            self._tap.receive(batch)
        self.pending = bool(self._answers) or self._tap.pending
        return batch.count

    def send(self, batch: Batch, busy: int) -> int:
        ours = self._dhcp_messages(batch)
        for at in ours:
            self._answer(batch.frame(at))
            batch.verdict[at] = UNJUDGED  # hidden from the TAP
        try:
            return self._tap.send(batch, busy)
        finally:
            for at in ours:
                batch.verdict[at] = PASS_DHCP

    def alive(self) -> bool:
        return True

    def close(self) -> None:
        self._tap.close()

    def _dhcp_messages(self, batch: Batch) -> list[int]:
        verdicts = bytes(batch.verdict[: batch.count])
        if PASS_DHCP not in verdicts:
            return []
        return [at for at, verdict in enumerate(verdicts) if verdict == PASS_DHCP]

    def _answer(self, frame: bytes) -> None:
        """The filter has checked the headers: Ethernet, IPv4 with IHL, UDP with its length."""
        udp = 14 + ((frame[14] & 15) << 2)
        length = int.from_bytes(frame[udp + 4 : udp + 6], "big")
        answer = self._server.answer(frame[udp + 8 : udp + length])
        if answer is not None:
            self._answers.append(answer)
            self.pending = True


class NatUplink:
    """See `softnet.uplinks.Uplink`. `name` is the TAP's, `address` what the VM will be given."""

    publisher = None

    def __init__(self, settings: Settings, policy: Policy) -> None:
        self._undo: list[Nftables | Forwarding | TapLink] = []
        pool = _pool(settings)
        _check_privileges()
        routes = host.routes()
        _check_overlap(pool, routes)
        nft = Nftables()
        self._undo.append(nft)
        try:
            self._open(settings, policy, pool, routes, nft)
        except BaseException:
            self.close()
            raise

    def _open(
        self, settings: Settings, policy: Policy, pool: Pool, routes: Sequence[host.Route], nft: Nftables
    ) -> None:
        host_only = settings.net_type == HOST_ONLY
        dns = settings.dns if settings.dns or host_only else host.dns_servers()
        self.address, self.name, descriptor = _claim(pool, settings.vm_mac, settings.offload)
        tap = tap_link(descriptor, settings.mtu, settings.offload)
        self._undo.append(tap)
        self.mtu = settings.mtu
        gateway_mac = _set_mac(descriptor, self.name, settings.vm_mac, self.address)
        self.facts = Facts(pool.gateway, gateway_mac, host.addresses(routes))
        offer = Offer(
            mac=settings.vm_mac,
            address=self.address,
            mask=mask_of(pool.length),
            server=pool.gateway,
            server_mac=gateway_mac,
            lease_time=settings.lease_time,
            mtu=settings.mtu,
            router=None if host_only else pool.gateway,
            dns=dns,
        )
        self.link = NatLink(tap, DhcpServer(offer))
        peers = allowed_within(policy, self.facts, pool.gateway + 1, pool.broadcast - 1)
        vm = Vm(
            tap=self.name,
            mac=settings.vm_mac,
            address=self.address,
            pool=pool,
            gateway_mac=gateway_mac,
            mtu=settings.mtu,
            peers=without(peers, self.address),
            host_only=host_only,
        )
        nft.run(ruleset(vm))
        _apply(vm)
        if not host_only:
            if not is_router():
                devices = host.devices_towards(routes, _ways_out(policy, self.facts, dns))
                self._undo.append(Forwarding(devices, lambda device: nft.run(guard(self.name, device))))
            _give_notices(nft, dns)

    def close(self) -> None:
        """Closes descriptors; the kernel, and the janitor where there is one, do the rest."""
        while self._undo:
            self._undo.pop().close()


def _give_notices(nft: Nftables, dns: Sequence[int]) -> None:
    if not dns:
        _notice("no DNS server of this host can be reached from a VM; name one with --dns ADDRESS")
    dropped = host.forward_notice(lambda command: _listing(nft, command))
    if dropped is not None:
        _notice(dropped)


def _listing(nft: Nftables, command: str) -> str:
    """A ruleset of the host, or nothing where libnftables cannot make sense of it."""
    try:
        return nft.run(command)
    except UplinkError:
        return ""


def _notice(text: str) -> None:
    print(f"softnet: {text}", file=sys.stderr)


def open_uplink(settings: Settings, policy: Policy) -> NatUplink:
    return NatUplink(settings, policy)
