"""What was dropped lately, by flow: a small fixed table, so that a flood costs a hash and no memory.

A dropped frame belongs to a flow of refusals: same direction, reason, Ethernet source and type, IPv4
protocol, addresses and destination port (the sender's port changes with every attempt and does not
count). The first frame of a flow is reported, at most BURST at once and RATE a second; more new
flows than that are only counted (`unreported`). From then on frames are counted: `counts` says, for
the busiest flows, how many came since it last said so. The table has SLOTS places in sets of WAYS;
a new flow takes the place of the one in its set that was quiet for longest, and a flow that was quiet
for FORGET_SECONDS is new again.

Frames that one side had no room for are about that side: they are one flow for each side.
"""

from array import array
from typing import NamedTuple

from softnet.core.frames import Batch
from softnet.core.packet import View
from softnet.core.reasons import PASS_LIMIT, UPLINK_BUSY, VM_BUSY

SLOTS = 512
WAYS = 4
BURST = 100.0
RATE = 20.0
FORGET_SECONDS = 60.0
BUSIEST = 32

_WORD = 0xFFFFFFFFFFFFFFFF
_LOW_HALF = 0xFFFFFFFF
_MIX = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, odd: Knuth's multiplicative hashing


class Refusal(NamedTuple):
    """A flow of refusals. Zero where the frame has no such field; for ARP the protocol addresses.

    `frames` is how many since the last report, this one included; `port` is the destination's,
    `source_port` that of the first frame.
    """

    direction: int
    reason: int
    source_mac: int
    ethertype: int
    protocol: int
    source: int
    destination: int
    source_port: int
    port: int
    frames: int


class Drops:
    """`note` a judged batch; `fresh` holds the first frames of new flows until someone takes them."""

    __slots__ = (
        "_addresses",
        "_counts",
        "_heads",
        "_last",
        "_macs",
        "_ports",
        "_refilled",
        "_tokens",
        "_view",
        "fresh",
        "unreported",
    )

    def __init__(self) -> None:
        self.fresh: list[Refusal] = []
        self.unreported = 0
        # A flow is three words: addresses; Ethernet source and type; direction, reason, protocol, port.
        self._addresses = memoryview(array("Q", bytes(8 * SLOTS)))
        self._macs = memoryview(array("Q", bytes(8 * SLOTS)))
        self._heads = memoryview(array("Q", bytes(8 * SLOTS)))
        self._ports = memoryview(array("I", bytes(4 * SLOTS)))
        self._counts = memoryview(array("Q", bytes(8 * SLOTS)))
        self._last: memoryview[float] = memoryview(array("d", [float("-inf")] * SLOTS))
        self._tokens = BURST
        self._refilled = 0.0
        self._view = View(b"")

    def note(self, batch: Batch, direction: int, now: float) -> None:
        """Takes account of every frame of the batch that was dropped."""
        self._view.over(batch.data)
        for at in range(batch.count):
            verdict = batch.verdict[at]
            if verdict >= PASS_LIMIT:
                length = batch.length[at]
                if length > batch.slot:  # cut short; what a stream skipped starts at the arena's end
                    length = batch.slot if batch.offset[at] < len(batch.data) else 0
                self._view.place(batch.offset[at], length)
                self._note(direction, verdict, now)

    def counts(self, now: float) -> list[Refusal]:
        """The busiest flows' frames since they were last reported; forgets the flows that went quiet."""
        waiting = [at for at in range(SLOTS) if self._counts[at]]
        waiting.sort(key=lambda at: self._counts[at], reverse=True)
        found = [self._refusal(at, self._counts[at]) for at in waiting[:BUSIEST]]
        for at in waiting[:BUSIEST]:
            self._counts[at] = 0
        for at in range(SLOTS):
            if self._last[at] + FORGET_SECONDS <= now and not self._counts[at]:
                self._last[at] = float("-inf")
        return found

    def _note(self, direction: int, verdict: int, now: float) -> None:
        frame = self._view
        addresses = 0
        mac = 0
        ports = 0
        head = direction << 32 | verdict << 24
        if verdict != VM_BUSY and verdict != UPLINK_BUSY and frame.length >= 14:
            ethertype = frame.u16(12)
            mac = frame.u48(6) << 16 | ethertype
            if ethertype == 0x0800 and frame.length >= 34:
                addresses = frame.u32(26)
                addresses = addresses << 32 | frame.u32(30)
                ports = self._ports_of()
                head = head | frame.u8(23) << 16 | (ports & 0xFFFF)
            elif ethertype == 0x0806 and frame.length >= 42:
                addresses = frame.u32(28)
                addresses = addresses << 32 | frame.u32(38)
        self._count(self._slot(addresses, mac, head), addresses, mac, head, ports, now)

    def _ports_of(self) -> int:
        """Source and destination port of TCP and UDP, 0 where there are none to read."""
        frame = self._view
        protocol = frame.u8(23)
        start = 14 + ((frame.u8(14) & 15) << 2)
        if protocol != 6 and protocol != 17:
            return 0
        if start < 34 or frame.u16(20) & 0x1FFF or frame.length < start + 4:
            return 0
        return frame.u32(start)

    def _slot(self, addresses: int, mac: int, head: int) -> int:
        """The flow's place, or else the place in its set that was quiet for longest."""
        mixed = (addresses * _MIX ^ mac) & _WORD
        mixed = ((mixed ^ mixed >> 29) * _MIX + head) & _WORD
        mixed = (mixed ^ mixed >> 32) * _MIX & _WORD
        first = (mixed >> 32) % (SLOTS // WAYS) * WAYS
        quietest = first
        for at in range(first, first + WAYS):
            if self._heads[at] == head and self._addresses[at] == addresses and self._macs[at] == mac:
                return at
            if self._last[at] < self._last[quietest]:
                quietest = at
        return quietest

    def _count(self, at: int, addresses: int, mac: int, head: int, ports: int, now: float) -> None:
        known = self._heads[at] == head and self._addresses[at] == addresses and self._macs[at] == mac
        if known and self._last[at] + FORGET_SECONDS > now:
            self._counts[at] += 1
            self._last[at] = now
            return
        self._addresses[at] = addresses
        self._macs[at] = mac
        self._heads[at] = head
        self._ports[at] = ports
        self._counts[at] = 0
        self._last[at] = now
        self._refill(now)
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            self.fresh.append(self._refusal(at, 1))
        else:
            self._counts[at] = 1
            self.unreported += 1

    def _refill(self, now: float) -> None:
        if now > self._refilled:
            self._tokens = self._tokens + (now - self._refilled) * RATE
            self._refilled = now
        if self._tokens > BURST:
            self._tokens = BURST

    def _refusal(self, at: int, frames: int) -> Refusal:
        head, mac, addresses = self._heads[at], self._macs[at], self._addresses[at]
        return Refusal(
            direction=head >> 32,
            reason=head >> 24 & 255,
            source_mac=mac >> 16,
            ethertype=mac & 0xFFFF,
            protocol=head >> 16 & 255,
            source=addresses >> 32,
            destination=addresses & _LOW_HALF,
            source_port=self._ports[at] >> 16,
            port=head & 0xFFFF,
            frames=frames,
        )
