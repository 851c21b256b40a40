"""`--expose` on vmnet: rules of macOS's own, which follow the VM's lease.

vmnet cannot bind a rule to one address, and has no way to reserve a port before the VM has its lease.
So a bind address is refused, and a port that a program of the host uses already is found by binding
it, before anything is changed. What only vmnet knows - another VM's rule for the same port - is known
when the lease is there: then the port is named on standard error, the VM goes on without it, and
each renewal of the lease tries again.
"""

import socket
import sys
from collections.abc import Iterable
from contextlib import closing, suppress

from softnet.config import UDP, Expose
from softnet.errors import ConfigError, UplinkError
from softnet.uplinks.vmnet.rules import Forward, Forwards


def check_ports(ports: Iterable[Expose]) -> None:
    """ConfigError for a port that vmnet could not expose."""
    for port in ports:
        if port.bind is not None:
            problem = "vmnet exposes a port on every address of the host"
            raise ConfigError("--expose", port, problem, "leave the address out")
        _check_free(port)


def _check_free(port: Expose) -> None:
    kind = socket.SOCK_DGRAM if port.protocol == UDP else socket.SOCK_STREAM
    with closing(socket.socket(socket.AF_INET, kind)) as trial:
        if kind == socket.SOCK_STREAM:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("", port.external))
        except OSError as error:
            problem = f"cannot be bound: {error.strerror}"
            raise ConfigError("--expose", port, problem, "choose another port") from None


class ForwardedPorts:
    """The uplink's publisher. Rules that are in force when the interface stops end with it."""

    def __init__(self, forwards: Forwards, ports: Iterable[Expose]) -> None:
        self._forwards = forwards
        self._ports = tuple(ports)
        self._in_force: dict[Expose, int] = {}

    def publish(self, address: int) -> None:
        """From now on the ports lead to `address`; those that could not are tried again."""
        for port in self._ports:
            if self._in_force.get(port) != address:
                self._remove(port)
                self._add(port, address)

    def withdraw(self) -> None:
        for port in self._ports:
            self._remove(port)

    def _add(self, port: Expose, address: int) -> None:
        try:
            self._forwards.add(Forward(port.protocol, port.external, address, port.internal))
            self._in_force[port] = address
        except UplinkError as error:
            _complain(f"--expose {port} is not in force: {error}")

    def _remove(self, port: Expose) -> None:
        if self._in_force.pop(port, None) is None:
            return
        try:
            self._forwards.remove(port.protocol, port.external)
        except UplinkError as error:
            _complain(f"--expose {port} may still be in force: {error}")


def _complain(text: str) -> None:
    with suppress(OSError):  # nobody reads it any more: no reason to end the VM's network
        print(f"softnet: {text}", file=sys.stderr, flush=True)
