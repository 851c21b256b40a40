"""A stream link over any bytes in any pieces: the same frames, and nothing but LinkClosed."""

import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softnet.core.frames import Batch
from softnet.errors import LinkClosed
from softnet.links import base, burst, stream
from softnet.links.calls import COMPILED, calls
from softnet.links.stream import StreamLink

SLOT = 64
LIMIT = 65550
IMPLEMENTATIONS = [pytest.param(burst, id="interpreted")] + [pytest.param(calls, id="compiled")] * COMPILED
Seen = list[tuple[int, bytes]]

frames = st.lists(st.one_of(st.binary(max_size=SLOT + 2), st.integers(0, 3000).map(bytes)), max_size=40)
pieces = st.lists(st.integers(1, 400), min_size=1, max_size=20)
shape = st.sampled_from([(1, SLOT), (2, SLOT), (7, SLOT), (64, SLOT), (3, 1514)])


@pytest.fixture(params=IMPLEMENTATIONS, autouse=True, scope="module")
def implementation(request: pytest.FixtureRequest) -> None:
    base.calls = stream.calls = request.param


def fed(data: bytes, cuts: list[int], capacity: int, slot: int) -> tuple[Seen, bool]:
    """The frames that a link makes of `data` in pieces, and whether it closed before the end of file."""
    near, far = socket.socketpair()
    link, batch, seen = StreamLink(near), Batch(capacity, slot), Seen()
    at = piece = 0
    try:
        while at < len(data):
            at += far.send(data[at : at + cuts[piece % len(cuts)]])
            piece += 1
            while link.receive(batch) or link.pending:
                seen += [(batch.length[index], batch.frame(index)) for index in range(batch.count)]
    except LinkClosed:
        return seen, True
    finally:
        link.close()
        far.close()
    return seen, False


def expected(data: bytes, slot: int) -> tuple[Seen, bool]:
    """The slow twin: the framing read from the whole of the bytes at once."""
    seen, at = Seen(), 0
    while at + 4 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if length > LIMIT:
            return seen, True
        if length <= slot and at + 4 + length > len(data):
            break
        seen.append((length, data[at + 4 : at + 4 + length] if length <= slot else b""))
        at += 4 + length
    return seen, False


@given(frames, pieces, shape)
@settings(max_examples=150, deadline=None)
def test_any_split_of_any_frames_gives_the_same_frames(
    content: list[bytes], cuts: list[int], shape: tuple[int, int]
) -> None:
    data = b"".join(len(frame).to_bytes(4, "big") + frame for frame in content)
    whole = [(len(frame), frame if len(frame) <= shape[1] else b"") for frame in content]
    assert fed(data, cuts, *shape) == (whole, False)


lengths = st.integers(0, 70).map(lambda number: number.to_bytes(4, "big"))
large = st.sampled_from([SLOT + 1, LIMIT, LIMIT + 1, 1 << 31, (1 << 32) - 1])
larges = large.map(lambda number: number.to_bytes(4, "big"))
rubbish = st.lists(st.one_of(lengths, lengths, larges, st.binary(max_size=90)), max_size=30).map(b"".join)


@given(rubbish, pieces, shape)
@settings(max_examples=150, deadline=None)
def test_rubbish_gives_frames_or_closes(data: bytes, cuts: list[int], shape: tuple[int, int]) -> None:
    assert fed(data, cuts, *shape) == expected(data, shape[1])
