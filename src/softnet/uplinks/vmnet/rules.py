"""Port forwarding rules of an interface: ports of the host that lead to the VM.

vmnet refuses a rule twice: by what the call returns, and by what its handler is told; either is a
VmnetError. Ports go in host order, the address as its four bytes. Rules end with their interface.
"""

from collections.abc import Callable
from ctypes import byref, c_uint8, c_uint16, c_uint32, c_void_p
from typing import NamedTuple

from softnet.config import TCP, UDP
from softnet.errors import LinkClosed
from softnet.uplinks.vmnet import api as vmnet
from softnet.uplinks.vmnet.api import check
from softnet.uplinks.vmnet.blocks import OBJECT_SIGNATURE, STATUS_SIGNATURE, Block, Completion
from softnet.uplinks.vmnet.interface import Interface

RULE_TIMEOUT = 5.0
_PROTOCOLS = {TCP: vmnet.IPPROTO_TCP, UDP: vmnet.IPPROTO_UDP}
_NAMES = {number: name for name, number in _PROTOCOLS.items()}


class Forward(NamedTuple):
    """Connections to the host's port `external` go to `address`, port `internal`."""

    protocol: str
    external: int
    address: int
    internal: int


class Forwards:
    """The rules of one interface. Calls wait for vmnet's answer, at most RULE_TIMEOUT."""

    def __init__(self, interface: Interface) -> None:
        self._interface = interface
        self._api = interface.api
        self._changed = Completion(self._api, STATUS_SIGNATURE, [c_uint32], RULE_TIMEOUT)
        self._listed = Completion(self._api, OBJECT_SIGNATURE, [c_void_p], RULE_TIMEOUT, self._read)

    def add(self, forward: Forward) -> None:
        """VmnetError when the port is taken."""
        protocol, external, address, internal = forward
        self._change(
            f"vmnet_interface_add_ip_port_forwarding_rule {protocol} {external}",
            lambda block: self._api.vmnet_interface_add_ip_port_forwarding_rule(
                self._ref(),
                _PROTOCOLS[protocol],
                _port(external),
                vmnet.AF_INET,
                address.to_bytes(4, "big"),
                _port(internal),
                block,
            ),
        )

    def remove(self, protocol: str, external: int) -> None:
        """VmnetError when there is no such rule."""
        self._change(
            f"vmnet_interface_remove_ip_port_forwarding_rule {protocol} {external}",
            lambda block: self._api.vmnet_interface_remove_ip_port_forwarding_rule(
                self._ref(), _PROTOCOLS[protocol], _port(external), vmnet.AF_INET, block
            ),
        )

    def in_force(self) -> list[Forward]:
        """What vmnet itself says is in force."""
        name = "vmnet_interface_get_ip_port_forwarding_rules"
        get = self._api.vmnet_interface_get_ip_port_forwarding_rules
        accepted, rules = self._listed.call(name, lambda block: get(self._ref(), vmnet.AF_INET, block))
        check(name, accepted)
        found: list[Forward] = rules
        return found

    def _change(self, name: str, start: Callable[[Block], int]) -> None:
        accepted, status = self._changed.call(name, start)
        check(name, accepted if status is None else status)

    def _ref(self) -> int:
        if self._interface.ref is None:
            raise LinkClosed("the vmnet interface is stopped")
        return self._interface.ref

    def _read(self, rules: int | None) -> list[Forward]:
        """Inside the handler; NULL means that there are no rules."""
        count = self._api.xpc_array_get_count(rules) if rules else 0
        return [self._details(self._api.xpc_array_get_value(rules, index)) for index in range(count)]

    def _details(self, rule: int) -> Forward:
        protocol, external, internal, address = c_uint8(), c_uint16(), c_uint16(), (c_uint8 * 4)()
        status = self._api.vmnet_ip_port_forwarding_rule_get_details(
            rule, byref(protocol), byref(external), vmnet.AF_INET, address, byref(internal)
        )
        check("vmnet_ip_port_forwarding_rule_get_details", status)
        name = _NAMES.get(protocol.value, str(protocol.value))
        return Forward(name, external.value, int.from_bytes(bytes(address), "big"), internal.value)


def _port(number: int) -> int:
    """ctypes would cut a larger number to 16 bits without a word."""
    if not 1 <= number <= 65535:
        raise ValueError(f"port {number}")
    return number
