"""The `bridge=NAME` uplink: a TAP of ours as a port of a bridge that is already there.

The addresses come from somebody else's DHCP server on that bridge (dnsmasq, libvirt's default
network, Kea); Softnet snoops them. The port is isolated unless `--allow 0.0.0.0/0`: the kernel then
carries nothing between it and other isolated ports, only between it and the bridge itself or ports
that are not isolated. The VM's MAC address is a sticky entry of the forwarding table (a static one
still moves to a port from which a frame with that source comes) and nothing is learnt, so that no
other port can take the VM's traffic away; what is for nobody known is not flooded here.

The gateway is the bridge's own IPv4 address, if it has one: then DHCP replies count only from
there. The bridge itself is not changed in any other way, its MTU included. Nor is its MAC address, which a
bridge takes from the least of its ports' unless somebody has set it: so the TAP has that same one.
"""

import errno
import os
from typing import NamedTuple

from softnet.config import HOST_ONLY, Settings
from softnet.core.address import format_mac, parse_ipv4, parse_mac
from softnet.errors import ConfigError, UplinkError
from softnet.links.tap import create_tap, tap_link
from softnet.policy import Facts, Policy
from softnet.uplinks import host
from softnet.uplinks.kernel import check_privileges, run_ip, set_mac, write_sysctls

TAP_PREFIX = "sb"
NAME_TRIES = 16
FIRST_MAC = 0x0253 << 32  # a bridge that has lost its last port has no MAC address, and takes this one


class Device(NamedTuple):
    """What has to be known of the bridge itself."""

    mtu: int
    mac: int


class BridgeUplink:
    """See `softnet.uplinks.Uplink`. `name` is the TAP's."""

    publisher = None

    def __init__(self, settings: Settings, policy: Policy) -> None:
        bridge = settings.uplink.argument
        if settings.net_type == HOST_ONLY:
            remedy = "leave it out, or use --uplink nat"
            raise ConfigError("--vm-net-type", HOST_ONLY, "is not a bridge's to keep", remedy)
        device = find_bridge(bridge)
        check_privileges(f"bridge={bridge}")
        self.mtu = min(settings.mtu, device.mtu)
        self.name, descriptor = _claim(settings.vm_mac, settings.offload)
        self.link = tap_link(descriptor, self.mtu, settings.offload)
        try:
            mac = device.mac or FIRST_MAC | settings.vm_mac & 0xFFFFFFFF
            set_mac(descriptor, self.name, mac)
            self.facts = _facts(bridge, mac)
            self._join(bridge, device.mtu, settings.vm_mac, policy.isolated)
        except BaseException:
            self.close()
            raise

    def _join(self, bridge: str, mtu: int, vm_mac: int, isolated: bool) -> None:
        uplink, tap = f"bridge={bridge}", self.name
        write_sysctls(uplink, [(f"ipv6/conf/{tap}/disable_ipv6", 1)])
        run_ip(
            uplink,
            [
                f"link set dev {tap} mtu {mtu}",
                f"link set dev {tap} master {bridge}",
                f"link set dev {tap} type bridge_slave isolated {'on' if isolated else 'off'}"
                " learning off flood off",
                f"link set dev {tap} up",
            ],
        )
        run_ip(uplink, [f"fdb replace {format_mac(vm_mac)} dev {tap} master static sticky"], program="bridge")

    def close(self) -> None:
        """Closing the descriptor removes the TAP, and with it the port and its entry."""
        self.link.close()


def find_bridge(name: str) -> Device:
    """The bridge of this network namespace; ConfigError when there is none of that name.

    Asked of `ip` and not of /sys, which shows the namespace that it was mounted in.
    """
    remedy = "name one that `ip link show type bridge` lists, or use --uplink nat"
    status, output = host.run(("ip", "-o", "link", "show", "dev", name, "type", "bridge"))
    words = output.replace("\\", " ").split()
    if status:
        raise ConfigError("--uplink", f"bridge={name}", "there is no such interface", remedy)
    if "link/ether" not in words:
        raise ConfigError("--uplink", f"bridge={name}", "is an interface, but not a bridge", remedy)
    return Device(int(words[words.index("mtu") + 1]), parse_mac(words[words.index("link/ether") + 1]))


def _claim(mac: int, offload: bool) -> tuple[str, int]:
    """A TAP named after the VM's MAC address; after something random where that is taken."""
    number = mac & 0xFFFFFFFF
    for _ in range(NAME_TRIES):
        name = f"{TAP_PREFIX}{number:08x}"
        try:
            return name, create_tap(name, offload)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise UplinkError(f"--uplink bridge: cannot create a TAP: {error.strerror}") from None
        number = int.from_bytes(os.urandom(4), "big")
    raise UplinkError("--uplink bridge: no name is free for a TAP; remove stale `sb...` interfaces")


def _facts(bridge: str, mac: int) -> Facts:
    """The bridge's first own IPv4 address is the gateway, its MAC address the gateway's."""
    routes = host.routes()
    own = [
        route.first
        for route in routes
        if route.kind == "local" and route.first == route.last and bridge in route.devices
    ]
    known = _first_address(bridge, own)
    return Facts(known, mac if known is not None else None, host.addresses(routes))


def _first_address(bridge: str, own: list[int]) -> int | None:
    """The primary address where there are several (`ip` lists it first, routes are sorted)."""
    if len(own) < 2:
        return own[0] if own else None
    _status, output = host.run(
        ("ip", "-4", "-o", "address", "show", "dev", bridge, "scope", "global", "primary")
    )
    words = output.split()
    return parse_ipv4(words[words.index("inet") + 1].partition("/")[0]) if "inet" in words else own[0]


def open_uplink(settings: Settings, policy: Policy) -> BridgeUplink:
    return BridgeUplink(settings, policy)
