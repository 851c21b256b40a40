"""The loop: poll, read the clock once, read a batch, judge it, write it, tell who wants to know.

    VM link     --receive--> judge_vm     --send--> uplink link
    uplink link --receive--> judge_uplink --send--> VM link

Each wakeup moves at most one batch in each direction, so that neither side, a signal nor any other
descriptor waits for more than that. With nothing to move the loop sleeps until a descriptor is
readable, a link can write on with what it has taken, the lease ends, a timer is due, or it is time to
ask whether a VM whose link cannot tell is still there (ALIVE_SECONDS).

A batch that its sink did not take whole is held: the rest goes out when the sink polls writable, and
until then nothing more is read from its source, whose own socket fills and slows its writer down. A
batch is held for HOLD_SECONDS at most, then the rest of it is dropped and counted; so is the rest of
one whose sink said that there was room and took nothing. The other direction goes on meanwhile.

A direction with a rate is paused while it owes for what it read (`core.rate`): its source is not read,
and where its frames wait is that source's own queue, which is bounded and not ours. Its batches are
no larger than what 10 ms pay for. A source that says that it is gone is read to its end all the same.

It runs unprivileged and for ever: until `stop`, or until one of the links says that its other side
is gone. `Ending` says which. Other rooms take part through `watch` (a descriptor), `timers`,
`listeners` (lease events), and two looks at a batch whose fate is final: `droppers` when a frame of
it was dropped, `taps` always.
"""

import select
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from softnet import clock
from softnet.core.filter import Filter
from softnet.core.frames import Batch
from softnet.core.lease import LeaseEvent
from softnet.core.rate import Bucket
from softnet.core.reasons import FROM_VM, PASS_DHCP, TO_VM, UNJUDGED, UPLINK_BUSY, VM_BUSY
from softnet.errors import LinkClosed
from softnet.limits import Limit, Rates
from softnet.links import Link

BATCH_FRAMES = 128
NO_RATES = Rates()
HOLD_SECONDS = 0.04  # what a pump without batches waits for 80 frames, at 10 retries of 50 us each
ALIVE_SECONDS = 9.0  # a VM that left without a word is noticed within ten seconds

POLLIN = select.POLLIN
POLLOUT = select.POLLOUT
POLLGONE = select.POLLHUP | select.POLLERR  # told without being asked for
NEVER = float("inf")

STOPPED = "stopped"
VM_GONE = "vm-gone"
UPLINK_GONE = "uplink-gone"


class Timer(Protocol):
    """Something that wants to be called at `deadline`, in the clock's seconds (None: not now)."""

    @property
    def deadline(self) -> float | None: ...

    def expire(self, now: float) -> None: ...


PR_SET_TIMERSLACK = 29

Look = Callable[[Batch, int, float], None]  # a judged batch, its direction, the time


class Way:
    """One direction: from `source` to `sink`, a batch at a time. `gone` is what the end of each means."""

    __slots__ = (
        "batch",
        "bucket",
        "busy",
        "direction",
        "due",
        "gone",
        "held",
        "judged",
        "paused",
        "refused",
        "sink",
        "source",
    )

    def __init__(self, source: Link, sink: Link, slot: int, direction: int, limit: Limit | None) -> None:
        self.source = source
        self.sink = sink
        self.bucket = None if limit is None else Bucket(limit.bits, limit.packets, limit.burst)
        self.paused = False
        frames = BATCH_FRAMES if self.bucket is None else min(BATCH_FRAMES, self.bucket.step(slot))
        self.batch = batch = Batch(frames, slot)
        self.direction = direction
        self.busy = UPLINK_BUSY if direction == FROM_VM else VM_BUSY
        self.gone = (VM_GONE, UPLINK_GONE) if direction == FROM_VM else (UPLINK_GONE, VM_GONE)
        self.judged = memoryview(bytearray(batch.capacity))  # the verdicts, as long as a batch may be held
        self.held = False
        self.refused = 0
        self.due = 0.0

    def owed(self, now: float) -> float:
        """Seconds that the pause still lasts."""
        return 0.0 if self.bucket is None else self.bucket.owed(now)

    def keep(self) -> None:
        """Remembers the verdicts before a send makes some of them busy."""
        self.judged[:] = self.batch.verdict

    def retry(self) -> None:
        """What was refused may be sent again, and nothing else."""
        verdict = self.batch.verdict
        for at in range(self.batch.count):
            verdict[at] = self.judged[at] if verdict[at] == self.busy else UNJUDGED

    def settle(self) -> None:
        """After a retry: the verdicts as they are now."""
        verdict = self.batch.verdict
        for at in range(self.batch.count):
            if verdict[at] != self.busy:
                verdict[at] = self.judged[at]


class Forwarder:
    """One VM's loop. `slot` bounds a frame's bytes; longer ones are counted, not carried.

    `buckets` are those of the two directions, None for one without a rate.
    """

    def __init__(self, judge: Filter, vm: Link, uplink: Link, slot: int, rates: Rates = NO_RATES) -> None:
        self.filter = judge
        self.vm = vm
        self.uplink = uplink
        self.listeners: list[Callable[[LeaseEvent], None]] = []
        self.timers: list[Timer] = []
        self.droppers: list[Look] = []
        self.taps: list[Look] = []
        self._out = Way(vm, uplink, slot, FROM_VM, rates.from_vm)
        self._in = Way(uplink, vm, slot, TO_VM, rates.to_vm)
        self.buckets = (self._out.bucket, self._in.bucket)
        self._nothing = Batch(1, slot)
        self._watched: dict[int, Callable[[float], None]] = {}
        self._poll = select.poll()
        self._vm_events = self._uplink_events = 0
        self._ending: str | None = None
        self._due = 0.0
        self._alive_due = clock.now() + ALIVE_SECONDS

    def watch(self, descriptor: int, react: Callable[[float], None], events: int = select.POLLIN) -> None:
        """Calls `react(now)` when `descriptor` is ready; again with other `events` to change them."""
        self._watched[descriptor] = react
        self._poll.register(descriptor, events)

    def unwatch(self, descriptor: int) -> None:
        """Forgets a descriptor, which must still be open."""
        del self._watched[descriptor]
        self._poll.unregister(descriptor)

    def stop(self) -> None:
        """Ends `run` before the next batch. Safe to call from a signal handler or a callback."""
        self._ending = STOPPED

    def run(self) -> str:
        """Moves frames until something ends it: STOPPED, VM_GONE or UPLINK_GONE."""
        _wake_on_time()
        vm = self.vm.fileno()
        uplink = self.uplink.fileno()
        now = clock.now()
        while self._ending is None:
            self._poll_links()
            ready = self._poll.poll(self._patience(now))
            now = clock.now()
            for descriptor, events in ready:
                if descriptor == vm:
                    self._attend(self._in, self._out, events, now)
                elif descriptor == uplink:
                    self._attend(self._out, self._in, events, now)
                else:
                    react = self._watched.get(descriptor)
                    if react is not None:
                        react(now)
            self._move_on(self._out, now)
            self._move_on(self._in, now)
            self._deliver(now)
        for way in (self._out, self._in):
            if way.held:
                self._account(way, now)
        return self._ending

    def _poll_links(self) -> None:
        """What to wait for on each link: frames, unless their way is held or paused, and room."""
        wanted = self._wanted(self._in, self._out)
        if wanted != self._vm_events:
            self._vm_events = wanted
            self._poll_for(self.vm.fileno(), wanted)
        wanted = self._wanted(self._out, self._in)
        if wanted != self._uplink_events:
            self._uplink_events = wanted
            self._poll_for(self.uplink.fileno(), wanted)

    def _wanted(self, into: Way, out_of: Way) -> int:
        """For the link that `into` leads to; what it has of a frame left to write, `receive` writes too."""
        frames = 0 if out_of.held else POLLGONE if out_of.paused else POLLIN
        return frames | (POLLOUT if into.held or (frames and into.sink.unsent) else 0)

    def _poll_for(self, descriptor: int, events: int) -> None:
        """A descriptor polled for no events would still tell its end, again and again."""
        if events:
            self._poll.register(descriptor, events)
        else:
            self._poll.unregister(descriptor)

    def release(self) -> None:
        """Gives the VM's addresses back to their server, as far as the uplink still listens."""
        frames = self.filter.release_frames(clock.now())
        batch = Batch(max(1, len(frames)), self._in.batch.slot)
        for at, frame in enumerate(frames):
            batch.append(frame)
            batch.verdict[at] = PASS_DHCP
        with suppress(LinkClosed, OSError):  # the server is gone, and its leases with it
            self.uplink.send(batch, UPLINK_BUSY)

    def _patience(self, now: float) -> float | None:
        """Milliseconds that `poll` may sleep; None for as long as nothing happens."""
        if self._ending is not None:
            return 0
        due = self.filter.next_deadline()
        if due is None:
            due = NEVER
        if self.vm.needs_alive_check and self._alive_due < due:
            due = self._alive_due
        for timer in self.timers:
            deadline = timer.deadline
            if deadline is not None and deadline < due:
                due = deadline
        self._due = due
        for way in (self._out, self._in):
            if way.held:
                if way.due < due:
                    due = way.due
            elif way.paused:
                paid = now + way.owed(now)
                if paid < due:
                    due = paid
            elif way.source.pending:
                return 0
        return None if due == NEVER else max(0.0, due - now) * 1000 + 1

    def _attend(self, into: Way, out_of: Way, events: int, now: float) -> None:
        """A link is ready: there is room in it, or a frame, or its end."""
        if into.held and events & ~POLLIN:
            self._resume(into, now)
        elif out_of.paused and events & POLLOUT:
            self._write_on(into)
        if not out_of.held and (not out_of.paused or events & POLLGONE):
            self._move(out_of, now)

    def _move_on(self, way: Way, now: float) -> None:
        """What no descriptor tells: a batch held for long enough, the end of a pause, frames that the
        link has already read."""
        if way.held:
            if now >= way.due:
                self._resume(way, now)
        elif way.paused:
            if way.owed(now) == 0.0:
                self._move(way, now)
        elif way.source.pending:
            self._move(way, now)

    def _move(self, way: Way, now: float) -> None:
        batch = way.batch
        way.paused = False
        try:
            if way.source.receive(batch) == 0:
                return
        except LinkClosed:
            self._end(way.gone[0])
            return
        if way.bucket is not None:
            way.paused = way.bucket.charge(batch, now) > 0.0
        if way.direction == FROM_VM:
            self.filter.judge_vm(batch, now)
            self._alive_due = now + ALIVE_SECONDS
        else:
            self.filter.judge_uplink(batch, now)
        way.keep()
        refused = self._send(way)
        if refused:
            way.held = True
            way.refused = refused
            way.due = now + HOLD_SECONDS
        else:
            self._account(way, now)

    def _resume(self, way: Way, now: float) -> None:
        """Sends the rest of a batch that is held."""
        way.retry()
        refused = self._send(way)
        way.settle()
        if 0 < refused < way.refused and now < way.due:
            way.refused = refused
        else:
            way.held = False
            self._account(way, now)

    def _send(self, way: Way) -> int:
        """How many frames the sink refused."""
        try:
            return way.sink.send(way.batch, way.busy)
        except LinkClosed:
            self._end(way.gone[1])
            return 0

    def _write_on(self, way: Way) -> None:
        """With the rest of a frame that the sink took in part, which nobody's `receive` does now."""
        try:
            way.sink.send(self._nothing, way.busy)
        except LinkClosed:
            self._end(way.gone[1])

    def _account(self, way: Way, now: float) -> None:
        """Counts a batch and shows it to whoever wants to see it."""
        if self.filter.tally(way.batch, way.direction):
            for look in self.droppers:
                look(way.batch, way.direction, now)
        for look in self.taps:
            look(way.batch, way.direction, now)

    def _deliver(self, now: float) -> None:
        """Events to whoever listens, timers to whoever set one, and a look after a silent VM."""
        while (event := self.filter.next_event(now)) is not None:
            for listener in self.listeners:
                listener(event)
        if now < self._due:
            return
        for timer in self.timers:
            if timer.deadline is not None and now >= timer.deadline:
                timer.expire(now)
        if self.vm.needs_alive_check and now >= self._alive_due:
            self._alive_due = now + ALIVE_SECONDS
            if not self.vm.alive():
                self._end(VM_GONE)

    def _end(self, how: str) -> None:
        if self._ending is None:
            self._ending = how


def _wake_on_time() -> None:
    """Linux lets a sleep last 50 us longer than asked, as long again as a link's retry; not ours."""
    if sys.platform.startswith("linux"):
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
