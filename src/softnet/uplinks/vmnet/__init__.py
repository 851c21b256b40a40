"""The vmnet uplink: macOS's own NAT or host-only network, one interface a VM.

Opening it takes root, and so does writing the lease time; nothing after that does, so privileges are
dropped right after. What macOS keeps for an interface (the interface, its rules) ends with the
process that started it, however that ends.

Files, bottom up: `api` binds functions and keys, `blocks` makes callbacks, `wakeup` turns a callback
into a descriptor, `batch` points vmnet at a Batch, `interface` is the lifecycle, `link` moves frames,
`rules` forwards ports, `ports` has them follow the lease, `host` knows the Mac's own addresses.
docs/vmnet.md tells the rest.
"""

import os

from softnet.config import DEFAULT_MTU, HOST_ONLY, Settings
from softnet.links import Link
from softnet.policy import Facts, Policy
from softnet.uplinks import bootpd
from softnet.uplinks.vmnet import api, host
from softnet.uplinks.vmnet.interface import Interface
from softnet.uplinks.vmnet.link import VmnetLink
from softnet.uplinks.vmnet.ports import ForwardedPorts, check_ports
from softnet.uplinks.vmnet.rules import Forwards


class VmnetUplink:
    """An open interface: its link, what is true about its network, and the ports that lead to the VM."""

    def __init__(self, interface: Interface, settings: Settings) -> None:
        self._interface = interface
        self.link: Link = VmnetLink(interface)
        self.facts = Facts(interface.parameters.gateway, None, host.ipv4_addresses())
        self.mtu = interface.parameters.mtu
        self.forwards = Forwards(interface)
        self.publisher = ForwardedPorts(self.forwards, settings.expose)

    def close(self) -> None:
        self._interface.stop()


def open_uplink(settings: Settings, policy: Policy) -> VmnetUplink:
    """Shared mode (nat) or host mode, isolated unless the policy opens everything.

    The lease time comes first: InternetSharing reads it when the network starts.
    """
    library = api.load()
    check_ports(settings.expose)
    if os.path.isdir(bootpd.FOLDER):  # wherever there is a bootpd: every Mac, and no Linux
        bootpd.set_lease_time(settings.lease_time, settings.ignore_client_id, bootpd.PATH)
    mode = api.HOST_MODE if settings.net_type == HOST_ONLY else api.SHARED_MODE
    mtu = None if settings.mtu == DEFAULT_MTU else settings.mtu
    interface = Interface(mode, policy.isolated, mtu, library)
    try:
        return VmnetUplink(interface, settings)
    except BaseException:
        interface.stop()
        raise
