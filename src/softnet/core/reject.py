"""Answers that make a refused connection fail at once: RST for a TCP SYN, ICMP for other IPv4.

A TCP segment that would open a connection gets the reset that a closed port sends (RFC 9293 3.10.7.1):
without ACK, <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>, with it <SEQ=SEG.ACK><CTL=RST>. Anything else gets
ICMP destination unreachable, communication administratively prohibited (type 3 code 13, RFC 1812
5.2.7.1), from the gateway where one is known.

Answers go to the VM's own leased address alone, and never (RFC 1122 3.2.2) in answer to a fragment, an
ICMP message that is no query, a TCP reset, or a broadcast or multicast, at either layer. A token
bucket bounds them to `rate` a second, and to a second's worth at once.
"""

from softnet.core.frames import Batch
from softnet.core.numbers import ACK, FIN, ICMP, RST, SYN, TCP
from softnet.core.packet import (
    ETHERTYPE_IPV4,
    View,
    checksum,
    ethernet,
    ipv4,
    transport_checksum,
)
from softnet.core.reasons import BLOCKED, FLOW_FULL, FLOW_START, NOT_GLOBAL

QUOTED_BYTES = 548  # of the packet: an ICMP error is at most 576 bytes long (RFC 1812 4.3.2.3)
SEQUENCE = 0xFFFFFFFF  # what sequence numbers count in
PROHIBITED = b"\x03\x0d"
QUERIES = frozenset((8, 13, 15, 17))  # echo, timestamp, information, address mask


class Rejecter:
    """`gateway` is the address that ICMP messages come from; None: the refused destination itself."""

    __slots__ = ("_gateway", "_rate", "_refilled", "_tokens", "_view")

    def __init__(self, gateway: int | None, rate: float) -> None:
        self._gateway = gateway
        self._rate = rate
        self._tokens = rate
        self._refilled = 0.0
        self._view = View(b"")

    def answer(self, batch: Batch, address: int, now: float) -> list[bytes]:
        """Frames for the VM, whose leased address is `address`, about a batch that came from it."""
        answers: list[bytes] = []
        self._view.over(batch.data)
        for at in range(batch.count):
            verdict = batch.verdict[at]
            if verdict in (BLOCKED, NOT_GLOBAL, FLOW_START, FLOW_FULL):
                self._refill(now)
                if self._tokens < 1.0:
                    break
                self._view.place(batch.offset[at], batch.length[at])
                frame = self._view.copy(0, batch.length[at])
                made = reject(frame, address, self._gateway)
                if made is not None:
                    self._tokens -= 1.0
                    answers.append(made)
        return answers

    def _refill(self, now: float) -> None:
        if now > self._refilled:
            self._tokens = self._tokens + (now - self._refilled) * self._rate
            self._refilled = now
        if self._tokens > self._rate:
            self._tokens = self._rate


def reject(frame: bytes, address: int, gateway: int | None) -> bytes | None:
    """The answer to a refused IPv4 frame of the VM's; None where there must be none."""
    header = (frame[14] & 15) << 2
    total = int.from_bytes(frame[16:18], "big")
    packet = frame[14 : 14 + total]
    source = int.from_bytes(packet[12:16], "big")
    destination = int.from_bytes(packet[16:20], "big")
    to_group = frame[0] & 1 or destination >> 28 >= 14
    is_fragment = int.from_bytes(packet[6:8], "big") & 0x3FFF
    if source != address or to_group or is_fragment or destination == 0:
        return None
    payload = packet[header:]
    if packet[9] == TCP:
        if len(payload) < 20 or payload[13] & RST:
            return None
        if payload[13] & SYN:
            segment = _reset(destination, source, payload)
            return _reply(frame, ipv4(destination, source, TCP, segment))
    if packet[9] == ICMP and (not payload or payload[0] not in QUERIES):
        return None
    return _reply(frame, ipv4(destination if gateway is None else gateway, source, ICMP, _prohibited(packet)))


def _reply(frame: bytes, packet: bytes) -> bytes:
    """Back to the VM, from the station that its frame was for."""
    to, sender = int.from_bytes(frame[6:12], "big"), int.from_bytes(frame[0:6], "big")
    return ethernet(to, sender, ETHERTYPE_IPV4, packet)


def _reset(source: int, destination: int, refused: bytes) -> bytes:
    flags = refused[13]
    data = len(refused) - (refused[12] >> 4 << 2)
    length = max(0, data) + 1 + (1 if flags & FIN else 0)
    if flags & ACK:
        sequence, acknowledged, control = refused[8:12], 0, RST
    else:
        acknowledged = int.from_bytes(refused[4:8], "big") + length & SEQUENCE
        sequence, control = bytes(4), RST | ACK
    numbers = sequence + acknowledged.to_bytes(4, "big")
    segment = refused[2:4] + refused[0:2] + numbers + bytes((0x50, control)) + bytes(6)
    value = transport_checksum(source, destination, TCP, segment)
    return segment[:16] + value.to_bytes(2, "big") + segment[18:]


def _prohibited(packet: bytes) -> bytes:
    quoted = packet[:QUOTED_BYTES]
    value = checksum(PROHIBITED + bytes(6) + quoted)
    return PROHIBITED + value.to_bytes(2, "big") + bytes(4) + quoted
