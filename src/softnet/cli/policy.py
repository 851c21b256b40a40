"""`softnet policy`: read and replace the policy of a running VM.

`set` replaces the whole policy; `allow` and `block` add rules to what holds. Each is one exchange over
the control channel: the new policy is compiled first, swapped whole, or refused whole.
"""

from collections.abc import Sequence
from typing import Any

from softnet.cli import options, running
from softnet.control.methods import lists
from softnet.errors import ConfigError

USAGE = """softnet policy get [--vm WHICH] [--json]
       softnet policy set [--vm WHICH] [--policy FILE] [--allow LIST] [--block LIST]
       softnet policy allow|block [--vm WHICH] RULE ..."""
DESCRIPTION = "Read or replace the policy of a running VM."


def main(argv: Sequence[str]) -> int:
    parser = options.new_parser("softnet policy", USAGE, DESCRIPTION)
    parser.add_argument("verb", choices=("get", "set", "allow", "block"), help="what to do")
    parser.add_argument("rules", nargs="*", metavar="RULE", help="for allow and block: one rule each")
    options.add_policy_options(parser)
    running.add_vm_option(parser)
    running.add_json_option(parser)
    chosen = parser.parse_args(list(argv))
    given = options.policy_from(chosen)
    if chosen.expose or chosen.deny or chosen.rate:
        raise options.UsageError("--expose, --deny and --rate are for the start; only rules can be replaced")
    if chosen.verb in ("allow", "block"):
        after = _add(chosen.vm, chosen.verb, chosen.rules)
    elif chosen.rules:
        raise options.UsageError(
            f"policy {chosen.verb} takes no rules by themselves; see softnet policy --help"
        )
    elif chosen.verb == "get":
        after = running.ask(chosen.vm, "softnet.policy.get")
    else:
        after = running.ask(chosen.vm, "softnet.policy.set", lists(given.policy))
    if chosen.json:
        running.show_json(after)
    else:
        _show(after)
    return 0


def _add(which: str | None, action: str, texts: list[str]) -> Any:
    if not texts:
        raise ConfigError(f"policy {action}", "RULE", "is missing", "write for example @host:11434/tcp")
    client = running.connect(which)
    try:
        before = client.call("softnet.policy.get")
        wanted = {name: before[name] + (texts if name == action else []) for name in ("allow", "block")}
        return client.call("softnet.policy.set", wanted)
    finally:
        client.close()


def _show(policy: dict[str, Any]) -> None:
    for action in ("block", "allow"):
        for text in policy[action]:
            print(f"{action}  {text}")
    if not policy["ruleCount"]:
        print("no rules: the internet, the gateway and the lease's DNS servers are open, nothing else is")
