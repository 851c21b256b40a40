"""What holds for any bytes at all: nothing raises, and nothing dishonest passes.

Frames are rubbish, or frames of the corpus with a few changes, so that they come far. What a frame
claims is read here with plain slices and not with the filter's own reader.
"""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import corpus
from harness.frames import IPV4, UDP, ethernet, ipv4, udp
from harness.mutate import mutate, rubbish
from softnet.core import reasons
from softnet.policy import compile_inbound, compile_policy, parse
from vectors.world import GW, GW_MAC, VM, VM_MAC, packet

STATES = corpus.states()
FRAMES = [bytes.fromhex(vector["frame"]) for vector in corpus.vectors()]
MAC = bytes.fromhex(VM_MAC.replace(":", ""))
LEASED = bytes(int(octet) for octet in VM.split("."))
SERVER = bytes(int(octet) for octet in GW.split("."))
NOBODY, EVERYBODY, SUBNET_BROADCAST = bytes(4), b"\xff" * 4, LEASED[:3] + b"\xff"
PROBES_AND_DHCP = {"pass-arp", "pass-dhcp"}

frames = st.one_of(
    st.binary(max_size=400),
    st.builds(
        lambda frame, seed: mutate(Random(seed), frame, FRAMES),
        st.sampled_from(FRAMES),
        st.integers(0, 2**32),
    ),
)
directions = st.sampled_from([corpus.FROM_VM, "to-vm"])
arrivals = st.tuples(directions, frames, st.floats(0, 100))


def passes(reason: str) -> bool:
    return reasons.BY_NAME[reason].passes


def dishonest(frame: bytes, leased: bytes | None) -> str:
    """Why a VM must not send `frame`, in terms of who it claims to be; empty for an honest one."""
    if frame[6:12] != MAC:
        return "a foreign source MAC"
    if frame[12:14] == b"\x08\x06":
        probe = frame[20:22] == b"\0\1" and frame[28:32] == NOBODY
        honest = frame[22:28] == MAC and (probe or frame[28:32] == leased)
        return "" if honest else "a foreign ARP sender"
    if frame[12:14] != b"\x08\x00":
        return "neither ARP nor IPv4"
    if frame[26:30] == leased:
        return ""
    header = 14 + 4 * (frame[14] & 15)
    asks = frame[23] == 17 and frame[header : header + 4] == b"\x00\x44\x00\x43"
    to_server = frame[30:34] == EVERYBODY or (leased is not None and frame[30:34] == SERVER)
    return "" if frame[26:30] == NOBODY and asks and to_server else "a foreign IPv4 source"


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(STATES)), st.lists(st.tuples(directions, frames, st.floats(0, 100)), max_size=8)
)
def test_no_bytes_raise_and_every_frame_ends_in_one_known_reason(
    state: str, arrived: list[tuple[str, bytes, float]]
) -> None:
    subject, now = corpus.reached(STATES[state])
    before = sum(sum(subject.counts(direction).values()) for direction in (0, 1))
    for direction, frame, later in arrived:
        now += later
        (reason,) = corpus.judge(subject, direction, [frame[: corpus.SLOT]], now)
        assert (reason == "pass-inbound") <= (direction != corpus.FROM_VM)
    after = sum(sum(subject.counts(direction).values()) for direction in (0, 1))
    assert after - before == len(arrived)


@pytest.mark.parametrize("state", sorted(STATES))
def test_nothing_that_claims_to_be_another_passes(state: str) -> None:
    """2,000 changed frames a state, each judged by a filter that has just reached it."""
    random = Random(f"honest {state}")
    subject, now = corpus.reached(STATES[state])
    leased = LEASED if subject.lease is not None and subject.lease.expiry > now else None
    passed = 0
    for _ in range(2000):
        frame = mutate(random, random.choice(FRAMES), FRAMES)
        (reason,) = corpus.judge(subject, corpus.FROM_VM, [frame], now)
        if passes(reason):
            passed += 1
            assert dishonest(frame, leased) == "", (reason, frame.hex())
        if reason == "pass-dhcp":
            subject, now = corpus.reached(STATES[state])
    assert passed > 0


@pytest.mark.parametrize(
    "state", ["none", "expired", "released", "allow-all-no-lease", "no-gateway-no-lease"]
)
def test_without_a_lease_only_probes_and_dhcp_pass(state: str) -> None:
    random = Random(f"lease {state}")
    subject, now = corpus.reached(STATES[state])
    for _ in range(4000):
        frame = mutate(random, random.choice(FRAMES), FRAMES)
        (reason,) = corpus.judge(subject, corpus.FROM_VM, [frame], now)
        assert not passes(reason) or reason in PROBES_AND_DHCP, (reason, frame.hex())
        if reason == "pass-dhcp":
            subject, now = corpus.reached(STATES[state])


def stateful() -> tuple[corpus.Filter, float]:
    """Bound, with rules that have directions and ports, and with exposed ports."""
    state = STATES["bound"]
    subject, now = corpus.reached(state)
    facts = corpus.facts_of(state)
    rules = parse(["in 0.0.0.0/0:22", "0.0.0.0/0:53/udp", "10.0.0.0/8", "out @host:80"], ["in 10.9.0.0/16"])
    subject.set_table(compile_policy(rules, facts), compile_inbound(rules, facts))
    subject.expose([(6, 40000), (17, 40000)])
    return subject, now


def test_nothing_dishonest_passes_where_connections_are_followed() -> None:
    """Both directions mixed, so that flows are open when a changed frame claims to belong to one."""
    random = Random("stateful")
    subject, now = stateful()
    asked = ethernet(VM_MAC, GW_MAC, IPV4, ipv4("172.20.0.1", VM, UDP, udp(9, 40000)))
    pool = FRAMES + [asked, packet("172.20.0.1")] * 200
    returned = 0
    for _ in range(8000):
        direction = random.choice((corpus.FROM_VM, "to-vm"))
        frame = random.choice(pool)
        if random.random() < 0.8:
            frame = mutate(random, frame, FRAMES)
        (reason,) = corpus.judge(subject, direction, [frame], now)
        returned += reason == "pass-return"
        if direction == corpus.FROM_VM and passes(reason):
            leased = LEASED if subject.lease is not None else None
            assert dishonest(frame, leased) == "", (reason, frame.hex())
            unicast = frame[12:14] == b"\x08\x00" and frame[30] < 224 and frame[30:34] != SUBNET_BROADCAST
            assert not (unicast and frame[0] & 1) or reason == "pass-dhcp", (reason, frame.hex())
        if reason == "pass-dhcp" or subject.lease is None:
            subject, now = stateful()
    assert returned > 0


@settings(max_examples=200, deadline=None)
@given(frames, st.integers(0, 2**48 - 1))
def test_no_other_source_mac_passes(frame: bytes, source: int) -> None:
    subject, now = corpus.reached(STATES["allow-all"])
    wrong = frame[:6] + source.to_bytes(6, "big") + frame[12:]
    (reason,) = corpus.judge(subject, corpus.FROM_VM, [wrong[:1514]], now)
    assert reason in ("src-mac", "runt") or wrong[6:12] == MAC


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(FRAMES), st.integers(0, 2**32 - 1))
def test_no_other_ipv4_source_or_arp_sender_passes(frame: bytes, address: int) -> None:
    """A frame of the corpus in the name of any address: only the leased one, a probe or DHCP."""
    subject, now = corpus.reached(STATES["allow-all"])
    at = 28 if frame[12:14] == b"\x08\x06" else 26
    claimed = frame[:at] + address.to_bytes(4, "big") + frame[at + 4 :]
    (reason,) = corpus.judge(subject, corpus.FROM_VM, [claimed], now)
    assert not passes(reason) or dishonest(claimed, LEASED) == ""


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(FRAMES), st.binary(max_size=60)), max_size=30), directions)
def test_a_batch_is_judged_like_its_frames_one_by_one(batch: list[bytes], direction: str) -> None:
    together, now = corpus.reached(STATES["bound"])
    apart, _ = corpus.reached(STATES["bound"])
    one_by_one = [corpus.judge(apart, direction, [frame], now)[0] for frame in batch]
    assert corpus.judge(together, direction, batch, now) == one_by_one
    assert together.lease == apart.lease


def test_frames_of_several_thousand_random_bytes() -> None:
    random = Random("rubbish")
    subject, now = corpus.reached(STATES["bound"])
    for direction in (corpus.FROM_VM, "to-vm"):
        reasons_seen = corpus.judge(subject, direction, [rubbish(random) for _ in range(3000)], now)
        assert not any(passes(reason) for reason in reasons_seen if reason != "pass-inbound")


def test_a_frame_cut_by_its_slot_is_oversize_and_never_read() -> None:
    """Its descriptor says how long it was on the wire; the arena holds less."""
    for direction in (corpus.FROM_VM, "to-vm"):
        subject, now = corpus.reached(STATES["jumbo"])
        batch = corpus.batch_of([FRAMES[0].ljust(1600, b"\0")], slot=1536)
        judge = subject.judge_vm if direction == corpus.FROM_VM else subject.judge_uplink
        judge(batch, now)
        assert batch.verdict[0] == reasons.OVERSIZE
