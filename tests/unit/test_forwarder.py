"""The loop around a slow reader: what was taken in part goes out, and nobody waits for it in a loop."""

import errno
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from softnet.core.filter import Filter
from softnet.core.frames import Batch
from softnet.core.packet import ETHERTYPE_IPV4, ethernet
from softnet.core.reasons import PASS_INBOUND, UPLINK_BUSY
from softnet.forwarder import HOLD_SECONDS, STOPPED, Forwarder
from softnet.links import Link, memory
from softnet.links.stream import StreamLink
from softnet.policy import Facts, Policy, compile_policy

MAC = 0x020000000001
SLOT = 1536
FRAMES = 192


class Counting(StreamLink):
    """Counts how often the loop looked."""

    looks = 0

    def receive(self, batch: Batch) -> int:
        self.looks += 1
        return super().receive(batch)


def numbered(number: int) -> bytes:
    return ethernet(MAC, 0x020000000002, ETHERTYPE_IPV4, number.to_bytes(4, "big") * 375)


@contextmanager
def running(vm: Link, uplink: memory.MemoryLink) -> Iterator[Forwarder]:
    judge = Filter(MAC, 1500, compile_policy(Policy(), Facts()))
    forwarder = Forwarder(judge, vm, uplink, SLOT)
    reader, writer = os.pipe()
    forwarder.watch(reader, lambda _now: forwarder.stop())
    endings: list[str] = []
    thread = threading.Thread(target=lambda: endings.append(forwarder.run()))
    thread.start()
    try:
        yield forwarder
    finally:
        os.write(writer, b"\0")
        thread.join()
        os.close(reader)
        os.close(writer)
    assert endings == [STOPPED]


def send_all(link: memory.MemoryLink) -> None:
    for start in range(0, FRAMES, 64):
        send_batch(link, start)


def send_batch(link: memory.MemoryLink, start: int) -> None:
    batch = Batch(64, SLOT)
    for number in range(start, start + 64):
        batch.append(numbered(number))
        batch.verdict[number - start] = PASS_INBOUND
    assert link.send(batch, UPLINK_BUSY) == 0


def read_frames(sock: socket.socket) -> list[bytes]:
    """Reads slowly, until nothing comes any more; every frame has to be there to its last byte."""
    sock.settimeout(0.3)
    data = b""
    try:
        while True:
            data += sock.recv(3000)
            time.sleep(0.001)
    except TimeoutError:
        pass
    frames = []
    while data:
        length = int.from_bytes(data[:4], "big")
        assert len(data) >= 4 + length, "a frame is cut"
        frames.append(data[4 : 4 + length])
        data = data[4 + length :]
    return frames


def test_the_rest_of_a_frame_goes_out_as_soon_as_there_is_room() -> None:
    near, far = socket.socketpair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20000)
    vm = Counting(near)
    uplink, network = memory.pair()
    send_all(network)
    with running(vm, uplink) as forwarder:
        deadline = time.monotonic() + 5
        while not vm.unsent:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(0.1)
        looks = vm.looks
        time.sleep(0.2)
        assert vm.looks == looks, "the loop does not sleep while the reader does"
        frames = read_frames(far)
        assert not vm.unsent
        looks = vm.looks
        time.sleep(0.2)
        assert vm.looks == looks, "the loop does not sleep once all is out"
        counts = forwarder.filter.counts(1)
        assert counts["vm-busy"] > 0
        assert len(frames) == counts["pass-inbound"] == FRAMES - counts["vm-busy"]
        assert frames == [numbered(int.from_bytes(each[14:18], "big")) for each in frames]
    for link in (vm, uplink, network):
        link.close()
    far.close()


def test_a_batch_that_is_not_taken_whole_waits_for_room() -> None:
    """A reader that pauses for less than a batch is held costs nothing."""
    near, far = socket.socketpair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20000)
    vm = StreamLink(near)
    uplink, network = memory.pair()
    with running(vm, uplink) as forwarder:
        far.settimeout(1)
        for _ in range(FRAMES // 64):
            send_batch(network, 0)
            time.sleep(HOLD_SECONDS / 4)
            left = 64 * (4 + 1514)
            while left:
                left -= len(far.recv(left))
            time.sleep(0.01)  # until it is counted
        assert forwarder.filter.counts(1) == {"pass-inbound": FRAMES}
    for link in (vm, uplink, network):
        link.close()
    far.close()


def test_a_held_direction_is_not_read_and_does_not_hold_the_other() -> None:
    near, far = socket.socketpair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20000)
    vm = StreamLink(near)
    uplink, network = memory.pair(capacity=4096)
    seen: list[float] = []
    with running(vm, uplink) as forwarder:
        started = time.monotonic()
        for start in range(0, 4096, 64):
            send_batch(network, start)
        frame = ethernet(0x020000000002, MAC + 1, ETHERTYPE_IPV4, bytes(46))  # counted, not passed
        for number in range(1, 11):
            far.send(len(frame).to_bytes(4, "big") + frame)
            while forwarder.filter.counts(0).get("src-mac", 0) < number:
                assert time.monotonic() < started + 5
                time.sleep(0.0005)
            seen.append(time.monotonic())
        took = seen[-1] - started
        dropped = forwarder.filter.counts(1).get("vm-busy", 0)
        assert dropped <= 64 * (took / HOLD_SECONDS + 1), "it is read although it is held"
        assert took < 10 * HOLD_SECONDS, "it waits for the other direction"
        time.sleep(4 * HOLD_SECONDS)
        assert forwarder.filter.counts(1).get("vm-busy", 0) > dropped, "a stalled reader costs drops"
    for link in (vm, uplink, network):
        link.close()
    far.close()


def test_a_refusal_that_no_room_ends_is_final() -> None:
    """An interface that is down says that there is room, and takes nothing."""
    uplink, network = memory.pair()
    vm, far = memory.pair()
    vm.failures.extend([errno.EIO] * 200)
    with running(vm, uplink) as forwarder:
        send_batch(network, 0)
        deadline = time.monotonic() + 5
        while forwarder.filter.counts(1) != {"vm-busy": 64}:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    for link in (uplink, network, vm, far):
        link.close()
