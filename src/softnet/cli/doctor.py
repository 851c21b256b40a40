"""`softnet doctor [--json] [--pool CIDR]`: what this host can do, each line with its remedy.

Ends with 0 when nothing is in the way, with 1 when there is a problem.
"""

import sys
from collections.abc import Iterable, Sequence

from softnet.cli import options
from softnet.cli.build import version_line
from softnet.config import DEFAULT_POOL
from softnet.core.address import format_ipv4
from softnet.doctor import NOTE, OK, PROBLEM, Finding, examine

USAGE = "softnet doctor [--json] [--pool CIDR]"
MARKS = {OK: "ok  ", NOTE: "note", PROBLEM: "BAD "}


def main(argv: Sequence[str]) -> int:
    parser = options.new_parser("softnet doctor", USAGE, "What this host can do for VMs, and how to mend it.")
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs")
    parser.add_argument("--pool", metavar="CIDR", default=f"{format_ipv4(DEFAULT_POOL[0])}/{DEFAULT_POOL[1]}")
    chosen = parser.parse_args(list(argv))
    findings = list(examine(options.pool(chosen.pool)))
    sys.stdout.write(as_json(findings) if chosen.json else as_text(findings))
    return int(any(finding.state == PROBLEM for finding in findings))


def as_text(findings: Iterable[Finding]) -> str:
    lines = []
    for finding in findings:
        lines.append(f"{MARKS[finding.state]}  {finding.name:<13} {finding.text}")
        if finding.remedy:
            lines.append(f"      {'':<13} -> {finding.remedy}")
    return "\n".join(lines) + "\n"


def as_json(findings: Iterable[Finding]) -> str:
    """`{"softnet": VERSION LINE, "findings": [{"name", "state", "text", "remedy"}, ...]}`."""
    import json

    report = {"softnet": version_line(), "findings": [finding._asdict() for finding in findings]}
    return json.dumps(report, indent=2) + "\n"
