"""The corpus against the core: every frame ends in the reason that docs/spec.md gives it.

The corpus is data (`tests/vectors/*.jsonl`); it was written from the page and never from the code.
"""

from itertools import groupby

import pytest

from harness import corpus
from softnet.core import reasons
from softnet.core.address import format_ipv4
from vectors import generate

STATES = corpus.states()
VECTORS = corpus.vectors()
SEQUENCES = corpus.sequences()
CUTS = corpus.cuts()

# Counted by whoever sends, or given by rules with directions, which the corpus has none of.
NOT_OF_A_FRAME = {"vm-busy", "uplink-busy", "pass-return", "flow-start", "flow-full", "fragment"}


def names(entries: list[corpus.Entry]) -> list[str]:
    return [entry["name"] for entry in entries]


def test_the_generator_writes_the_corpus_that_is_here() -> None:
    written = generate.files()
    present = {path.name: path.read_text() for path in corpus.DIRECTORY.glob("*.jsonl")}
    assert sorted(present) == sorted(written)
    for name, text in written.items():
        assert present[name] == text, f"{name} is stale: PYTHONPATH=tests python -m vectors.generate"


@pytest.mark.parametrize("vector", VECTORS, ids=names(VECTORS))
def test_vector(vector: corpus.Entry) -> None:
    subject, now = corpus.reached(STATES[vector["state"]])
    frame = bytes.fromhex(vector["frame"])
    assert corpus.judge(subject, vector["direction"], [frame], now) == [vector["reason"]], vector["what"]


@pytest.mark.parametrize("state", STATES)
def test_vectors_of_one_state_and_direction_in_one_batch(state: str) -> None:
    """No verdict depends on a neighbour in the batch, but for DHCP, which changes the state."""
    for direction in (corpus.FROM_VM, "to-vm"):
        apart = [
            vector
            for vector in VECTORS
            if vector["state"] == state and vector["direction"] == direction and "dhcp" not in vector["name"]
            and vector["reason"] != "pass-dhcp"
        ]  # fmt: skip
        subject, now = corpus.reached(STATES[state])
        frames = [bytes.fromhex(vector["frame"]) for vector in apart]
        assert corpus.judge(subject, direction, frames, now) == [vector["reason"] for vector in apart]


@pytest.mark.parametrize("entry", CUTS, ids=names(CUTS))
def test_every_length(entry: corpus.Entry) -> None:
    subject, now = corpus.reached(STATES[entry["state"]])
    frames, expected = zip(*corpus.cut_frames(entry), strict=True)
    assert len(frames) == len(entry["frame"]) // 2 + 1
    assert corpus.judge(subject, entry["direction"], frames, now) == list(expected)


@pytest.mark.parametrize("sequence", SEQUENCES, ids=names(SEQUENCES))
def test_sequence(sequence: corpus.Entry) -> None:
    """Frame by frame, and after each step the lease where the step says what it is."""
    subject, now = corpus.reached(STATES[sequence["state"]])
    for number, step in enumerate(sequence["steps"]):
        assert corpus.play(subject, [step], now) == corpus.expected([step]), f"step {number}: {step['note']}"
        if "lease" in step:
            assert described(subject, now + step["now"]) == step["lease"], f"step {number}: {step['note']}"


@pytest.mark.parametrize("sequence", SEQUENCES, ids=names(SEQUENCES))
def test_sequence_in_batches(sequence: corpus.Entry) -> None:
    """What comes together is judged in order: a lease that ends in a batch ends for the rest of it."""
    subject, now = corpus.reached(STATES[sequence["state"]])
    together = groupby(sequence["steps"], key=lambda step: (step["now"], step["direction"]))
    for (when, direction), group in together:
        steps = list(group)
        frames = [bytes.fromhex(step["frame"]) for step in steps for _ in range(step.get("repeat", 1))]
        assert corpus.judge(subject, direction, frames, now + when) == corpus.expected(steps)


def described(subject: corpus.Filter, at: float) -> corpus.Entry | None:
    """The lease as the corpus writes it."""
    lease = subject.lease
    if lease is None:
        return None
    return {
        "address": format_ipv4(lease.address),
        "mask": format_ipv4(lease.mask),
        "router": format_ipv4(lease.router),
        "dns": [format_ipv4(address) for address in lease.dns],
        "server": format_ipv4(lease.server),
        "seconds": lease.expiry - at,
    }


ACK = next(entry for entry in CUTS if entry["name"] == "fit-in-ack")


@pytest.mark.parametrize("length", range(14, len(ACK["frame"]) // 2 - 1))
def test_an_ack_cut_short_grants_nothing(length: int) -> None:
    """Its last option is the lease time: what is cut anywhere before END never has all of it."""
    steps = corpus.states()["bound"]["steps"][:3]
    subject = corpus.filter_of(STATES["none"])
    corpus.play(subject, steps, corpus.START)
    frame = corpus.refit(bytes.fromhex(ACK["frame"]), length)
    assert corpus.judge(subject, "to-vm", [frame], corpus.START) == ["pass-inbound"]
    probe = next(vector for vector in VECTORS if vector["name"] == "ip-total-is-length")
    assert corpus.judge(subject, corpus.FROM_VM, [bytes.fromhex(probe["frame"])], corpus.START) == [
        "no-lease"
    ]


@pytest.mark.parametrize("bits", range(8))
def test_nothing_passes_when_any_bit_of_the_source_is_wrong(bits: int) -> None:
    """All 48 bits, on one frame that would pass and one that would not."""
    subject, now = corpus.reached(STATES["bound"])
    for vector in VECTORS:
        if vector["name"] not in ("arp-request", "gateway", "discover-bound", "ipv6"):
            continue
        frame = bytes.fromhex(vector["frame"])
        wrong = [frame[:6] + at.to_bytes(6, "big") + frame[12:] for at in other_sources(frame, bits)]
        assert corpus.judge(subject, corpus.FROM_VM, wrong, now) == ["src-mac"] * 6


def other_sources(frame: bytes, bit: int) -> list[int]:
    source = int.from_bytes(frame[6:12], "big")
    return [source ^ (1 << octet * 8 + bit) for octet in range(6)]


def test_every_reason_is_the_verdict_of_some_vector() -> None:
    found = {vector["reason"] for vector in VECTORS}
    found |= {reason for sequence in SEQUENCES for reason in corpus.expected(sequence["steps"])}
    assert found == set(reasons.BY_NAME) - NOT_OF_A_FRAME


def test_single_frames_alone_produce_every_reason_that_needs_no_history() -> None:
    found = {vector["reason"] for vector in VECTORS}
    assert set(reasons.BY_NAME) - NOT_OF_A_FRAME - found == {"dhcp-client-id", "dhcp-rate"}


def test_names_are_unique_and_every_entry_says_what_it_is() -> None:
    entries = corpus.entries()
    assert len({entry["name"] for entry in entries}) == len(entries)
    assert all(entry["what"] for entry in entries)
    assert all(entry["spec"] for entry in entries if entry["file"] != "states")
    assert {entry["state"] for entry in entries if "state" in entry} <= set(STATES)


def test_counters_agree_with_verdicts() -> None:
    subject, now = corpus.reached(STATES["bound"])
    before = subject.counts(reasons.FROM_VM)
    chosen = [vector for vector in VECTORS if vector["file"] == "ipv4" and vector["state"] == "bound"]
    frames = [bytes.fromhex(vector["frame"]) for vector in chosen]
    verdicts = corpus.judge(subject, corpus.FROM_VM, frames, now)
    after = subject.counts(reasons.FROM_VM)
    for name in set(verdicts):
        assert after[name] - before.get(name, 0) == verdicts.count(name)
    assert sum(after.values()) - sum(before.values()) == len(frames)
