"""The loop around a slow reader: what was taken in part goes out, and nobody waits for it in a loop."""

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
from softnet.forwarder import STOPPED, Forwarder
from softnet.links import memory
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
def running(vm: StreamLink, uplink: memory.MemoryLink) -> Iterator[Forwarder]:
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
