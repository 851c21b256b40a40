"""What one Softnet process was asked to do: validated, frozen, and ignorant of argv.

`Settings` is built by the command line (and later by a policy file or a supervisor) and read by
everything that opens or judges. It holds no descriptor that it owns and opens nothing.
"""

from typing import NamedTuple

from softnet.core.address import format_ipv4
from softnet.limits import Rates
from softnet.policy import Policy

TCP = "tcp"
UDP = "udp"

NAT = "nat"
HOST_ONLY = "host"

DROP = "drop"
REJECT = "reject"
DEFAULT_DENY_RATE = 100  # answers a second

DEFAULT_LEASE_TIME = 600
DEFAULT_MTU = 1500
MIN_MTU = 576
MAX_MTU = 65520
DEFAULT_POOL = (0x0AE70000, 20)  # 10.231.0.0/20: away from Docker's, libvirt's and podman's ranges


class Expose(NamedTuple):
    """A port of the host that leads to the VM. `bind` None is every address of the host."""

    bind: int | None
    external: int
    internal: int
    protocol: str = TCP

    def __str__(self) -> str:
        bind = "" if self.bind is None else f"{format_ipv4(self.bind)}:"
        return f"{bind}{self.external}:{self.internal}/{self.protocol}"


class UplinkChoice(NamedTuple):
    """`kind` is vmnet, nat, bridge, user, fd or unix; `argument` is what follows the `=`."""

    kind: str
    argument: str = ""

    def __str__(self) -> str:
        return f"{self.kind}={self.argument}" if self.argument else self.kind


class Settings(NamedTuple):
    """Addresses and MACs are integers in host order, times are seconds."""

    vm_mac: int
    uplink: UplinkChoice
    vm_fd: int | None = None
    vm_socket: str | None = None
    net_type: str = NAT
    lease_time: int = DEFAULT_LEASE_TIME
    user: str | None = None
    group: str | None = None
    policy: Policy = Policy()
    expose: tuple[Expose, ...] = ()
    control_fd: int | None = None
    control: str | None = None
    events: str | None = None
    metrics: str | None = None
    deny: str = DROP
    deny_rate: int = DEFAULT_DENY_RATE
    gateway: int | None = None
    pool: tuple[int, int] = DEFAULT_POOL
    dns: tuple[int, ...] = ()
    mtu: int = DEFAULT_MTU
    ignore_client_id: bool = False
    offload: bool = True
    rates: Rates = Rates()
