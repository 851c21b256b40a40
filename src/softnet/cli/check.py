"""`softnet check FILE`: whether a policy file is right, and if not, where it is wrong."""

from collections.abc import Sequence

from softnet import policyfile
from softnet.cli import options, running
from softnet.control.methods import lists
from softnet.events import DIRECTIONS
from softnet.policy import Facts, compile_inbound, compile_policy

USAGE = "softnet check FILE [--json]"
DESCRIPTION = "Check a policy file; a mistake is said with its line and column."


def main(argv: Sequence[str]) -> int:
    parser = options.new_parser("softnet check", USAGE, DESCRIPTION)
    parser.add_argument("file", metavar="FILE", help="a policy file in TOML")
    running.add_json_option(parser)
    chosen = parser.parse_args(list(argv))
    found = policyfile.parse(chosen.file, policyfile.read(chosen.file), options.parse_expose)
    compile_policy(found.policy, Facts())
    compile_inbound(found.policy, Facts())
    if chosen.json:
        rest = {
            "expose": [str(port) for port in found.expose],
            "deny": found.deny,
            "denyRate": found.deny_rate,
            "rate": {
                direction: None if limit is None else str(limit)
                for direction, limit in zip(DIRECTIONS, found.rates, strict=True)
            },
        }
        running.show_json(lists(found.policy) | {"stateful": found.policy.stateful} | rest)
        return 0
    state = "stateful" if found.policy.stateful else "stateless"
    print(f"{chosen.file}: {len(found.policy.rules)} rules ({state}), {len(found.expose)} exposed ports")
    return 0
