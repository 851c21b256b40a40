cimport cython

from softnet.core.frames cimport Batch

cdef double STEP


@cython.final
cdef class Bucket:
    cdef readonly unsigned long long pauses
    cdef readonly double paused
    cdef double _bit, _packet, _burst, _bits_owed, _packets_owed, _at

    @cython.locals(each="double")
    cpdef unsigned int step(self, unsigned int slot) except? 0
    @cython.locals(at="unsigned int", octets="unsigned long long", owed="double")
    cpdef double charge(self, Batch batch, double now) except? -1.0
    cpdef double owed(self, double now) except? -1.0
    @cython.locals(passed="double")
    cdef void _refill(self, double now) except *
    @cython.locals(owed="double")
    cdef double _owed(self) except? -1.0
