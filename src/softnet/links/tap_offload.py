"""A Linux TAP with vnet_hdr: TCP segments of a batch joined into one write, large reads cut up.

The contract is that of every link: the batch holds single frames no longer than the MTU (longer ones
keep their length, for the filter to refuse), so each was judged by itself before it was joined and
each is judged after it was cut. Joining never looks beyond the batch and waits for nothing. When the
kernel refuses a group, all of its frames become busy. What a joined or cut frame looks like, and when
that happens at all, is `core.offload`'s.
"""

from typing import TYPE_CHECKING

from softnet.core.frames import Batch
from softnet.core.offload import Coalescer, Segmenter
from softnet.links.burst import Progress
from softnet.links.calls import COMPILED
from softnet.links.tap import TapLink

if COMPILED and not TYPE_CHECKING:
    from softnet.links import _segments as segments
else:
    from softnet.links import segments


class OffloadTapLink(TapLink):
    """Owns a descriptor of `create_tap(name, offload=True)`; `mtu` bounds what a large read is cut to."""

    def __init__(self, fd: int, mtu: int) -> None:
        super().__init__(fd)
        self._segmenter = Segmenter(mtu)
        self._coalescer = Coalescer(0)

    def send(self, batch: Batch, busy: int) -> int:
        if self._coalescer.capacity < batch.capacity:
            self._coalescer = Coalescer(batch.capacity)
        self._coalescer.join(batch)
        return super().send(batch, busy)

    def _read(self, batch: Batch) -> int:
        try:
            return segments.read_segments(self._fd, batch, self._segmenter)
        finally:
            self.pending = self._segmenter.pending

    def _write(self, batch: Batch, at: int) -> Progress:
        return segments.write_groups(self._fd, batch, self._coalescer, at)

    def _refuse(self, batch: Batch, at: int, busy: int) -> int:
        count = self._coalescer.segments[at]
        frame = self._coalescer.first[at]
        for _ in range(count):
            batch.verdict[frame] = busy
            frame = self._coalescer.next[frame]
        return count

    def _refuse_rest(self, batch: Batch, at: int, busy: int) -> int:
        refused = 0
        for group in range(at, self._coalescer.count):
            refused += self._refuse(batch, group, busy)
        return refused
