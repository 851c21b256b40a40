cimport cython

from softnet.core.frames cimport Batch
from softnet.core.packet cimport View

cdef unsigned int PASS_LIMIT, UPLINK_BUSY, VM_BUSY
cdef unsigned int SLOTS, WAYS
cdef double BURST, RATE, FORGET_SECONDS
cdef unsigned long long _WORD, _MIX


@cython.final
cdef class Drops:
    cdef public list fresh
    cdef public unsigned long long unreported
    cdef unsigned long long[::1] _addresses, _macs, _heads, _counts
    cdef unsigned int[::1] _ports
    cdef double[::1] _last
    cdef double _tokens, _refilled
    cdef View _view

    @cython.locals(at="unsigned int", verdict="unsigned int", length="unsigned int")
    cpdef void note(self, Batch batch, unsigned int direction, double now) except *
    @cython.locals(frame=View, addresses="unsigned long long", mac="unsigned long long", ports="unsigned int",
                   head="unsigned long long", ethertype="unsigned int")
    cdef void _note(self, unsigned long long direction, unsigned long long verdict, double now) except *
    @cython.locals(frame=View, protocol="unsigned int", start="unsigned int")
    cdef unsigned int _ports_of(self) except? 0
    @cython.locals(mixed="unsigned long long", first="unsigned int", quietest="unsigned int", at="unsigned int")
    cdef unsigned int _slot(self, unsigned long long addresses, unsigned long long mac,
                            unsigned long long head) except? 0
    @cython.locals(known="bint")
    cdef void _count(self, unsigned int at, unsigned long long addresses, unsigned long long mac,
                     unsigned long long head, unsigned int ports, double now) except *
    cdef void _refill(self, double now) except *
    cdef object _refusal(self, unsigned int at, unsigned long long frames)
