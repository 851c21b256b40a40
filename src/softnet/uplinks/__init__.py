"""Network sides: opened once, with whatever privilege that takes, they yield a link and facts.

An uplink module has one function, `open_uplink(settings, policy) -> Uplink`. It checks everything
it can before it changes anything, undoes all of it when it fails half-way, and raises ConfigError
or UplinkError with one line. `close()` undoes the rest; it runs after privileges were dropped, so
whatever needs privilege to undo is tied to a descriptor that the kernel cleans up after. The same
descriptor is why nothing is left behind after `kill -9`.
"""

from typing import Protocol

from softnet.links import Link
from softnet.policy import Facts


class Publisher(Protocol):
    """Makes the exposed ports lead to an address, or to nobody."""

    def publish(self, address: int) -> None: ...

    def withdraw(self) -> None: ...


class Uplink(Protocol):
    """`link` carries the frames, `facts` is what the policy is compiled with.

    `publisher` is for uplinks whose own network stack exposes ports; None leaves it to Softnet.
    """

    @property
    def link(self) -> Link: ...

    @property
    def facts(self) -> Facts: ...

    @property
    def mtu(self) -> int: ...

    @property
    def publisher(self) -> Publisher | None: ...

    def close(self) -> None: ...
