cimport cython


@cython.final
cdef class Table:
    cdef const unsigned int[::1] _rows
    cdef readonly Py_ssize_t size
    cdef readonly object ports
    cdef unsigned int[::1] _directory
    cdef int _shift
    @cython.locals(at="Py_ssize_t", slot="unsigned long long")
    cdef void _index(self, int bits) except *
    @cython.locals(slot="unsigned long long", low="Py_ssize_t", high="Py_ssize_t", middle="Py_ssize_t")
    cpdef unsigned int lookup(self, unsigned int address)
