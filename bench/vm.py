"""The VM of the TCP measurements, the same for every subject: carries frames between a TAP and a socket.

    python -m bench.vm datagram|stream SOCKET_FD TAP_FD

The VM is a network namespace whose kernel sends and takes large segments through that TAP; this cuts and
joins them, as a good virtio-net device does, so that the subject, which sees single frames, is what
limits. When the socket is full it waits, as a device's queue would.
"""

import os
import select
import sys

from softnet.core.frames import Batch
from softnet.core.reasons import PASS_GLOBAL, UNJUDGED, UPLINK_BUSY
from softnet.links import Link
from softnet.links.datagram import DatagramLink
from softnet.links.stream import StreamLink
from softnet.links.tap import tap_link

MTU = 1500
SLOT = 1536


def move(source: Link, target: Link, batch: Batch) -> None:
    """Everything that is waiting, and all of it gets through."""
    count = source.receive(batch)
    for at in range(count):
        batch.verdict[at] = PASS_GLOBAL
    while count and target.send(batch, UPLINK_BUSY):
        for at in range(count):
            batch.verdict[at] = PASS_GLOBAL if batch.verdict[at] == UPLINK_BUSY else UNJUDGED
        select.select([], [target.fileno()], [])


def main(kind: str, socket_fd: int, tap_fd: int) -> None:
    wire: Link = DatagramLink(socket_fd) if kind == "datagram" else StreamLink(socket_fd)
    tap = tap_link(tap_fd, MTU, offload=True)
    batch = Batch(64, SLOT)
    poll = select.poll()
    for link in (wire, tap):
        poll.register(link.fileno(), select.POLLIN)
    while True:
        waiting = {fd for fd, _events in poll.poll(0 if tap.pending or wire.pending else None)}
        if tap.pending or tap.fileno() in waiting:
            move(tap, wire, batch)
        if wire.pending or wire.fileno() in waiting:
            move(wire, tap, batch)


if __name__ == "__main__":
    try:
        main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    except KeyboardInterrupt:
        os._exit(0)
