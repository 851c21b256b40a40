"""The vmnet link over the twin's unix wire, against the contract of `softnet.links`."""

import select
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from softnet.core import reasons
from softnet.core.frames import Batch
from softnet.errors import LinkClosed
from softnet.uplinks.vmnet import api as vmnet
from softnet.uplinks.vmnet.api import VmnetError
from softnet.uplinks.vmnet.blocks import STATUS_SIGNATURE, Completion
from softnet.uplinks.vmnet.interface import Interface
from softnet.uplinks.vmnet.link import VmnetLink
from twin import support
from twin.support import Wire

SLOT = 1514


@pytest.fixture(params=["level", "edge"])
def wire(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    """Both ways in which vmnet might tell of frames: the link may rely on neither."""
    monkeypatch.setenv("TWIN_EVENTS", request.param)
    with support.wire(tmp_path, monkeypatch) as end:
        yield end


@pytest.fixture
def link(wire: Wire) -> Iterator[VmnetLink]:
    made = VmnetLink(Interface(vmnet.SHARED_MODE, True))
    wire.attach()
    yield made
    made.close()


def numbered(count: int, length: Callable[[int], int] = lambda n: 60 + n % 1400) -> list[bytes]:
    return [n.to_bytes(4, "big") * (length(n) // 4) for n in range(count)]


def filled(frames: list[bytes], capacity: int = 0, verdict: int = reasons.PASS_GLOBAL) -> Batch:
    batch = Batch(capacity or len(frames), SLOT)
    for index, frame in enumerate(frames):
        assert batch.append(frame)
        batch.verdict[index] = verdict
    return batch


def drain(link: VmnetLink, wanted: int, batch: Batch | None = None) -> list[bytes]:
    batch = batch or Batch(64, SLOT)
    got: list[bytes] = []
    deadline = time.monotonic() + 10
    while (len(got) < wanted or link.pending) and time.monotonic() < deadline:
        if link.pending or select.select([link], [], [], 0.2)[0]:
            link.receive(batch)
            got += [batch.frame(index) for index in range(batch.count)]
    return got


def introduce(link: VmnetLink, wire: Wire) -> None:
    """The twin answers whoever sent last."""
    wire.send(b"hello" * 12)
    assert drain(link, 1) == [b"hello" * 12]


def collect(wire: Wire, count: int) -> tuple[threading.Thread, list[bytes]]:
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.extend(wire.recv(2048) for _ in range(count)))
    thread.start()
    return thread, got


def send_all(link: VmnetLink, batch: Batch) -> bool:
    """What is busy is sent again, because the peer's queue (net.unix.max_dgram_qlen) is short.

    True when nothing was: what is sent again may come after what was not.
    """
    deadline = time.monotonic() + 10
    at_once = True
    while link.send(batch, reasons.UPLINK_BUSY):
        at_once = False
        assert time.monotonic() < deadline
        for index in range(batch.count):
            busy = batch.verdict[index] == reasons.UPLINK_BUSY
            batch.verdict[index] = reasons.PASS_GLOBAL if busy else reasons.BLOCKED
        time.sleep(0.0005)
    return at_once


def test_frames_arrive_whole_in_order_and_unjudged(link: VmnetLink, wire: Wire) -> None:
    frames = numbered(5)
    for frame in frames:
        wire.send(frame)
    batch = Batch(64, SLOT)
    batch.verdict[0], batch.offset[1] = reasons.PASS_GLOBAL, 7
    time.sleep(0.05)
    assert select.select([link], [], [], 5)[0]
    assert link.receive(batch) == batch.count == 5
    assert [batch.frame(index) for index in range(5)] == frames
    assert list(batch.length[:5]) == [len(frame) for frame in frames]
    assert list(batch.offset[:5]) == [index * SLOT for index in range(5)]
    assert set(batch.verdict[:5]) == {reasons.UNJUDGED}


def test_a_thousand_frames_of_all_lengths(link: VmnetLink, wire: Wire) -> None:
    frames = [bytes([n % 251]) * (14 + n * 3 // 2) for n in range(1000)]
    sender = threading.Thread(target=lambda: [wire.send(frame) for frame in frames])
    sender.start()
    assert drain(link, 1000) == frames
    sender.join()


def test_pending_lasts_until_the_interface_was_found_empty(link: VmnetLink, wire: Wire) -> None:
    for frame in numbered(10):
        wire.send(frame)
    time.sleep(0.05)
    batch = Batch(4, SLOT)
    assert select.select([link], [], [], 5)[0]
    counts = [link.receive(batch)]
    while link.pending:
        counts.append(link.receive(batch))
    assert counts == [4, 4, 2, 0]
    assert not link.pending


def test_receive_forgets_what_the_batch_held(link: VmnetLink) -> None:
    batch = filled(numbered(3))
    assert link.receive(batch) == batch.count == 0


def test_a_slot_is_never_read_with_the_size_that_the_last_frame_left(link: VmnetLink, wire: Wire) -> None:
    """vmnet writes its sizes into the descriptors: without a reset the second frame would not fit."""
    batch = Batch(1, SLOT)
    for length in (60, 1514, 61):
        wire.send(bytes(length))
        assert drain(link, 1, batch) == [bytes(length)]


def test_one_batch_after_the_other(link: VmnetLink, wire: Wire) -> None:
    for number in range(4):
        wire.send(bytes([number]) * 60)
        assert drain(link, 1, Batch(2 + number, SLOT + number)) == [bytes([number]) * 60]


def test_a_frame_longer_than_the_slot_is_cut_and_keeps_its_length(link: VmnetLink, wire: Wire) -> None:
    batch = Batch(3, 100)
    batch.offset[0] = 7
    for length in (1514, 60, 100):
        wire.send(bytes([length % 256]) * length)
    time.sleep(0.05)
    assert select.select([link], [], [], 5)[0]
    assert link.receive(batch) == 3
    assert list(batch.length[:3]) == [1514, 60, 100]
    assert list(batch.offset[:3]) == [0, 100, 200]
    assert [len(batch.frame(index)) for index in range(3)] == [100, 60, 100]
    assert link.pending
    assert link.receive(batch) == batch.count == 0


def test_only_what_passes_is_sent_in_order(link: VmnetLink, wire: Wire) -> None:
    introduce(link, wire)
    frames = numbered(8)
    batch = filled(frames)
    for index in (0, 3, 7):
        batch.verdict[index] = reasons.BLOCKED
    batch.verdict[4] = reasons.UNJUDGED
    thread, got = collect(wire, 4)
    assert link.send(batch, reasons.UPLINK_BUSY) == 0
    thread.join()
    assert got == [frames[index] for index in (1, 2, 5, 6)]
    assert [batch.verdict[index] for index in (0, 3, 4, 7)] == [36, 36, 255, 36]


def test_frames_are_sent_from_wherever_they_lie(link: VmnetLink, wire: Wire) -> None:
    introduce(link, wire)
    batch = Batch(3, 200)
    batch.data[:] = bytes(index % 251 for index in range(600))
    whole = bytes(batch.data)
    for index, (offset, length) in enumerate(((401, 199), (3, 60), (63, 64))):
        batch.offset[index], batch.length[index], batch.verdict[index] = offset, length, reasons.PASS_RULE
    batch.count = 3
    assert link.send(batch, reasons.UPLINK_BUSY) == 0
    assert [wire.recv(2048) for _ in range(3)] == [whole[401:600], whole[3:63], whole[63:127]]


@pytest.mark.parametrize("count", [1, 2, 4, 8, 16, 32, 64, 128, 256, 257, 600])
def test_batches_of_any_size(link: VmnetLink, wire: Wire, count: int) -> None:
    introduce(link, wire)
    frames = numbered(count)
    thread, got = collect(wire, count)
    at_once = send_all(link, filled(frames))
    thread.join()
    assert sorted(got) == sorted(frames)
    assert got == frames or not at_once


def test_a_peer_that_does_not_read_makes_frames_busy_within_the_bound(link: VmnetLink, wire: Wire) -> None:
    introduce(link, wire)
    batch = filled(numbered(200))
    begun = time.monotonic()
    lost = link.send(batch, reasons.UPLINK_BUSY)
    first = time.monotonic() - begun
    taken = 200 - lost
    assert 0 < lost < 200
    assert [v == reasons.UPLINK_BUSY for v in batch.verdict] == [False] * taken + [True] * lost
    assert first < 0.2
    assert [wire.recv(2048) for _ in range(taken)] == numbered(200)[:taken]
    wire.settimeout(0.05)
    with pytest.raises(TimeoutError):
        wire.recv(2048)


def test_a_stalled_peer_is_waited_for_once_and_not_every_batch(
    link: VmnetLink, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    introduce(link, wire)
    pauses: list[float] = []
    monkeypatch.setattr("softnet.uplinks.vmnet.link.sleep", pauses.append)
    link.send(filled(numbered(200)), reasons.UPLINK_BUSY)
    assert pauses == [50e-6] * 10
    for _ in range(3):
        assert link.send(filled(numbered(5)), reasons.UPLINK_BUSY) == 5
    assert len(pauses) == 10
    while select.select([wire], [], [], 0)[0]:
        wire.recv(2048)
    assert link.send(filled(numbered(1)), reasons.UPLINK_BUSY) == 0
    link.send(filled(numbered(200)), reasons.UPLINK_BUSY)
    assert len(pauses) == 20


def test_what_cannot_be_a_frame_is_never_handed_to_vmnet(link: VmnetLink, wire: Wire) -> None:
    """Shorter than Ethernet, longer than the interface takes, cut on the way in, or outside the arena."""
    introduce(link, wire)
    batch = Batch(5, 1600)
    for index, (offset, length) in enumerate(((0, 13), (1600, 1515), (3200, 1601), (7999, 60), (0, 60))):
        batch.offset[index], batch.length[index], batch.verdict[index] = offset, length, reasons.PASS_GLOBAL
    batch.count = 5
    assert link.send(batch, reasons.UPLINK_BUSY) == 4
    assert list(batch.verdict[:5]) == [reasons.UPLINK_BUSY] * 4 + [reasons.PASS_GLOBAL]
    assert wire.recv(2048) == bytes(60)


def test_a_frame_that_was_cut_on_the_way_in_is_never_sent(link: VmnetLink, wire: Wire) -> None:
    """Its true length reaches into the next slot: what lies there is another frame's."""
    introduce(link, wire)
    batch = Batch(2, 100)
    batch.append(bytes(150))
    batch.append(b"\x01" * 100)
    batch.verdict[0] = batch.verdict[1] = reasons.PASS_GLOBAL
    assert link.send(batch, reasons.UPLINK_BUSY) == 1
    assert list(batch.verdict) == [reasons.UPLINK_BUSY, reasons.PASS_GLOBAL]
    assert wire.recv(2048) == b"\x01" * 100


def test_a_packet_that_vmnet_refuses_does_not_take_the_batch_with_it(link: VmnetLink, wire: Wire) -> None:
    """The twin, like vmnet, refuses a whole call for one packet: here two that the link let through."""
    introduce(link, wire)
    link._longest = 1600
    frames = [bytes([n]) * (1515 if n in (2, 5) else 60) for n in range(7)]
    batch = Batch(7, 1600)
    for index, frame in enumerate(frames):
        batch.append(frame)
        batch.verdict[index] = reasons.PASS_GLOBAL
    assert link.send(batch, reasons.UPLINK_BUSY) == 2
    busy = [index for index in range(7) if batch.verdict[index] == reasons.UPLINK_BUSY]
    assert busy == [2, 5]
    assert [wire.recv(2048) for _ in range(5)] == [frame for frame in frames if len(frame) == 60]


def test_an_interface_that_broke_is_an_error_and_not_a_drop(link: VmnetLink) -> None:
    interface = link._interface
    stop = Completion(interface.api, STATUS_SIGNATURE, [vmnet.c_uint32], 5.0)
    api, ref = interface.api, interface.ref
    stop.call("stop", lambda block: api.vmnet_stop_interface(ref, interface._queue, block))
    with pytest.raises(VmnetError, match=r"^vmnet_read: VMNET_FAILURE"):
        link.receive(Batch(4, SLOT))
    with pytest.raises(VmnetError, match=r"^vmnet_write: VMNET_FAILURE"):
        link.send(filled(numbered(1)), reasons.UPLINK_BUSY)
    with pytest.raises(VmnetError, match=r"^vmnet_stop_interface: VMNET_FAILURE"):
        link.close()
    assert not link.alive()


def test_a_closed_link_is_closed(link: VmnetLink) -> None:
    assert link.alive()
    assert not link.needs_alive_check
    link.close()
    link.close()
    assert not link.alive()
    with pytest.raises(LinkClosed):
        link.receive(Batch(4, SLOT))
    with pytest.raises(LinkClosed):
        link.send(filled(numbered(1)), reasons.UPLINK_BUSY)
    assert link.send(Batch(4, SLOT), reasons.UPLINK_BUSY) == 0


def test_every_burst_wakes(link: VmnetLink, wire: Wire) -> None:
    batch = Batch(8, SLOT)
    for number in range(300):
        wire.send(bytes([number % 256]) * 60)
        got: list[bytes] = []
        while not got:
            assert select.select([link], [], [], 2)[0], f"no wake-up for frame {number}"
            while link.receive(batch):
                got += [batch.frame(index) for index in range(batch.count)]
        assert got == [bytes([number % 256]) * 60]


def test_a_frame_that_comes_right_after_an_empty_read_wakes(
    link: VmnetLink, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The narrowest moment: vmnet has said that nothing waits, and the loop does not know it yet."""
    api = link._interface.api
    read = api.vmnet_read

    def read_and_then_a_frame(*arguments: object) -> object:
        status = read(*arguments)
        wire.send(b"\x55" * 60)
        assert select.select([link], [], [], 5)[0]
        return status

    batch = Batch(4, SLOT)
    monkeypatch.setattr(api, "vmnet_read", read_and_then_a_frame)
    assert link.receive(batch) == 0
    monkeypatch.setattr(api, "vmnet_read", read)
    assert drain(link, 1, batch) == [b"\x55" * 60]


def test_a_storm_of_frames_loses_none_and_never_spins(link: VmnetLink, wire: Wire) -> None:
    total = 20_000
    sender = threading.Thread(target=lambda: [wire.send(n.to_bytes(4, "big") * 15) for n in range(total)])
    sender.start()
    batch, wakes, empty, expected = Batch(64, SLOT), 0, 0, 0
    while expected < total:
        if not link.pending:
            assert select.select([link], [], [], 5)[0], f"no wake-up after {expected} frames"
            wakes += 1
        if not link.receive(batch):
            empty += 1
        for index in range(batch.count):
            assert batch.frame(index)[:4] == expected.to_bytes(4, "big")
            expected += 1
    sender.join()
    link.close()
    fired = int(wire.log()[-1].removeprefix("stopped fired="))
    assert wakes <= fired
    assert fired <= empty + 2


def test_an_idle_interface_and_an_unread_one_are_both_silent(link: VmnetLink, wire: Wire) -> None:
    assert not select.select([link], [], [], 0.2)[0]
    for frame in numbered(20):
        wire.send(frame)
    time.sleep(0.2)
    link.close()
    assert wire.log()[-1] == "stopped fired=1"
