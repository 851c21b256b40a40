"""Every link keeps the contract of `softnet.links`, by either implementation of the system calls.

A `Wire` is a link and a far end that this test moves by hand. The compiled calls are tested where
they are built: the same file runs against `src` and against an installed Softnet.
"""

import ctypes
import errno
import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from softnet.core.frames import Batch
from softnet.core.reasons import PASS_GLOBAL, PASS_LIMIT, UNJUDGED, UPLINK_BUSY, VM_BUSY
from softnet.errors import LinkClosed
from softnet.links import RETRIES, RETRY_SECONDS, Link, base, burst, datagram, memory, stream, tap
from softnet.links.calls import COMPILED, calls
from softnet.links.capture import RECEIVED, SENT, CaptureLink
from softnet.links.datagram import DatagramLink
from softnet.links.memory import MemoryLink
from softnet.links.stream import StreamLink
from softnet.links.tap import create_tap, tap_link

SLOT = 128
BOUND = RETRIES * RETRY_SECONDS
CLONE_NEWNET = 0x40000000


class Wire:
    """A link under test; `give` sends it a frame, `take` reads one that it sent (None: there is none)."""

    empty_frames = True  # a frame of no bytes can be carried
    silent_end = False  # the far end's closing is no event
    link: Link

    def give(self, frame: bytes) -> None:
        raise NotImplementedError

    def take(self) -> bytes | None:
        raise NotImplementedError

    def vanish(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.link.close()
        self.vanish()


class DatagramWire(Wire):
    silent_end = True

    def __init__(self) -> None:
        near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.link = DatagramLink(near.detach())

    def give(self, frame: bytes) -> None:
        self.far.send(frame)

    def take(self) -> bytes | None:
        try:
            return self.far.recv(1 << 17, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None

    def vanish(self) -> None:
        self.far.close()


class StreamWire(Wire):
    def __init__(self) -> None:
        near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.link = StreamLink(near.detach())
        self._read = b""

    def give(self, frame: bytes) -> None:
        self.far.sendall(len(frame).to_bytes(4, "big") + frame)

    def take(self) -> bytes | None:
        with suppress(BlockingIOError):
            self._read += self.far.recv(1 << 17, socket.MSG_DONTWAIT)
        length = int.from_bytes(self._read[:4], "big")
        if len(self._read) < 4 + length or not self._read:
            return None
        frame, self._read = self._read[4 : 4 + length], self._read[4 + length :]
        return frame

    def vanish(self) -> None:
        self.far.close()


class MemoryWire(Wire):
    def __init__(self) -> None:
        self.link, self.far = memory.pair(capacity=400)

    def give(self, frame: bytes) -> None:
        batch = Batch(1, 1 << 17)
        batch.append(frame)
        batch.verdict[0] = PASS_GLOBAL
        assert self.far.send(batch, UPLINK_BUSY) == 0

    def take(self) -> bytes | None:
        batch = Batch(1, 1 << 17)
        return batch.frame(0) if self.far.receive(batch) else None

    def vanish(self) -> None:
        self.far.close()


class CaptureWire(DatagramWire):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, list[tuple[bytes, int]]]] = []
        self.link = CaptureLink(self.link, self._observe)

    def _observe(self, direction: int, timestamp: float, batch: Batch) -> None:
        assert abs(timestamp - time.time()) < 60
        self.seen.append((direction, [(batch.frame(i), batch.verdict[i]) for i in range(batch.count)]))


class TapWire(Wire):
    """A TAP, and a packet socket on the same interface, in a network namespace of their own."""

    empty_frames = False
    offload = False

    def __init__(self) -> None:
        in_thread(self._make)
        self.link = tap_link(self.fd, 9000, self.offload)

    def _make(self) -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        with suppress(FileNotFoundError), open("/proc/sys/net/ipv6/conf/default/disable_ipv6", "w") as quiet:
            quiet.write("1")  # of the new namespace: else the kernel greets its neighbours
        self._namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        self.fd = create_tap("snlinktest", self.offload)
        with pytest.raises(OSError) as exists:
            create_tap("snlinktest")
        assert exists.value.errno == errno.EBUSY
        subprocess.run(["ip", "link", "set", "snlinktest", "mtu", "9000", "up"], check=True)
        self.far = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5))
        self.far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.far.bind(("snlinktest", 0x88B5))

    def in_namespace(self, *words: str) -> None:
        enter = ["nsenter", f"--net=/proc/self/fd/{self._namespace}"]
        subprocess.run([*enter, "ip", *words], check=True, pass_fds=[self._namespace])

    def give(self, frame: bytes) -> None:
        self.far.send(frame)

    def take(self) -> bytes | None:
        try:
            return self.far.recv(1 << 17, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None

    def vanish(self) -> None:
        with suppress(OSError, subprocess.CalledProcessError):
            self.in_namespace("link", "delete", "snlinktest")

    def close(self) -> None:
        self.link.close()
        self.far.close()
        os.close(self._namespace)


class OffloadTapWire(TapWire):
    """The same with vnet_hdr: frames that are not TCP look no different."""

    offload = True


def in_thread(work: Callable[[], None]) -> None:
    """A thread has a network namespace of its own once it unshares one; descriptors keep it alive."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


FILLING_KINDS = [
    pytest.param(DatagramWire, id="datagram"),
    pytest.param(StreamWire, id="stream"),
    pytest.param(MemoryWire, id="memory"),
    pytest.param(CaptureWire, id="capture"),
]
TAP_KINDS = [
    pytest.param(TapWire, id="tap", marks=pytest.mark.root),
    pytest.param(OffloadTapWire, id="tap-offload", marks=pytest.mark.root),
]
KINDS = [*FILLING_KINDS, *TAP_KINDS]  # a TAP never fills
IMPLEMENTATIONS = [pytest.param(burst, id="interpreted")] + [pytest.param(calls, id="compiled")] * COMPILED


@pytest.fixture(params=IMPLEMENTATIONS, autouse=True)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (base, datagram, stream, tap):
        monkeypatch.setattr(module, "calls", request.param)


@pytest.fixture(params=KINDS)
def wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    made = request.param()
    yield made
    made.close()


@pytest.fixture(params=FILLING_KINDS)
def filling_wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    made = request.param()
    yield made
    made.close()


def frame(number: int, length: int = 60) -> bytes:
    """A frame of the experimental ethertype, which no kernel answers, with a number to be known by."""
    header = bytes.fromhex("020000000001 020000000002 88b5")
    return (header + number.to_bytes(4, "big")).ljust(length, b"\xa5")[:length]


def batch_of(frames: list[bytes], verdict: int = PASS_GLOBAL, slot: int = SLOT) -> Batch:
    batch = Batch(max(len(frames), 1), slot)
    for content in frames:
        assert batch.append(content)
        batch.verdict[batch.count - 1] = verdict
    return batch


def receive(link: Link, batch: Batch, seconds: float = 2.0) -> list[bytes]:
    """What one call of `receive` brings, once something is there."""
    poll = select.poll()
    poll.register(link.fileno(), select.POLLIN)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if link.pending or poll.poll(100):
            count = link.receive(batch)
            assert count == batch.count
            if count:
                return [batch.frame(index) for index in range(count)]
    raise AssertionError("nothing was received")


def take_all(wire: Wire) -> list[bytes]:
    frames = []
    while (taken := wire.take()) is not None:
        frames.append(taken)
    return frames


def fill(wire: Wire, frames: int = 64) -> tuple[list[bytes], float]:
    """Send numbered frames until some are busy: those that were sent, and how long the last batch took."""
    sent: list[bytes] = []
    for start in range(0, 1_000_000, frames):
        batch = batch_of([frame(start + index) for index in range(frames)])
        began = time.monotonic()
        busy = wire.link.send(batch, VM_BUSY)
        took = time.monotonic() - began
        verdicts = [batch.verdict[index] for index in range(frames)]
        assert busy == verdicts.count(VM_BUSY)
        sent += [batch.frame(index) for index in range(frames) if verdicts[index] == PASS_GLOBAL]
        if busy:
            return sent, took
    raise AssertionError("the far end never became full")


# ---- Receiving ------------------------------------------------------------------------------------


def test_frames_arrive_in_order_and_unjudged(wire: Wire) -> None:
    frames = [frame(index, 14 + index) for index in range(100)]
    for content in frames:
        wire.give(content)
    received: list[bytes] = []
    batch = batch_of([frame(0)] * 64, PASS_GLOBAL)
    while len(received) < 100:
        received += receive(wire.link, batch)
        assert {batch.verdict[index] for index in range(batch.count)} == {UNJUDGED}
    assert received == frames


@pytest.mark.parametrize("capacity", [1, 2, 9, 64, 65, 73, 256])
def test_a_batch_takes_no_more_than_its_capacity(wire: Wire, capacity: int) -> None:
    frames = [frame(index) for index in range(300)]
    batch, received = Batch(capacity, SLOT), list[bytes]()
    for start in range(0, 300, 75):
        for content in frames[start : start + 75]:
            wire.give(content)
        while len(received) < start + 75:
            received += receive(wire.link, batch)
    assert received == frames
    assert wire.link.receive(batch) == 0


def test_nothing_waiting_is_zero_and_never_blocks(wire: Wire) -> None:
    batch = batch_of([frame(1)])
    began = time.monotonic()
    assert wire.link.receive(batch) == 0
    assert time.monotonic() - began < 0.5
    assert batch.count == 0
    assert not wire.link.pending


def test_the_descriptor_is_readable_while_frames_wait(wire: Wire) -> None:
    poll = select.poll()
    poll.register(wire.link.fileno(), select.POLLIN)
    assert poll.poll(0) == []
    wire.give(frame(1))
    assert poll.poll(1000)
    receive(wire.link, Batch(8, SLOT))
    assert poll.poll(0) == []


def test_an_empty_frame_is_a_frame(wire: Wire) -> None:
    if not wire.empty_frames:
        wire.give(frame(0, 14))  # a TAP carries an Ethernet header at the least
        assert receive(wire.link, Batch(8, SLOT)) == [frame(0, 14)]
        return
    for content in (b"", frame(1), b"", b""):
        wire.give(content)
    received: list[bytes] = []
    while len(received) < 4:
        received += receive(wire.link, Batch(8, SLOT))
    assert received == [b"", frame(1), b"", b""]


@pytest.mark.parametrize("length", [SLOT, SLOT + 1, 1514, 9014, 65549, 65550])
def test_a_frame_longer_than_a_slot_keeps_its_length(wire: Wire, length: int) -> None:
    length = min(length, 9014) if isinstance(wire, TapWire) else length
    if isinstance(wire, DatagramWire | StreamWire):
        wire.far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    batch, lengths, whole = Batch(3, SLOT), list[int](), list[bytes]()
    for content in (frame(1), frame(2, length), frame(3), frame(4)):
        wire.give(content)
    while len(lengths) < 4:
        received = receive(wire.link, batch)
        lengths += [batch.length[index] for index in range(batch.count)]
        whole += [content for index, content in enumerate(received) if batch.length[index] <= SLOT]
    assert lengths == [60, length, 60, 60]
    assert whole == [frame(1)] + [frame(2, length)] * (length <= SLOT) + [frame(3), frame(4)]


# ---- Sending --------------------------------------------------------------------------------------


def test_only_passing_verdicts_are_sent(wire: Wire) -> None:
    verdicts = [0, PASS_LIMIT - 1, PASS_LIMIT, VM_BUSY, UNJUDGED, PASS_GLOBAL, UNJUDGED]
    batch = batch_of([frame(index) for index in range(len(verdicts))])
    for index, verdict in enumerate(verdicts):
        batch.verdict[index] = verdict
    assert wire.link.send(batch, VM_BUSY) == 0
    assert take_all(wire) == [frame(0), frame(1), frame(5)]
    assert [batch.verdict[index] for index in range(batch.count)] == verdicts


def test_nothing_to_send_is_nothing_sent(wire: Wire) -> None:
    assert wire.link.send(Batch(4, SLOT), VM_BUSY) == 0
    assert wire.link.send(batch_of([frame(1)] * 4, UNJUDGED), VM_BUSY) == 0
    assert take_all(wire) == []


@pytest.mark.parametrize("count", [1, 63, 64, 65, 128, 200, 256])
def test_batches_of_any_size_are_sent_whole_and_in_order(wire: Wire, count: int) -> None:
    frames = [frame(index, 14 + index % 100) for index in range(count)]
    assert wire.link.send(batch_of(frames), VM_BUSY) == 0
    assert take_all(wire) == frames


def test_a_frame_that_is_not_there_in_full_is_never_sent(wire: Wire) -> None:
    batch = batch_of([frame(0), frame(1, SLOT + 1), frame(2), frame(3, 500), frame(4, 500), frame(5)])
    assert wire.link.send(batch, VM_BUSY) == 3
    assert take_all(wire) == [frame(0), frame(2), frame(5)]
    assert [batch.verdict[index] == VM_BUSY for index in range(6)] == [False, True, False, True, True, False]


def test_a_full_far_end_costs_a_bounded_wait_and_then_none(filling_wire: Wire) -> None:
    _, took = fill(filling_wire)
    assert BOUND <= took < 0.25
    stalled = []
    for _ in range(20):
        batch = batch_of([frame(0)] * 64)
        began = time.monotonic()
        assert filling_wire.link.send(batch, VM_BUSY) == 64
        stalled.append(time.monotonic() - began)
    assert min(stalled) < BOUND


def test_a_full_far_end_does_not_touch_the_other_direction(filling_wire: Wire) -> None:
    fill(filling_wire)
    filling_wire.give(frame(7))
    assert receive(filling_wire.link, Batch(8, SLOT)) == [frame(7)]


def test_what_was_sent_before_and_after_a_stall_arrives_whole(filling_wire: Wire) -> None:
    expected: list[bytes] = []
    taken: list[bytes] = []
    for _ in range(3):
        sent, took = fill(filling_wire, 50)
        assert took >= BOUND  # a frame went through again, so there is a wait again
        expected += sent
        taken += take_all(filling_wire)
    assert filling_wire.link.send(batch_of([frame(9)]), VM_BUSY) == 0
    assert taken + take_all(filling_wire) == [*expected, frame(9)]


# ---- Ends -----------------------------------------------------------------------------------------


def test_a_far_end_that_is_gone_closes_the_link(wire: Wire) -> None:
    assert wire.link.alive()
    assert wire.link.needs_alive_check == wire.silent_end
    wire.vanish()
    if wire.silent_end:
        assert not wire.link.alive()
    else:
        with pytest.raises(LinkClosed):
            wire.link.receive(Batch(8, SLOT))
    for _ in range(2):
        with pytest.raises(LinkClosed):
            wire.link.send(batch_of([frame(1)]), VM_BUSY)


def test_frames_sent_before_the_far_end_went_are_still_received(filling_wire: Wire) -> None:
    wire = filling_wire
    for index in range(5):
        wire.give(frame(index))
    wire.vanish()
    received: list[bytes] = []
    while len(received) < 5:
        received += receive(wire.link, Batch(2, SLOT))
    assert received == [frame(index) for index in range(5)]


@pytest.mark.parametrize("kind", KINDS)
def test_close_is_idempotent_and_leaves_no_descriptor(kind: type[Wire]) -> None:
    before = len(os.listdir("/dev/fd"))
    wire = kind()
    wire.link.close()
    wire.link.close()
    wire.close()
    assert len(os.listdir("/dev/fd")) == before


@pytest.mark.parametrize("kind", [DatagramWire, StreamWire])
def test_the_blocking_mode_shared_with_others_is_left_alone(kind: type[Wire]) -> None:
    wire = kind()
    fill(wire)
    assert os.get_blocking(wire.link.fileno()) == (os.uname().sysname == "Linux")
    wire.close()


# ---- What only one kind can do --------------------------------------------------------------------


@pytest.mark.parametrize("error", [errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM])
def test_a_far_end_that_is_full_for_a_moment_loses_nothing(error: int) -> None:
    near, far = memory.pair()
    near.failures.extend([0, error, error, 0, error] + [error] * (RETRIES - 3))
    assert near.send(batch_of([frame(0), frame(1), frame(2)]), VM_BUSY) == 0
    batch = Batch(8, SLOT)
    assert receive(far, batch) == [frame(0), frame(1), frame(2)]


def test_the_retries_are_shared_by_the_batch() -> None:
    near, far = memory.pair()
    near.failures.extend([0] + [errno.ENOBUFS] * (RETRIES + 1) + [0] * 3)
    batch = batch_of([frame(0), frame(1), frame(2)])
    assert near.send(batch, VM_BUSY) == 2
    assert list(near.failures) == [0] * 3  # no further attempt was made
    assert near.send(batch_of([frame(3)]), VM_BUSY) == 0
    assert receive(far, Batch(8, SLOT)) == [frame(0), frame(3)]


@pytest.mark.parametrize("error", [errno.EMSGSIZE, errno.EIO])
def test_an_error_of_one_frame_is_that_frames_alone(error: int) -> None:
    near, far = memory.pair()
    near.failures.extend([0, error, 0])
    batch = batch_of([frame(0), frame(1), frame(2)])
    assert near.send(batch, VM_BUSY) == 1
    assert batch.verdict[1] == VM_BUSY
    assert receive(far, Batch(8, SLOT)) == [frame(0), frame(2)]


@pytest.mark.parametrize("error", sorted(base.GONE))
def test_errors_that_mean_gone(error: int) -> None:
    near, _ = memory.pair()
    near.failures.append(error)
    with pytest.raises(LinkClosed):
        near.send(batch_of([frame(0)]), VM_BUSY)


def test_any_other_error_is_an_oserror() -> None:
    near, _ = memory.pair()
    near.failures.append(errno.EDOM)
    with pytest.raises(OSError) as failure:
        near.send(batch_of([frame(0)]), VM_BUSY)
    assert failure.value.errno == errno.EDOM


def test_a_datagram_above_the_socket_buffer_is_busy_alone() -> None:
    wire = DatagramWire()
    near = socket.socket(fileno=os.dup(wire.link.fileno()))
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    near.close()
    batch = batch_of([frame(0), frame(1, 60000), frame(2)], slot=60000)
    assert wire.link.send(batch, VM_BUSY) == 1
    assert take_all(wire) == [frame(0), frame(2)]
    wire.close()


def test_an_observer_sees_frames_arrive_and_verdicts_when_they_are_final() -> None:
    wire = CaptureWire()
    wire.give(frame(1))
    receive(wire.link, Batch(4, SLOT))
    batch = batch_of([frame(2), frame(3, 500), frame(4)])
    batch.verdict[2] = UNJUDGED
    wire.link.send(batch, VM_BUSY)
    assert wire.link.receive(batch) == 0
    assert wire.link.send(batch, VM_BUSY) == 0
    assert wire.seen == [
        (RECEIVED, [(frame(1), UNJUDGED)]),
        (SENT, [(frame(2), PASS_GLOBAL), (frame(3, SLOT), VM_BUSY), (frame(4), UNJUDGED)]),
    ]
    wire.close()


@pytest.mark.root
@pytest.mark.parametrize("make", [TapWire, OffloadTapWire])
def test_a_tap_that_is_down_is_busy_and_comes_back(make: type[TapWire]) -> None:
    wire = make()
    wire.in_namespace("link", "set", "snlinktest", "down")
    assert wire.link.send(batch_of([frame(0), frame(1)]), UPLINK_BUSY) == 2
    assert wire.link.receive(Batch(4, SLOT)) == 0
    wire.in_namespace("link", "set", "snlinktest", "up")
    with suppress(OSError):
        wire.far.recv(1, socket.MSG_DONTWAIT)  # ENETDOWN, once
    assert wire.link.send(batch_of([frame(2)]), UPLINK_BUSY) == 0
    assert take_all(wire) == [frame(2)]
    wire.close()


@pytest.mark.parametrize("name", ["", "a" * 16, "sn%d", "a/b", "a b"])
@pytest.mark.root
def test_what_cannot_be_an_interfaces_name_is_refused(name: str) -> None:
    with pytest.raises(OSError) as failure:
        create_tap(name)
    assert failure.value.errno == errno.EINVAL


def test_a_batch_that_counts_beyond_its_capacity_is_refused() -> None:
    wire = DatagramWire()
    batch = batch_of([frame(0)])
    batch.count = 2
    with pytest.raises(IndexError):
        wire.link.send(batch, VM_BUSY)
    wire.close()


def test_no_memory_link_outlives_its_peer_unnoticed() -> None:
    near, far = memory.pair()
    assert isinstance(near, MemoryLink)
    far.close()
    assert select.select([near], [], [], 1)[0] == [near]
    near.close()


def test_frames_may_lie_anywhere_in_the_arena() -> None:
    for kind in (DatagramWire, StreamWire, MemoryWire):
        wire = kind()
        batch = Batch(4, SLOT)
        batch.arena[5:65] = frame(1)
        batch.arena[300:360] = frame(2)
        for index, (offset, length) in enumerate([(5, 60), (300, 60), (4 * SLOT - 10, 11), (4 * SLOT, 0)]):
            batch.offset[index], batch.length[index] = offset, length
            batch.verdict[index] = PASS_GLOBAL
        batch.count = 4
        assert wire.link.send(batch, VM_BUSY) == 1  # the third ends beyond the arena
        assert take_all(wire) == [frame(1), frame(2), b""]
        wire.close()
