"""The loop with a rate: it reads more slowly, sleeps meanwhile, and leaves the other direction alone."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from harness.frames import ACK, REQUEST, ip, option
from softnet import clock
from softnet.core.address import parse_ipv4, parse_mac
from softnet.core.filter import Filter
from softnet.core.frames import Batch
from softnet.core.packet import ETHERTYPE_IPV4, ethernet
from softnet.core.reasons import PASS_INBOUND, PASS_LIMIT, UPLINK_BUSY
from softnet.forwarder import STOPPED, UPLINK_GONE, VM_GONE, Forwarder
from softnet.limits import Rates, add_rate
from softnet.links import Link, memory
from softnet.links.stream import StreamLink
from softnet.policy import Facts, Policy, compile_policy
from vectors.world import GW, VM_MAC, client, lease_options, server

MAC = 0x020000000001
SLOT = 1536
FRAME = ethernet(MAC, 0x020000000002, ETHERTYPE_IPV4, bytes(1500))
REFUSED = ethernet(0x020000000002, MAC + 1, ETHERTYPE_IPV4, bytes(46))  # src-mac
LONG = bytes(8000)  # oversize


class Counting(memory.MemoryLink):
    """Counts how often the loop looked."""

    looks = 0

    def receive(self, batch: Batch) -> int:
        self.looks += 1
        return super().receive(batch)


def counting_pair(capacity: int = 100_000) -> tuple[Counting, Counting]:
    one, other = Counting(capacity), Counting(capacity)
    one._peer, other._peer = other, one
    return one, other


def rates(*texts: str) -> Rates:
    found = Rates()
    for text in texts:
        found = add_rate(found, text)
    return found


@contextmanager
def running(vm: Link, uplink: Link, rates: Rates, ending: str = STOPPED) -> Iterator[Forwarder]:
    judge = Filter(MAC, 1500, compile_policy(Policy(), Facts()))
    forwarder = Forwarder(judge, vm, uplink, SLOT, rates)
    reader, writer = os.pipe()
    forwarder.watch(reader, lambda _now: forwarder.stop())
    endings: list[str] = []
    thread = threading.Thread(target=lambda: endings.append(forwarder.run()))
    thread.start()
    try:
        yield forwarder
    finally:
        began = time.monotonic()
        os.write(writer, b"\0")
        thread.join(5)
        took = time.monotonic() - began
        assert not thread.is_alive()
        os.close(reader)
        os.close(writer)
    assert endings == [ending]
    assert took < 0.2, "it ends only when a debt is paid"


def put(link: Link, frame: bytes, count: int) -> None:
    for start in range(0, count, 64):
        batch = Batch(64, SLOT)
        for at in range(min(64, count - start)):
            batch.append(frame)
            batch.verdict[at] = PASS_INBOUND
        assert link.send(batch, UPLINK_BUSY) == 0


def seen(forwarder: Forwarder, direction: int) -> int:
    return sum(forwarder.filter.counts(direction).values())


def until(forwarder: Forwarder, direction: int, count: int) -> None:
    deadline = time.monotonic() + 5
    while seen(forwarder, direction) < count:
        assert time.monotonic() < deadline, f"{seen(forwarder, direction)} of {count}"
        time.sleep(0.001)


def close(*links: Link | socket.socket) -> None:
    for link in links:
        link.close()


def test_frames_are_read_no_faster_than_the_rate() -> None:
    vm, hypervisor = counting_pair()
    uplink, network = counting_pair()
    put(network, FRAME, 2000)
    with running(vm, uplink, rates("to-vm:10mbit,burst=20ms")) as forwarder:
        time.sleep(0.05)
        began, before = time.monotonic(), seen(forwarder, 1)
        time.sleep(1)
        took, count = time.monotonic() - began, seen(forwarder, 1) - before
        assert 0.85 * took * 10e6 < count * 1514 * 8 < 10e6 * (took + 0.02) + 8 * 16 * SLOT
        assert uplink.looks < 3 * took / 0.0012 + 100, "it looks although it owes"
        bucket = forwarder.buckets[1]
        assert forwarder.buckets[0] is None
        assert bucket is not None
        assert bucket.pauses > 5
        paused = bucket.paused
        time.sleep(0.5)
        assert 0.4 < bucket.paused - paused < 0.6
    close(vm, hypervisor, uplink, network)


def test_what_is_refused_counts_as_well() -> None:
    vm, hypervisor = counting_pair()
    uplink, network = counting_pair()
    put(hypervisor, REFUSED, 3000)
    with running(vm, uplink, rates("from-vm:1kpps,burst=20ms")) as forwarder:
        time.sleep(0.5)
        assert forwarder.filter.counts(0) == {"src-mac": seen(forwarder, 0)}
        assert 400 < seen(forwarder, 0) < 700
    close(vm, hypervisor, uplink, network)


def test_a_debt_is_slept_off_without_a_look() -> None:
    vm, hypervisor = counting_pair()
    uplink, network = counting_pair()
    with running(vm, uplink, rates("to-vm:64kbit,burst=5ms")) as forwarder:
        put(network, FRAME, 3)
        until(forwarder, 1, 1)  # 189 ms of debt
        looks = uplink.looks
        time.sleep(0.12)
        assert uplink.looks == looks
        until(forwarder, 1, 3)
        time.sleep(0.3)
        looks = uplink.looks
        time.sleep(0.3)
        assert uplink.looks == looks, "it looks although nothing waits"
    close(vm, hypervisor, uplink, network)


@pytest.mark.parametrize("limited", [0, 1])
def test_the_other_direction_goes_on(limited: int) -> None:
    vm, hypervisor = counting_pair()
    uplink, network = counting_pair()
    sources = (hypervisor, network)
    frames = (REFUSED, FRAME)
    name = ("from-vm", "to-vm")[limited]
    put(sources[limited], frames[limited], 500)
    with running(vm, uplink, rates(f"{name}:10pps,burst=5ms")) as forwarder:
        began = time.monotonic()
        for number in range(1, 201):
            put(sources[1 - limited], frames[1 - limited], 1)
            until(forwarder, 1 - limited, number)
        took = time.monotonic() - began
        assert took < 1.5
        assert seen(forwarder, limited) <= 10 * (took + 1) + 1
    close(vm, hypervisor, uplink, network)


def test_a_link_that_has_read_ahead_waits_too() -> None:
    """`pending` is no way around a pause: a stream reads more than a batch holds."""
    near, far = socket.socketpair()
    vm = StreamLink(near)
    uplink, network = memory.pair()
    framed = len(REFUSED).to_bytes(4, "big") + REFUSED
    far.sendall(framed * 400)
    with running(vm, uplink, rates("from-vm:100pps,burst=10ms")) as forwarder:
        ahead = 0
        for _ in range(100):
            time.sleep(0.005)
            ahead += vm.pending
        assert ahead > 50
        assert 40 < seen(forwarder, 0) < 70
    close(vm, far, uplink, network)


def test_batches_of_one_frame_of_a_stream_are_whole() -> None:
    near, far = socket.socketpair()
    vm = StreamLink(near)
    uplink, network = memory.pair()
    frames = [ethernet(2, MAC + 1, ETHERTYPE_IPV4, bytes(size)) for size in (1522, 46, 1518, 1500, 1522)]
    with running(vm, uplink, rates("from-vm:10kpps,64mbit,burst=5ms")) as forwarder:
        for frame in frames * 20:
            far.sendall(len(frame).to_bytes(4, "big") + frame)
        until(forwarder, 0, 100)
        assert forwarder.filter.counts(0) == {"src-mac": 40, "oversize": 60}
    close(vm, far, uplink, network)


def test_the_rest_of_a_frame_goes_out_while_the_other_direction_owes() -> None:
    near, far = socket.socketpair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20000)
    vm = StreamLink(near)
    uplink, network = memory.pair(capacity=4096)
    far.settimeout(0.5)
    with running(vm, uplink, rates("from-vm:64kbit,burst=5ms")) as forwarder:
        deadline = time.monotonic() + 5
        while not vm.unsent:
            assert time.monotonic() < deadline
            put(network, FRAME, 16)
            time.sleep(0.01)
        time.sleep(0.1)  # until nothing is held
        far.sendall((len(LONG).to_bytes(4, "big") + LONG) * 2)  # a second of debt each
        until(forwarder, 0, 1)
        sent = forwarder.filter.counts(1)["pass-inbound"] * (4 + len(FRAME))
        while sent:  # a frame that lacks its rest is a timeout
            sent -= len(far.recv(sent))
        assert seen(forwarder, 0) == 1, "only because the direction that owes was read"
    close(vm, far, uplink, network)


@pytest.mark.parametrize("side", ["vm", "uplink"])
def test_an_end_is_noticed_in_the_middle_of_a_pause(side: str) -> None:
    near, far = socket.socketpair()
    stream = StreamLink(near)
    other, beyond = memory.pair()
    vm, uplink = (stream, other) if side == "vm" else (other, stream)
    name, ending, way = ("from-vm", VM_GONE, 0) if side == "vm" else ("to-vm", UPLINK_GONE, 1)
    with running(vm, uplink, rates(f"{name}:10pps,burst=5ms"), ending) as forwarder:
        far.sendall((len(REFUSED).to_bytes(4, "big") + REFUSED) * 20)
        until(forwarder, way, 1)
        far.close()
        time.sleep(0.1)
        assert seen(forwarder, way) == 20, "what came before its end is judged"
    close(vm, uplink, beyond)


def test_every_lease_is_given_back_although_batches_are_small() -> None:
    vm, hypervisor = memory.pair()
    uplink, network = memory.pair()
    gateway = parse_ipv4(GW)
    judge = Filter(parse_mac(VM_MAC), 1500, compile_policy(Policy(), Facts(gateway)), gateway)
    forwarder = Forwarder(judge, vm, uplink, SLOT, rates("64kbit"))
    batch, now = Batch(1, SLOT), clock.now()
    for xid in (1, 2, 3):
        address = f"192.168.64.{xid + 10}"
        asked = client(REQUEST, option(61, bytes([0, xid])) + option(50, ip(address)), xid=xid)
        granted = server(ACK, lease_options(), xid=xid, yiaddr=address)
        for frame, look in ((asked, judge.judge_vm), (granted, judge.judge_uplink)):
            batch.clear()
            batch.append(frame)
            look(batch, now)
            assert batch.verdict[0] < PASS_LIMIT
    forwarder.release()
    released = Batch(64, SLOT)
    assert network.receive(released) == 3
    close(vm, hypervisor, uplink, network)
