"""A batch by itself: what is appended, what is found."""

import pytest

from softnet.core.frames import Batch
from softnet.core.reasons import PASS_DHCP, PASS_GLOBAL


def test_find() -> None:
    batch = Batch(5, 64)
    for _ in range(4):
        batch.append(b"frame")
    batch.verdict[:4] = bytes((PASS_DHCP, PASS_GLOBAL, PASS_DHCP, PASS_GLOBAL))
    batch.verdict[4] = PASS_DHCP  # not a frame of this batch
    assert [batch.find(PASS_DHCP, at) for at in range(5)] == [0, 2, 2, 4, 4]


def test_what_does_not_fit_a_slot_keeps_its_length() -> None:
    batch = Batch(1, 4)
    assert batch.append(b"12345")
    assert (batch.length[0], batch.frame(0)) == (5, b"1234")
    assert not batch.append(b"1")
    with pytest.raises(IndexError):
        batch.frame(1)
