"""QEMU's framing of a stream: a 4-byte big-endian length, then that many bytes of a frame.

`Framing` is where in the stream its reader is; it holds no bytes. Three states:

    state       need          skip    next in the stream
    header      NO_LENGTH     0       a length
    body        the length    0       a frame
    skipping    NO_LENGTH     > 0     so many bytes of a frame that is longer than a slot

A length of 0 is a frame of no bytes (a runt). A length above the slot is a frame as well: it is
delivered with its true length and no bytes (its offset is the arena's end), and skipped to the
byte. A length above MAX_FRAME is none that any MTU allows: the sender has lost its place or means
harm. Nothing behind it can be found again, so the reader is `broken` for good and the link closes.
"""

from softnet.core.frames import Batch
from softnet.core.reasons import UNJUDGED

HEADER = 4
MAX_FRAME = 65550  # 64 KiB and an Ethernet header
NO_LENGTH = -1


class Framing:
    """See the module's text."""

    __slots__ = ("broken", "need", "skip")

    def __init__(self) -> None:
        self.need = NO_LENGTH
        self.skip = 0
        self.broken = False

    @property
    def unfinished(self) -> bool:
        return self.need > 0 or self.skip > 0

    def split(self, source: memoryview, batch: Batch, end: int) -> int:
        """Append the frames in `source[:end]` to the batch, until it is full.

        Their bytes stay where they are: `source` is the batch's arena, or is copied there. Returns
        how many bytes were used. The others are an incomplete length or frame, or, when the batch
        is full or the reader broken, anything.
        """
        position = 0
        count = batch.count
        while count < batch.capacity:
            step = min(self.skip, end - position)
            position += step
            self.skip -= step
            if self.skip:
                break
            if self.need < 0:
                if end - position < HEADER:
                    break
                length = length_at(source, position)
                if length > MAX_FRAME:
                    self.broken = True
                    break
                self.need = length
                position += HEADER
            length = self.need
            if length > batch.slot:
                self.skip = length
                batch.offset[count] = batch.capacity * batch.slot
            elif end - position >= length:
                batch.offset[count] = position
                position += length
            else:
                break
            batch.length[count] = length
            batch.verdict[count] = UNJUDGED
            self.need = NO_LENGTH
            count += 1
        batch.count = count
        return position


def length_at(source: memoryview, at: int) -> int:
    a, b, c, d = source[at], source[at + 1], source[at + 2], source[at + 3]
    return a << 24 | b << 16 | c << 8 | d
