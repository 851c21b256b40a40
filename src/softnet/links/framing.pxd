import cython

from softnet.core.frames cimport Batch

cdef int HEADER
cdef unsigned int MAX_FRAME
cdef unsigned char UNJUDGED

cdef class Framing:
    cdef readonly int need
    cdef readonly unsigned int skip

    cdef readonly bint broken

    @cython.locals(position=cython.uint, count=cython.uint, length=cython.uint, step=cython.uint)
    cpdef unsigned int split(self, const unsigned char[::1] source, Batch batch, unsigned int end) except? 0xFFFFFFFF

@cython.locals(a=cython.uint, b=cython.uint, c=cython.uint, d=cython.uint)
cdef unsigned int length_at(const unsigned char[::1] source, unsigned int at) except? 0xFFFFFFFF
