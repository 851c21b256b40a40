"""How long a frame takes to the VM: with nothing else to do, and while the VM floods the other way."""

import json
import subprocess
from contextlib import ExitStack
from typing import Any

from bench import statistics
from bench.subjects import BUILT, LOAD_CORE, Wires, frame, on_core, pump, softnet

MARKS = ("p50", "p90", "p99", "p99.9", "p100")
FRAME = 100


def probe(wires: Wires, flooding: bool, count: int, pause_us: int) -> dict[str, float]:
    """Percentiles in microseconds, frames lost, and how much flood was taken meanwhile."""
    ends = [wires.uplink, wires.vm]
    words = [*(str(end.fileno()) for end in ends), str(count), str(pause_us), frame(FRAME, True).hex()]
    if flooding:
        words += [str(wires.vm.fileno()), str(wires.uplink.fileno()), frame(FRAME, False).hex()]
    argv = on_core(LOAD_CORE, str(BUILT / "load"), "latency", *words)
    ran = subprocess.run(argv, pass_fds=[end.fileno() for end in ends], stdout=subprocess.PIPE, check=True)
    wires.drain()
    found: dict[str, float] = json.loads(ran.stdout)
    return found


def latency(quick: bool) -> list[dict[str, Any]]:
    rounds, count = (2, 300) if quick else (7, 2000)
    runs: dict[tuple[str, bool], list[dict[str, float]]] = {}
    with ExitStack() as running:
        subjects = {"pump": running.enter_context(pump()), "softnet": running.enter_context(softnet())}
        for _ in range(rounds):
            for flooding in (False, True):
                for name, (wires, _pid) in subjects.items():
                    runs.setdefault((name, flooding), []).append(probe(wires, flooding, count, 500))
    return [
        {
            "subject": name,
            "load": "flood from the VM" if flooding else "idle",
            **{mark: statistics.summary([run[mark] for run in found]) for mark in MARKS},
            "lost": sum(run["lost"] for run in found),
            "flood_frames_per_second": statistics.summary([run["flood"] for run in found]),
        }
        for (name, flooding), found in runs.items()
    ]
