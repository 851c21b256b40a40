"""The bucket: what it lets be read, what it takes for it, and what the clock may do to it."""

import pytest

from softnet.core.frames import Batch
from softnet.core.rate import Bucket

NOW = 1000.0


def batch_of(*lengths: int) -> Batch:
    batch = Batch(max(1, len(lengths)), 1536)
    for length in lengths:
        batch.append(bytes(length))
    return batch


def test_bits_are_those_of_the_frame() -> None:
    bucket = Bucket(1_000_000, 0, 0.1)
    bucket.charge(batch_of(), NOW)
    owed = bucket.charge(batch_of(*[1514] * 10), NOW)
    assert owed == pytest.approx(10 * 1514 * 8 / 1e6 - 0.1)


def test_a_frame_that_was_cut_counts_whole() -> None:
    bucket = Bucket(1_000_000, 0, 0.005)
    assert bucket.charge(batch_of(9014), NOW) == pytest.approx(9014 * 8 / 1e6 - 0.005)


def test_packets_are_frames_of_any_length() -> None:
    bucket = Bucket(0, 100, 0.1)
    assert bucket.charge(batch_of(*[0] * 10), NOW) == 0.0
    assert bucket.charge(batch_of(1514), NOW) == pytest.approx(0.01)


def test_the_limit_that_owes_more_decides() -> None:
    bucket = Bucket(1_000_000, 100, 0.01)
    assert bucket.charge(batch_of(*[60] * 3), NOW) == pytest.approx(0.02), "packets"
    bucket = Bucket(1_000_000, 100, 0.01)
    assert bucket.charge(batch_of(1514, 1514), NOW) == pytest.approx(1514 * 16 / 1e6 - 0.01), "bits"


def test_a_debt_is_paid_by_time_alone() -> None:
    bucket = Bucket(0, 100, 0.01)
    assert bucket.charge(batch_of(*[60] * 5), NOW) == pytest.approx(0.04)
    assert bucket.owed(NOW) == pytest.approx(0.04)
    assert bucket.owed(NOW + 0.03) == pytest.approx(0.01)
    assert bucket.owed(NOW + 0.041) == 0.0
    assert bucket.charge(batch_of(60), NOW + 0.041) == pytest.approx(0.009)


def test_unused_rate_is_kept_for_a_burst_and_no_longer() -> None:
    for idle in (0.05, 1.0, 1e9):
        bucket = Bucket(0, 1000, 0.05)
        bucket.charge(batch_of(*[60] * 50), NOW)
        assert bucket.owed(NOW + idle) == 0.0
        assert bucket.charge(batch_of(*[60] * 50), NOW + idle) == pytest.approx(0.0, abs=1e-6)
        assert bucket.charge(batch_of(*[60] * 50), NOW + idle) == pytest.approx(0.05)


def test_a_clock_that_steps_back_adds_nothing_to_a_debt() -> None:
    bucket = Bucket(0, 100, 0.01)
    owed = bucket.charge(batch_of(*[60] * 11), NOW)
    assert bucket.owed(NOW - 3600) == owed == pytest.approx(0.1)
    assert bucket.owed(NOW - 3600 + 0.11) == 0.0
    assert bucket.charge(batch_of(60, 60), NOW - 7200) == pytest.approx(0.01, abs=0.002)


def test_pauses_are_counted_with_their_seconds() -> None:
    bucket = Bucket(0, 100, 0.01)
    assert (bucket.pauses, bucket.paused) == (0, 0.0)
    bucket.charge(batch_of(60), NOW)
    assert bucket.pauses == 0
    bucket.charge(batch_of(*[60] * 5), NOW)
    assert (bucket.pauses, bucket.paused) == (1, 0.0)
    bucket.owed(NOW + 0.02)
    assert bucket.paused == pytest.approx(0.02), "as far as it has come"
    bucket.owed(NOW + 0.06)
    assert bucket.paused == pytest.approx(0.06), "until the reader looked"
    bucket.charge(batch_of(*[60] * 3), NOW + 5)
    assert (bucket.pauses, bucket.paused) == (2, pytest.approx(0.06))


@pytest.mark.parametrize(
    ("bits", "packets", "burst", "frames"),
    [
        (10**7, 0, 0.1, 8),
        (10**7, 0, 0.005, 4),
        (64_000, 0, 0.1, 1),
        (10**9, 10, 0.1, 1),
        (0, 1000, 0.1, 10),
        (10**11, 10**8, 10.0, 81_380),
    ],
)
def test_how_much_to_read_at_once(bits: int, packets: int, burst: float, frames: int) -> None:
    assert Bucket(bits, packets, burst).step(1536) == frames


def test_the_longest_frames_at_the_least_rate_do_not_overflow() -> None:
    batch = Batch(64, 64)
    for at in range(64):
        batch.append(b"")
        batch.length[at] = 0xFFFFFFFF
    owed = Bucket(64_000, 10, 0.005).charge(batch, NOW)
    assert owed == pytest.approx(64 * 0xFFFFFFFF * 8 / 64_000 - 0.005)
