"""Whether the other end of a connected datagram socket still exists, on Linux: the kernel's sock_diag.

poll(2) and getpeername(2) notice nothing when the other end of a datagram pair closes. A query for
this one socket over NETLINK_SOCK_DIAG (sock_diag(7)) names the peer's inode, and the inode of a
closed socket is 0. It needs no privilege and takes some 30 us. The netlink socket is opened with
the link, so that a sandbox set up later need not allow it.

A socket that was made in another network namespace is not found there, and a kernel may be built
without unix_diag: then `works` is false, and only the next send tells.
"""

import os
import struct
import sys
from socket import AF_NETLINK, AF_UNIX, MSG_DONTWAIT, SOCK_RAW, socket

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST = 1
UDIAG_SHOW_PEER = 4
UNIX_DIAG_PEER = 2

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_REQUEST = struct.Struct("=BBHIIIII")  # family, protocol, pad, states, inode, show, cookie (2)
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_NO_COOKIE = 0xFFFFFFFF
_ALL_STATES = 0xFFFFFFFF


class PeerWatch:
    """`works` says whether `gone()` can ever be true."""

    def __init__(self, sock: socket) -> None:
        self._netlink: socket | None = None
        self._query = _query(os.fstat(sock.fileno()).st_ino)
        try:
            self._netlink = socket(AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG)
        except OSError:
            self.works = False
        else:
            self.works = self._peer() is not None

    def gone(self) -> bool:
        return self.works and self._peer() == 0

    def close(self) -> None:
        if self._netlink is not None:
            self._netlink.close()

    def _peer(self) -> int | None:
        """The inode of the peer, 0 when it is closed or there is none, None when nobody knows."""
        if self._netlink is None:
            return None
        try:
            self._netlink.send(self._query)
            return _peer_in(self._netlink.recv(4096, MSG_DONTWAIT))
        except OSError:
            return None


def _query(inode: int) -> bytes:
    request = _REQUEST.pack(AF_UNIX, 0, 0, _ALL_STATES, inode, UDIAG_SHOW_PEER, _NO_COOKIE, _NO_COOKIE)
    length = _HEADER.size + len(request)
    return _HEADER.pack(length, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 0, 0) + request


def _peer_in(reply: bytes) -> int | None:
    """Reads `struct unix_diag_msg` (16 bytes) and the attributes behind it."""
    length, kind = _HEADER.unpack_from(reply)[:2]
    if kind != SOCK_DIAG_BY_FAMILY:
        return None
    at = _HEADER.size + 16
    while at + _ATTRIBUTE.size <= length:
        size, attribute = _ATTRIBUTE.unpack_from(reply, at)
        if attribute == UNIX_DIAG_PEER:
            return int.from_bytes(reply[at + 4 : at + 8], sys.byteorder)
        at += max(size + 3 & ~3, _ATTRIBUTE.size)
    return 0
