"""What a verdict costs among many rules, in one process, with the caches as the kernel leaves them.

Between two batches 64 datagrams go through a socket, as they do in life: what is asked for again at once
would lie in the first cache, and tell nothing. Tables take turns.
"""

import random
import socket
import time
from statistics import median
from typing import Any

from bench import statistics
from bench.frames import DESTINATION_AT, rules
from bench.subjects import (
    BUFFER,
    FIRST_TARGET,
    GATEWAY,
    LAST_TARGET,
    SO_RCVBUFFORCE,
    SO_SNDBUFFORCE,
    VM_MAC,
    frame,
    lease_frames,
)
from softnet import policyfile
from softnet.cli.options import parse_expose
from softnet.core.filter import Filter
from softnet.core.frames import Batch
from softnet.policy import Facts, compile_policy

COUNTS = (0, 1000, 10_000, 100_000)
FRAMES = 64
BATCHES, UNCOUNTED = 40, 5  # in a row; the first ones find the other tables in the caches


def _filter(count: int) -> Filter:
    """With so many rules, its VM holding a lease."""
    path = rules(count)[1]
    wanted = policyfile.parse(path, policyfile.read(path), parse_expose)
    judge = Filter(VM_MAC, 1500, compile_policy(wanted.policy, Facts(GATEWAY)), GATEWAY)
    for message, look in zip(lease_frames(), (judge.judge_vm, judge.judge_uplink), strict=True):
        batch = Batch(1, 2048)
        batch.append(message)
        look(batch, 0.0)
    return judge


class _Traffic:
    """A batch with new destinations, and what the kernel does between two of them."""

    def __init__(self) -> None:
        self.batch = Batch(FRAMES, 2048)
        for _ in range(FRAMES):
            self.batch.append(frame(64, False))
        self._numbers = random.Random(FRAMES)
        self._ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for end in self._ends:
            end.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, BUFFER)
            end.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)

    def renew(self) -> None:
        one, other = self._ends
        for _ in range(FRAMES):
            one.send(bytes(64))
        for at in range(FRAMES):
            other.recv(2048)
            target = self._numbers.randrange(FIRST_TARGET, LAST_TARGET)
            start = self.batch.offset[at] + DESTINATION_AT
            self.batch.arena[start : start + 4] = target.to_bytes(4, "big")

    def close(self) -> None:
        for end in self._ends:
            end.close()


def lookups(quick: bool) -> list[dict[str, Any]]:
    """Nanoseconds a verdict; `more` is what they are beyond those without rules."""
    filters = {count: _filter(count) for count in COUNTS}
    found: dict[int, list[float]] = {count: [] for count in COUNTS}
    traffic = _Traffic()
    for _ in range(5 if quick else 40):
        for count, judge in filters.items():
            spent = []
            for _ in range(BATCHES):
                traffic.renew()
                started = time.perf_counter_ns()
                judge.judge_vm(traffic.batch, 1.0)
                spent.append((time.perf_counter_ns() - started) / FRAMES)
            found[count] += spent[UNCOUNTED:]
    traffic.close()
    least = median(found[0])
    return [
        {"rules": count, "ns_per_verdict": statistics.summary(each), "more": median(each) - least}
        for count, each in found.items()
    ]
