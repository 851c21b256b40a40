"""The stream's own ends: cut anywhere, announced too long, closed inside a frame, taken in part."""

import itertools
import os
import socket
from collections.abc import Iterator

import pytest

from softnet.core.frames import Batch
from softnet.core.reasons import PASS_GLOBAL, UNJUDGED, VM_BUSY
from softnet.errors import LinkClosed
from softnet.links import base, burst, stream
from softnet.links.calls import COMPILED, calls
from softnet.links.stream import StreamLink

SLOT = 64
IMPLEMENTATIONS = [pytest.param(burst, id="interpreted")] + [pytest.param(calls, id="compiled")] * COMPILED


@pytest.fixture(params=IMPLEMENTATIONS, autouse=True)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (base, stream):
        monkeypatch.setattr(module, "calls", request.param)


@pytest.fixture
def ends() -> Iterator[tuple[StreamLink, socket.socket]]:
    near, far = socket.socketpair()
    link = StreamLink(near)
    yield link, far
    link.close()
    far.close()


def framed(*frames: bytes) -> bytes:
    return b"".join(len(content).to_bytes(4, "big") + content for content in frames)


def received(link: StreamLink, batch: Batch) -> list[tuple[int, bytes]]:
    """Everything that can be had now: the length and the bytes present of each frame."""
    frames: list[tuple[int, bytes]] = []
    while link.receive(batch) or link.pending:
        frames += [(batch.length[index], batch.frame(index)) for index in range(batch.count)]
    return frames


FRAMES = [b"", b"a" * 14, b"b" * SLOT, b"c" * (SLOT + 1), b"d", b"", b"e" * 700, b"f" * SLOT]
SEEN = [(len(content), content if len(content) <= SLOT else b"") for content in FRAMES]


@pytest.mark.parametrize("capacity", [1, 2, 64])
def test_byte_by_byte(ends: tuple[StreamLink, socket.socket], capacity: int) -> None:
    link, far = ends
    batch, seen = Batch(capacity, SLOT), list[tuple[int, bytes]]()
    for byte in framed(*FRAMES):
        far.send(bytes([byte]))
        seen += received(link, batch)
    assert seen == SEEN


@pytest.mark.parametrize("capacity", [1, 2, 64])
def test_cut_in_two_at_every_byte(ends: tuple[StreamLink, socket.socket], capacity: int) -> None:
    link, far = ends
    batch, whole = Batch(capacity, SLOT), framed(*FRAMES)
    for cut in range(len(whole) + 1):
        far.send(whole[:cut])
        seen = received(link, batch)
        far.send(whole[cut:])
        assert seen + received(link, batch) == SEEN


def test_batches_of_other_shapes_may_take_turns(ends: tuple[StreamLink, socket.socket]) -> None:
    """Also when a frame that fitted the batch in which it began is too long for the one in which it ends."""
    link, far = ends
    small, large = Batch(1, 20), Batch(8, SLOT)
    far.send(framed(b"x" * 40)[:30])
    assert link.receive(large) == 0
    far.send(b"x" * 14 + framed(b"y" * 10, b"z" * 20, b"w" * 21))
    seen = received(link, small)
    assert seen == [(40, b""), (10, b"y" * 10), (20, b"z" * 20), (21, b"")]


def test_frames_before_a_length_that_cannot_be_are_delivered(ends: tuple[StreamLink, socket.socket]) -> None:
    link, far = ends
    far.send(framed(b"a" * 20, b"b" * 20) + (65551).to_bytes(4, "big") + framed(b"c" * 20))
    batch = Batch(8, SLOT)
    assert link.receive(batch) == 2
    assert link.pending
    for _ in range(2):
        with pytest.raises(LinkClosed, match="longer than any MTU"):
            link.receive(batch)


@pytest.mark.parametrize("length", [65551, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1])
def test_a_length_that_cannot_be_closes_the_link(ends: tuple[StreamLink, socket.socket], length: int) -> None:
    link, far = ends
    far.send(length.to_bytes(4, "big"))
    with pytest.raises(LinkClosed):
        link.receive(Batch(8, SLOT))


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 23])
def test_an_end_inside_a_frame_closes_the_link(ends: tuple[StreamLink, socket.socket], cut: int) -> None:
    link, far = ends
    far.send(framed(b"a" * 20, b"b" * 20)[: 24 + cut])
    far.close()
    batch = Batch(8, SLOT)
    assert link.receive(batch) == 1
    with pytest.raises(LinkClosed, match="inside a frame"):
        link.receive(batch)


def test_an_end_while_a_long_frame_is_skipped_closes_the_link(ends: tuple[StreamLink, socket.socket]) -> None:
    link, far = ends
    far.send(framed(b"a" * 1000)[:500])
    far.close()
    batch = Batch(8, SLOT)
    assert link.receive(batch) == 1
    assert (batch.length[0], batch.frame(0), batch.verdict[0]) == (1000, b"", UNJUDGED)
    with pytest.raises(LinkClosed, match="inside a frame"):
        link.receive(batch)


def test_an_end_between_frames_closes_the_link(ends: tuple[StreamLink, socket.socket]) -> None:
    link, far = ends
    far.close()
    with pytest.raises(LinkClosed, match=r"closed the stream$"):
        link.receive(Batch(8, SLOT))


def numbered(first: int, count: int, length: int) -> Batch:
    batch = Batch(count, length)
    for number in range(first, first + count):
        batch.append(number.to_bytes(4, "big") * (length // 4))
        batch.verdict[batch.count - 1] = PASS_GLOBAL
    return batch


@pytest.mark.parametrize("length", [64, 1512, 60000])
def test_a_frame_taken_in_part_is_finished_before_any_other(
    ends: tuple[StreamLink, socket.socket], length: int
) -> None:
    """The far end reads odd amounts; what it reads is every frame that was not busy, byte for byte."""
    link, far = ends
    socket.socket(fileno=os.dup(link.fileno())).setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20000)
    expected, got, unfinished = b"", b"", 0
    for start, amount in zip(range(0, 4000, 40), itertools.cycle((7001, 1, 1511, 40001)), strict=False):
        batch = numbered(start, 40, length)
        link.send(batch, VM_BUSY)
        sent = [batch.frame(index) for index in range(40) if batch.verdict[index] == PASS_GLOBAL]
        expected += framed(*sent)
        got += far.recv(amount, socket.MSG_DONTWAIT)
        unfinished += not expected.startswith(got) or len(expected) > len(got)
        assert expected.startswith(got)
    far.settimeout(0.2)
    while len(got) < len(expected):
        link.receive(Batch(1, SLOT))  # which goes on with an unfinished frame, too
        got += far.recv(1 << 20)
    assert got == expected
    assert unfinished


def test_a_far_end_that_stopped_reading_is_still_read(ends: tuple[StreamLink, socket.socket]) -> None:
    link, far = ends
    while not link.send(numbered(0, 64, 1512), VM_BUSY):
        pass
    far.send(framed(b"hello"))
    batch = Batch(4, SLOT)
    assert link.receive(batch) == 1
    assert batch.frame(0) == b"hello"


def test_the_leftover_is_at_most_one_arena(ends: tuple[StreamLink, socket.socket]) -> None:
    link, far = ends
    far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    far.send(framed(*[b""] * 5000))
    batch, count = Batch(2, SLOT), 0
    while link.receive(batch):
        count += batch.count
        assert len(link._left) <= 2 * SLOT
    assert count == 5000


def test_a_busy_stream_gives_full_batches(ends: tuple[StreamLink, socket.socket]) -> None:
    """What one read leaves over is the beginning of the next batch, not a batch of its own."""
    link, far = ends
    far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    far.send(framed(*[bytes([at]) * SLOT for at in range(200)]))
    batch, counts, seen = Batch(16, SLOT), list[int](), list[bytes]()
    while link.receive(batch):
        counts.append(batch.count)
        seen += [batch.frame(index) for index in range(batch.count)]
    assert seen == [bytes([at]) * SLOT for at in range(200)]
    assert min(counts[:-1]) >= 15


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("whole", [1, 3])
def test_frames_left_over_are_delivered_before_the_end(
    ends: tuple[StreamLink, socket.socket], reset: bool, whole: int
) -> None:
    """Also when the end is an error: a peer that closes with frames unread resets the connection."""
    link, far = ends
    if reset:
        link._put(numbered(0, 1, 8), 0)
    far.send(framed(*[bytes([at]) * 8 for at in range(4 + whole)]))
    batch = Batch(4, SLOT)
    assert link.receive(batch) == 4
    assert link.pending
    far.close()
    assert link.receive(batch) == whole
    assert batch.frame(whole - 1) == bytes([3 + whole]) * 8
    assert not link.pending
    with pytest.raises(LinkClosed):
        link.receive(batch)
