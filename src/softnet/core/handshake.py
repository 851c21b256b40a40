"""Where in a batch TCP handshakes are: the one question that has to be asked of every frame, in C speed."""

from softnet.core.frames import Batch
from softnet.core.packet import ETHERNET_HEADER, IPV4_HEADER, PROTOCOL_TCP
from softnet.core.reasons import PASS_LIMIT

SHORTEST = ETHERNET_HEADER + IPV4_HEADER + 20
SYN_ACK, FIN_SYN_RST_ACK = 0x12, 0x17


def next_syn_ack(batch: Batch, at: int) -> int:
    """The first passing frame from `at` on that is IPv4 without options and the second of a handshake
    (RFC 9293 3.5); `count` when there is none."""
    while at < batch.count:
        start = batch.offset[at]
        if batch.verdict[at] < PASS_LIMIT and SHORTEST <= batch.length[at] <= batch.slot:
            is_tcp = batch.data[start + 23] == PROTOCOL_TCP and batch.data[start + 14] == 0x45
            if is_tcp and batch.data[start + 47] & FIN_SYN_RST_ACK == SYN_ACK:
                return at
        at += 1
    return at
