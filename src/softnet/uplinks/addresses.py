"""The host's own IPv4 addresses while a VM runs: `@host` has to mean those of now, not those of the start.

A routing netlink socket (rtnetlink(7)) tells of every address that comes or goes; it needs no
privilege, and is opened before the first look, so that nothing falls between. One address may be on
several interfaces, so what is kept is (interface, address) pairs. When the kernel had more to say
than the socket could hold, the whole list is asked for again.
"""

import errno
import socket
import struct
from collections.abc import Iterator

RTMGRP_IPV4_IFADDR = 0x10
RTM_NEWADDR = 20
RTM_DELADDR = 21
RTM_GETADDR = 22
NLMSG_DONE = 3
NLM_F_REQUEST_DUMP = 0x301
IFA_ADDRESS = 1
IFA_LOCAL = 2
RECEIVE_BYTES = 65536

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_ADDRESS = struct.Struct("=BBBBI")  # struct ifaddrmsg
_ATTRIBUTE = struct.Struct("=HH")  # struct rtattr


class AddressWatch:
    """Poll `fileno()` for reading; then `changed()` says whether `addresses` is another set now."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.bind((0, RTMGRP_IPV4_IFADDR))
        self._socket.setblocking(False)
        self._known: set[tuple[int, int]] = set()
        self._list()

    @property
    def addresses(self) -> tuple[int, ...]:
        """Sorted, without loopback's, which no VM can reach anyway."""
        return tuple(sorted({address for _interface, address in self._known if address >> 24 != 127}))

    def fileno(self) -> int:
        return self._socket.fileno()

    def changed(self) -> bool:
        """Reads what the kernel has said. Never blocks."""
        before = self.addresses
        try:
            while True:
                self._apply(self._socket.recv(RECEIVE_BYTES))
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self._list()
        return self.addresses != before

    def close(self) -> None:
        self._socket.close()

    def _list(self) -> None:
        """Starts over with the kernel's own list; changes that arrive meanwhile are in order with it."""
        self._known.clear()
        request = _ADDRESS.pack(socket.AF_INET, 0, 0, 0, 0)
        length = _HEADER.size + len(request)
        self._socket.setblocking(True)
        self._socket.send(_HEADER.pack(length, RTM_GETADDR, NLM_F_REQUEST_DUMP, 1, 0) + request)
        while not self._apply(self._socket.recv(RECEIVE_BYTES)):
            pass
        self._socket.setblocking(False)

    def _apply(self, data: bytes) -> bool:
        """Adds and removes what `data` says; True when it ends a list."""
        ended = False
        for kind, body in _messages(data):
            ended = ended or kind == NLMSG_DONE
            if kind in (RTM_NEWADDR, RTM_DELADDR) and len(body) >= _ADDRESS.size:
                family, _length, _flags, _scope, interface = _ADDRESS.unpack_from(body)
                address = _local_address(body)
                if family == socket.AF_INET and address is not None:
                    change = self._known.add if kind == RTM_NEWADDR else self._known.discard
                    change((interface, address))
        return ended


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The (type, body) of each netlink message."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _flags, _sequence, _port = _HEADER.unpack_from(data, at)
        if length < _HEADER.size or at + length > len(data):
            return
        yield kind, data[at + _HEADER.size : at + length]
        at += length + 3 & ~3


def _local_address(body: bytes) -> int | None:
    """IFA_LOCAL, or IFA_ADDRESS where there is none (they differ on point-to-point interfaces)."""
    found: dict[int, int] = {}
    at = _ADDRESS.size
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if length < _ATTRIBUTE.size:
            break
        if length == _ATTRIBUTE.size + 4:
            found[kind] = int.from_bytes(body[at + _ATTRIBUTE.size : at + length], "big")
        at += length + 3 & ~3
    return found.get(IFA_LOCAL, found.get(IFA_ADDRESS))
