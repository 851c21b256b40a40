"""Ports of the host that lead to the VM, relayed through sockets of Softnet's own.

Each `--expose` is bound when Softnet starts, while it may still bind low ports, so that a port in use
is an error at the start. It listens only while the VM holds a lease (`publish`), leads to whatever
address that is, and refuses connections again when the lease is gone (`withdraw`), which also ends
the connections that led to it. The VM sees its gateway as the client: no rule has to be opened for
its answers, and the filter is told which connections those are.

Bounds, whatever a client or the VM does: CONNECTIONS TCP connections and CLIENTS UDP clients a VM,
BUFFER bytes in flight for each direction of a connection (a side that does not read makes the other
side wait), one read a wakeup and descriptor. The victim is the newest connection, and of UDP clients
the one that has been silent longest.

Not for the user and vmnet uplinks, whose own network stack has ports to expose.
"""

import select
import socket
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Protocol

from softnet.config import TCP, Expose
from softnet.core.address import format_ipv4
from softnet.core.packet import PROTOCOL_TCP, PROTOCOL_UDP
from softnet.errors import ConfigError

CONNECTIONS = 256
CLIENTS = 256
BUFFER = 65536
BACKLOG = 128
UDP_IDLE_SECONDS = 60.0
IP_PKTINFO = 8  # Linux's and Darwin's differ; only Linux relays
PKTINFO_BYTES = 12
CLOSE_WITH_RESET = b"\x01\0\0\0\0\0\0\0"  # SO_LINGER on, zero seconds: a refused client is told at once


class Watcher(Protocol):
    """What a relay needs of the forwarder."""

    def watch(self, descriptor: int, react: Callable[[float], None], events: int = ...) -> None: ...

    def unwatch(self, descriptor: int) -> None: ...


def filter_ports(ports: Iterable[Expose]) -> list[tuple[int, int]]:
    """The (protocol, port of the VM) pairs that `Filter.expose` wants."""
    return [(PROTOCOL_TCP if port.protocol == TCP else PROTOCOL_UDP, port.internal) for port in ports]


class Relay:
    """All exposed ports of one VM. Made before privileges are dropped, `attach`ed to the loop after."""

    def __init__(self, ports: Iterable[Expose]) -> None:
        self._ports: list[_TcpPort | _UdpPort] = []
        try:
            for port in ports:
                self._ports.append(_TcpPort(port) if port.protocol == TCP else _UdpPort(port))
        except BaseException:
            self.close()
            raise

    def attach(self, watcher: Watcher) -> None:
        for port in self._ports:
            port.attach(watcher)

    def publish(self, address: int) -> None:
        """From now on the ports lead to `address`."""
        for port in self._ports:
            port.publish(address)

    def withdraw(self) -> None:
        """From now on nobody answers on the ports."""
        for port in self._ports:
            port.withdraw()

    def close(self) -> None:
        for port in self._ports:
            port.close()


def _bind(port: Expose, kind: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, kind)
    try:
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        sock.bind(("" if port.bind is None else format_ipv4(port.bind), port.external))
        if kind == socket.SOCK_STREAM:  # two sockets may be bound to a port; only one may listen
            sock.listen(BACKLOG)
            sock.shutdown(socket.SHUT_RDWR)
    except OSError as error:
        sock.close()
        problem = f"cannot be bound: {error.strerror}"
        raise ConfigError("--expose", port, problem, "choose another port or address") from None
    return sock


class _TcpPort:
    """One listening socket. Shut down without a lease: bound, but refusing."""

    def __init__(self, port: Expose) -> None:
        self._internal = port.internal
        self._listener = _bind(port, socket.SOCK_STREAM)
        self._connections: set[_Connection] = set()
        self._address: int | None = None

    def attach(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def publish(self, address: int) -> None:
        if address == self._address:
            return
        self.withdraw()
        self._address = address
        self._listener.listen(BACKLOG)
        self._watcher.watch(self._listener.fileno(), self._accept)

    def withdraw(self) -> None:
        if self._address is None:
            return
        self._address = None
        self._watcher.unwatch(self._listener.fileno())
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for connection in list(self._connections):
            connection.end()

    def close(self) -> None:
        for connection in list(self._connections):
            connection.end()
        self._listener.close()

    def _accept(self, _now: float) -> None:
        try:
            client, _from = self._listener.accept()
        except OSError:
            return  # gone again, or no descriptor left: the backlog waits
        if self._address is None or len(self._connections) >= CONNECTIONS:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, CLOSE_WITH_RESET)
            client.close()
            return
        target = (format_ipv4(self._address), self._internal)
        self._connections.add(_Connection(self._watcher, client, target, self._connections.discard))


class _Connection:
    """A client's socket and one towards the VM, each way with a buffer of BUFFER bytes at most."""

    def __init__(
        self,
        watcher: Watcher,
        client: socket.socket,
        target: tuple[str, int],
        forget: Callable[["_Connection"], None],
    ) -> None:
        self._watcher = watcher
        self._forget = forget
        server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._sides = (_Side(client), _Side(server))
        for side in self._sides:
            side.socket.setblocking(False)
            side.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            side.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(BlockingIOError):
            server.connect(target)
        self._sides[1].connecting = True
        self._rewatch()

    def end(self) -> None:
        """Closes both sides at once."""
        for side in self._sides:
            if side.watched:
                self._watcher.unwatch(side.socket.fileno())
            side.socket.close()
        self._forget(self)

    def _rewatch(self) -> None:
        """Asks for what each side can do next."""
        for side, other in (self._sides, self._sides[::-1]):
            events = select.POLLOUT if side.connecting or side.outgoing else 0
            if not side.ended and not side.connecting and len(other.outgoing) < BUFFER:
                events |= select.POLLIN
            if events != side.watched:
                self._watch(side, other, events)

    def _watch(self, side: "_Side", other: "_Side", events: int) -> None:
        if events:
            self._watcher.watch(side.socket.fileno(), lambda _now: self._move(side, other), events)
        elif side.watched:
            self._watcher.unwatch(side.socket.fileno())
        side.watched = events

    def _move(self, side: "_Side", other: "_Side") -> None:
        """`side` is ready: reads into the other's buffer, and writes what waits in its own."""
        try:
            side.finish_connecting()
            if side.watched & select.POLLIN:
                side.read_into(other)
            side.flush()
            other.flush()
        except OSError:
            self.end()
            return
        if side.ended and other.ended and not side.outgoing and not other.outgoing:
            self.end()
        else:
            self._rewatch()


class _Side:
    """One socket of a connection; `outgoing` waits to be written to it."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.outgoing = bytearray()
        self.connecting = False
        self.ended = False  # it will send no more
        self.watched = 0
        self._end_passed_on = False
        self._end_wanted = False

    def finish_connecting(self) -> None:
        """OSError when the connection was refused."""
        if self.connecting:
            error = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, "connect")
            with suppress(OSError):  # ENOTCONN: not yet
                self.socket.getpeername()
                self.connecting = False

    def read_into(self, other: "_Side") -> None:
        try:
            data = self.socket.recv(BUFFER - len(other.outgoing))
        except BlockingIOError:
            return
        if data:
            other.outgoing += data
        else:
            self.ended = True
            other._end_wanted = True

    def flush(self) -> None:
        """Writes what it takes; after the last byte, passes the other side's end on."""
        if self.connecting:
            return
        if self.outgoing:
            with suppress(BlockingIOError):
                del self.outgoing[: self.socket.send(self.outgoing)]
        if self._end_wanted and not self.outgoing and not self._end_passed_on:
            self._end_passed_on = True
            self.socket.shutdown(socket.SHUT_WR)


class _UdpPort:
    """One bound socket; each client has a socket of its own towards the VM, so answers find back."""

    def __init__(self, port: Expose) -> None:
        self._internal = port.internal
        self._socket = _bind(port, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        self._clients: OrderedDict[tuple[str, int], _UdpClient] = OrderedDict()
        self._address: int | None = None

    def attach(self, watcher: Watcher) -> None:
        self._watcher = watcher
        watcher.watch(self._socket.fileno(), self._from_client)

    def publish(self, address: int) -> None:
        if address != self._address:
            self.withdraw()
            self._address = address

    def withdraw(self) -> None:
        self._address = None
        while self._clients:
            self._drop_oldest()

    def close(self) -> None:
        for client in self._clients.values():
            client.socket.close()
        self._socket.close()

    def _from_client(self, now: float) -> None:
        try:
            data, information, _flags, source = self._socket.recvmsg(BUFFER, socket.CMSG_SPACE(PKTINFO_BYTES))
        except OSError:
            return  # an ICMP error for an answer that nobody wanted
        if self._address is None:
            return
        client = self._clients.get(source)
        if client is None:
            client = self._admit(source, now)
        client.information = [(level, kind, _from_here(value)) for level, kind, value in information]
        client.last = now
        self._clients.move_to_end(source)
        with suppress(OSError):
            client.socket.send(data)

    def _admit(self, source: tuple[str, int], now: float) -> "_UdpClient":
        """Makes room: those that have been silent for long go, and if need be the one silent longest."""
        while self._clients:
            oldest = next(iter(self._clients.values()))
            if len(self._clients) < CLIENTS and now - oldest.last < UDP_IDLE_SECONDS:
                break
            self._drop_oldest()
        upstream = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        upstream.setblocking(False)
        upstream.connect((format_ipv4(self._address or 0), self._internal))
        client = self._clients[source] = _UdpClient(upstream, now)
        self._watcher.watch(upstream.fileno(), lambda _now: self._from_vm(client, source))
        return client

    def _drop_oldest(self) -> None:
        _source, client = self._clients.popitem(last=False)
        self._watcher.unwatch(client.socket.fileno())
        client.socket.close()

    def _from_vm(self, client: "_UdpClient", source: tuple[str, int]) -> None:
        with suppress(OSError):  # ECONNREFUSED: nobody listens in the VM
            data = client.socket.recv(BUFFER)
            self._socket.sendmsg([data], client.information, 0, source)


class _UdpClient:
    """`information` makes answers leave from the address that the client wrote to."""

    def __init__(self, sock: socket.socket, now: float) -> None:
        self.socket = sock
        self.last = now
        self.information: list[tuple[int, int, bytes]] = []


def _from_here(packet_info: bytes) -> bytes:
    """struct in_pktinfo for sending: no interface, and as source the address it was received on."""
    return bytes(4) + packet_info[4:8] + bytes(4)
