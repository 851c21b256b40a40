"""A batch of frames: one arena of bytes, an (offset, length) descriptor and a verdict for each.

A batch is what crosses from a link to the filter and on to the other link, so that Python is
crossed once a batch and not once a frame. Slots are where a link that receives one frame a call
puts frame `i` (`i * slot`); a link that receives a stream may place frames anywhere in the arena.
A frame's `length` is its length on the wire: it may exceed the bytes present when the frame was
truncated on the way in (`length > slot`), and then the filter calls it oversize without a look
inside. `count` frames are valid; a verdict is only meaningful once a filter has judged.
"""

from array import array
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap

from softnet.core.reasons import UNJUDGED


class Batch:
    """`capacity` descriptors over an arena of `capacity * slot` bytes.

    `data` is the arena as a typed view, `arena` the object behind it: pages of the kernel's, which cost
    memory once a frame was there, where a bytearray would write its zeros at once (8 MB at an MTU of 65520).
    """

    __slots__ = ("arena", "capacity", "count", "data", "length", "offset", "slot", "verdict")

    def __init__(self, capacity: int, slot: int) -> None:
        self.capacity = capacity
        self.slot = slot
        self.count = 0
        self.arena = mmap(-1, capacity * slot, MAP_PRIVATE | MAP_ANONYMOUS)
        self.data = memoryview(self.arena)
        self.offset = memoryview(array("I", range(0, capacity * slot, slot)))
        self.length = memoryview(array("I", bytes(4 * capacity)))
        self.verdict = memoryview(bytearray([UNJUDGED]) * capacity)

    def clear(self) -> None:
        """Forget the frames; the arena keeps its bytes, the descriptors point at the slots again."""
        self.count = 0

    def find(self, verdict: int, at: int) -> int:
        """The first frame from `at` on with this verdict; `count` when there is none."""
        while at < self.count and self.verdict[at] != verdict:
            at += 1
        return at

    def append(self, frame: bytes) -> bool:
        """Copy `frame` into the next slot (what does not fit is cut, `length` says so).

        False when the batch is full. For links that hold frames as Python objects, and tests.
        """
        at = self.count
        if at >= self.capacity:
            return False
        start = at * self.slot
        present = min(len(frame), self.slot)
        self.arena[start : start + present] = frame[:present]
        self.offset[at] = start
        self.length[at] = len(frame)
        self.verdict[at] = UNJUDGED
        self.count = at + 1
        return True

    def frame(self, index: int) -> bytes:
        """The bytes present of frame `index`, copied."""
        if index >= self.count:
            raise IndexError(index)
        start = self.offset[index]
        return bytes(self.arena[start : start + min(self.length[index], self.slot)])
