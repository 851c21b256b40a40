"""`burst.py` in C: the same functions, with one system call for up to 64 datagrams on Linux.

The message headers live on the stack and only as many are filled in as are likely to be used, so
that no link has to own any. The interpreter's lock is kept: nothing here waits, and letting go of
it costs more than a call with one frame.
"""

from cpython.exc cimport PyErr_SetFromErrno
from libc.errno cimport EAGAIN, EINTR, EMSGSIZE, errno
from libc.string cimport memset

from softnet.core.frames cimport Batch

from softnet.core import reasons

cdef extern from *:
    """
    #include <string.h>
    #include <sys/socket.h>
    #include <sys/uio.h>
    #include <unistd.h>

    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0  /* macOS: the interpreter ignores SIGPIPE */
    #endif

    #if defined(__linux__) && !defined(SOFTNET_SINGLE_CALLS)
    #define RECEIVE_FLAGS (MSG_DONTWAIT | MSG_TRUNC)
    #define DATAGRAM_PARTS 1
    #define burst_message mmsghdr
    static int receive_messages(int fd, struct mmsghdr *messages, unsigned int count) {
        return recvmmsg(fd, messages, count, RECEIVE_FLAGS, NULL);
    }
    static int send_messages(int fd, struct mmsghdr *messages, unsigned int count) {
        return sendmmsg(fd, messages, count, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    #else
    /* macOS, and where -DSOFTNET_SINGLE_CALLS asks for its way, to test it: one call a message. A
       second buffer catches what a slot cannot hold, for want of MSG_TRUNC on input. */
    #define DATAGRAM_PARTS 2
    struct burst_message { struct msghdr msg_hdr; unsigned int msg_len; };
    static int receive_messages(int fd, struct burst_message *messages, unsigned int count) {
        unsigned int i;
        for (i = 0; i < count; i++) {
            ssize_t length = recvmsg(fd, &messages[i].msg_hdr, MSG_DONTWAIT);
            if (length < 0) return i ? (int)i : -1;
            messages[i].msg_len = (unsigned int)length;
        }
        return (int)count;
    }
    static int send_messages(int fd, struct burst_message *messages, unsigned int count) {
        unsigned int i;
        for (i = 0; i < count; i++)
            if (sendmsg(fd, &messages[i].msg_hdr, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) return i ? (int)i : -1;
        return (int)count;
    }
    #endif

    static char burst_spill[65536];

    static void burst_header(unsigned char *to, unsigned int length) {
        to[0] = length >> 24; to[1] = length >> 16; to[2] = length >> 8; to[3] = length;
    }
    """
    struct iovec:
        void *iov_base
        size_t iov_len
    struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
    struct burst_message:
        msghdr msg_hdr
        unsigned int msg_len
    int MSG_DONTWAIT
    int MSG_NOSIGNAL
    int DATAGRAM_PARTS
    char *burst_spill
    int receive_messages(int, burst_message *, unsigned int)
    int send_messages(int, burst_message *, unsigned int)
    void burst_header(unsigned char *, unsigned int)
    ssize_t recv(int, void *, size_t, int)
    ssize_t sendmsg(int, msghdr *, int)
    ssize_t readv(int, iovec *, int)
    ssize_t write(int, void *, size_t)

cdef enum:
    CHUNK = 64  # datagrams in one call
    FIRST = 8  # in the first call of a receive: most wake-ups bring fewer, and headers cost time
    SPILL = 65536

cdef unsigned char PASS_LIMIT = reasons.PASS_LIMIT
cdef unsigned char UNJUDGED = reasons.UNJUDGED


cdef struct Frames:
    # A batch as plain pointers, checked once a call instead of once an access.
    unsigned char *data
    unsigned int *offset
    unsigned int *length
    unsigned char *verdict
    size_t size
    unsigned int slot
    unsigned int count


cdef int open_batch(Batch batch, Frames *frames) except -1:
    if batch.count > batch.capacity or batch.capacity == 0:
        raise IndexError("the batch's count is beyond its capacity")
    frames.data = &batch.data[0]
    frames.offset = &batch.offset[0]
    frames.length = &batch.length[0]
    frames.verdict = &batch.verdict[0]
    frames.size = batch.data.shape[0]
    frames.slot = batch.slot
    frames.count = batch.count
    return 0


cdef inline void describe(Frames *frames, unsigned int at, size_t length) noexcept:
    frames.offset[at] = at * frames.slot
    frames.length[at] = <unsigned int> length
    frames.verdict[at] = UNJUDGED


cdef inline bint is_whole(Frames *frames, unsigned int at) noexcept:
    cdef size_t offset = frames.offset[at]
    cdef size_t length = frames.length[at]
    return length <= frames.slot and offset + length <= frames.size


cdef inline unsigned int next_passing(Frames *frames, unsigned int at) noexcept:
    while at < frames.count and frames.verdict[at] >= PASS_LIMIT:
        at += 1
    return at


cdef inline bint must_stop(bint received_some) except -1:
    """After a receiving call failed: True when nothing waits, False to ask again, else OSError."""
    if errno == EINTR:
        return False
    if errno != EAGAIN and not received_some:
        PyErr_SetFromErrno(OSError)
    return True


def receive_datagrams(sock, Batch batch):
    cdef burst_message messages[CHUNK]
    cdef iovec parts[2 * CHUNK]
    cdef Frames frames
    cdef int fd = sock.fileno()
    cdef unsigned int done = 0, want = FIRST, ready = 0, i
    cdef int got
    batch.count = 0
    open_batch(batch, &frames)
    while done < batch.capacity:
        want = min(want, batch.capacity - done)
        prepare(&frames, messages, parts, done, want)
        got = receive_messages(fd, messages, want)
        if got < 0:
            if must_stop(done > 0):
                break
            continue
        for i in range(<unsigned int> got):
            describe(&frames, done + i, messages[i].msg_len)
        done += <unsigned int> got
        if <unsigned int> got < want:
            break
        want = CHUNK
    batch.count = done
    return done


cdef void prepare(
    Frames *frames, burst_message *messages, iovec *parts, unsigned int slot, unsigned int count
) noexcept:
    cdef unsigned int i
    memset(messages, 0, count * sizeof(burst_message))
    for i in range(count):
        parts[0].iov_base = frames.data + <size_t> (slot + i) * frames.slot
        parts[0].iov_len = frames.slot
        if DATAGRAM_PARTS == 2:
            parts[1].iov_base = burst_spill
            parts[1].iov_len = SPILL
        messages[i].msg_hdr.msg_iov = parts
        messages[i].msg_hdr.msg_iovlen = DATAGRAM_PARTS
        parts += DATAGRAM_PARTS


def send_datagrams(sock, Batch batch, unsigned int at):
    cdef burst_message messages[CHUNK]
    cdef iovec parts[CHUNK]
    cdef unsigned int indexes[CHUNK]
    cdef Frames frames
    cdef int fd = sock.fileno()
    cdef unsigned int total = 0, used, i
    cdef int sent
    open_batch(batch, &frames)
    while True:
        used = 0
        at = next_passing(&frames, at)
        while at < frames.count and used < CHUNK and is_whole(&frames, at):
            parts[used].iov_base = frames.data + frames.offset[at]
            parts[used].iov_len = frames.length[at]
            memset(&messages[used], 0, sizeof(burst_message))
            messages[used].msg_hdr.msg_iov = &parts[used]
            messages[used].msg_hdr.msg_iovlen = 1
            indexes[used] = at
            used += 1
            at = next_passing(&frames, at + 1)
        if used == 0:
            return at, total, (EMSGSIZE if at < frames.count else 0)
        sent = send_messages(fd, messages, used)
        if sent < 0:
            at = indexes[0]
            if errno == EINTR:
                continue
            return at, total, errno
        total += <unsigned int> sent
        if <unsigned int> sent < used:  # the next call tells why
            at = indexes[sent]


def read_frames(int fd, Batch batch):
    cdef iovec parts[2]
    cdef Frames frames
    cdef unsigned int done = 0
    cdef ssize_t got
    batch.count = 0
    open_batch(batch, &frames)
    parts[0].iov_len = frames.slot
    parts[1].iov_base = burst_spill
    parts[1].iov_len = SPILL
    while done < batch.capacity:
        parts[0].iov_base = frames.data + <size_t> done * frames.slot
        got = readv(fd, parts, 2)
        if got >= 0:
            describe(&frames, done, <size_t> got)
            done += 1
        elif must_stop(done > 0):
            break
    batch.count = done
    return done


def write_frames(int fd, Batch batch, unsigned int at):
    cdef Frames frames
    cdef unsigned int total = 0
    open_batch(batch, &frames)
    at = next_passing(&frames, at)
    while at < frames.count:
        if not is_whole(&frames, at):
            return at, total, EMSGSIZE
        if write(fd, frames.data + frames.offset[at], frames.length[at]) < 0:
            if errno == EINTR:
                continue
            return at, total, errno
        total += 1
        at = next_passing(&frames, at + 1)
    return frames.count, total, 0


def receive_bytes(sock, Batch batch, size_t start):
    cdef Frames frames
    cdef int fd = sock.fileno()
    cdef ssize_t got = -1
    open_batch(batch, &frames)
    if start >= frames.size:
        raise IndexError("no room left in the arena")
    while got < 0:
        got = recv(fd, frames.data + start, frames.size - start, MSG_DONTWAIT)
        if got < 0 and must_stop(False):
            return -1
    return got


def send_stream(sock, Batch batch, unsigned int at, bytearray rest):
    cdef unsigned char headers[4 * CHUNK]
    cdef iovec parts[2 * CHUNK]
    cdef unsigned int indexes[CHUNK]
    cdef msghdr message
    cdef Frames frames
    cdef int fd = sock.fileno()
    cdef unsigned int total = 0, used, i
    cdef ssize_t written
    cdef size_t left, size
    open_batch(batch, &frames)
    memset(&message, 0, sizeof(message))
    message.msg_iov = parts
    while True:
        used = 0
        at = next_passing(&frames, at)
        while at < frames.count and used < CHUNK and is_whole(&frames, at):
            burst_header(&headers[4 * used], frames.length[at])
            parts[2 * used].iov_base = &headers[4 * used]
            parts[2 * used].iov_len = 4
            parts[2 * used + 1].iov_base = frames.data + frames.offset[at]
            parts[2 * used + 1].iov_len = frames.length[at]
            indexes[used] = at
            used += 1
            at = next_passing(&frames, at + 1)
        if used == 0:
            return at, total, (EMSGSIZE if at < frames.count else 0)
        message.msg_iovlen = 2 * used
        written = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
        if written < 0:
            at = indexes[0]
            if errno == EINTR:
                continue
            return at, total, errno
        left = <size_t> written
        for i in range(used):
            if left == 0:
                return indexes[i], total, EAGAIN
            total += 1
            size = 4 + parts[2 * i + 1].iov_len
            if left < size:
                keep_rest(rest, &headers[4 * i], &parts[2 * i + 1], left)
                return indexes[i] + 1, total, EAGAIN
            left -= size


cdef int keep_rest(bytearray rest, unsigned char *header, iovec *frame, size_t written) except -1:
    cdef unsigned char *bytes_ = <unsigned char *> frame.iov_base
    rest += (header[:4] + bytes_[: frame.iov_len])[written:]
    return 0


def mark_busy(Batch batch, unsigned int at, unsigned char busy):
    cdef Frames frames
    cdef unsigned int count = 0
    open_batch(batch, &frames)
    at = next_passing(&frames, at)
    while at < frames.count:
        frames.verdict[at] = busy
        count += 1
        at = next_passing(&frames, at + 1)
    return count
