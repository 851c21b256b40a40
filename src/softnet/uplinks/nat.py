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
import socket
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from softnet.config import HOST_ONLY, Settings
from softnet.core.address import format_ipv4, mask_of
from softnet.core.frames import Batch
from softnet.core.reasons import PASS_DHCP, PASS_GLOBAL, PASS_RULE, UNJUDGED
from softnet.dhcp_server import DhcpServer, Offer
from softnet.errors import ConfigError, UplinkError
from softnet.links.answering import Answering
from softnet.links.tap import TapLink, create_tap, tap_link
from softnet.policy import Facts, Policy, allowed_within, compile_policy
from softnet.uplinks import host
from softnet.uplinks.forwarding import Forwarding, is_router
from softnet.uplinks.kernel import check_privileges, run_ip, set_mac, write_sysctls
from softnet.uplinks.nat_rules import Vm, guard, ip_commands, ruleset, sysctls
from softnet.uplinks.nftables import Nftables

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


# What is checked before anything is changed.


def _pool(settings: Settings) -> Pool:
    address, length = settings.pool
    pool = Pool(address & mask_of(length), length)
    if not 8 <= length <= 30 or not 1 <= address >> 24 <= 223 or address >> 24 == 127:
        raise ConfigError(
            "--pool", pool, "cannot serve as a pool", "give a prefix of /8 to /30: 10.231.0.0/20"
        )
    return pool


def _check_overlap(pool: Pool, routes: Sequence[host.Route]) -> None:
    found = host.overlap(routes, pool.network, pool.broadcast)
    if found is not None:
        raise ConfigError(
            "--pool", pool, f"overlaps this host's route `{found.text}`", "choose a free prefix"
        )


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


def _own_mac(vm_mac: int, address: int) -> int:
    """The TAP's MAC address: its own among the host's, and another than the VM's."""
    mac = 0x0253 << 32 | address
    return mac ^ 0x0400 << 32 if mac == vm_mac else mac


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


class NatLink(Answering):
    """The TAP, with DHCP answered on the way: a client's message never reaches the TAP."""

    def __init__(self, tap: TapLink, server: DhcpServer) -> None:
        super().__init__(tap)
        self._server = server

    def send(self, batch: Batch, busy: int) -> int:
        messages = _dhcp_messages(batch)
        if not messages:
            return self._link.send(batch, busy)
        for at in messages:
            batch.verdict[at] = UNJUDGED  # hidden from the TAP
        try:
            return self._link.send(batch, busy)
        finally:
            for at in messages:
                batch.verdict[at] = PASS_DHCP
            self._queue.extend(self._answers(batch))

    def _answers(self, batch: Batch) -> Iterator[bytes]:
        for at in _dhcp_messages(batch):
            answer = self._server.answer(_udp_payload(batch.frame(at)))
            if answer is not None:
                yield answer


def _dhcp_messages(batch: Batch) -> list[int]:
    found = []
    at = batch.find(PASS_DHCP, 0)
    while at < batch.count:
        found.append(at)
        at = batch.find(PASS_DHCP, at + 1)
    return found


def _udp_payload(frame: bytes) -> bytes:
    """Of a frame whose headers the filter has checked: Ethernet, IPv4 with its IHL, UDP with its length."""
    udp = 14 + ((frame[14] & 15) << 2)
    return frame[udp + 8 : udp + int.from_bytes(frame[udp + 4 : udp + 6], "big")]


class NatUplink:
    """See `softnet.uplinks.Uplink`. `name` is the TAP's, `address` what the VM will be given."""

    publisher = None

    def __init__(self, settings: Settings, policy: Policy) -> None:
        self._undo: list[Nftables | Forwarding | TapLink] = []
        pool = _pool(settings)
        check_privileges("nat")
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
        gateway_mac = _own_mac(settings.vm_mac, self.address)
        set_mac(descriptor, self.name, gateway_mac)
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
            gateway=pool.gateway,
            pool=str(pool),
            mtu=settings.mtu,
            peers=without(peers, self.address),
            host_only=host_only,
        )
        nft.run(ruleset(vm))
        write_sysctls("nat", sysctls(vm))
        run_ip("nat", ip_commands(vm))
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
        host.notice(host.NO_DNS_SERVER)
    dropped = host.forward_notice(lambda command: _listing(nft, command))
    if dropped is not None:
        host.notice(dropped)


def _listing(nft: Nftables, command: str) -> str:
    """A ruleset of the host, or nothing where libnftables cannot make sense of it."""
    try:
        return nft.run(command)
    except UplinkError:
        return ""


def open_uplink(settings: Settings, policy: Policy) -> NatUplink:
    return NatUplink(settings, policy)
