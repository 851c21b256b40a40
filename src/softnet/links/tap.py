"""A Linux TAP interface: one frame a read(2) or write(2), no packet information.

With vnet_hdr it is an `OffloadTapLink` (`tap_offload.py`); `create_tap` and `tap_link` are told which.

The kernel is the other side. It keeps frames that nobody reads in the interface's queue
(txqueuelen) and drops what does not fit; it refuses what is written while the interface is down
(EIO: busy, frame by frame); and when the interface is deleted, the link is closed (EBADFD).
"""

import errno
import fcntl
import os
import struct

from softnet.core.frames import Batch
from softnet.core.virtio import VIRTIO_HEADER
from softnet.errors import LinkClosed
from softnet.links.base import BaseLink
from softnet.links.burst import Progress
from softnet.links.calls import calls

TUNSETIFF = 0x400454CA
TUNGETIFF = 0x800454D2
TUNSETOFFLOAD = 0x400454D0
TUNSETVNETHDRSZ = 0x400454D8
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
IFF_TUN_EXCL = 0x8000
TUN_F_CSUM = 0x01
TUN_F_TSO4 = 0x02
NAME_SIZE = 16  # IFNAMSIZ, its final NUL included

_IFREQ = struct.Struct("16sH22x")


def create_tap(name: str, offload: bool = False) -> int:
    """Makes the interface `name`, which exists as long as the descriptor is open.

    With `offload` every frame has a virtio header (`core.virtio`), and the kernel hands over TCP
    segments of up to 64 KiB and checksums that are still to be completed.

    OSError: EBUSY when there is an interface of that name already, EPERM without CAP_NET_ADMIN,
    EINVAL for a name that cannot be one, ENOENT without /dev/net/tun. `name` is taken literally
    (no `%d`).
    """
    encoded = name.encode()
    if not 0 < len(encoded) < NAME_SIZE or b"%" in encoded:
        raise OSError(errno.EINVAL, f"{name!r} is no name for an interface")
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        flags = IFF_TAP | IFF_NO_PI | IFF_TUN_EXCL | (IFF_VNET_HDR if offload else 0)
        fcntl.ioctl(fd, TUNSETIFF, _IFREQ.pack(encoded, flags))
        if offload:
            fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", VIRTIO_HEADER))
            fcntl.ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4)
    except BaseException:
        os.close(fd)
        raise
    return fd


def is_plain_tap(fd: int) -> bool:
    """Whether a device's descriptor is a TAP's that a `TapLink` can use."""
    try:
        flags: int = _IFREQ.unpack(fcntl.ioctl(fd, TUNGETIFF, bytes(_IFREQ.size)))[1]
    except OSError:
        return False
    return flags & (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR) == IFF_TAP | IFF_NO_PI


class TapLink(BaseLink):
    """Owns the descriptor, and with it the interface, unless that was made persistent."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        os.set_blocking(fd, False)
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def receive(self, batch: Batch) -> int:
        try:
            return self._read(batch)
        except OSError as error:
            raise _closed_or(error) from None

    def _read(self, batch: Batch) -> int:
        return calls.read_frames(self._fd, batch)

    def _put(self, batch: Batch, at: int) -> Progress:
        at, sent, error = self._write(batch, at)
        if error == errno.EBADFD:
            raise _closed_or(OSError(error, os.strerror(error)))
        return at, sent, error

    def _write(self, batch: Batch, at: int) -> Progress:
        return calls.write_frames(self._fd, batch, at)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def tap_link(fd: int, mtu: int, offload: bool) -> TapLink:
    """The link for a descriptor of `create_tap`, made with the same `offload`."""
    if not offload:
        return TapLink(fd)
    from softnet.links.tap_offload import OffloadTapLink  # its megabyte is for those who use it

    return OffloadTapLink(fd, mtu)


def _closed_or(error: OSError) -> Exception:
    return LinkClosed("the TAP interface was deleted") if error.errno == errno.EBADFD else error
