"""`softnet ps`: every running Softnet of this user; for root, of this host."""

from collections.abc import Sequence

from softnet.cli import options, running

USAGE = "softnet ps [--json]"
DESCRIPTION = "List the running Softnets: process, VM, uplink, leased address, age, refused frames."


def main(argv: Sequence[str]) -> int:
    parser = options.new_parser("softnet ps", USAGE, DESCRIPTION)
    running.add_json_option(parser)
    chosen = parser.parse_args(list(argv))
    found = running.snapshots()
    if chosen.json:
        running.show_json([seen | {"socket": entry.path} for entry, seen in found])
        return 0
    rows = [("PID", "VM", "UPLINK", "ADDRESS", "AGE", "REFUSED")]
    for entry, seen in found:
        address = "-" if seen["lease"] is None else str(seen["lease"]["address"])
        age, refused = running.duration(seen["uptime"]), str(running.dropped(seen["frames"]))
        rows.append((str(entry.pid), str(seen["vm"]), str(seen["uplink"]), address, age, refused))
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0
