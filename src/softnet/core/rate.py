"""A limit of bits and frames a second for one direction: a token bucket that may be overdrawn once.

Nobody knows how much a read gives before it is done, so a batch is charged after it was read, whole:
each frame counts, whatever its verdict, with its length on the wire (Ethernet header included,
preamble and FCS not). What that overdraws is a debt, and as long as it is owed, nothing is read.

Both limits are kept as seconds: what was read takes so long at the rate. Below zero they are credit, of
at most `burst`; the larger one is what is owed. So in any span of t seconds no more is read than
rate * (t + burst) and one batch, and a debt is never longer than one batch takes.

A clock that jumps ahead (a machine that slept) gives one burst; one that steps back gives nothing and
costs nothing but the seconds that it repeats: a debt is a number of seconds, not a moment.
"""

from softnet.core.frames import Batch

STEP = 0.01  # seconds: how evenly a saturated direction is read, and how often its reader wakes


class Bucket:
    """`bits` and `packets` a second (0: no limit of that kind), and how many seconds of unused rate it holds.

    `pauses` counts the debts, `paused` the seconds until each was seen to be paid.
    """

    __slots__ = ("_at", "_bit", "_bits_owed", "_burst", "_packet", "_packets_owed", "paused", "pauses")

    def __init__(self, bits: float, packets: float, burst: float) -> None:
        self.pauses = 0
        self.paused = 0.0
        self._bit = 1.0 / bits if bits else 0.0  # seconds that one takes
        self._packet = 1.0 / packets if packets else 0.0
        self._burst = burst
        self._bits_owed = -burst
        self._packets_owed = -burst
        self._at = 0.0

    def step(self, slot: int) -> int:
        """How many frames of `slot` bytes to read at once: what STEP or a shorter burst pays for, or one."""
        each = max(8 * slot * self._bit, self._packet)
        return max(1, int(min(self._burst, STEP) / each))

    def charge(self, batch: Batch, now: float) -> float:
        """A batch was read. Returns what is owed now, in seconds; 0.0 for nothing."""
        octets = 0
        for at in range(batch.count):
            octets += batch.length[at]
        self._refill(now)
        self._bits_owed += 8 * octets * self._bit
        self._packets_owed += batch.count * self._packet
        owed = self._owed()
        if owed > 0.0:
            self.pauses += 1
        return owed

    def owed(self, now: float) -> float:
        """The seconds until the next read; 0.0 when it may be done."""
        self._refill(now)
        return self._owed()

    def _refill(self, now: float) -> None:
        passed = now - self._at
        self._at = now
        if passed > 0.0:
            if self._owed() > 0.0:
                self.paused += passed
            self._bits_owed -= passed
            self._packets_owed -= passed
        if self._bits_owed < -self._burst:
            self._bits_owed = -self._burst
        if self._packets_owed < -self._burst:
            self._packets_owed = -self._burst

    def _owed(self) -> float:
        owed = self._bits_owed if self._bits_owed > self._packets_owed else self._packets_owed
        return owed if owed > 0.0 else 0.0
