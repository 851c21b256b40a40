"""The compiled and the interpreted build agree: on 100,000 frames, and on DHCP messages over time.

Seeds are fixed, so that a difference can be seen again. Needs an installed compiled build (see
docs/testing.md); with `PYTHONPATH=src` there is only one build, and nothing to compare.
"""

from pathlib import Path
from random import Random
from typing import Any

import pytest

from harness import corpus
from harness.builds import SOURCE, installed, interpreted, is_compiled
from harness.frames import END, mac, option
from harness.mutate import mutate, rubbish
from vectors.world import GW, OTHER, OTHER_MAC, VM, VM_MAC, client, lease_options, packet, server

pytestmark = pytest.mark.skipif(
    not is_compiled(installed("core.filter")),
    reason="only the interpreted build is here: pip install . first",
)

FRAMES_JUDGED = 100_000
BATCH = 250
STATES = corpus.states()
FRAMES = {
    direction: [
        bytes.fromhex(vector["frame"]) for vector in corpus.vectors() if vector["direction"] == direction
    ]
    for direction in (corpus.FROM_VM, "to-vm")
}
ALL = FRAMES[corpus.FROM_VM] + FRAMES["to-vm"]


class Build:
    """A filter of one build, and a batch of the same build to feed it with."""

    def __init__(self, load: Any, state: corpus.Entry) -> None:
        self.frames = load("core.frames")
        policy, address = load("policy"), load("core.address")
        known = None if state["gateway_mac"] is None else address.parse_mac(state["gateway_mac"])
        gateway = None if state["gateway"] is None else address.parse_ipv4(state["gateway"])
        hosts = tuple(address.parse_ipv4(text) for text in state["host_addresses"])
        facts = policy.Facts(gateway, known, hosts)
        table = policy.compile_policy(policy.parse(state["allow"], state["block"]), facts)
        self.filter = load("core.filter").Filter(
            address.parse_mac(state["mac"]), state["mtu"], table, gateway, known
        )
        for step in state["steps"]:
            self.judge(step["direction"], [bytes.fromhex(step["frame"])], corpus.START + step["now"])

    def judge(self, direction: str, frames: list[bytes], now: float) -> bytes:
        batch = self.frames.Batch(len(frames), 2048)
        for frame in frames:
            assert batch.append(frame)
        way = 0 if direction == corpus.FROM_VM else 1
        (self.filter.judge_vm, self.filter.judge_uplink)[way](batch, now)
        self.filter.tally(batch, way)
        return bytes(batch.verdict)

    def seen(self, now: float) -> tuple[Any, ...]:
        """Everything that the rest of the program can see of the filter."""
        subject = self.filter
        deadline = subject.next_deadline()
        events = []
        while (event := subject.next_event(now)) is not None:
            events.append((event.kind, event.cause, tuple(event.lease), event.at))
        lease = None if subject.lease is None else tuple(subject.lease)
        counts = [subject.counts(way) for way in (0, 1)] + [subject.passed_bytes(way) for way in (0, 1)]
        return deadline, events, lease, counts, subject.gateway_mac


def pair(state: corpus.Entry) -> tuple[Build, Build]:
    return Build(installed, state), Build(interpreted, state)


def test_the_two_builds_are_two() -> None:
    fast, slow = installed("core.filter"), interpreted("core.filter")
    assert is_compiled(fast)
    assert not is_compiled(slow)
    for module in ("core.filter", "core.frames", "core.packet", "core.prefix"):
        assert is_compiled(installed(module)), module
        assert not is_compiled(interpreted(module)), module
    assert interpreted("core.filter").Batch is interpreted("core.frames").Batch


def test_the_two_builds_are_of_one_source() -> None:
    for file in sorted((SOURCE / "core").glob("*.py")):
        beside = Path(str(installed("core").__file__)).with_name(file.name)
        assert beside.read_text() == file.read_text(), f"{file.name} changed since: pip install . again"


def random_frame(random: Random, direction: str) -> bytes:
    """Mostly a frame of the corpus with some changes, seldom rubbish."""
    if random.random() < 0.05:
        return rubbish(random)
    return mutate(random, random.choice(FRAMES[direction]), ALL)


def test_they_agree_on_a_hundred_thousand_frames() -> None:
    random = Random("a hundred thousand")
    names = sorted(STATES)
    for number_of_batch in range(FRAMES_JUDGED // BATCH):
        if number_of_batch % 4 == 0:
            state = STATES[names[number_of_batch // 4 % len(names)]]
            fast, slow = pair(state)
            now = corpus.START + state["now"]
        direction = corpus.FROM_VM if random.random() < 0.7 else "to-vm"
        frames = [
            rubbish(random)
            if random.random() < 0.05
            else mutate(random, random.choice(FRAMES[direction]), ALL)
            for _ in range(BATCH)
        ]
        got, expected = fast.judge(direction, frames, now), slow.judge(direction, frames, now)
        for at, frame in enumerate(frames):
            assert got[at] == expected[at], (direction, state["name"], frame.hex())
        assert fast.seen(now) == slow.seen(now)
        now += random.choice((0.0, 0.1, 3.0, 60.0))


def test_they_agree_on_the_whole_corpus() -> None:
    for vector in corpus.vectors():
        fast, slow = pair(STATES[vector["state"]])
        now, frame = corpus.START + STATES[vector["state"]]["now"], bytes.fromhex(vector["frame"])
        got = fast.judge(vector["direction"], [frame], now)
        assert got == slow.judge(vector["direction"], [frame], now), vector["name"]
        assert fast.seen(now) == slow.seen(now), vector["name"]


OPTIONS = (
    *(option(61, identifier) for identifier in (b"one", b"two", b"three", b"four", b"five", b"")),
    *(option(6, servers) for servers in (b"\x01\x01\x01\x01", b"\x01", b"\x08\x08\x08\x08\x0a\x09\x08\x35")),
    *(option(code, b"\x01") for code in (1, 3, 50, 51, 52, 53, 54)),
    *(option(code, b"\x01\x02\x03\x04") for code in (1, 3, 50, 51, 52, 53, 54)),
    *(option(code) for code in (1, 3, 50, 51, 52, 53, 54)),
    *(option(52, bytes([value])) for value in (2, 3)),
    *(b"\0", END, b"\x0c"),
)
MASKS = ("255.255.255.0", "255.255.255.255", "255.255.255.254", "0.0.0.0", "255.255.240.0")


def random_message(random: Random) -> tuple[str, bytes]:
    """A DHCP message of either side, mostly right, sometimes changed."""
    xid = random.choice((1, 1, 1, 2, 0, 0xFFFFFFFF))
    chaddr = mac(random.choice((VM_MAC,) * 9 + (OTHER_MAC,)))
    extra = b"".join(random.choice(OPTIONS) for _ in range(random.randrange(3)))
    if random.random() < 0.5:
        kind = random.choice((1, 3, 3, 3, 3, 4, 7, 8, 2, 5))
        src, dst = random.choice((("0.0.0.0", "255.255.255.255"),) * 3 + ((VM, GW), (VM, OTHER), (OTHER, GW)))
        frame, direction = client(kind, extra, src=src, dst=dst, xid=xid, chaddr=chaddr), corpus.FROM_VM
    else:
        kind = random.choice((2, 5, 5, 5, 5, 6, 3))
        seconds = random.choice((0, 1, 60, 3600, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF))
        mask = random.choice(
            ("255.255.255.0", "255.255.255.255", "255.255.255.254", "0.0.0.0", "255.255.240.0")
        )
        options = lease_options(seconds, mask, random.choice((GW, OTHER))) + extra
        yiaddr, src = (
            random.choice((VM, VM, VM, OTHER, "0.0.0.0", "255.255.255.255")),
            random.choice((GW, GW, GW, OTHER)),
        )
        frame, direction = server(kind, options, src=src, xid=xid, chaddr=chaddr, yiaddr=yiaddr), "to-vm"
    return direction, mutate(random, frame, ALL) if random.random() < 0.15 else frame


@pytest.mark.parametrize("gateway", ["none", "no-gateway-no-lease"])
def test_they_agree_on_random_sequences_of_dhcp_messages(gateway: str) -> None:
    random = Random(f"dhcp {gateway}")
    for _ in range(400):
        fast, slow = pair(STATES[gateway])
        now = corpus.START
        for _ in range(30):
            direction, frame = random_message(random)
            probes = [packet("9.9.9.9"), packet("192.168.64.255"), packet(OTHER, src=OTHER)]
            got = fast.judge(direction, [frame], now) + fast.judge(corpus.FROM_VM, probes, now)
            expected = slow.judge(direction, [frame], now) + slow.judge(corpus.FROM_VM, probes, now)
            assert got == expected, frame.hex()
            assert fast.seen(now) == slow.seen(now), frame.hex()
            now += random.choice((0.0, 0.0, 0.5, 2.0, 59.5, 60.0, 3600.0))
        assert fast.filter.release_frames(now) == slow.filter.release_frames(now)


def test_they_agree_on_what_is_owed() -> None:
    random = Random("rates")
    for _ in range(200):
        given = random.choice((0, 64_000, 20_000_000, 10**11)), random.choice((10, 5000, 10**8))
        burst = random.choice((0.005, 0.1, 10.0))
        builds = [
            (load("core.rate").Bucket(*given, burst), load("core.frames").Batch(64, 64))
            for load in (installed, interpreted)
        ]
        now = random.uniform(0, 1e6)
        for _ in range(50):
            now += random.choice((0.0, 1e-5, 0.001, 0.1, 5.0, -1.0))
            lengths = [random.choice((0, 60, 1514, 65550)) for _ in range(random.randrange(65))]
            seen = []
            for bucket, batch in builds:
                batch.clear()
                for at, length in enumerate(lengths):
                    batch.append(b"")
                    batch.length[at] = length
                answers = bucket.owed(now), bucket.charge(batch, now), bucket.step(1536)
                seen.append((*answers, bucket.pauses, bucket.paused))
            assert seen[0] == seen[1]
