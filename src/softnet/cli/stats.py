"""`softnet stats`: the counters of a running Softnet, with what each reason means."""

from collections.abc import Sequence

from softnet.cli import options, running
from softnet.core.reasons import BY_NAME

USAGE = "softnet stats [--vm WHICH] [--json]"
DESCRIPTION = "Show a running Softnet's frames by reason, bytes, lease and connections."


def main(argv: Sequence[str]) -> int:
    parser = options.new_parser("softnet stats", USAGE, DESCRIPTION)
    running.add_vm_option(parser)
    running.add_json_option(parser)
    chosen = parser.parse_args(list(argv))
    seen = running.ask(chosen.vm, "softnet.stats")
    if chosen.json:
        running.show_json(seen)
        return 0
    lease = seen["lease"]
    print(f"{seen['vm']}  uplink {seen['uplink']}  pid {seen['pid']}  up {running.duration(seen['uptime'])}")
    if lease is None:
        print("no lease")
    else:
        left = "for ever" if lease["seconds"] is None else f"{running.duration(lease['seconds'])} left"
        print(f"lease {lease['address']} from {lease['server']}, {left}")
    print(f"{seen['rules']} rules, {seen['flows']} connections followed, {seen['rejects']} refusals answered")
    for direction, counts in seen["frames"].items():
        print(f"\n{direction}: {running.quantity(seen['bytes'][direction])} bytes passed")
        rate = seen["rate"][direction]
        if rate is not None:
            print(f"  at most {rate['limit']}: {rate['pauses']} pauses, {rate['paused']:.3f} s in all")
        for reason, count in sorted(counts.items(), key=lambda pair: -pair[1]):
            sentence = BY_NAME[reason].sentence if reason in BY_NAME else ""
            print(f"  {count:>12}  {reason:<15} {sentence}")
    return 0
