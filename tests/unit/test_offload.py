"""Joining and cutting TCP segments: each rule with the smallest pair of frames that shows it."""

import struct

import pytest

from softnet.core import octets, packet
from softnet.core.frames import Batch
from softnet.core.offload import Coalescer, Segmenter
from softnet.core.virtio import GSO_TCPV4, NEEDS_CSUM, VIRTIO_HEADER

MTU = 1500
VM, HOST = 0x0A000002, 0x0A000001
VM_MAC, HOST_MAC = 0x020000000001, 0x020000000002
DF = 0x4000
ACK, PSH, FIN, SYN, RST, URG, ECE, CWR, AE = 0x10, 0x08, 0x01, 0x02, 0x04, 0x20, 0x40, 0x80, 0x100


def tcp_frame(
    seq: int,
    payload: bytes,
    *,
    port: int = 1000,
    ack: int = 7,
    flags: int = ACK,
    window: int = 500,
    urgent: int = 0,
    options: bytes = b"",
    identification: int = 0,
    fragment: int = DF,
    ttl: int = 64,
    tos: int = 0,
    source_mac: int = VM_MAC,
    source: int = VM,
) -> bytes:
    words = (port, 80, seq, ack, (5 + len(options) // 4) << 12 | flags, window, 0, urgent)
    tcp = struct.pack("!HHIIHHHH", *words) + options + payload
    check = packet.transport_checksum(source, HOST, 6, tcp)
    tcp = tcp[:16] + check.to_bytes(2, "big") + tcp[18:]
    header = struct.pack(
        "!BBHHHBBHII", 0x45, tos, 20 + len(tcp), identification, fragment, ttl, 6, 0, source, HOST
    )
    header = header[:10] + packet.checksum(header).to_bytes(2, "big") + header[12:]
    return packet.ethernet(HOST_MAC, source_mac, 0x0800, header + tcp)


def poke(frame: bytes, at: int, value: bytes) -> bytes:
    return frame[:at] + value + frame[at + len(value) :]


def batch_of(frames: list[bytes], slot: int = MTU + 14) -> Batch:
    batch = Batch(len(frames), slot)
    for at, frame in enumerate(frames):
        batch.append(frame)
        batch.verdict[at] = 0
    return batch


def written(frames: list[bytes], slot: int = MTU + 14) -> list[bytes]:
    batch = batch_of(frames, slot)
    coalescer = Coalescer(len(frames))
    return [b"".join(coalescer.pieces(batch, group)) for group in range(coalescer.join(batch))]


def as_they_came(frames: list[bytes]) -> list[bytes]:
    return [bytes(VIRTIO_HEADER) + frame for frame in frames]


# Joining. -----------------------------------------------------------------------------------------


def test_three_segments_become_one_that_is_vouched_for() -> None:
    frames = [
        tcp_frame(100, b"a" * 50, identification=7),
        tcp_frame(150, b"b" * 50, identification=8),
        tcp_frame(200, b"c" * 20, identification=9, flags=ACK | PSH),
    ]
    (whole,) = written(frames)
    assert struct.unpack_from("<BBHHHH", whole) == (NEEDS_CSUM, GSO_TCPV4, 54, 50, 34, 16)
    frame = whole[VIRTIO_HEADER:]
    assert frame[:14] == frames[0][:14]
    assert int.from_bytes(frame[16:18], "big") == len(frame) - 14 == 20 + 20 + 120
    assert frame[18:20] == b"\0\7"
    assert packet.checksum(frame[14:34]) == 0
    assert frame[34:47] == frames[0][34:47]
    assert frame[47] == ACK | PSH
    pseudo = struct.pack("!IIHH", VM, HOST, 6, 140)
    assert int.from_bytes(frame[50:52], "big") == 0xFFFF - packet.checksum(pseudo)
    assert frame[54:] == b"a" * 50 + b"b" * 50 + b"c" * 20


def test_identifications_may_stand_still_under_df_only() -> None:
    same = [tcp_frame(at, b"a" * 50, identification=3) for at in (0, 50, 100)]
    assert len(written(same)) == 1
    same = [tcp_frame(at, b"a" * 50, identification=3, fragment=0) for at in (0, 50, 100)]
    assert written(same) == as_they_came(same)


def test_identifications_wrap_and_sequence_numbers_too() -> None:
    first = tcp_frame(0xFFFFFFF0, b"a" * 50, identification=0xFFFF)
    assert len(written([first, tcp_frame(34, b"b" * 50, identification=0)])) == 1


FIRST = tcp_frame(0, b"a" * 50, identification=1, options=b"\1\1\1\1")


def second(payload: bytes = b"b" * 50, seq: int = 50, identification: int = 2, **fields: int) -> bytes:
    return tcp_frame(seq, payload, identification=identification, options=b"\1\1\1\1", **fields)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(second(flags=ACK | FIN), id="FIN"),
        pytest.param(second(flags=ACK | SYN), id="SYN"),
        pytest.param(second(flags=ACK | RST), id="RST"),
        pytest.param(second(flags=ACK | URG), id="URG"),
        pytest.param(second(flags=ACK | ECE), id="ECE"),
        pytest.param(second(flags=ACK | CWR), id="CWR"),
        pytest.param(second(flags=ACK | AE), id="accurate ECN"),
        pytest.param(second(flags=0), id="no ACK"),
        pytest.param(second(urgent=1), id="urgent pointer"),
        pytest.param(second(ack=8), id="acknowledgement"),
        pytest.param(second(window=501), id="window"),
        pytest.param(tcp_frame(50, b"b" * 50, identification=2, options=b"\1\1\1\0"), id="options"),
        pytest.param(tcp_frame(50, b"b" * 50, identification=2), id="fewer options"),
        pytest.param(second(seq=51), id="hole"),
        pytest.param(second(seq=49), id="overlap"),
        pytest.param(second(seq=0), id="retransmission"),
        pytest.param(second(payload=b""), id="no payload"),
        pytest.param(second(payload=b"b" * 51), id="longer"),
        pytest.param(second(identification=3), id="identification"),
        pytest.param(second(identification=0), id="identification goes back"),
        pytest.param(second(fragment=0), id="DF"),
        pytest.param(second(fragment=0x8000 | DF), id="reserved flag"),
        pytest.param(second(fragment=0x2000), id="more fragments"),
        pytest.param(second(fragment=1), id="fragment"),
        pytest.param(second(ttl=63), id="TTL"),
        pytest.param(second(tos=1), id="ECN"),
        pytest.param(second(port=1001), id="port"),
        pytest.param(second(source=VM + 1), id="source"),
        pytest.param(second(source_mac=VM_MAC + 1), id="MAC"),
        pytest.param(second() + b"\0", id="padding"),
        pytest.param(second() + b"\xff\xfd", id="padding that the checksum would bear"),
        pytest.param(poke(second(), 60, b"!"), id="payload not summed"),
        pytest.param(poke(second(), 24, b"\0\1"), id="IPv4 checksum"),
        pytest.param(poke(second(), 46, b"\x40"), id="data offset too small"),
        pytest.param(poke(second(), 46, b"\xf0"), id="data offset"),
        pytest.param(poke(second(), 16, b"\0\x27"), id="total length too small"),
        pytest.param(poke(second(), 16, b"\xff\xff"), id="total length too large"),
    ],
)
def test_what_differs_is_not_joined(frame: bytes) -> None:
    assert len(written([FIRST, second()])) == 1
    assert written([FIRST, frame]) == as_they_came([FIRST, frame])


def test_a_first_frame_that_does_not_verify_is_not_vouched_for() -> None:
    for at in (24, 60):
        frames = [poke(FIRST, at, b"!"), second()]
        assert written(frames) == as_they_came(frames)


def with_checksum_zero() -> bytes:
    """A segment whose TCP checksum comes out as 0, which may also be spelt 0xFFFF."""
    for value in range(0x10000):
        frame = second(payload=b"b" * 48 + value.to_bytes(2, "big"))
        if frame[50:52] == b"\0\0":
            return frame
    raise AssertionError


def test_the_other_spelling_of_a_zero_checksum_is_not_joined() -> None:
    frame = with_checksum_zero()
    assert len(written([FIRST, frame])) == 1
    frames = [FIRST, poke(frame, 50, b"\xff\xff")]
    assert written(frames) == as_they_came(frames)


def test_less_payload_or_psh_ends_a_group() -> None:
    for end in (second(payload=b"b" * 49), second(payload=b"b" * 50, flags=ACK | PSH)):
        size = len(end) - 58
        after = second(seq=50 + size, identification=3)
        whole, rest = written([FIRST, end, after])
        assert len(whole) == VIRTIO_HEADER + 58 + 50 + size
        assert rest == bytes(VIRTIO_HEADER) + after


def test_a_pure_acknowledgement_keeps_its_place() -> None:
    pure = second(payload=b"", identification=9, seq=100)
    frames = [FIRST, second(), pure, second(seq=100, identification=3), second(seq=150, identification=4)]
    out = written(frames)
    assert [len(frame) for frame in out] == [10 + 58 + 100, 10 + 58, 10 + 58 + 100]
    assert out[1] == bytes(VIRTIO_HEADER) + pure


def test_other_traffic_in_between_does_not_part_a_flow_but_a_fragment_does() -> None:
    udp = packet.ethernet(HOST_MAC, VM_MAC, 0x0800, packet.ipv4(VM, HOST, 17, bytes(8)))
    arp = packet.ethernet(HOST_MAC, VM_MAC, 0x0806, bytes(28))
    fragment = second(fragment=0x2000)
    assert [len(frame) for frame in written([FIRST, udp, arp, second()])] == [168, 10 + 42, 10 + 42]
    assert written([FIRST, fragment, second()]) == as_they_came([FIRST, fragment, second()])


def test_eight_flows_stay_open_and_a_ninth_takes_the_place_of_the_first() -> None:
    first = [tcp_frame(0, b"a" * 50, port=port, identification=1) for port in range(9)]
    last = [tcp_frame(50, b"b" * 50, port=port, identification=2) for port in range(9)]
    assert len(written(first[:8] + last[:8])) == 8
    batch = batch_of(first + last)
    coalescer = Coalescer(18)
    coalescer.join(batch)
    alone = [coalescer.first[k] for k in range(coalescer.count) if coalescer.segments[k] == 1]
    assert 0 in alone
    assert 9 in alone


def test_a_group_holds_no_more_than_an_ipv4_packet_can() -> None:
    frames = [tcp_frame(at * 8000, b"a" * 8000, identification=at) for at in range(9)]
    assert [len(frame) - 64 for frame in written(frames, slot=8054)] == [8 * 8000, 8000]


def test_a_group_holds_64_frames() -> None:
    frames = [tcp_frame(at, b"a", identification=at) for at in range(65)]
    assert [len(frame) - 64 for frame in written(frames)] == [64, 1]


def test_nothing_joins_a_frame_of_an_earlier_batch() -> None:
    coalescer = Coalescer(1)
    assert coalescer.join(batch_of([FIRST])) == 1
    assert coalescer.join(batch_of([second()])) == 1
    assert coalescer.segments[0] == 1


# Cutting. -----------------------------------------------------------------------------------------


def super_frame(payload: bytes, flags: int = ACK, gso: int = 100) -> bytes:
    frame = tcp_frame(1000, payload, flags=flags, identification=5)
    return struct.pack("<BBHHHH", NEEDS_CSUM, GSO_TCPV4, 54, gso, 34, 16) + frame


def load(whole: bytes, mtu: int = MTU) -> Segmenter:
    segmenter = Segmenter(mtu)
    segmenter.buffer[: len(whole)] = whole
    segmenter.load(len(whole))
    return segmenter


def cut(whole: bytes, mtu: int = MTU) -> list[bytes]:
    batch = Batch(64, mtu + 14)
    assert load(whole, mtu).fill(batch)
    return [batch.frame(at) for at in range(batch.count)]


def test_a_super_segment_is_cut_with_flags_where_they_belong() -> None:
    payload = bytes(range(250))
    first, middle, last = cut(super_frame(payload, ACK | PSH | FIN | CWR))
    assert first == tcp_frame(1000, payload[:100], flags=ACK | CWR, identification=5)
    assert middle == tcp_frame(1100, payload[100:200], flags=ACK, identification=6)
    assert last == tcp_frame(1200, payload[200:], flags=ACK | PSH | FIN, identification=7)


def test_segments_obey_the_mtu_whatever_the_virtio_header_asks() -> None:
    sizes = [len(frame) for frame in cut(super_frame(bytes(3000), gso=0xFFFF), mtu=576)]
    assert sizes == [590] * 5 + [54 + 3000 - 5 * 536]


def test_a_full_batch_is_carried_on_in_the_next() -> None:
    segmenter = load(super_frame(bytes(250)))
    batch = Batch(2, MTU + 14)
    assert not segmenter.fill(batch)
    assert segmenter.pending
    assert batch.count == 2
    assert not segmenter.fill(batch)
    batch.clear()
    assert segmenter.fill(batch)
    assert not segmenter.pending
    assert batch.frame(0) == tcp_frame(1200, bytes(50), identification=7)


def test_frames_are_put_behind_those_the_batch_has() -> None:
    batch = Batch(3, MTU + 14)
    batch.append(b"before")
    assert load(super_frame(bytes(150))).fill(batch)
    assert [len(batch.frame(at)) for at in range(3)] == [6, 154, 104]


def test_a_frame_that_is_too_long_stays_too_long() -> None:
    whole = bytes(VIRTIO_HEADER) + b"x" * 1515
    batch = Batch(1, MTU + 14)
    assert load(whole).fill(batch)
    assert batch.length[0] == 1515


def test_a_udp_checksum_of_zero_is_completed_as_ffff() -> None:
    datagram = bytes(6) + b"\0\0" + b"\xff\xff"
    frame = packet.ethernet(HOST_MAC, VM_MAC, 0x0800, packet.ipv4(VM, HOST, 17, datagram))
    (out,) = cut(struct.pack("<BBHHHH", NEEDS_CSUM, 0, 0, 0, 34, 6) + frame)
    assert out[40:42] == b"\xff\xff"


GOOD = super_frame(bytes(250))


@pytest.mark.parametrize(
    "whole",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(GOOD[:9], id="half a virtio header"),
        pytest.param(poke(GOOD, 0, b"\0"), id="segments without a checksum to complete"),
        pytest.param(poke(GOOD, 1, b"\3"), id="UDP fragmentation"),
        pytest.param(poke(GOOD, 1, b"\4"), id="TCP over IPv6"),
        pytest.param(poke(GOOD, 1, b"\5"), id="UDP segmentation"),
        pytest.param(poke(GOOD, 1, b"\x80"), id="ECN without TCP"),
        pytest.param(poke(GOOD, 4, b"\0\0"), id="segments of nothing"),
        pytest.param(poke(GOOD, 6, b"\x0e\0"), id="checksum of IPv4"),
        pytest.param(poke(GOOD, 8, b"\x06\0"), id="checksum of UDP"),
        pytest.param(GOOD[: 10 + 53], id="header cut short"),
        pytest.param(GOOD[:-1], id="payload cut short"),
        pytest.param(poke(GOOD, 10 + 12, b"\x86\xdd"), id="IPv6"),
        pytest.param(poke(GOOD, 10 + 14, b"\x65"), id="version 6"),
        pytest.param(poke(GOOD, 10 + 14, b"\x44"), id="IHL 4"),
        pytest.param(poke(GOOD, 10 + 16, b"\0\x27"), id="total length below the headers"),
        pytest.param(poke(GOOD, 10 + 20, b"\x20\0"), id="more fragments"),
        pytest.param(poke(GOOD, 10 + 20, b"\0\1"), id="fragment"),
        pytest.param(poke(GOOD, 10 + 23, b"\x11"), id="UDP"),
        pytest.param(poke(GOOD, 10 + 46, b"\x40"), id="data offset 4"),
        pytest.param(poke(super_frame(bytes(8)), 10 + 46, b"\xf0"), id="data offset past the end"),
        pytest.param(struct.pack("<BBHHHH", 1, 0, 0, 0, 30, 16) + bytes(47), id="checksum past the end"),
        pytest.param(struct.pack("<BBHHHH", 1, 0, 0, 0, 0xFFFF, 0xFFFF) + bytes(60), id="checksum far away"),
    ],
)
def test_a_virtio_header_that_does_not_fit_drops_the_frame(whole: bytes) -> None:
    segmenter = load(whole)
    batch = Batch(8, MTU + 14)
    assert segmenter.fill(batch)
    assert (batch.count, segmenter.malformed) == (0, 1)


def test_the_longest_read_of_a_tap_fits() -> None:
    payload = bytes(65535 - 40)
    out = cut_all(super_frame(payload, gso=1460))
    assert len(out) == 45
    assert sum(len(frame) - 54 for frame in out) == len(payload)


def cut_all(whole: bytes) -> list[bytes]:
    segmenter = load(whole)
    batch = Batch(8, MTU + 14)
    out: list[bytes] = []
    while not segmenter.fill(batch):
        out += [batch.frame(at) for at in range(batch.count)]
        batch.clear()
    return out + [batch.frame(at) for at in range(batch.count)]


# Bulk work on bytes (the interpreted half; the compiled one is tried through the classes above). --


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 40, 1001])
@pytest.mark.parametrize("start", [0, 1, 6])
def test_the_sum_is_the_plain_one(size: int, start: int) -> None:
    data = bytes(at * 37 + 11 & 255 for at in range(start + size))
    plain = 0xFFFF - packet.checksum(data[start:])
    assert octets.sum_of(memoryview(data), start, size) == plain


def test_sums_of_nothing_but_zeros_and_ones() -> None:
    assert octets.sum_of(memoryview(bytes(20)), 0, 20) == 0
    assert octets.sum_of(memoryview(b"\xff" * 20), 0, 20) == 0xFFFF
    assert octets.fold(0x1FFFE) == 0xFFFF


@pytest.mark.parametrize(("start", "size"), [(0, 9), (9, 0), (8, 1), (1 << 40, 1), (-1, 1)])
def test_ranges_outside_the_arena_are_refused(start: int, size: int) -> None:
    data = memoryview(bytearray(8))
    with pytest.raises(IndexError):
        octets.sum_of(data, start, size)
    with pytest.raises(IndexError):
        octets.copy(data, start, data, 0, size)
    with pytest.raises(IndexError):
        octets.copy(data, 0, data, start, size)
    with pytest.raises(IndexError):
        octets.same(data, 0, start, size)
