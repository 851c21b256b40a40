"""`segments.py` in C: one writev(2) for a whole group, gathered from the batch without a copy."""

from cpython.exc cimport PyErr_SetFromErrno
from libc.errno cimport EAGAIN, EINTR, EMSGSIZE, errno

from softnet.core.frames cimport Batch
from softnet.core.offload cimport Coalescer, Segmenter

cdef extern from "<sys/uio.h>":
    struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t writev(int, iovec *, int)

cdef extern from "<unistd.h>":
    ssize_t read(int, void *, size_t)

cdef enum:
    PIECES = 65  # the head, and Coalescer's MOST_SEGMENTS


def read_segments(int fd, Batch batch, Segmenter segmenter):
    cdef ssize_t got
    batch.count = 0
    while segmenter.fill(batch) and batch.count < batch.capacity:
        got = read(fd, &segmenter.buffer[0], segmenter.buffer.shape[0])
        if got >= 0:
            segmenter.load(<size_t> got)
        elif errno != EINTR:
            if errno != EAGAIN and batch.count == 0:
                PyErr_SetFromErrno(OSError)
            break
    return batch.count


def write_groups(int fd, Batch batch, Coalescer coalescer, unsigned int group):
    cdef iovec parts[PIECES]
    cdef unsigned int sent = 0
    cdef int used
    while group < coalescer.count:
        used = gather(batch, coalescer, group, parts)
        if used == 0:
            return group, sent, EMSGSIZE
        if writev(fd, parts, used) < 0:
            if errno == EINTR:
                continue
            return group, sent, errno
        group += 1
        sent += 1
    return group, sent, 0


cdef int gather(Batch batch, Coalescer coalescer, unsigned int group, iovec *parts) except -1:
    """Fills in the pieces of a group and returns their number; 0 when not every byte is there."""
    cdef size_t base = <size_t> group * coalescer.pitch
    cdef unsigned int at = coalescer.first[group]
    cdef unsigned int skip = coalescer.skip[group]
    cdef unsigned int number
    cdef size_t start, length
    if coalescer.segments[group] >= PIECES:
        raise IndexError("more segments than a group may have")
    parts[0].iov_base = &coalescer.head[base]
    parts[0].iov_len = coalescer.headroom + skip
    for number in range(coalescer.segments[group]):
        start = batch.offset[at]
        length = batch.length[at]
        if length > batch.slot or length < skip or start + length > <size_t> batch.data.shape[0]:
            return 0
        parts[1 + number].iov_base = (&batch.data[0]) + start + skip
        parts[1 + number].iov_len = length - skip
        at = coalescer.next[at]
    return 1 + <int> coalescer.segments[group]
