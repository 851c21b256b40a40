"""`softnet top`: what a running Softnet does now, drawn again every second until ^C.

Rates are differences of two snapshots. On anything but a terminal, frames of text follow each other
without escape sequences, `--count` of them.
"""

import sys
import time
from collections.abc import Sequence
from typing import Any

from softnet.cli import options, running
from softnet.control.client import Client

USAGE = "softnet top [--vm WHICH] [--interval SECONDS] [--count N]"
DESCRIPTION = "Show rates, refused frames by reason and recent refusals, live."
CLEAR = "\x1b[H\x1b[2J"
RECENT = 12


def main(argv: Sequence[str]) -> int:
    parser = options.new_parser("softnet top", USAGE, DESCRIPTION)
    running.add_vm_option(parser)
    parser.add_argument("--interval", metavar="SECONDS", default="1", help="between two looks (1)")
    parser.add_argument("--count", metavar="N", help="end after N looks (default: at ^C)")
    chosen = parser.parse_args(list(argv))
    interval = options.number("--interval", chosen.interval, 1, 3600)
    count = None if chosen.count is None else options.number("--count", chosen.count, 1, 10**6)
    client = running.connect(chosen.vm)
    try:
        _watch(client, interval, count)
    except KeyboardInterrupt:
        pass
    finally:
        client.close()
    return 0


def _watch(client: Client, interval: int, count: int | None) -> None:
    before = client.call("softnet.stats")
    while count is None or count > 0:
        time.sleep(interval)
        seen = client.call("softnet.stats")
        lines = screen(before, seen, client.call("softnet.refusals"))
        sys.stdout.write((CLEAR if sys.stdout.isatty() else "") + "\n".join(lines) + "\n")
        sys.stdout.flush()
        before = seen
        count = None if count is None else count - 1


def screen(before: dict[str, Any], seen: dict[str, Any], refusals: list[dict[str, Any]]) -> list[str]:
    """The lines of one look."""
    seconds = max(seen["uptime"] - before["uptime"], 0.001)
    lease = seen["lease"]
    address = "no lease" if lease is None else lease["address"]
    lines = [f"{seen['vm']}  {address}  {seen['uplink']}  up {running.duration(seen['uptime'])}"]
    lines.append(f"{seen['rules']} rules  {seen['flows']} connections  {seen['rejects']} answered")
    lines += ["", f"{'':<9}{'frames/s':>10}{'Mbit/s':>10}{'refused/s':>11}{'paused':>8}"]
    for direction in seen["frames"]:
        frames = _grown(before, seen, direction, passing=True) / seconds
        bits = (seen["bytes"][direction] - before["bytes"][direction]) * 8e-6 / seconds
        refused = _grown(before, seen, direction, passing=False) / seconds
        lines.append(
            f"{direction:<9}{running.quantity(frames):>10}{bits:>10.1f}{running.quantity(refused):>11}"
            f"{_paused(before, seen, direction, seconds):>8}"
        )
    lines += ["", "REFUSED BY REASON"]
    for direction, counts in seen["frames"].items():
        for reason, count in sorted(counts.items(), key=lambda pair: -pair[1]):
            if not reason.startswith("pass-"):
                lines.append(f"  {direction:<9}{reason:<15}{count:>12}")
    lines += ["", "RECENT"]
    return lines + [refusal_line(refusal) for refusal in refusals[: -RECENT - 1 : -1]]


def refusal_line(refusal: dict[str, Any]) -> str:
    """One refused flow: when, why, whence and whither, by which rule."""
    ends = []
    for end in ("source", "destination"):
        if end in refusal:
            port = refusal.get(f"{end}Port")
            ends.append(f"{refusal[end]}:{port}" if port else str(refusal[end]))
    what = " -> ".join(ends) or refusal.get("sourceMac", "")
    rule = f"  by {refusal['rule']}" if refusal["rule"] else ""
    protocol = refusal.get("protocol", "")
    return f"  {refusal['time'][11:19]} {refusal['reason']:<14} {protocol:<5} {what}{rule}"


def _paused(before: dict[str, Any], seen: dict[str, Any], direction: str, seconds: float) -> str:
    """How much of the time `--rate` kept a direction from being read."""
    if seen["rate"][direction] is None:
        return "-"
    paused = seen["rate"][direction]["paused"] - before["rate"][direction]["paused"]
    return f"{min(paused / seconds, 1):.0%}"


def _grown(before: dict[str, Any], seen: dict[str, Any], direction: str, passing: bool) -> int:
    older = before["frames"][direction]
    return sum(
        count - int(older.get(reason, 0))
        for reason, count in seen["frames"][direction].items()
        if reason.startswith("pass-") == passing
    )
