"""The vmnet uplink: macOS's own NAT or host-only network, one interface a VM.

Opening it takes root, and so does writing the lease time; nothing after that does, so privileges are
dropped right after. What macOS keeps for an interface (the interface, its rules) ends with the
process that started it, however that ends.

Files, bottom up: `api` binds functions and keys, `blocks` makes callbacks, `wakeup` turns a callback
into a descriptor, `batch` points vmnet at a Batch, `interface` is the lifecycle, `rules` forwards
ports, `link` moves frames, `host` knows the Mac's own addresses. docs/vmnet.md tells the rest.
"""

import os

from softnet.config import DEFAULT_MTU, HOST_ONLY, Settings
from softnet.links import Link
from softnet.policy import Facts, Policy
from softnet.uplinks import bootpd
from softnet.uplinks.vmnet import api, host
from softnet.uplinks.vmnet.interface import Interface
from softnet.uplinks.vmnet.link import VmnetLink
from softnet.uplinks.vmnet.rules import Forward, Forwards


class VmnetUplink:
    """An open interface: its link, what is true about its network, and its port forwarding rules."""

    publisher = None

    def __init__(self, interface: Interface, host_addresses: tuple[int, ...]) -> None:
        self._interface = interface
        self._forwards: Forwards | None = None
        self.link: Link = VmnetLink(interface)
        self.facts = Facts(interface.parameters.gateway, None, host_addresses)
        self.mtu = interface.parameters.mtu

    def add_forward(self, protocol: str, external: int, address: int, internal: int) -> None:
        """The host's port `external` leads to the VM's `address`:`internal`. UplinkError when refused."""
        self._rules().add(Forward(protocol, external, address, internal))

    def remove_forward(self, protocol: str, external: int) -> None:
        self._rules().remove(protocol, external)

    def forwards(self) -> list[Forward]:
        return self._rules().in_force()

    def close(self) -> None:
        self._interface.stop()

    def _rules(self) -> Forwards:
        if self._forwards is None:
            self._forwards = Forwards(self._interface)
        return self._forwards


def open_uplink(settings: Settings, policy: Policy) -> VmnetUplink:
    """Shared mode (nat) or host mode, isolated unless the policy opens everything.

    The lease time comes first: InternetSharing reads it when the network starts.
    """
    library = api.load()
    if os.path.isdir(bootpd.FOLDER):  # wherever there is a bootpd: every Mac, and no Linux
        bootpd.set_lease_time(settings.lease_time, settings.ignore_client_id, bootpd.PATH)
    mode = api.HOST_MODE if settings.net_type == HOST_ONLY else api.SHARED_MODE
    mtu = None if settings.mtu == DEFAULT_MTU else settings.mtu
    interface = Interface(mode, policy.isolated, mtu, library)
    try:
        return VmnetUplink(interface, host.ipv4_addresses())
    except BaseException:
        interface.stop()
        raise
