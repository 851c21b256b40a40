cimport cython


@cython.final
cdef class Batch:
    cdef readonly unsigned int capacity
    cdef readonly unsigned int slot
    cdef public unsigned int count
    cdef readonly object arena
    cdef readonly unsigned char[::1] data
    cdef readonly unsigned int[::1] offset
    cdef readonly unsigned int[::1] length
    cdef readonly unsigned char[::1] verdict

    cpdef void clear(self) except *
    cpdef unsigned int find(self, unsigned char verdict, unsigned int at) except? 0xFFFFFFFF
