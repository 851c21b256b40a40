"""What a running Softnet tells and may be asked, put around its forwarder by `serve`.

`Doors` are the paths, ports and descriptors that the caller named, opened with the caller's rights
before anything is changed. The policy that is enforced lives in `LivePolicy`, which the control channels
replace; `Observer` holds the rest: events, refusals, rejects, captures, counters.
"""

import os
import socket
import time
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

import softnet
from softnet import clock
from softnet.config import REJECT, Settings
from softnet.control import registry
from softnet.control.sockets import Hub, listen_at, open_control_fd
from softnet.core.address import format_mac
from softnet.core.drops import Refusal
from softnet.core.filter import Filter
from softnet.core.frames import Batch
from softnet.core.lease import LeaseEvent
from softnet.core.numbers import FLOWS
from softnet.core.reasons import (
    BLOCKED,
    BY_CODE,
    FLOW_FULL,
    FLOW_START,
    FROM_VM,
    PASS_INBOUND,
    TO_VM,
    VM_BUSY,
)
from softnet.core.reject import Rejecter
from softnet.errors import LinkClosed
from softnet.events import DIRECTIONS, EventLog, Narrator, lease_fields, open_events
from softnet.forwarder import UPLINK_GONE, Forwarder
from softnet.policy import (
    Facts,
    Policy,
    compile_inbound,
    compile_policy,
    deciding_rule,
    explain,
    host_addresses,
)
from softnet.rules import ALLOW, IN, OUT, Rule

if TYPE_CHECKING:
    from softnet.control.protocol import Method
    from softnet.metrics import Page

# What the doors need later is loaded while it can be read; the registry's, which nobody may ever ask, is not.
FOR_CONTROL = ("softnet.control.methods", "softnet.control.protocol", "softnet.capture")

BY_RULES = frozenset((BLOCKED, FLOW_START, FLOW_FULL))


class LivePolicy:
    """The policy that frames are judged by. A new one is compiled whole before it replaces the old one."""

    def __init__(self, policy: Policy, facts: Facts, judge: Filter) -> None:
        self.policy = policy
        self.facts = facts
        self.changes = 0
        self.on_change: Callable[[Policy], None] = lambda _policy: None
        self._filter = judge

    def apply(self, policy: Policy) -> None:
        """Enforces `policy` from the next frame on; ConfigError changes nothing."""
        self._enforce(policy, self.facts)
        self.policy = policy
        self.changes += 1
        self.on_change(policy)

    def on_lease(self, event: LeaseEvent) -> None:
        """`@dns` is what the lease says."""
        facts = self.facts._replace(dns=() if event.kind == "lost" else event.lease.dns)
        if self.policy.follows_lease and facts.dns != self.facts.dns:
            self._enforce(self.policy, facts)
        self.facts = facts

    def on_addresses(self, addresses: tuple[int, ...]) -> None:
        """`@host`, and what is the host's own by default, follow the host's addresses."""
        facts = self.facts._replace(host_addresses=addresses)
        if host_addresses(facts) != host_addresses(self.facts):
            self._enforce(self.policy, facts)
        self.facts = facts

    def rule_of(self, refusal: Refusal) -> str | None:
        """The rule that decided a refusal, as `describe` spells it."""
        if refusal.reason not in BY_RULES:
            return None
        from_vm = refusal.direction == FROM_VM
        remote = refusal.destination if from_vm else refusal.source
        where = OUT if from_vm else IN
        rule = deciding_rule(self.policy, self.facts, remote, refusal.protocol, refusal.port, where)
        if rule is None and self.facts.gateway is not None:
            rule = deciding_rule(self.policy, self.facts, self.facts.gateway)
        return describe(rule)

    def explain(self, address: int, protocol: int, port: int, direction: str) -> dict[str, Any]:
        found = explain(self.policy, self.facts, address, protocol, port, direction)
        reason = BY_CODE[found.reason]
        return {
            "verdict": "pass" if reason.passes else "drop",
            "reason": reason.name,
            "why": reason.sentence,
            "rule": describe(found.rule),
            "stateful": self.policy.stateful,
        }

    def _enforce(self, policy: Policy, facts: Facts) -> None:
        self._filter.set_table(compile_policy(policy, facts), compile_inbound(policy, facts))


def describe(rule: Rule | None) -> str | None:
    """A rule with its action, e.g. `block in 10.0.0.0/8:22/tcp`."""
    return None if rule is None else f"{rule.action} {rule.text}"


class Doors:
    """What an Observer writes to and is asked through. ConfigError for the first that cannot be opened.

    Open it with the rights of whoever named the paths.
    """

    def __init__(self, settings: Settings) -> None:
        self.events: int | None = None
        self.control: socket.socket | None = None
        self.metrics: socket.socket | None = None
        self.listeners: list[tuple[socket.socket, str]] = []
        self._folders: list[str] = []
        try:
            self._open(settings)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes what nobody has taken."""
        for door in (self.control, self.metrics, *(listener for listener, _path in self.listeners)):
            if door is not None:
                door.close()
        if self.events is not None:
            os.close(self.events)
            self.events = None

    def own_folders(self) -> list[str]:
        """Where this process, whoever it is by now, can remove its sockets; root's outlive it."""
        return [folder for folder in self._folders if os.access(folder, os.W_OK)]

    def _open(self, settings: Settings) -> None:
        wanted = FOR_CONTROL if settings.control_fd is not None or settings.control is not None else ()
        for module in (*wanted, *(("json",) if settings.events is not None else ())):
            import_module(module)
        if settings.control_fd is not None:
            self.control = open_control_fd(settings.control_fd, settings.vm_fd)
        if settings.events is not None:
            self.events = open_events(settings.events)
        if settings.control is not None:
            self._add(listen_at(settings.control, "--control"), settings.control)
        if settings.metrics is not None:
            from softnet import metrics

            self.metrics = metrics.listen("--metrics", settings.metrics, listen_at)
            if settings.metrics.startswith("unix:"):
                self._folders.append(os.path.dirname(settings.metrics[5:]) or ".")
        registered = registry.register()
        if registered is not None:
            self._add(*registered)

    def _add(self, listener: socket.socket, path: str) -> None:
        self.listeners.append((listener, path))
        if not path.startswith("@"):
            self._folders.append(os.path.dirname(path) or ".")


class Observer:
    """Everything around one forwarder that tells or answers. `close` undoes it."""

    def __init__(self, settings: Settings, live: LivePolicy, forwarder: Forwarder, doors: Doors) -> None:
        self._settings = settings
        self._live = live
        self._forwarder = forwarder
        self._started = clock.now()
        self._rejects = 0
        self._page: Page | None = None
        self._log = None
        if doors.events is not None:
            self._log = EventLog(doors.events, settings.vm_mac, forwarder)
            doors.events = None
        self._narrator = Narrator(self._log, live.rule_of)
        self._hub = Hub(forwarder)
        self._methods: dict[str, Method] = {}
        self._attach()
        self._serve(doors)
        self._start()

    def ended(self, how: str) -> None:
        """The forwarder stopped."""
        if how == UPLINK_GONE:
            self._narrator.tell("uplink", state="down")
        self._narrator.tell("stop", cause=how, **self._counters())

    def close(self) -> None:
        self._hub.close()
        if self._page is not None:
            self._page.close()
        if self._log is not None:
            self._log.close()

    def _attach(self) -> None:
        """Takes part in the forwarder's loop."""
        forwarder, live, narrator = self._forwarder, self._live, self._narrator
        forwarder.droppers.append(narrator.on_drop)
        forwarder.listeners += [live.on_lease, narrator.on_lease]
        forwarder.timers += [narrator, self._hub]
        live.on_change = self._tell_policy
        if self._settings.deny == REJECT:
            rejecter = Rejecter(live.facts.gateway, float(self._settings.deny_rate))
            answers = Batch(64, 640)  # an ICMP error has at most 590 bytes with its Ethernet header
            forwarder.droppers.append(lambda *seen: self._reject(rejecter, answers, *seen))

    def _serve(self, doors: Doors) -> None:
        if doors.control is not None:
            self._hub.adopt(doors.control, lambda: self._control_methods(operator=False))
        for listener, path in doors.listeners:
            self._hub.listen(listener, path, lambda: self._control_methods(operator=True))
        if doors.metrics is not None:
            from softnet import metrics

            self._page = metrics.Page(
                doors.metrics, self._forwarder, lambda: metrics.render([self._snapshot()])
            )

    def _control_methods(self, operator: bool) -> "dict[str, Method]":
        """The contract of `--control-fd`, and for an operator all the rest. Made at the first request."""
        from softnet.control import methods

        if not self._methods:
            self._methods = methods.PolicyMethods(self._live).table()
        if not operator:
            return self._methods
        return self._methods | {
            "softnet.stats": methods.reporting(self._snapshot),
            "softnet.lease": methods.reporting(self._lease),
            "softnet.refusals": methods.reporting(lambda: self._narrator.recent),
            "softnet.explain": lambda params: self._live.explain(*methods.explain_params(params)),
            "softnet.capture": self._capture,
        }

    def _capture(self, params: dict[str, Any]) -> Any:
        from softnet.capture import Capture
        from softnet.control.methods import capture_params
        from softnet.control.protocol import Upgrade

        dropped_only, snaplen = capture_params(params)
        name = format_mac(self._settings.vm_mac)
        capture = Capture(name, softnet.__version__, snaplen, dropped_only, self._end_capture)
        self._forwarder.taps = [*self._forwarder.taps, capture.look]
        return Upgrade({"format": "pcapng", "snaplen": snaplen}, capture)

    def _end_capture(self, capture: Any) -> None:
        self._forwarder.taps = [look for look in self._forwarder.taps if look != capture.look]

    def _reject(self, rejecter: Rejecter, answers: Batch, batch: Batch, direction: int, now: float) -> None:
        lease = self._forwarder.filter.lease
        if direction != FROM_VM or lease is None:
            return
        answers.clear()
        for frame in rejecter.answer(batch, lease.address, now):
            if answers.append(frame):
                answers.verdict[answers.count - 1] = PASS_INBOUND
        if answers.count:
            self._rejects += answers.count
            try:
                self._forwarder.vm.send(answers, VM_BUSY)
            except LinkClosed:
                return  # the loop finds out for itself

    def _start(self) -> None:
        self._narrator.tell(
            "start", pid=os.getpid(), version=softnet.__version__, uplink=str(self._settings.uplink)
        )
        self._narrator.tell("uplink", state="up")
        self._tell_policy(self._live.policy)

    def _tell_policy(self, policy: Policy) -> None:
        if self._log is None:
            return  # a block list is long to spell for nobody
        self._narrator.tell(
            "policy",
            allow=[rule.text for rule in policy.rules if rule.action == ALLOW],
            block=[rule.text for rule in policy.rules if rule.action != ALLOW],
            stateful=policy.stateful,
        )

    def _lease(self) -> dict[str, Any] | None:
        now = clock.now()
        lease = self._forwarder.filter.lease
        return None if lease is None or lease.expiry <= now else lease_fields(lease, now)

    def _counters(self) -> dict[str, Any]:
        judge = self._forwarder.filter
        sides = (FROM_VM, TO_VM)
        return {
            "frames": {DIRECTIONS[side]: judge.counts(side) for side in sides},
            "bytes": {DIRECTIONS[side]: judge.passed_bytes(side) for side in sides},
        }

    def _rates(self) -> dict[str, Any]:
        """By direction: the limit, and how often and how long it kept the source from being read."""
        seen: dict[str, Any] = {}
        limits = zip(DIRECTIONS, self._settings.rates, self._forwarder.buckets, strict=True)
        for direction, limit, bucket in limits:
            seen[direction] = None
            if limit is not None and bucket is not None:
                counts = {"pauses": bucket.pauses, "paused": round(bucket.paused, 6)}
                seen[direction] = limit._asdict() | {"limit": str(limit)} | counts
        return seen

    def _snapshot(self) -> dict[str, Any]:
        """What `softnet.stats` answers; docs/control.md says what each means."""
        settings, log = self._settings, self._log
        return self._counters() | {
            "vm": format_mac(settings.vm_mac),
            "pid": os.getpid(),
            "version": softnet.__version__,
            "uplink": str(settings.uplink),
            "uptime": round(clock.now() - self._started, 3),
            "time": round(time.time(), 3),
            "lease": self._lease(),
            "rate": self._rates(),
            "flows": self._forwarder.filter.flows,
            "flowLimit": FLOWS,
            "rules": len(self._live.policy.rules),
            "stateful": self._live.policy.stateful,
            "bridgeIsolation": settings.policy.isolated,
            "deny": settings.deny,
            "policyChanges": self._live.changes,
            "rejects": self._rejects,
            "unreported": self._narrator.drops.unreported,
            "events": {"written": 0 if log is None else log.written, "lost": 0 if log is None else log.lost},
        }
