"""The table of refused flows: what is new, what is counted, and what a flood may cost."""

import sys

from harness import corpus
from harness.frames import ARP, IPV4, TCP, UDP, arp, ethernet, ipv4, tcp, udp
from softnet.core import reasons
from softnet.core.address import parse_ipv4, parse_mac
from softnet.core.drops import Drops
from softnet.core.frames import Batch
from softnet.links.framing import Framing
from vectors.world import GW, GW_MAC, VM, VM_MAC

FROM_VM, TO_VM = reasons.FROM_VM, reasons.TO_VM
LAN = "10.0.0.5"


def note(
    drops: Drops, frames: list[bytes], now: float, reason: int = reasons.BLOCKED, direction: int = FROM_VM
) -> None:
    batch = corpus.batch_of(frames)
    for at in range(batch.count):
        batch.verdict[at] = reason
    drops.note(batch, direction, now)


def to(address: str, port: int = 443, source_port: int = 40000) -> bytes:
    return ethernet(GW_MAC, VM_MAC, IPV4, ipv4(VM, address, TCP, tcp(source_port, port)))


def test_the_first_frame_is_reported_with_all_its_fields() -> None:
    drops = Drops()
    note(drops, [to(LAN)], 1.0)
    (first,) = drops.fresh
    assert first._asdict() == {
        "direction": FROM_VM,
        "reason": reasons.BLOCKED,
        "source_mac": parse_mac(VM_MAC),
        "ethertype": IPV4,
        "protocol": TCP,
        "source": parse_ipv4(VM),
        "destination": parse_ipv4(LAN),
        "source_port": 40000,
        "port": 443,
        "frames": 1,
    }


def test_a_frame_that_a_stream_skipped_has_a_reason_and_no_bytes() -> None:
    """So its sender, who may well be a VM that tries, is not asked for."""
    batch, drops = Batch(1, 64), Drops()
    assert Framing().split(memoryview((65).to_bytes(4, "big")), batch, 4) == 4
    batch.verdict[0] = reasons.OVERSIZE
    drops.note(batch, FROM_VM, 1.0)
    (first,) = drops.fresh
    assert (first.reason, first.source_mac, first.source) == (reasons.OVERSIZE, 0, 0)


def test_a_flow_is_reported_once_and_then_counted() -> None:
    drops = Drops()
    note(drops, [to(LAN), to(LAN, source_port=40001)] + [to(LAN)] * 40, 1.0)
    assert len(drops.fresh) == 1
    assert [flow.frames for flow in drops.counts(11.0)] == [41]
    assert drops.counts(21.0) == []


def test_flows_differ_by_direction_reason_addresses_port_protocol_and_sender() -> None:
    drops = Drops()
    other = ethernet(GW_MAC, "02:00:00:00:00:99", IPV4, ipv4(VM, LAN, TCP, tcp(40000, 443)))
    datagram = ethernet(GW_MAC, VM_MAC, IPV4, ipv4(VM, LAN, UDP, udp(40000, 443)))
    note(drops, [to(LAN), to(LAN, 80), to("10.0.0.6"), other, datagram], 1.0)
    note(drops, [to(LAN)], 1.0, reasons.NOT_GLOBAL)
    note(drops, [to(LAN)], 1.0, direction=TO_VM)
    assert len(drops.fresh) == 7


def test_arp_and_rubbish_are_reported_as_far_as_they_can_be_read() -> None:
    drops = Drops()
    note(drops, [ethernet(GW_MAC, VM_MAC, ARP, arp(2, VM_MAC, GW, LAN))], 1.0, reasons.ARP_SPA)
    note(drops, [b"", b"\0" * 13], 1.0, reasons.RUNT)
    note(drops, [ethernet(GW_MAC, VM_MAC, IPV4, b"\x45"), to(LAN)[:36]], 1.0, reasons.IP_MALFORMED)
    spoof, runt, cut, portless = drops.fresh
    assert (spoof.ethertype, spoof.source, spoof.destination) == (ARP, parse_ipv4(GW), parse_ipv4(LAN))
    assert (runt.source_mac, runt.ethertype) == (0, 0)
    assert (cut.ethertype, cut.source) == (IPV4, 0)
    assert (portless.source, portless.port) == (parse_ipv4(VM), 0)


def test_a_longer_frame_than_the_slot_is_read_within_it() -> None:
    drops = Drops()
    batch = corpus.batch_of([to(LAN)], slot=64)
    batch.length[0] = 5000
    batch.verdict[0] = reasons.OVERSIZE
    drops.note(batch, FROM_VM, 1.0)
    assert drops.fresh[0].port == 443


def test_a_side_without_room_is_one_flow() -> None:
    drops = Drops()
    note(drops, [to(f"10.0.0.{at}") for at in range(50)], 1.0, reasons.UPLINK_BUSY)
    assert len(drops.fresh) == 1
    assert drops.counts(2.0)[0].frames == 49


def test_what_passes_is_not_looked_at() -> None:
    drops = Drops()
    note(drops, [to(LAN)] * 10, 1.0, reasons.PASS_RULE)
    assert drops.fresh == []
    assert drops.counts(2.0) == []


def test_a_flow_that_went_quiet_is_new_again() -> None:
    drops = Drops()
    note(drops, [to(LAN)], 1.0)
    note(drops, [to(LAN)], 60.0)
    drops.counts(61.0)
    note(drops, [to(LAN)], 119.0)
    assert len(drops.fresh) == 1
    note(drops, [to(LAN)], 179.0)
    assert len(drops.fresh) == 2


def test_a_flood_of_flows_is_bounded_in_reports_and_memory() -> None:
    drops = Drops()
    reported, before = 0, sys.getsizeof(drops)
    for second in range(20):
        frames = [to(f"10.{second}.{at >> 8}.{at & 255}", at + 1) for at in range(1000)]
        note(drops, frames, 100.0 + second)
        reported += len(drops.fresh)
        drops.fresh.clear()
        assert len(drops.counts(100.0 + second)) <= 32
    assert reported == 100 + 19 * 20
    assert drops.unreported == 20_000 - reported
    assert sys.getsizeof(drops) == before


def test_a_steady_flow_is_not_lost_in_a_flood() -> None:
    drops = Drops()
    note(drops, [to(LAN)], 1.0)
    for batch in range(100):
        now = 1.0 + batch / 100
        note(drops, [to(LAN)] + [to(f"10.9.{batch}.{at}") for at in range(63)], now)
    busiest = drops.counts(3.0)[0]
    assert busiest.destination == parse_ipv4(LAN)
    assert busiest.frames >= 90
