"""Frames a second and CPU a frame against the bare pump, and what rules add to that."""

import itertools
import json
import random
import subprocess
from contextlib import ExitStack
from typing import Any

from bench import statistics
from bench.subjects import (
    BUILT,
    FIRST_TARGET,
    LAST_TARGET,
    LOAD_CORE,
    Wires,
    cpu_seconds,
    frame,
    memory,
    on_core,
    pump,
    softnet,
)
from softnet.core.address import format_ipv4

WINDOW = 128
SIZES = (64, 512, 1514)
DESTINATION_AT, SOURCE_AT = 30, 26


def rules(count: int) -> list[str]:
    """Options for `count` rules that let through what the load sends: /24s it aims at, and addresses it never
    does. They are in a policy file, where long lists belong: the interpreter itself keeps
    40 MB for 1.4 MB of arguments."""
    numbers = random.Random(count)
    allowed = [
        f"{format_ipv4(at << 8)}/24"
        for at in numbers.sample(range(FIRST_TARGET >> 8, LAST_TARGET >> 8), count // 2)
    ]
    blocked = [format_ipv4(at) for at in numbers.sample(range(0xC8000000, 0xDF000000), count - count // 2)]
    file = BUILT / f"rules-{count}.toml"
    file.write_text(f"version = 1\nallow = {json.dumps(allowed)}\nblock = {json.dumps(blocked)}\n")
    return ["--policy", str(file)]


def push(wires: Wires, pid: int, size: int, to_vm: bool, seconds: float) -> dict[str, float]:
    """One run: frames a second, nanoseconds of CPU a frame, frames lost."""
    ends = (wires.uplink, wires.vm) if to_vm else (wires.vm, wires.uplink)
    vary = (SOURCE_AT if to_vm else DESTINATION_AT, FIRST_TARGET, LAST_TARGET)
    words = [*(str(end.fileno()) for end in ends), str(seconds), str(WINDOW), frame(size, to_vm).hex()]
    argv = on_core(LOAD_CORE, str(BUILT / "load"), "frames", *words, *map(str, vary))
    before = cpu_seconds(pid)
    output = subprocess.run(
        argv, pass_fds=[end.fileno() for end in ends], stdout=subprocess.PIPE, check=True
    ).stdout
    spent = cpu_seconds(pid) - before
    counts = json.loads(output)
    received = max(counts["received"], 1)
    return {
        "frames_per_second": counts["received"] / counts["seconds"],
        "ns_per_frame": spent / received * 1e9,
        "lost": counts["lost"],
    }


def measure(
    rule_counts: tuple[int, ...], sizes: tuple[int, ...], rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """Every subject stays up and takes its turn in every round, so that a slow minute is slow for all."""
    with ExitStack() as running:
        subjects = {"pump": running.enter_context(pump())}
        for count in rule_counts:
            subjects[f"{count} rules"] = running.enter_context(softnet(*rules(count)))
        found: dict[tuple[int, bool, str], list[dict[str, float]]] = {}
        for _, size, to_vm in itertools.product(range(rounds), sizes, (False, True)):
            for name, (wires, pid) in subjects.items():
                found.setdefault((size, to_vm, name), []).append(push(wires, pid, size, to_vm, seconds))
        used = {name: memory(pid) for name, (_wires, pid) in subjects.items()}
    return [
        {
            "size": size,
            "direction": "to VM" if to_vm else "from VM",
            "subject": name,
            "frames_per_second": statistics.summary([run["frames_per_second"] for run in runs]),
            "ns_per_frame": statistics.summary([run["ns_per_frame"] for run in runs]),
            "cpu_ratio": statistics.ratio(
                [run["ns_per_frame"] for run in runs],
                [run["ns_per_frame"] for run in found[size, to_vm, "pump"]],
            ),
            "lost": sum(run["lost"] for run in runs),
            "memory": used[name],
        }
        for (size, to_vm, name), runs in found.items()
    ]


def frames(quick: bool) -> list[dict[str, Any]]:
    """Against the pump, with 1,000 rules."""
    return measure((1000,), SIZES, 3 if quick else 9, 0.3 if quick else 1.0)


def rule_counts(quick: bool) -> list[dict[str, Any]]:
    """0 to 100,000 rules."""
    return measure((0, 10, 1000, 100_000), (64,), 3 if quick else 9, 0.3 if quick else 1.0)
