"""What a control channel may ask: the policy for whoever starts Softnet, and more for its operator.

`softnet.policy.get` and `softnet.policy.set` are the contract of the original's `--control-fd`. A set
replaces the whole policy or nothing; lists come back normalised: prefixes cut to their length,
sorted, each rule once. `desiredRevision` is the caller's name for a policy: the same name for another
policy, or the name of one that has been replaced since, is a conflict (the last REVISIONS names are
known). A set of what already holds changes nothing, so the connections that are followed go on.

The bridge's isolation was decided when the network was opened: a policy that would need it to be
otherwise is refused.
"""

from collections.abc import Callable
from typing import Any, Protocol

from softnet.control.protocol import INVALID_PARAMS, Method, RpcError
from softnet.core.address import parse_ipv4
from softnet.errors import ConfigError
from softnet.policy import Policy
from softnet.rules import ALLOW, BLOCK, IN, LAST_PORT, OUT, Rule, parse_rule
from softnet.ruleset import RuleSet

REVISION_CONFLICT = -32001
ISOLATION_CHANGE = -32002

RULES = 4096
REVISIONS = 4096
MAX_SNAPLEN = 1 << 18


class Enforcer(Protocol):
    """Who holds the policy that frames are judged by."""

    @property
    def policy(self) -> Policy: ...

    def apply(self, policy: Policy) -> None:
        """Enforces `policy` whole, or raises ConfigError and changes nothing."""


class PolicyMethods:
    """get and set. One for all channels of a process, because revisions are."""

    def __init__(self, enforcer: Enforcer) -> None:
        self._enforcer = enforcer
        self._isolated = enforcer.policy.isolated
        self._revision: str | None = None
        self._superseded: dict[int, None] = {}

    def table(self) -> dict[str, Method]:
        return {"softnet.policy.get": self.get, "softnet.policy.set": self.set}

    def get(self, params: dict[str, Any]) -> dict[str, Any]:
        only(params, ())
        return self._report()

    def set(self, params: dict[str, Any]) -> dict[str, Any]:
        only(params, ("allow", "block", "desiredRevision"))
        revision = _revision(params)
        policy = _policy(params)
        unchanged = policy == self._enforcer.policy
        self._check_revision(revision, unchanged)
        if policy.isolated != self._isolated:
            message = "the policy would change the isolation between VMs, which is fixed at start"
            raise RpcError(ISOLATION_CHANGE, message)
        if not unchanged:
            try:
                self._enforcer.apply(policy)
            except ConfigError as error:
                raise RpcError(INVALID_PARAMS, f"Invalid params: {error}") from None
        if revision is not None or not unchanged:
            self._adopt(revision)
        return self._report()

    def _check_revision(self, revision: str | None, unchanged: bool) -> None:
        if revision is None:
            return
        if revision == self._revision and not unchanged:
            raise RpcError(REVISION_CONFLICT, "revision conflict: it names another policy")
        if hash(revision) in self._superseded:
            raise RpcError(REVISION_CONFLICT, "revision conflict: it has been superseded")

    def _adopt(self, revision: str | None) -> None:
        if self._revision is not None and self._revision != revision:
            self._superseded[hash(self._revision)] = None
            if len(self._superseded) > REVISIONS:
                del self._superseded[next(iter(self._superseded))]
        self._revision = revision

    def _report(self) -> dict[str, Any]:
        policy = self._enforcer.policy
        return lists(policy) | {
            "desiredRevision": self._revision,
            "ruleCount": len(policy.rules),
            "bridgeIsolation": self._isolated,
        }


def lists(policy: Policy) -> dict[str, Any]:
    """The rules as a set would take them."""
    actions = (ALLOW, BLOCK)
    return {action: [rule.text for rule in policy.rules if rule.action == action] for action in actions}


def only(params: dict[str, Any], known: tuple[str, ...]) -> None:
    for key in params:
        if key not in known:
            raise RpcError(INVALID_PARAMS, f"Invalid params: unknown {key[:256]!r}")


def explain_params(params: dict[str, Any]) -> tuple[int, int, int, str]:
    """(address, protocol, port, direction) of `softnet.explain`; 0 where there is none."""
    only(params, ("address", "port", "protocol", "direction"))
    address, port = params.get("address"), params.get("port", 0)
    protocol, direction = params.get("protocol"), params.get("direction", OUT)
    protocols = {None: 6 if port else 0, "tcp": 6, "udp": 17, "icmp": 1}
    try:
        number = parse_ipv4(address) if isinstance(address, str) else -1
    except ValueError:
        number = -1
    if number < 0:
        raise RpcError(INVALID_PARAMS, "Invalid params: address must be an IPv4 address")
    if type(port) is not int or not 0 <= port <= LAST_PORT:
        raise RpcError(INVALID_PARAMS, f"Invalid params: port must be a number from 1 to {LAST_PORT}")
    if not isinstance(protocol, str | None) or protocol not in protocols:
        raise RpcError(INVALID_PARAMS, "Invalid params: protocol must be tcp, udp or icmp")
    if direction not in (IN, OUT):
        raise RpcError(INVALID_PARAMS, "Invalid params: direction must be in or out")
    return number, protocols[protocol], port, direction


def capture_params(params: dict[str, Any]) -> tuple[bool, int]:
    """(refused frames alone, bytes kept of a frame) of `softnet.capture`."""
    only(params, ("droppedOnly", "snaplen"))
    dropped_only, snaplen = params.get("droppedOnly", False), params.get("snaplen", MAX_SNAPLEN)
    if not isinstance(dropped_only, bool):
        raise RpcError(INVALID_PARAMS, "Invalid params: droppedOnly must be true or false")
    if type(snaplen) is not int or not 1 <= snaplen <= MAX_SNAPLEN:
        raise RpcError(INVALID_PARAMS, f"Invalid params: snaplen must be a number from 1 to {MAX_SNAPLEN}")
    return dropped_only, snaplen


def reporting(report: Callable[[], Any]) -> Method:
    """A method without params."""

    def method(params: dict[str, Any]) -> Any:
        only(params, ())
        return report()

    return method


def _revision(params: dict[str, Any]) -> str | None:
    revision = params.get("desiredRevision")
    if revision is not None and not isinstance(revision, str):
        raise RpcError(INVALID_PARAMS, "Invalid params: desiredRevision must be a string")
    return revision


def _policy(params: dict[str, Any]) -> Policy:
    """What `allow` and `block` spell; both must be there, so that nothing is opened by omission."""
    texts = {action: params.get(action) for action in (ALLOW, BLOCK)}
    rules: list[Rule] = []
    for action, entries in texts.items():
        if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
            raise RpcError(INVALID_PARAMS, f"Invalid params: {action} must be a list of strings")
    if sum(len(entries) for entries in texts.values() if entries) > RULES:
        raise RpcError(INVALID_PARAMS, f"Invalid params: more than {RULES} rules")
    for action, entries in texts.items():
        for entry in entries or ():
            try:
                rules.append(parse_rule(action, entry))
            except ValueError as error:
                raise RpcError(INVALID_PARAMS, f"Invalid params: {action} {entry[:64]!r}: {error}") from None
    return Policy(RuleSet(rules))
