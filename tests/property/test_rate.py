"""Whatever is read whenever: no more than the rate and a burst and one batch, and reading always goes on."""

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from softnet.core.frames import Batch
from softnet.core.rate import Bucket
from softnet.limits import (
    LEAST_BITS,
    LEAST_BURST,
    LEAST_PACKETS,
    MOST_BITS,
    MOST_BURST,
    MOST_PACKETS,
    Limit,
    Rates,
    add_rate,
)

SLACK = 1e-6  # relative: seconds are floats


class Read(NamedTuple):
    at: float
    bits: int
    packets: int


lengths = st.lists(st.sampled_from([0, 60, 590, 1514, 9014, 65550]), min_size=1, max_size=64)
limits = st.builds(
    Limit,
    st.integers(LEAST_BITS, MOST_BITS),
    st.integers(LEAST_PACKETS, MOST_PACKETS),
    st.floats(LEAST_BURST, MOST_BURST),
) | st.builds(
    Limit,
    st.sampled_from([0, 64_000, 10**6, 10**8]),
    st.sampled_from([10, 500, 10**5]),
    st.sampled_from([LEAST_BURST, 0.1, 1.0]),
)
waits = st.sampled_from([0.0, 1e-6, 0.0005, 0.002, 0.05, 0.5, 3.0, 1e5])


def batch_of(frames: list[int]) -> Batch:
    batch = Batch(64, 64)
    for at, length in enumerate(frames):
        batch.append(b"")
        batch.length[at] = length
    return batch


@given(limits, st.lists(st.tuples(waits, lengths), min_size=1, max_size=40), st.floats(0, 1e7))
def test_never_more_than_the_rate_a_burst_and_one_batch(
    limit: Limit, tries: list[tuple[float, list[int]]], now: float
) -> None:
    bucket = Bucket(limit.bits, limit.packets, limit.burst)
    reads: list[Read] = []
    for wait, frames in tries:
        now += wait
        if bucket.owed(now) == 0.0:
            bucket.charge(batch_of(frames), now)
            reads.append(Read(now, 8 * sum(frames), len(frames)))
    for first in range(len(reads)):
        bits = packets = 0
        for last in range(first, len(reads)):
            span = reads[last].at - reads[first].at + limit.burst
            if limit.bits:
                assert bits <= limit.bits * span * (1 + SLACK) + 1
            assert packets <= limit.packets * span * (1 + SLACK) + 1e-3
            bits += reads[last].bits  # the last batch is the one that may overdraw
            packets += reads[last].packets


@given(limits, st.lists(lengths, min_size=1, max_size=20), st.floats(0, 1e7))
def test_a_debt_ends_when_it_said_and_is_no_longer_than_its_batch(
    limit: Limit, batches: list[list[int]], now: float
) -> None:
    bucket = Bucket(limit.bits, limit.packets, limit.burst)
    for frames in batches:
        owed = bucket.charge(batch_of(frames), now)
        alone = max(
            8 * sum(frames) / limit.bits if limit.bits else 0.0,
            len(frames) / limit.packets,
        )
        assert 0.0 <= owed <= alone * (1 + SLACK) + 1e-9
        now += owed + 0.001  # a poll's grain
        assert bucket.owed(now) == 0.0


@given(limits, lengths, st.lists(st.floats(-1e7, 1e7), max_size=10))
def test_no_clock_makes_a_debt_longer(limit: Limit, frames: list[int], clock: list[float]) -> None:
    bucket = Bucket(limit.bits, limit.packets, limit.burst)
    before = bucket.charge(batch_of(frames), 0.0)
    for now in clock:
        owed = bucket.owed(now)
        assert owed <= before
        before = owed


@given(limits, limits)
def test_what_is_shown_can_be_given_again(one: Limit, other: Limit) -> None:
    burst = (round(one.burst, 3), round(other.burst, 3))
    wanted = Rates(one._replace(burst=burst[0]), other._replace(burst=burst[1]))
    found = add_rate(add_rate(Rates(), f"from-vm:{wanted.from_vm}"), f"to-vm:{wanted.to_vm}")
    for limit, given_again in zip(wanted, found, strict=True):
        assert limit is not None
        assert given_again is not None
        assert given_again[:2] == limit[:2]
        assert abs(given_again.burst - limit.burst) < 1e-9


@given(st.text(alphabet="0123456789.kmgbitps,:=urstfo-v", max_size=30))
def test_rubbish_is_a_value_error_or_a_rate(text: str) -> None:
    try:
        rates = add_rate(Rates(), text)
    except ValueError:
        return
    assert rates != Rates()
