"""Batches through a TAP with vnet_hdr: the contract, and the implementation in Python.

`_segments.pyx` has the same functions in C. Neither blocks; errors and progress are as in `burst.py`,
but progress counts the coalescer's groups, since a group is what the kernel takes or refuses.
"""

import os
from errno import EAGAIN, EMSGSIZE

from softnet.core.frames import Batch
from softnet.core.offload import Coalescer, Segmenter
from softnet.links.burst import Progress


def read_segments(fd: int, batch: Batch, segmenter: Segmenter) -> int:
    """What the segmenter still has, then one read(2) a frame, cut where it has to be."""
    batch.count = 0
    try:
        while segmenter.fill(batch) and batch.count < batch.capacity:
            segmenter.load(os.readv(fd, (segmenter.buffer,)))
    except BlockingIOError:
        pass
    except OSError:
        if not batch.count:  # otherwise the next call tells
            raise
    return batch.count


def write_groups(fd: int, batch: Batch, coalescer: Coalescer, group: int) -> Progress:
    """One write a group, from `group` on."""
    sent = 0
    while group < coalescer.count:
        if batch.length[coalescer.first[group]] > batch.slot:
            return group, sent, EMSGSIZE
        try:
            os.writev(fd, coalescer.pieces(batch, group))
        except OSError as error:
            return group, sent, error.errno or EAGAIN
        group += 1
        sent += 1
    return group, sent, 0
