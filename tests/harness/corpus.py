"""Reads the corpus, and puts its frames through a filter. This is where tests meet softnet's core."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from harness.frames import refit
from softnet.core import reasons
from softnet.core.address import parse_ipv4, parse_mac
from softnet.core.filter import Filter
from softnet.core.frames import Batch
from softnet.policy import Facts, compile_policy, parse

DIRECTORY = Path(__file__).parents[1] / "vectors"
FROM_VM = "from-vm"
START = 1_000_000.0  # a clock that has run for a while, so that nothing works by starting at zero
SLOT = 9216  # larger than any frame of the corpus, so that lengths are the filter's business

Entry = dict[str, Any]


def entries(file: str | None = None) -> list[Entry]:
    """All entries of all files (or one), in order; each knows the `file` that it is from."""
    paths = [DIRECTORY / f"{file}.jsonl"] if file else sorted(DIRECTORY.glob("*.jsonl"))
    lines = ((path.stem, line) for path in paths for line in path.read_text().splitlines())
    return [json.loads(line) | {"file": file} for file, line in lines]


def states() -> dict[str, Entry]:
    return {state["name"]: state for state in entries("states")}


def vectors() -> list[Entry]:
    """Single frames."""
    return [entry for entry in entries() if "reason" in entry]


def sequences() -> list[Entry]:
    return [entry for entry in entries() if "steps" in entry and entry["file"] != "states"]


def cuts() -> list[Entry]:
    """Frames for which every length has a reason."""
    return [entry for entry in entries() if "cuts" in entry]


def cut_frames(entry: Entry) -> Iterator[tuple[bytes, str]]:
    """Every length of a frame of `cuts`, from nothing to all, with its reason."""
    frame = bytes.fromhex(entry["frame"])
    for first, last, reason in entry["cuts"]:
        for length in range(first, last + 1):
            yield refit(frame, length) if entry["refit"] else frame[:length], reason


def batch_of(frames: Iterable[bytes], slot: int = SLOT) -> Batch:
    listed = list(frames)
    batch = Batch(max(1, len(listed)), slot)
    for frame in listed:
        assert batch.append(frame)
    return batch


def facts_of(state: Entry) -> Facts:
    return Facts(
        gateway=None if state["gateway"] is None else parse_ipv4(state["gateway"]),
        gateway_mac=None if state["gateway_mac"] is None else parse_mac(state["gateway_mac"]),
        host_addresses=tuple(parse_ipv4(address) for address in state["host_addresses"]),
    )


def filter_of(state: Entry) -> Filter:
    """A new filter for a state's settings, before any frame."""
    facts = facts_of(state)
    table = compile_policy(parse(state["allow"], state["block"]), facts)
    return Filter(parse_mac(state["mac"]), state["mtu"], table, facts.gateway, facts.gateway_mac)


def judge(subject: Filter, direction: str, frames: Iterable[bytes], now: float) -> list[str]:
    """The names of the reasons of `frames`, judged as one batch."""
    batch = batch_of(frames)
    if direction == FROM_VM:
        subject.judge_vm(batch, now)
        subject.tally(batch, reasons.FROM_VM)
    else:
        subject.judge_uplink(batch, now)
        subject.tally(batch, reasons.TO_VM)
    return [reasons.BY_CODE[batch.verdict[at]].name for at in range(batch.count)]


def play(subject: Filter, steps: list[Entry], start: float) -> list[str]:
    """The reason of every frame of a sequence, one frame a batch."""
    found = []
    for step in steps:
        frame = bytes.fromhex(step["frame"])
        for _ in range(step.get("repeat", 1)):
            found += judge(subject, step["direction"], [frame], start + step["now"])
    return found


def expected(steps: list[Entry]) -> list[str]:
    return [step["reason"] for step in steps for _ in range(step.get("repeat", 1))]


def reached(state: Entry) -> tuple[Filter, float]:
    """A filter in `state`, and the time of it."""
    subject = filter_of(state)
    assert play(subject, state["steps"], START) == expected(state["steps"]), state["name"]
    return subject, START + state["now"]
