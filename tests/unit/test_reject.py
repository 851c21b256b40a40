"""The answers to refused frames: bytes, checksums, and when there must be none."""

import pytest

from harness import corpus
from harness.frames import (
    ICMP,
    IPV4,
    MORE_FRAGMENTS,
    TCP,
    UDP,
    checksum,
    ethernet,
    icmp_echo,
    ip,
    ipv4,
    tcp,
    udp,
)
from softnet.core import packet, reasons
from softnet.core.address import parse_ipv4
from softnet.core.reject import Rejecter, reject
from vectors.world import BROADCAST_MAC, GW, GW_MAC, OTHER, VM, VM_MAC

LAN = "10.0.0.5"
ADDRESS, GATEWAY = parse_ipv4(VM), parse_ipv4(GW)


def frame(
    protocol: int, payload: bytes, to: str = LAN, source: str = VM, dst: str = GW_MAC, fragment: int = 0
) -> bytes:
    return ethernet(dst, VM_MAC, IPV4, ipv4(source, to, protocol, payload, fragment=fragment))


def segment(
    flags: int, sequence: int = 1000, acknowledged: int = 0, data: bytes = b"", options: int = 0
) -> bytes:
    head = tcp(40000, 443, flags=flags)
    head = head[:4] + sequence.to_bytes(4, "big") + acknowledged.to_bytes(4, "big") + head[12:]
    return head[:12] + bytes([(5 + options) << 4]) + head[13:] + bytes(4 * options) + data


def answer(refused: bytes, gateway: int | None = GATEWAY) -> bytes:
    made = reject(refused, ADDRESS, gateway)
    assert made is not None
    assert made[:14] == refused[6:12] + refused[:6] + b"\x08\0", "from the station that the frame was for"
    assert checksum(made[14:34]) == 0
    assert made[30:34] == ip(VM)
    return made


@pytest.mark.parametrize(
    ("refused", "sequence", "acknowledged", "flags"),
    [
        (segment(0x02), 0, 1001, 0x14),
        (segment(0x02, options=5), 0, 1001, 0x14),
        (segment(0x02, data=b"fast open"), 0, 1010, 0x14),
        (segment(0x02, sequence=0xFFFFFFFF), 0, 0, 0x14),
        (segment(0x03), 0, 1002, 0x14),
        (segment(0x12, acknowledged=77), 77, 0, 0x04),
    ],
)
def test_a_syn_gets_the_reset_of_a_closed_port(
    refused: bytes, sequence: int, acknowledged: int, flags: int
) -> None:
    made = answer(frame(TCP, refused))
    reset = made[34:]
    assert made[26:30] == ip(LAN)
    assert (made[23], len(reset)) == (TCP, 20)
    assert reset[0:4] == refused[2:4] + refused[0:2]
    assert int.from_bytes(reset[4:8], "big") == sequence
    assert int.from_bytes(reset[8:12], "big") == acknowledged
    assert reset[12:14] == bytes([0x50, flags])
    assert packet.transport_checksum(parse_ipv4(LAN), ADDRESS, TCP, reset) == 0


@pytest.mark.parametrize(
    ("protocol", "payload"),
    [
        (UDP, udp(5000, 53, b"query" * 200)),
        (UDP, udp(5000, 53)),
        (ICMP, icmp_echo()),
        (47, b"gre"),
        (TCP, segment(0x10)),
    ],
)
def test_anything_else_is_administratively_prohibited(protocol: int, payload: bytes) -> None:
    refused = frame(protocol, payload)
    made = answer(refused)
    assert made[26:30] == ip(GW)
    assert made[23] == ICMP
    assert made[34:36] == b"\x03\x0d"
    assert checksum(made[34:]) == 0
    quoted = made[42:]
    assert quoted == refused[14 : 14 + len(quoted)]
    assert len(quoted) >= min(len(refused) - 14, 28)
    assert len(made) <= 14 + 576


def test_without_a_gateway_the_destination_speaks() -> None:
    assert answer(frame(UDP, udp(1, 2)), None)[26:30] == ip(LAN)


def test_padding_is_not_quoted() -> None:
    assert answer(frame(UDP, udp(1, 2)) + bytes(18))[42:] == frame(UDP, udp(1, 2))[14:]


@pytest.mark.parametrize(
    "refused",
    [
        frame(UDP, udp(1, 2), source=OTHER),
        frame(UDP, udp(1, 2), source="0.0.0.0"),
        frame(UDP, udp(1, 2), to="255.255.255.255"),
        frame(UDP, udp(1, 2), to="224.0.0.251"),
        frame(UDP, udp(1, 2), to="0.0.0.0"),
        frame(UDP, udp(1, 2), dst=BROADCAST_MAC),
        frame(UDP, udp(1, 2), dst="01:00:5e:00:00:01"),
        frame(UDP, udp(1, 2), fragment=MORE_FRAGMENTS),
        frame(UDP, udp(1, 2), fragment=1),
        frame(TCP, segment(0x04)),
        frame(TCP, segment(0x14)),
        frame(TCP, segment(0x06)),
        frame(TCP, segment(0x02)[:19]),
        frame(ICMP, b""),
        *(
            frame(ICMP, bytes([kind]) + icmp_echo()[1:])
            for kind in (0, 3, 4, 5, 9, 10, 11, 12, 14, 16, 18, 200)
        ),
    ],
)
def test_never_answered(refused: bytes) -> None:
    assert reject(refused, ADDRESS, GATEWAY) is None


def test_only_refusals_by_policy_are_answered_and_not_without_end() -> None:
    rejecter = Rejecter(GATEWAY, 100)
    batch = corpus.batch_of([frame(TCP, segment(0x02))] * 300)
    for at, reason in enumerate(
        [reasons.PASS_RULE, reasons.SRC_MAC, reasons.DST_MAC, reasons.MARTIAN, reasons.FRAGMENT]
    ):
        batch.verdict[at] = reason
    for at in range(5, 300):
        batch.verdict[at] = (reasons.BLOCKED, reasons.NOT_GLOBAL, reasons.FLOW_START, reasons.FLOW_FULL)[
            at % 4
        ]
    assert len(rejecter.answer(batch, ADDRESS, 50.0)) == 100
    assert rejecter.answer(batch, ADDRESS, 50.0) == []
    assert len(rejecter.answer(batch, ADDRESS, 50.5)) == 50
    batch.count = 5
    assert rejecter.answer(batch, ADDRESS, 99.0) == []


def test_a_spoofed_flood_takes_nothing_from_the_budget() -> None:
    rejecter = Rejecter(GATEWAY, 100)
    spoofed = corpus.batch_of([frame(UDP, udp(1, 2), source=OTHER)] * 500)
    honest = corpus.batch_of([frame(UDP, udp(1, 2))])
    for batch in (spoofed, honest):
        for at in range(batch.count):
            batch.verdict[at] = reasons.BLOCKED
    assert rejecter.answer(spoofed, ADDRESS, 1.0) == []
    assert len(rejecter.answer(honest, ADDRESS, 1.0)) == 1
