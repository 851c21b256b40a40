"""The one place that maps an uplink's name to its module; only the chosen one is imported."""

import sys

from softnet.config import Settings, UplinkChoice
from softnet.errors import ConfigError
from softnet.policy import Policy
from softnet.uplinks import Uplink

FD = "fd"
UNIX = "unix"
NAT = "nat"
BRIDGE = "bridge"
USER = "user"
VMNET = "vmnet"

KINDS = (VMNET, NAT, BRIDGE, USER, FD, UNIX)
PRIVILEGED = frozenset((VMNET, NAT, BRIDGE))
WITH_ARGUMENT = frozenset((BRIDGE, FD, UNIX))


def parse_choice(text: str) -> UplinkChoice:
    """`nat`, `bridge=br0`, `fd=5`, ...; ConfigError for anything else."""
    kind, equals, argument = text.partition("=")
    if kind not in KINDS:
        known = "|".join(f"{each}=..." if each in WITH_ARGUMENT else each for each in KINDS)
        raise ConfigError("--uplink", text, "is not an uplink", f"choose one of {known}")
    if (kind in WITH_ARGUMENT) != bool(argument) or (equals and not argument):
        shape = f"{kind}=..." if kind in WITH_ARGUMENT else kind
        raise ConfigError("--uplink", text, "has the wrong form", f"write {shape}")
    if kind == FD and not (argument.isascii() and argument.isdigit() and len(argument) < 10):
        raise ConfigError("--uplink", text, "names no descriptor", "write the number of a socket, fd=5")
    return UplinkChoice(kind, argument)


def default_choice(may_administer_network: bool) -> UplinkChoice:
    """vmnet on a Mac; elsewhere nat where the privilege for it is there, else user."""
    if sys.platform == "darwin":
        return UplinkChoice(VMNET)
    return UplinkChoice(NAT if may_administer_network else USER)


def open_uplink(settings: Settings, policy: Policy) -> Uplink:
    """Opens the uplink that `settings` names."""
    kind = settings.uplink.kind
    if kind in (FD, UNIX):
        from softnet.uplinks import attach

        return attach.open_uplink(settings, policy)
    if kind == USER:
        from softnet.uplinks import user

        return user.open_uplink(settings, policy)
    if kind == VMNET:
        from softnet.uplinks import vmnet

        return vmnet.open_uplink(settings, policy)
    if kind == BRIDGE:
        from softnet.uplinks import bridge

        return bridge.open_uplink(settings, policy)
    from softnet.uplinks import nat

    return nat.open_uplink(settings, policy)
