"""The coalescer and the segmenter against slow twins, against each other, and fed rubbish."""

import struct
from itertools import pairwise
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from softnet.core import packet
from softnet.core.frames import Batch
from softnet.core.offload import Coalescer, Segmenter
from softnet.core.virtio import GSO_ECN, GSO_NONE, GSO_TCPV4, NEEDS_CSUM, VIRTIO_HEADER

MTU = 1500
VM, HOST = 0x0A000002, 0x0A000001
MACS = bytes.fromhex("02000000000102000000000208 00".replace(" ", ""))
PSH, ACK, CWR, FIN = 0x08, 0x10, 0x80, 0x01
TIMESTAMPS = bytes.fromhex("0101080a0000000100000002")


class Segment(NamedTuple):
    """The fields of a TCP/IPv4 frame; `frame` writes it with right checksums."""

    port: int = 1000
    seq: int = 1
    ack: int = 7
    flags: int = ACK
    window: int = 500
    options: bytes = b""
    payload: bytes = b"x" * 100
    identification: int = 1
    fragment: int = 0x4000
    tos: int = 0
    ttl: int = 64
    urgent: int = 0
    padding: bytes = b""
    ip_options: bytes = b""

    def frame(self) -> bytes:
        offset = 5 + len(self.options) // 4
        control = offset << 12 | self.flags
        ports = (self.port, 80, self.seq & 0xFFFFFFFF, self.ack)
        tcp = struct.pack("!HHIIHHHH", *ports, control, self.window, 0, self.urgent)
        tcp += self.options + self.payload
        check = packet.transport_checksum(VM, HOST, 6, tcp)
        tcp = tcp[:16] + check.to_bytes(2, "big") + tcp[18:]
        ihl = 5 + len(self.ip_options) // 4
        total, identification = ihl * 4 + len(tcp), self.identification & 0xFFFF
        words = (0x40 | ihl, self.tos, total, identification, self.fragment, self.ttl, 6, 0, VM, HOST)
        header = struct.pack("!BBHHHBBHII", *words) + self.ip_options
        header = header[:10] + packet.checksum(header).to_bytes(2, "big") + header[12:]
        return MACS + header + tcp + self.padding


def batch_of(frames: list[bytes], slot: int = MTU + 14) -> Batch:
    batch = Batch(max(len(frames), 1), slot)
    for frame in frames:
        assert batch.append(frame)
    for at in range(len(frames)):
        batch.verdict[at] = 0
    return batch


def joined(frames: list[bytes]) -> list[bytes]:
    """What the coalescer writes for `frames`, virtio headers included."""
    batch = batch_of(frames)
    coalescer = Coalescer(batch.capacity)
    return [b"".join(coalescer.pieces(batch, group)) for group in range(coalescer.join(batch))]


def cut(written: bytes, mtu: int = MTU, capacity: int = 64) -> list[bytes]:
    """What the segmenter makes of one frame with its virtio header, `capacity` frames a batch."""
    segmenter = Segmenter(mtu)
    segmenter.buffer[: len(written)] = written
    segmenter.load(len(written))
    batch = Batch(capacity, mtu + 14)
    out = []
    while True:
        batch.clear()
        done = segmenter.fill(batch)
        out += [batch.frame(at) for at in range(batch.count)]
        if done:
            return out


# The slow twins. ---------------------------------------------------------------------------------


def verifies(frame: bytes) -> bool:
    ihl = (frame[14] & 15) * 4
    total = int.from_bytes(frame[16:18], "big")
    tcp = frame[14 + ihl : 14 + total]
    source, target = (int.from_bytes(frame[at : at + 4], "big") for at in (26, 30))
    wrong = packet.checksum(frame[14 : 14 + ihl]) or packet.transport_checksum(source, target, 6, tcp)
    return not wrong


def is_tcp(frame: bytes) -> bool:
    return len(frame) >= 34 and frame[12:14] == b"\x08\x00" and frame[23] == 6


def is_plain(frame: bytes) -> bool:
    """Whether the ports stand where they do without IPv4 options."""
    total = int.from_bytes(frame[16:18], "big")
    fragment = int.from_bytes(frame[20:22], "big")
    return frame[14] == 0x45 and fragment in (0, 0x4000) and 40 <= total <= len(frame) - 14


def payload_at(frame: bytes) -> int:
    return 34 + (frame[46] >> 4) * 4


def may_join(frame: bytes) -> bool:
    total = int.from_bytes(frame[16:18], "big")
    return (
        total == len(frame) - 14
        and frame[46] >> 4 >= 5
        and payload_at(frame) < len(frame)
        and frame[46] & 15 == 0
        and frame[47] & ~PSH == ACK
        and frame[52:54] == b"\0\0"
        and b"\xff\xff" not in (frame[24:26], frame[50:52])
    )


def without_varying(frame: bytes) -> bytes:
    """The headers less what may differ inside a group."""
    flags = bytes([frame[47] & ~PSH])
    options = frame[54 : payload_at(frame)]
    return frame[:16] + frame[20:24] + frame[26:38] + frame[42:47] + flags + frame[48:50] + options


def continues(group: list[bytes], frame: bytes) -> bool:
    first, last = group[0], group[-1]
    sizes = [len(other) - payload_at(other) for other in [*group, frame]]
    if without_varying(first) != without_varying(frame) or sizes[-1] > sizes[0]:
        return False
    if any(size != sizes[0] for size in sizes[:-1]) or any(other[47] & PSH for other in group):
        return False
    seqs = [int.from_bytes(other[38:42], "big") for other in (last, frame)]
    ids = [int.from_bytes(other[18:20], "big") for other in [*group, frame]]
    steps = {(b - a) & 0xFFFF for a, b in pairwise(ids)}
    return (
        (seqs[0] + sizes[-2]) & 0xFFFFFFFF == seqs[1]
        and (steps == {1} or (steps == {0} and frame[20] == 0x40))
        and payload_at(frame) - 14 + sum(sizes) <= 65535
        and len(group) < 64
        and all(verifies(other) for other in [*group, frame])
    )


def slow_groups(frames: list[bytes]) -> list[list[bytes]]:
    """Grouping as the module's text states it, for at most eight flows."""
    groups: list[list[bytes]] = []
    latest: dict[bytes, list[bytes]] = {}
    for frame in frames:
        if is_tcp(frame) and not is_plain(frame):
            latest.clear()
        elif is_tcp(frame):
            group = latest.get(frame[26:38])
            if group and may_join(frame) and continues(group, frame):
                group.append(frame)
                continue
            latest.pop(frame[26:38], None)
            if may_join(frame):
                groups.append([frame])
                latest[frame[26:38]] = groups[-1]
                continue
        groups.append([frame])
    return groups


def slow_cut(frame: bytes, size: int) -> list[bytes]:
    """Segments with `size` bytes of payload of the frame."""
    ihl = (frame[14] & 15) * 4
    tcp = 14 + ihl
    header = tcp + (frame[tcp + 12] >> 4) * 4
    payload = frame[header:]
    chunks = [payload[at : at + size] for at in range(0, len(payload), size)] or [b""]
    out = []
    for index, chunk in enumerate(chunks):
        new = bytearray(frame[:header] + chunk)
        flags = frame[tcp + 13]
        if index:
            flags &= ~CWR
        if index < len(chunks) - 1:
            flags &= ~(FIN | PSH)
        new[tcp + 13] = flags
        new[16:18] = (len(new) - 14).to_bytes(2, "big")
        new[18:20] = ((int.from_bytes(frame[18:20], "big") + index) & 0xFFFF).to_bytes(2, "big")
        seq = int.from_bytes(frame[tcp + 4 : tcp + 8], "big") + index * size
        new[tcp + 4 : tcp + 8] = (seq & 0xFFFFFFFF).to_bytes(4, "big")
        new[24:26] = new[tcp + 16 : tcp + 18] = b"\0\0"
        new[24:26] = packet.checksum(bytes(new[14:tcp])).to_bytes(2, "big")
        source, target = (int.from_bytes(new[at : at + 4], "big") for at in (26, 30))
        check = packet.transport_checksum(source, target, 6, bytes(new[tcp:]))
        new[tcp + 16 : tcp + 18] = check.to_bytes(2, "big")
        out.append(bytes(new))
    return out


# Frames that look like a few TCP connections with something wrong now and then. -----------------

deviations: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.just({}),
    st.just({}),
    st.sampled_from(
        [
            {"flags": ACK | PSH},
            {"flags": ACK | FIN},
            {"flags": 0x02},
            {"flags": ACK | 0x40},
            {"flags": ACK | CWR},
            {"flags": ACK | 0x20, "urgent": 3},
            {"flags": ACK | 0x100},
            {"urgent": 3},
            {"seq": 5},
            {"window": 501},
            {"ack": 8},
            {"ttl": 63},
            {"tos": 2},
            {"fragment": 0},
            {"fragment": 0x2000},
            {"fragment": 0x4001},
            {"fragment": 0xC000},
            {"options": b""},
            {"options": TIMESTAMPS[:-1] + b"\x03"},
            {"payload": b""},
            {"payload": b"y"},
            {"payload": b"z" * 99},
            {"payload": b"z" * 101},
            {"padding": b"\0\0"},
            {"ip_options": b"\x94\x04\0\0"},
            {"identification": 0},
        ]
    ),
)


@st.composite
def conversations(draw: st.DrawFn) -> list[bytes]:
    """Frames of up to three flows, most of which continue the frame before."""
    start = draw(st.sampled_from([1, 0xFFFFFF80]))
    step = draw(st.sampled_from([1, 1, 0, 2]))
    options = draw(st.sampled_from([b"", TIMESTAMPS]))
    fragment = draw(st.sampled_from([0x4000, 0]))
    base = Segment(seq=start, options=options, identification=0xFFFE, fragment=fragment)
    flows = {port: base._replace(port=port) for port in (1, 2, 3)}
    frames = []
    for _ in range(draw(st.integers(1, 24))):
        port = draw(st.sampled_from([1, 1, 2, 3]))
        segment = flows[port]._replace(**draw(deviations))
        frame = segment.frame()
        wrong = draw(st.integers(0, 15))
        if wrong == 0:
            at = draw(st.integers(0, len(frame) - 1))
            frame = frame[:at] + bytes([frame[at] ^ draw(st.integers(1, 255))]) + frame[at + 1 :]
        elif wrong == 1:
            frame = frame[: draw(st.integers(14, len(frame)))]
        frames.append(frame)
        flows[port] = flows[port]._replace(
            seq=segment.seq + len(segment.payload), identification=segment.identification + step
        )
    return frames


@given(conversations())
def test_groups_are_the_slow_twins(frames: list[bytes]) -> None:
    batch = batch_of(frames)
    coalescer = Coalescer(batch.capacity)
    groups = []
    for group in range(coalescer.join(batch)):
        at = coalescer.first[group]
        members = []
        for _ in range(coalescer.segments[group]):
            members.append(batch.frame(at))
            at = coalescer.next[at]
        groups.append(members)
    assert groups == slow_groups(frames)


@given(conversations())
def test_cutting_what_was_joined_gives_the_frames_back(frames: list[bytes]) -> None:
    """Byte for byte, group by group; where identifications stood still they count up now."""
    groups = slow_groups(frames)
    written = joined(frames)
    assert len(written) == len(groups)
    for members, whole in zip(groups, written, strict=True):
        if len(members) == 1:
            assert whole == bytes(VIRTIO_HEADER) + members[0]
            continue
        first = int.from_bytes(members[0][18:20], "big")
        counted = members[0][18:20] != members[1][18:20]
        for index, (piece, member) in enumerate(zip(cut(whole), members, strict=True)):
            if counted:
                assert piece == member
            assert int.from_bytes(piece[18:20], "big") == (first + index) & 0xFFFF
            assert (piece[:18], piece[20:24], piece[26:]) == (member[:18], member[20:24], member[26:])
            assert verifies(piece)


@given(conversations())
def test_no_flow_is_reordered_and_no_frame_lost(frames: list[bytes]) -> None:
    batch = batch_of(frames)
    coalescer = Coalescer(batch.capacity)
    order = []
    for group in range(coalescer.join(batch)):
        at = coalescer.first[group]
        for _ in range(coalescer.segments[group]):
            order.append(at)
            at = coalescer.next[at]
    assert sorted(order) == list(range(len(frames)))
    for flow in {frame[26:38] for frame in frames if is_tcp(frame)}:
        of_flow = [at for at in order if is_tcp(frames[at]) and frames[at][26:38] == flow]
        assert of_flow == sorted(of_flow)


@given(conversations(), st.integers(0, 2**24 - 1))
def test_what_was_not_let_through_is_in_no_group(frames: list[bytes], mask: int) -> None:
    batch = batch_of(frames)
    for at in range(len(frames)):
        batch.verdict[at] = 40 if mask >> at & 1 else 0
    passing = [frame for at, frame in enumerate(frames) if not mask >> at & 1]
    coalescer = Coalescer(batch.capacity)
    written = [b"".join(coalescer.pieces(batch, group)) for group in range(coalescer.join(batch))]
    assert written == (joined(passing) if passing else [])


@given(st.lists(st.binary(max_size=120), max_size=16))
def test_rubbish_is_written_as_it_came(frames: list[bytes]) -> None:
    assert joined(frames) == [bytes(VIRTIO_HEADER) + frame for frame in frames]


def virtio(flags: int, kind: int, header: int, size: int, start: int, offset: int) -> bytes:
    return struct.pack("<BBHHHH", flags, kind, header, size, start, offset)


def partial(frame: bytes) -> bytes:
    """The frame as the kernel gives it: the TCP checksum field holds the pseudo-header's sum."""
    tcp = 14 + (frame[14] & 15) * 4
    source, target = (int.from_bytes(frame[at : at + 4], "big") for at in (26, 30))
    pseudo = struct.pack("!IIHH", source, target, 6, len(frame) - tcp)
    return frame[: tcp + 16] + (0xFFFF - packet.checksum(pseudo)).to_bytes(2, "big") + frame[tcp + 18 :]


@given(
    st.integers(0, 5000),
    st.integers(1, 2000),
    st.sampled_from([0x10, 0x18, 0x19, 0x11, 0x90, 0x99]),
    st.sampled_from([b"", TIMESTAMPS]),
    st.sampled_from([b"", b"\x94\x04\0\0"]),
    st.sampled_from([576, 1500]),
    st.integers(1, 7),
    st.integers(0xFFFFF000, 0xFFFFFFFF),
)
@settings(deadline=None)
def test_segments_are_the_slow_twins(
    size: int, gso: int, flags: int, options: bytes, ip_options: bytes, mtu: int, capacity: int, seq: int
) -> None:
    payload = bytes(at * 7 & 255 for at in range(size))
    frame = Segment(
        seq=seq, flags=flags, options=options, ip_options=ip_options, payload=payload, identification=0xFFFE
    ).frame()
    tcp = 34 + len(ip_options)
    header = tcp + 20 + len(options)
    kind = GSO_TCPV4 | (GSO_ECN if flags & CWR else 0)
    written = virtio(NEEDS_CSUM, kind, header, gso, tcp, 16) + partial(frame)
    segments = cut(written, mtu, capacity)
    assert segments == slow_cut(frame, min(gso, mtu + 14 - header))
    assert all(len(segment) <= mtu + 14 and verifies(segment) for segment in segments)


@given(st.binary(max_size=300))
def test_without_requests_a_frame_passes_as_it_is(frame: bytes) -> None:
    assert cut(bytes(VIRTIO_HEADER) + frame) == [frame]


@given(st.binary(min_size=42, max_size=300), st.integers(0, 400), st.integers(0, 400))
def test_a_checksum_is_completed_where_asked_or_not_at_all(frame: bytes, start: int, offset: int) -> None:
    out = cut(virtio(NEEDS_CSUM, GSO_NONE, 0, 0, start, offset) + frame)
    if start + offset + 2 > len(frame):
        assert out == []
        return
    check = (packet.checksum(frame[start:]) or 0xFFFF).to_bytes(2, "big")
    assert out == [frame[: start + offset] + check + frame[start + offset + 2 :]]


@given(
    st.sampled_from([0, 1, 2, 3]),
    st.sampled_from([0, 1, 1, 1, 3, 4, 5, 0x80, 0x81]),
    st.integers(0, 0xFFFF),
    st.integers(0, 3000) | st.integers(0, 0xFFFF),
    st.sampled_from([34, 34, 38, 0, 0xFFFF]),
    st.sampled_from([16, 16, 6, 0xFFFF]),
    st.binary(max_size=10),
    st.lists(st.tuples(st.integers(12, 60), st.integers(0, 255)), max_size=3),
)
@settings(deadline=None)
def test_rubbish_never_raises_and_never_exceeds_the_mtu(
    flags: int,
    kind: int,
    header: int,
    size: int,
    start: int,
    offset: int,
    tail: bytes,
    pokes: list[tuple[int, int]],
) -> None:
    frame = bytearray(Segment(payload=b"p" * 900).frame() + tail)
    for at, value in pokes:
        frame[at] = value
    for length in (len(frame), 60, 20, 0):
        for out in cut(virtio(flags, kind, header, size, start, offset) + frame[:length], mtu=600):
            assert kind == GSO_NONE or len(out) <= 614
            assert kind == GSO_NONE or verifies(out)


@given(st.binary(max_size=9))
def test_less_than_a_virtio_header_is_malformed(written: bytes) -> None:
    segmenter = Segmenter(MTU)
    segmenter.buffer[: len(written)] = written
    segmenter.load(len(written))
    assert (segmenter.pending, segmenter.malformed) == (False, 1)
