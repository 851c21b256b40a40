"""What telling costs: events, metrics and a control socket on, against the same build with them off."""

import itertools
import tempfile
from contextlib import ExitStack
from typing import Any

from bench import statistics
from bench.frames import push
from bench.subjects import softnet


def observed(quick: bool) -> list[dict[str, Any]]:
    """CPU a frame at 1514 bytes, both ways; the two take turns, so that a slow minute is slow for both."""
    rounds, seconds = (3, 0.3) if quick else (15, 0.7)
    found: dict[tuple[bool, str], list[float]] = {}
    with ExitStack() as running:
        folder = running.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        doors = ("--events", f"{folder}/events", "--metrics", f"unix:{folder}/metrics")
        subjects = {
            "off": running.enter_context(softnet()),
            "on": running.enter_context(softnet(*doors, "--control", f"{folder}/control")),
        }
        for _, to_vm in itertools.product(range(rounds), (False, True)):
            for name, (wires, pid) in subjects.items():
                spent = push(wires, pid, 1514, to_vm, seconds)["ns_per_frame"]
                found.setdefault((to_vm, name), []).append(spent)
    return [
        {
            "direction": "to VM" if to_vm else "from VM",
            "observed": name,
            "ns_per_frame": statistics.summary(runs),
            "cpu_ratio": statistics.ratio(runs, found[to_vm, "off"]),
        }
        for (to_vm, name), runs in found.items()
    ]
