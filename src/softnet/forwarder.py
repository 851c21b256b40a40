"""The loop: poll, read the clock once, read a batch, judge it, write it, tell who wants to know.

    VM link     --receive--> judge_vm     --send--> uplink link
    uplink link --receive--> judge_uplink --send--> VM link

Each wakeup moves at most one batch in each direction, so that neither side, a signal nor any other
descriptor waits for more than that. With nothing to move the loop sleeps until a descriptor is
readable, a link can write on with what it has taken, the lease ends, a timer is due, or it is time to
ask whether a VM whose link cannot tell is still there (ALIVE_SECONDS).

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
from softnet.core.reasons import FROM_VM, PASS_DHCP, TO_VM, UPLINK_BUSY, VM_BUSY
from softnet.errors import LinkClosed
from softnet.links import Link

BATCH_FRAMES = 64
ALIVE_SECONDS = 9.0  # a VM that left without a word is noticed within ten seconds

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


class Forwarder:
    """One VM's loop. `slot` bounds a frame's bytes; longer ones are counted, not carried."""

    def __init__(self, judge: Filter, vm: Link, uplink: Link, slot: int) -> None:
        self.filter = judge
        self.vm = vm
        self.uplink = uplink
        self.listeners: list[Callable[[LeaseEvent], None]] = []
        self.timers: list[Timer] = []
        self.droppers: list[Look] = []
        self.taps: list[Look] = []
        self._from_vm = Batch(BATCH_FRAMES, slot)
        self._to_vm = Batch(BATCH_FRAMES, slot)
        self._watched: dict[int, Callable[[float], None]] = {}
        self._poll = select.poll()
        self._unsent = (False, False)
        self._ending: str | None = None
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
        self.watch(self.vm.fileno(), self._move_from_vm)
        self.watch(self.uplink.fileno(), self._move_to_vm)
        while self._ending is None:
            self._poll_unsent()
            ready = self._poll.poll(self._patience())
            now = clock.now()
            for descriptor, _events in ready:
                react = self._watched.get(descriptor)
                if react is not None:
                    react(now)
            if self.vm.pending:
                self._move_from_vm(now)
            if self.uplink.pending:
                self._move_to_vm(now)
            self._deliver(now)
        return self._ending

    def _poll_unsent(self) -> None:
        """Looks out for room on a link that has some of a frame left to write; `receive` writes it."""
        unsent = (self.vm.unsent, self.uplink.unsent)
        if unsent != self._unsent:
            self._unsent = unsent
            for link, waits in zip((self.vm, self.uplink), unsent, strict=True):
                self._poll.modify(link.fileno(), select.POLLIN | select.POLLOUT if waits else select.POLLIN)

    def release(self) -> None:
        """Gives the VM's addresses back to their server, as far as the uplink still listens."""
        self._to_vm.clear()
        for frame in self.filter.release_frames(clock.now()):
            if self._to_vm.append(frame):
                self._to_vm.verdict[self._to_vm.count - 1] = PASS_DHCP
        with suppress(LinkClosed, OSError):  # the server is gone, and its leases with it
            self.uplink.send(self._to_vm, UPLINK_BUSY)

    def _patience(self) -> float | None:
        """Milliseconds that `poll` may sleep; None for as long as nothing happens."""
        if self._ending is not None or self.vm.pending or self.uplink.pending:
            return 0
        due = [timer.deadline for timer in self.timers if timer.deadline is not None]
        lease_ends = self.filter.next_deadline()
        if lease_ends is not None:
            due.append(lease_ends)
        if self.vm.needs_alive_check:
            due.append(self._alive_due)
        return max(0.0, min(due) - clock.now()) * 1000 + 1 if due else None

    def _move_from_vm(self, now: float) -> None:
        batch = self._from_vm
        try:
            if self.vm.receive(batch) == 0:
                return
        except LinkClosed:
            self._end(VM_GONE)
            return
        self.filter.judge_vm(batch, now)
        try:
            self.uplink.send(batch, UPLINK_BUSY)
        except LinkClosed:
            self._end(UPLINK_GONE)
        self._account(batch, FROM_VM, now)
        self._alive_due = now + ALIVE_SECONDS

    def _move_to_vm(self, now: float) -> None:
        batch = self._to_vm
        try:
            if self.uplink.receive(batch) == 0:
                return
        except LinkClosed:
            self._end(UPLINK_GONE)
            return
        self.filter.judge_uplink(batch, now)
        try:
            self.vm.send(batch, VM_BUSY)
        except LinkClosed:
            self._end(VM_GONE)
        self._account(batch, TO_VM, now)

    def _account(self, batch: Batch, direction: int, now: float) -> None:
        """Counts a batch and shows it to whoever wants to see it."""
        if self.filter.tally(batch, direction):
            for look in self.droppers:
                look(batch, direction, now)
        for look in self.taps:
            look(batch, direction, now)

    def _deliver(self, now: float) -> None:
        """Events to whoever listens, timers to whoever set one, and a look after a silent VM."""
        while (event := self.filter.next_event(now)) is not None:
            for listener in self.listeners:
                listener(event)
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
