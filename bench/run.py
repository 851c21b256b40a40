"""Runs the measurements and writes the tables.

    python -m bench.run                      all of them, some 20 minutes
    python -m bench.run frames tcp --quick   some of them, roughly
    python -m bench.run --out FOLDER         results.md, results.json, *.svg go there (.cache/bench/results)

Needs root, two cores and the compiled build. A program that is not installed (slirp4netns, passt, vde2,
qemu-system-x86) is said to be missing, and the rest runs.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench import frames, latency, lifetime, lookups, observed, report, subjects, tcp

PARTS: dict[str, tuple[str, Callable[[bool], report.Rows]]] = {
    "frames": ("Frames a second and CPU a frame, 1,000 rules against the bare pump", frames.frames),
    "rules": ("Rules: CPU a frame at 64 bytes, memory in KiB", frames.rule_counts),
    "lookups": ("Rules: a verdict between other work of the kernel's", lookups.lookups),
    "observed": ("Events, metrics and control on: CPU a frame at 1514 bytes", observed.observed),
    "tcp": ("TCP through the host's NAT: throughput, and CPU a byte of whoever carries it", tcp.tcp),
    "latency": ("One way to the VM, in microseconds", latency.latency),
    "startup": ("Start and stop", lifetime.startup),
    "idle": ("An idle VM", lifetime.idle),
    "many": ("Memory of idle VMs, in KiB", lifetime.many),
    "dhcp": ("DHCP answers a second (nat uplink's server alone)", lifetime.dhcp_answers),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.run", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=" | ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="short runs: does it work, roughly how fast")
    parser.add_argument("--out", type=Path, default=subjects.BUILT / "results")
    chosen = parser.parse_args()
    unknown = set(chosen.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part is called {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    subjects.check_machine()
    subjects.build_tools()
    results = {}
    skipped = [f"{subject} ({program} is not installed)" for subject, program in tcp.missing().items()]
    for name in chosen.parts or PARTS:
        title, measure = PARTS[name]
        started = time.monotonic()
        results[name] = (title, measure(chosen.quick))
        print(f"bench: {name} took {time.monotonic() - started:.0f} s", file=sys.stderr)
        text = report.write(results, skipped if "tcp" in results else [], chosen.out)
    print(text)


if __name__ == "__main__":
    main()
