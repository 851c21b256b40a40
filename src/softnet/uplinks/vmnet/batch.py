"""vmpktdesc arrays that point straight into a Batch's arena: no copy between vmnet and the filter.

One table serves one Batch. Its descriptors and I/O vectors lie in one block of memory that a template
of the same block resets by a single copy: 0.6 us where setting the attributes of 256 descriptors
takes 77. The block is also seen as an array of machine words, so that a column of it (all sizes, all
addresses) is one slice. Both builds of Batch are served alike: what the arena's address is comes from
the buffer protocol.
"""

import ctypes
from array import array
from ctypes import POINTER, addressof, c_char, c_uint64, sizeof

from softnet.core.frames import Batch
from softnet.core.reasons import UNJUDGED
from softnet.uplinks.vmnet.api import Iovec, PacketDescriptor

_WORD = sizeof(c_uint64)
_DESCRIPTOR_WORDS = sizeof(PacketDescriptor) // _WORD
_IOVEC_WORDS = sizeof(Iovec) // _WORD


class PacketTable:
    """Descriptors for up to `limit` frames of `batch`; each starts out as one empty slot."""

    def __init__(self, batch: Batch, limit: int) -> None:
        self.batch = batch
        self.capacity = capacity = min(batch.capacity, limit)
        self.lengths = memoryview(batch.length)
        self.offsets = memoryview(batch.offset)
        self.verdicts = memoryview(batch.verdict)
        self.size = len(memoryview(batch.data))
        self._arena = c_char.from_buffer(batch.data)  # keeps the arena where it is
        self._base = addressof(self._arena)
        self._slots = array("I", range(0, capacity * batch.slot, batch.slot))
        self._unjudged = bytes([UNJUDGED]) * capacity
        self._build(capacity, batch.slot)

    def _build(self, capacity: int, slot: int) -> None:
        descriptors_size = capacity * sizeof(PacketDescriptor)
        self._memory = ctypes.create_string_buffer(descriptors_size + capacity * sizeof(Iovec))
        self.descriptors = (PacketDescriptor * capacity).from_buffer(self._memory)
        vectors = (Iovec * capacity).from_buffer(self._memory, descriptors_size)
        for index in range(capacity):
            vectors[index] = Iovec(self._base + index * slot, slot)
            pointer = ctypes.cast(addressof(vectors[index]), POINTER(Iovec))
            self.descriptors[index] = PacketDescriptor(slot, pointer, 1, 0)
        self._template = self._memory.raw
        words = memoryview(self._memory).cast("B").cast("Q")
        self._sizes = words[: capacity * _DESCRIPTOR_WORDS : _DESCRIPTOR_WORDS]
        vector_words = words[capacity * _DESCRIPTOR_WORDS :]
        self._addresses = vector_words[::_IOVEC_WORDS]
        self._vector_sizes = vector_words[1::_IOVEC_WORDS]

    def reset(self) -> None:
        """Every descriptor is an empty slot again: a read leaves its own sizes and flags behind."""
        ctypes.memmove(self._memory, self._template, len(self._template))

    def received(self, count: int) -> None:
        """`count` frames were read into the first slots: describe them in the batch."""
        self.lengths[:count] = array("I", self._sizes[:count].tolist())
        self.offsets[:count] = self._slots[:count]
        self.verdicts[:count] = self._unjudged[:count]
        self.batch.count = count

    def point_at(self, frames: list[int]) -> None:
        """The first descriptors describe these frames of the batch, whole, wherever they lie."""
        self.reset()
        count = len(frames)
        base, offsets, lengths = self._base, self.offsets, self.lengths
        sizes = array("Q", [lengths[frame] for frame in frames])
        self._sizes[:count] = sizes
        self._vector_sizes[:count] = sizes
        self._addresses[:count] = array("Q", [base + offsets[frame] for frame in frames])
