"""Whole batches through non-blocking descriptors: the contract, and the implementation in Python.

`_burst.pyx` has the same functions in C; `calls.py` chooses one of the two. None of them blocks.

- The receiving functions fill the batch from its first descriptor on, set the verdicts to
  UNJUDGED and return the number of frames. An error other than "nothing is waiting" is an OSError.
- The sending functions send the passing frames from descriptor `at` on and return
  `(next, sent, error)`: `next` is the first frame not dealt with, `error` the errno that stopped
  it there, 0 when the batch is done. A frame of which not every byte is present stops with
  EMSGSIZE, so that none is ever sent cut short.

Sockets are asked with MSG_DONTWAIT, call by call: O_NONBLOCK belongs to the open file description,
which an inherited descriptor shares with the process that passed it on.
"""

import os
import sys
from collections.abc import Iterator
from errno import EAGAIN, EMSGSIZE
from socket import MSG_DONTWAIT, MSG_TRUNC, socket

from softnet.core.frames import Batch
from softnet.core.reasons import PASS_LIMIT, UNJUDGED

LINUX = sys.platform.startswith("linux")
RECEIVE_FLAGS = MSG_DONTWAIT | (MSG_TRUNC if LINUX else 0)
SEND_FLAGS = MSG_DONTWAIT | (0x4000 if LINUX else 0)  # MSG_NOSIGNAL
STREAM_FRAMES = 64  # in one sendmsg, two buffers each: well below IOV_MAX (1024)

# What does not fit a slot lands here, so that the true length is known where the kernel does not
# tell: macOS has no MSG_TRUNC on input, and read(2) on a TAP cuts silently.
_spill = memoryview(bytearray(65536))
_datagram_spill: tuple[memoryview, ...] = () if LINUX else (_spill,)

Progress = tuple[int, int, int]


def receive_datagrams(sock: socket, batch: Batch) -> int:
    """One frame a datagram; an empty datagram is a frame of length 0, never an end of file."""
    batch.count = 0
    try:
        for room in _slots(batch):
            _describe(batch, sock.recvmsg_into((room, *_datagram_spill), 0, RECEIVE_FLAGS)[0])
    except BlockingIOError:
        pass
    return batch.count


def send_datagrams(sock: socket, batch: Batch, at: int) -> Progress:
    sent = 0
    for index in _passing(batch, at):
        try:
            sock.send(_whole(batch, index), SEND_FLAGS)
        except OSError as error:
            return index, sent, error.errno or EAGAIN
        sent += 1
    return batch.count, sent, 0


def read_frames(fd: int, batch: Batch) -> int:
    """One frame a read(2), as a TAP gives them."""
    batch.count = 0
    try:
        for room in _slots(batch):
            _describe(batch, os.readv(fd, (room, _spill)))
    except BlockingIOError:
        pass
    return batch.count


def write_frames(fd: int, batch: Batch, at: int) -> Progress:
    sent = 0
    for index in _passing(batch, at):
        try:
            os.write(fd, _whole(batch, index))
        except OSError as error:
            return index, sent, error.errno or EAGAIN
        sent += 1
    return batch.count, sent, 0


def receive_bytes(sock: socket, batch: Batch, start: int) -> int:
    """One large read into the arena from byte `start` on: 0 at the end of file, -1 when none wait."""
    try:
        return sock.recv_into(batch.data[start:], 0, MSG_DONTWAIT)
    except BlockingIOError:
        return -1


def send_stream(sock: socket, batch: Batch, at: int, rest: bytearray) -> Progress:
    """Frames behind their 4-byte big-endian lengths, many in one call.

    A frame that was taken in part counts as sent; what is left of it is appended to `rest`, which
    has to go out before anything else does.
    """
    total = 0
    while True:
        indexes, parts = _gather(batch, at)
        if not indexes:
            return batch.count, total, 0
        if not parts:
            return indexes[0], total, EMSGSIZE
        try:
            written = sock.sendmsg(parts, (), SEND_FLAGS)
        except OSError as error:
            return indexes[0], total, error.errno or EAGAIN
        for index, header, frame in zip(indexes, parts[::2], parts[1::2], strict=False):
            if not written:
                return index, total, EAGAIN
            total += 1
            at = index + 1
            if written < 4 + len(frame):
                rest += (bytes(header) + frame)[written:]
                return at, total, EAGAIN
            written -= 4 + len(frame)


def mark_busy(batch: Batch, at: int, busy: int) -> int:
    """Give the passing frames from `at` on the verdict `busy`; how many there were."""
    count = 0
    for index in _passing(batch, at):
        batch.verdict[index] = busy
        count += 1
    return count


def _slots(batch: Batch) -> Iterator[memoryview]:
    data, slot = batch.data, batch.slot
    for start in range(0, batch.capacity * slot, slot):
        yield data[start : start + slot]


def _describe(batch: Batch, length: int) -> None:
    at = batch.count
    batch.offset[at] = at * batch.slot
    batch.length[at] = length
    batch.verdict[at] = UNJUDGED
    batch.count = at + 1


def _passing(batch: Batch, at: int) -> Iterator[int]:
    verdict = batch.verdict
    return (index for index in range(at, batch.count) if verdict[index] < PASS_LIMIT)


def _whole(batch: Batch, index: int) -> memoryview:
    """The bytes of a frame that is there in full."""
    start, length = batch.offset[index], batch.length[index]
    if length > batch.slot or start + length > len(batch.data):
        raise OSError(EMSGSIZE, "the frame is cut short")
    return batch.data[start : start + length]


def _gather(batch: Batch, at: int) -> tuple[list[int], list[bytes | memoryview]]:
    """The next passing frames, and header and bytes of those before the first that is cut short."""
    indexes: list[int] = []
    parts: list[bytes | memoryview] = []
    for index in _passing(batch, at):
        indexes.append(index)
        try:
            frame = _whole(batch, index)
        except OSError:
            break
        parts += len(frame).to_bytes(4, "big"), frame
        if len(indexes) == STREAM_FRAMES:
            break
    return indexes, parts
