cimport cython


@cython.final
cdef class View:
    cdef const unsigned char[::1] data
    cdef readonly size_t start
    cdef readonly size_t length

    cpdef void over(self, const unsigned char[::1] data) except *
    cpdef void place(self, size_t start, size_t length) except *
    cpdef unsigned int u8(self, size_t at) except? 0xFFFFFFFF
    @cython.locals(start="size_t")
    cpdef unsigned int u16(self, size_t at) except? 0xFFFFFFFF
    @cython.locals(value="unsigned int", start="size_t")
    cpdef unsigned int u32(self, size_t at) except? 0xFFFFFFFF
    @cython.locals(value="unsigned long long", start="size_t")
    cpdef unsigned long long u48(self, size_t at) except? 0xFFFFFFFFFFFFFFFF
    cpdef bytes copy(self, size_t first, size_t last)
