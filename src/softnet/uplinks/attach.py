"""An uplink that somebody else made: a connected socket (`fd=N`) or a path to connect to (`unix=PATH`).

It knows nothing of the network behind it but the gateway that `--gateway` names.
"""

from softnet.config import Settings
from softnet.errors import ConfigError
from softnet.links import Link
from softnet.links.attach import connect_path, open_fd
from softnet.policy import Facts, Policy


class AttachedUplink:
    """A link that was given to us; closing it is all there is to undo."""

    publisher = None

    def __init__(self, link: Link, facts: Facts, mtu: int) -> None:
        self.link = link
        self.facts = facts
        self.mtu = mtu

    def close(self) -> None:
        self.link.close()


def open_uplink(settings: Settings, policy: Policy) -> AttachedUplink:
    """`policy` decides nothing here: isolation is the business of whoever made the socket."""
    kind, argument = settings.uplink
    try:
        link = open_fd("--uplink", argument) if kind == "fd" else connect_path("--uplink", argument)
    except ConfigError as error:
        raise ConfigError("--uplink", settings.uplink, error.problem, error.remedy) from None
    return AttachedUplink(link, Facts(gateway=settings.gateway), settings.mtu)
