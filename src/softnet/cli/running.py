"""What the commands on a running Softnet share: which one is meant, and asking it."""

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

from softnet.control import registry
from softnet.control.client import Client, ControlError


def add_vm_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--vm", metavar="WHICH", help="a MAC address, process number or control socket (see softnet ps)"
    )


def add_json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for a program to read")


def snapshots() -> list[tuple[registry.Entry, dict[str, Any]]]:
    """Every running Softnet and its `softnet.stats`; one that does not answer is left out."""
    found = []
    for entry in registry.running():
        try:
            client = Client(entry.path)
            try:
                found.append((entry, client.call("softnet.stats")))
            finally:
                client.close()
        except ControlError:
            continue
    return found


def connect(which: str | None) -> Client:
    """The Softnet that `--vm` names, or the only one that runs."""
    if which is not None and "/" in which:
        return Client(which)
    running = snapshots()
    if which is not None:
        running = [(entry, seen) for entry, seen in running if which.lower() in (seen["vm"], str(entry.pid))]
        if not running:
            raise ControlError(f"--vm {which}: no such Softnet runs here; see softnet ps")
    if not running:
        raise ControlError("no Softnet of yours runs here; start one, or name its socket with --vm PATH")
    if len(running) > 1:
        names = ", ".join(seen["vm"] for _entry, seen in running[:8])
        raise ControlError(f"{len(running)} Softnets run here ({names}); choose one with --vm")
    return Client(running[0][0].path)


def ask(which: str | None, method: str, params: dict[str, Any] | None = None) -> Any:
    """One question to the Softnet that `--vm` names."""
    client = connect(which)
    try:
        return client.call(method, params)
    finally:
        client.close()


def show_json(value: object) -> None:
    json.dump(value, sys.stdout, indent=2)
    sys.stdout.write("\n")


def duration(seconds: float) -> str:
    """`42s`, `3m05s`, `2h03m`, `9d04h`."""
    whole = int(seconds)
    for size, unit, below in ((86400, "d", 3600), (3600, "h", 60), (60, "m", 1)):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size}{unit}{rest:02d}{ {'d': 'h', 'h': 'm', 'm': 's'}[unit] }"
    return f"{whole}s"


def quantity(count: float) -> str:
    """Three digits and a unit: 999, 1.23k, 45.6M."""
    for unit in ("", "k", "M", "G"):
        if count < 1000:
            return f"{count:.0f}{unit}" if not unit or count >= 100 else f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:.3g}T"


def dropped(frames: Mapping[str, Mapping[str, int]]) -> int:
    """Refused frames of both directions."""
    return sum(
        count
        for counts in frames.values()
        for reason, count in counts.items()
        if not reason.startswith("pass-")
    )
