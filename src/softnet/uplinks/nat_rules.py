"""What the kernel is told for one VM of the `nat` uplink, as data: nftables rules, sysctls, `ip` commands.

Two tables a VM, and the kernel asks them in this order about a packet from it:

    netdev, ingress of the TAP   the VM's own MAC and address as source, ARP or IPv4, and nothing else
    ip, input                    no more than MAX_CONNECTIONS to the host at a time
    ip, forward, from_vm         nor through it; to other VMs those that it may reach; no pool address
                                 to elsewhere, nothing that NAT would not rewrite; with `host` nothing
    ip, forward, to_vm           the same question asked for the other VM, by its own table
    ip, postrouting              the host's address for the VM's

No rule accepts for others: a drop is final in nftables, an accept ends one chain only, so that the
host's own firewall still has its say. Every packet that the host forwards asks the `forward` chain
of every VM, two comparisons each, hence no chain at a hook where it is not needed.
"""

from collections.abc import Sequence
from typing import NamedTuple

from softnet.core.address import format_ipv4, format_mac

MAX_CONNECTIONS = 8192  # twice, in a table of connections (262,144 entries on most hosts) that all share


class Vm(NamedTuple):
    """What the kernel is told about: one VM, its TAP, and whom it may talk to."""

    tap: str
    mac: int
    address: int
    gateway: int
    pool: str
    mtu: int
    peers: Sequence[tuple[int, int]]  # inclusive ranges of addresses of other VMs
    host_only: bool


def ruleset(vm: Vm) -> str:
    """The VM's two tables, in nft's language."""
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
	chain input {{
		type filter hook input priority filter; policy accept;
		iif "{tap}" ct state new ct count over {MAX_CONNECTIONS} drop
	}}
	chain forward {{
		type filter hook forward priority filter; policy accept;
		iif "{tap}" jump from_vm
		oif "{tap}" jump to_vm
	}}
	chain from_vm {{
		ct state new ct count over {MAX_CONNECTIONS} drop
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
        f"address add {format_ipv4(vm.gateway)}/32 dev {tap}",
        f"link set dev {tap} up",
        f"neighbour replace {address} lladdr {format_mac(vm.mac)} nud permanent dev {tap}",
        f"route add {address}/32 dev {tap} scope link",
    ]
