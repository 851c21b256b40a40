"""What waits for a slow reader of a TAP: its queue in the kernel, cut to a tenth of a second of the rate.

The kernel keeps 1,000 frames for a TAP, each of up to 64 KiB where segments are joined. Behind a rate of 5
Mbit/s a single TCP connection fills that with four seconds, which every other frame waits too. In a
queue cut to the rate it loses a segment early, as on any line of that rate, and slows down.

Only shortens. Sockets are left alone: their buffers are their owners'. Needs CAP_NET_ADMIN.
"""

import fcntl
import socket
import struct

from softnet.limits import Limit
from softnet.links.tap import TUNGETIFF

QUEUE_SECONDS = 0.1
LEAST_FRAMES = 16  # a TCP sender's first ten segments, and somebody else's
SIOCGIFTXQLEN, SIOCSIFTXQLEN = 0x8942, 0x8943

_IFREQ = struct.Struct("16si20x")


def frames(limit: Limit, frame: int) -> int:
    """How many frames of `frame` bytes QUEUE_SECONDS are, and LEAST_FRAMES at least."""
    by_bits = limit.bits // (8 * frame) if limit.bits else limit.packets
    by_packets = limit.packets if limit.packets else by_bits
    return max(LEAST_FRAMES, int(min(by_bits, by_packets) * QUEUE_SECONDS))


def shorten(descriptor: int, limit: Limit, frame: int) -> None:
    """Cuts the queue of the TAP behind `descriptor`, if there is one, in this network namespace."""
    try:
        name = fcntl.ioctl(descriptor, TUNGETIFF, bytes(_IFREQ.size))[:16]
    except OSError:
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        held = _IFREQ.unpack(fcntl.ioctl(control, SIOCGIFTXQLEN, _IFREQ.pack(name, 0)))[1]
        wanted = frames(limit, frame)
        if wanted < held:
            fcntl.ioctl(control, SIOCSIFTXQLEN, _IFREQ.pack(name, wanted))
