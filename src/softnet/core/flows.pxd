cimport cython

cdef double SYN_SECONDS, TCP_SECONDS, UDP_SECONDS, ECHO_SECONDS, CLOSE_SECONDS
cdef unsigned int ICMP, TCP, UDP, ECHO_REQUEST, FIN, SYN, RST, ACK, FLAGS
cdef unsigned int OPENED, NOT_A_START, FULL
cdef unsigned int _OPENER, _ANSWERED, _FIN_OPENER, _FIN_OTHER
cdef unsigned int _IN_SYN, _IN_TCP, _IN_UDP, _IN_ECHO, _IN_CLOSE, _LISTS, _NONE, _BUCKETS, _REAP
cdef unsigned long long _WORD

cdef unsigned int _pair(unsigned int direction, unsigned int protocol, unsigned int port,
                        unsigned int vm_port, unsigned int flags)
cdef bint _starts(unsigned int protocol, unsigned int port, unsigned int vm_port, unsigned int flags)
cdef double _seconds(unsigned int lifetime)


@cython.final
cdef class Flows:
    cdef unsigned int _capacity, _free
    cdef readonly unsigned int size
    cdef unsigned int[::1] _remote, _ports, _chain, _after, _before, _heads
    cdef unsigned char[::1] _protocol, _state
    cdef double[::1] _expiry
    cdef unsigned long long[::1] _keys

    @cython.locals(at="unsigned int")
    cpdef void clear(self) except *
    @cython.locals(at="unsigned int", opener="bint")
    cpdef bint follow(self, unsigned int direction, unsigned int protocol, unsigned int remote,
                      unsigned int port, unsigned int vm_port, unsigned int flags, double now) except -1
    @cython.locals(at="unsigned int")
    cpdef bint knows(self, unsigned int protocol, unsigned int remote, unsigned int port,
                     unsigned int vm_port, double now) except -1
    @cython.locals(at="unsigned int", ports="unsigned int")
    cpdef int open(self, unsigned int direction, unsigned int protocol, unsigned int remote,
                   unsigned int port, unsigned int vm_port, unsigned int flags, double now) except -1
    cpdef void expire(self, double now) except *

    @cython.locals(state="unsigned int")
    cdef bint _follow_opener(self, unsigned int at, unsigned int flags, double now) except -1
    @cython.locals(state="unsigned int")
    cdef bint _follow_other(self, unsigned int at, unsigned int flags, double now) except -1
    cdef void _close(self, unsigned int at, double now) except *
    @cython.locals(mixed="unsigned long long", keys="unsigned long long[::1]")
    cdef unsigned int _bucket(self, unsigned int protocol, unsigned int remote, unsigned int ports) except? 0
    @cython.locals(at="unsigned int")
    cdef unsigned int _find(self, unsigned int protocol, unsigned int remote, unsigned int ports) except? 0
    @cython.locals(bucket="unsigned int")
    cdef void _insert(self, unsigned int at, unsigned int protocol, unsigned int remote, unsigned int ports) except *
    @cython.locals(bucket="unsigned int", look="unsigned int")
    cdef void _remove(self, unsigned int at) except *
    @cython.locals(sentinel="unsigned int", last="unsigned int")
    cdef void _link(self, unsigned int at, unsigned int lifetime, double now) except *
    cdef void _unlink(self, unsigned int at) except *
    cdef void _move(self, unsigned int at, unsigned int lifetime, double now) except *
    @cython.locals(sentinel="unsigned int", at="unsigned int", taken="unsigned int")
    cdef void _reap(self, double now, unsigned int most) except *
