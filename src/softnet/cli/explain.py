"""`softnet explain`: what becomes of a packet, which rule decides, and why.

Asks a running Softnet, or works from rules on the command line or in a policy file alone: then the
host is known by `--gateway` only, and the VM's DNS servers by `--dns`.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from softnet import policy
from softnet.cli import options, running
from softnet.cli.observe import LivePolicy
from softnet.control import registry
from softnet.control.methods import explain_params
from softnet.control.protocol import RpcError
from softnet.core.address import mask_of, parse_ipv4
from softnet.core.filter import Filter
from softnet.core.special import NOT_GLOBALLY_REACHABLE
from softnet.errors import ConfigError
from softnet.rules import IN, OUT

USAGE = """softnet explain ADDRESS[:PORT][/tcp|/udp|/icmp] [--in] [--vm WHICH] [--json]
       softnet explain ADDRESS... [--policy FILE] [--allow LIST] [--block LIST] [--gateway IP]"""
DESCRIPTION = "Say whether the VM reaches ADDRESS, and which rule and reason decide."


def main(argv: Sequence[str]) -> int:
    parser = options.new_parser("softnet explain", USAGE, DESCRIPTION)
    parser.add_argument(
        "target", metavar="ADDRESS[:PORT][/PROTOCOL]", help="the other side, 443/tcp if need be"
    )
    parser.add_argument("--in", dest="inbound", action="store_true", help="from there to the VM's PORT")
    parser.add_argument("--gateway", metavar="IP", help="what @host means where nothing runs")
    parser.add_argument("--dns", metavar="LIST", action="append", default=[], help="what @dns means there")
    options.add_policy_options(parser)
    running.add_vm_option(parser)
    running.add_json_option(parser)
    chosen = parser.parse_args(list(argv))
    params = parse_target(chosen.target) | {"direction": IN if chosen.inbound else OUT}
    given = options.policy_from(chosen)
    alone = bool(chosen.policy or chosen.allow or chosen.block or chosen.gateway or chosen.dns)
    if chosen.vm is None and (alone or not registry.running()):
        found = _alone(given.policy, _facts(chosen), params)
    else:
        found = running.ask(chosen.vm, "softnet.explain", params)
    found |= {
        "target": chosen.target,
        "direction": params["direction"],
        "special": special(params["address"]),
    }
    if chosen.json:
        running.show_json(found)
    else:
        _show(found)
    return 0


def parse_target(text: str) -> dict[str, Any]:
    """`192.0.2.1:443/tcp` as the control channel's `softnet.explain` wants it."""
    place, slash, protocol = text.partition("/")
    address, colon, port = place.partition(":")
    params: dict[str, Any] = {"address": address}
    if slash:
        params["protocol"] = protocol
    if colon:
        params["port"] = options.number("PORT", port, 1, 65535)
    try:
        explain_params(params)
    except RpcError as error:
        problem = str(error).removeprefix("Invalid params: ")
        raise ConfigError("explain", repr(text), problem, "write for example 192.0.2.1:443/tcp") from None
    return params


def special(address: str) -> str | None:
    """The block of the special-purpose registry that `address` is in."""
    number = parse_ipv4(address)
    for base, length, name in NOT_GLOBALLY_REACHABLE:
        if number & mask_of(length) == base:
            return name
    return None


def _facts(chosen: argparse.Namespace) -> policy.Facts:
    gateway = None if chosen.gateway is None else options.address("--gateway", chosen.gateway)
    dns = [options.address("--dns", part) for text in chosen.dns for part in text.split(",")]
    return policy.Facts(gateway=gateway, dns=tuple(dns))


def _alone(rules: policy.Policy, facts: policy.Facts, params: dict[str, Any]) -> dict[str, Any]:
    judge = Filter(0, 1500, policy.compile_policy(rules, facts), facts.gateway)
    return LivePolicy(rules, facts, judge).explain(*explain_params(params))


def _show(found: dict[str, Any]) -> None:
    way = "from" if found["direction"] == IN else "to"
    print(f"{way} {found['target']}: {found['verdict']}, {found['reason']}: {found['why']}")
    print(f"rule: {found['rule'] or 'none; this is the default'}")
    if found["special"] is not None:
        print(f"the address is in {found['special']}")
    if found["stateful"]:
        print("the policy is stateful: return traffic of connections that it lets through passes")
