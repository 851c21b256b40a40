"""Which frames of a batch are the second of a TCP handshake, and which only look like one."""

import pytest

from softnet.core.frames import Batch
from softnet.core.handshake import next_syn_ack
from softnet.core.packet import PROTOCOL_TCP, PROTOCOL_UDP, ethernet, ipv4
from softnet.core.reasons import BLOCKED, PASS_GLOBAL

SYN, RST, ACK = 0x02, 0x04, 0x10


def segment(flags: int, protocol: int = PROTOCOL_TCP) -> bytes:
    tcp = bytes(13) + bytes((flags,)) + bytes(6)
    return ethernet(1, 2, 0x0800, ipv4(0x0A000002, 0x09090909, protocol, tcp))


SYN_ACK = segment(SYN | ACK)
WITH_OPTIONS = SYN_ACK[:14] + b"\x46" + SYN_ACK[15:]


def found(*frames: bytes, slot: int = 64) -> list[int]:
    batch = Batch(8, slot)
    for frame in frames:
        batch.append(frame)
        batch.verdict[batch.count - 1] = PASS_GLOBAL
    at, places = next_syn_ack(batch, 0), []
    while at < batch.count:
        places.append(at)
        at = next_syn_ack(batch, at + 1)
    return places


def test_every_one_is_found() -> None:
    assert found(SYN_ACK, segment(ACK), SYN_ACK, SYN_ACK) == [0, 2, 3]
    assert found() == []


@pytest.mark.parametrize(
    "frame",
    [
        segment(SYN),
        segment(ACK),
        segment(SYN | ACK | RST),
        segment(SYN | ACK, PROTOCOL_UDP),
        WITH_OPTIONS,
        SYN_ACK[:53],
        b"",
    ],
)
def test_nothing_else_is(frame: bytes) -> None:
    assert found(frame) == []


def test_nor_a_frame_that_is_cut_short_or_refused() -> None:
    assert found(SYN_ACK + bytes(20), slot=64) == []
    batch = Batch(1, 64)
    batch.append(SYN_ACK)
    batch.verdict[0] = BLOCKED
    assert next_syn_ack(batch, 0) == batch.count
