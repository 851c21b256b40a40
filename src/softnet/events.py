"""What happened and why, as JSON lines: one object a line, for a person or a program to follow.

`docs/events.md` is the schema, version SCHEMA; every line has `v`, `time` (UTC), `vm` (its MAC
address) and `event`. `EventLog` is the way out, `Narrator` turns what the filter noticed into
events: the first frame of a refused flow with all its fields, and every INTERVAL seconds, while
frames are refused, a count for each of the busiest flows. Who writes more than a reader takes loses
events, never frames: at most BUFFER bytes wait, and the next line that fits says how many were lost.
"""

import errno
import os
import select
import stat
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Protocol

from softnet.core.address import format_ipv4, format_mac
from softnet.core.drops import Drops, Refusal
from softnet.core.frames import Batch
from softnet.core.lease import Lease, LeaseEvent
from softnet.core.reasons import BY_CODE, FROM_VM, UPLINK_BUSY, VM_BUSY
from softnet.errors import ConfigError

SCHEMA = 1
INTERVAL = 10.0
BUFFER = 256 << 10
CHUNK = 4096  # a pipe that polls as writable takes this much without blocking (PIPE_BUF, POSIX)
RECENT = 64

DIRECTIONS = ("from-vm", "to-vm")
PROTOCOLS = {1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 47: "gre", 50: "esp", 132: "sctp"}


class Watcher(Protocol):
    """Who polls for us: the forwarder."""

    def watch(self, descriptor: int, react: Callable[[float], None], events: int = ...) -> None: ...

    def unwatch(self, descriptor: int) -> None: ...


class EventLog:
    """Lines into a descriptor that may be slow or gone. `lost` counts what was not written."""

    def __init__(self, descriptor: int, mac: int, watcher: Watcher) -> None:
        from json import dumps  # only who writes events pays for it

        self.written = 0
        self.lost = 0
        self._dumps = dumps
        self._unsaid = 0
        self._fd = descriptor
        self._mac = format_mac(mac)
        self._watcher = watcher
        self._unsent = bytearray()
        self._watched = False
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    def emit(self, event: str, **fields: Any) -> None:
        """Writes one event, or counts it as lost."""
        if self._unsaid and self._append("lost", {"events": self._unsaid}):
            self._unsaid = 0
        if not self._append(event, fields):
            self.lost += 1
            self._unsaid += 1
        self._flush()

    def close(self) -> None:
        """Writes what the reader takes at once, and closes."""
        if self._fd < 0:
            return
        self._flush()
        self._abandon()

    def _append(self, event: str, fields: dict[str, Any]) -> bool:
        if self._fd < 0 or len(self._unsent) > BUFFER:
            return False
        line = {"v": SCHEMA, "time": timestamp(time.time()), "vm": self._mac, "event": event} | fields
        self._unsent += self._dumps(line, separators=(",", ":")).encode() + b"\n"
        self.written += 1
        return True

    def _flush(self, _now: float = 0.0) -> None:
        while self._unsent and self._poll.poll(0):
            try:
                del self._unsent[: os.write(self._fd, self._unsent[:CHUNK])]
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    break
                self._abandon()
                return
        self._watch(bool(self._unsent))

    def _watch(self, wanted: bool) -> None:
        """A regular file is always writable: what it refuses waits for the next event."""
        if wanted == self._watched or (wanted and stat.S_ISREG(os.fstat(self._fd).st_mode)):
            return
        self._watched = wanted
        if wanted:
            self._watcher.watch(self._fd, self._flush, select.POLLOUT)
        else:
            self._watcher.unwatch(self._fd)

    def _abandon(self) -> None:
        """Nobody reads any more."""
        self._unsent.clear()
        self._watch(False)
        with suppress(OSError):
            os.close(self._fd)
        self._fd = -1


class Narrator:
    """Listens to the forwarder and tells an EventLog; a timer of the forwarder while frames are refused.

    `rule_of` names the rule that decided a refusal. `recent` keeps the last refused flows, also
    without a log.
    """

    deadline: float | None = None

    def __init__(self, log: EventLog | None, rule_of: Callable[[Refusal], str | None]) -> None:
        self.recent: list[dict[str, Any]] = []
        self.drops = Drops()
        self._log = log
        self._rule_of = rule_of
        self._unreported = 0

    def on_drop(self, batch: Batch, direction: int, now: float) -> None:
        """Takes account of a batch of which something was dropped."""
        self.drops.note(batch, direction, now)
        if self.deadline is None:
            self.deadline = now + INTERVAL
        if self.drops.fresh:
            self._tell("drop", self.drops.fresh)
            self.drops.fresh.clear()

    def expire(self, now: float) -> None:
        """Counts, INTERVAL after the first refusal or the last counts; then silence until the next one."""
        counts = self.drops.counts(now)
        self._tell("drops", counts)
        unreported = self.drops.unreported - self._unreported
        if unreported:
            self.tell("unreported", flows=unreported, seconds=INTERVAL)
        self._unreported = self.drops.unreported
        self.deadline = now + INTERVAL if counts else None

    def on_lease(self, event: LeaseEvent) -> None:
        self.tell("lease", state=event.kind, cause=event.cause, **lease_fields(event.lease, event.at))

    def tell(self, event: str, **fields: Any) -> None:
        """One event, if anybody listens."""
        if self._log is not None:
            self._log.emit(event, **fields)

    def _tell(self, kind: str, refusals: Iterable[Refusal]) -> None:
        for refusal in refusals:
            fields = refusal_fields(refusal, self._rule_of(refusal))
            if kind == "drop":
                self.recent.append({"time": timestamp(time.time())} | fields)
                del self.recent[:-RECENT]
            busy = refusal.reason in (VM_BUSY, UPLINK_BUSY)
            self.tell("busy" if busy else kind, **fields)


def refusal_fields(refusal: Refusal, rule: str | None) -> dict[str, Any]:
    """A refusal as events and `softnet top` show it; fields that the frame did not have are left out."""
    reason = BY_CODE[refusal.reason]
    fields: dict[str, Any] = {
        "direction": DIRECTIONS[refusal.direction != FROM_VM],
        "reason": reason.name,
        "why": reason.sentence,
        "rule": rule,
        "frames": refusal.frames,
    }
    if refusal.source_mac or refusal.ethertype:
        fields["sourceMac"] = format_mac(refusal.source_mac)
        fields["ethertype"] = f"0x{refusal.ethertype:04x}"
    if refusal.source or refusal.destination:
        fields["source"] = format_ipv4(refusal.source)
        fields["destination"] = format_ipv4(refusal.destination)
    if refusal.protocol:
        fields["protocol"] = PROTOCOLS.get(refusal.protocol, str(refusal.protocol))
    if refusal.source_port or refusal.port:
        fields |= {"sourcePort": refusal.source_port, "destinationPort": refusal.port}
    return fields


def lease_fields(lease: Lease, now: float) -> dict[str, Any]:
    """A lease as events and `softnet.lease` show it; `seconds` is what is left of it, null for ever."""
    return {
        "address": format_ipv4(lease.address),
        "mask": format_ipv4(lease.mask),
        "router": None if lease.router is None else format_ipv4(lease.router),
        "dns": [format_ipv4(server) for server in lease.dns],
        "server": format_ipv4(lease.server),
        "seconds": None if lease.expiry == float("inf") else round(max(0.0, lease.expiry - now), 3),
    }


def timestamp(at: float) -> str:
    """RFC 3339, UTC, milliseconds."""
    whole = time.gmtime(at)
    return time.strftime("%Y-%m-%dT%H:%M:%S", whole) + f".{int(at * 1000) % 1000:03d}Z"


def open_events(text: str) -> int:
    """The descriptor that `--events` names: `fd=N`, duplicated, or a file, to whose end lines are added."""
    if text.startswith("fd="):
        number = text[3:]
        try:
            if not (number.isascii() and number.isdigit()) or len(number) > 9:
                raise OSError
            return os.dup(int(number))
        except OSError:
            raise ConfigError(
                "--events", text, "is not an open file descriptor", "pass fd=N of an open one"
            ) from None
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(text, flags, 0o600)
    except OSError as error:
        problem = "nobody reads this pipe yet" if error.errno == errno.ENXIO else error.strerror
        raise ConfigError(
            "--events", text, f"cannot open: {problem}", "name a file that can be written"
        ) from None
