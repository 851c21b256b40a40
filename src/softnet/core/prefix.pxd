cimport cython


@cython.final
cdef class Table:
    cdef const unsigned int[::1] _starts
    cdef const unsigned int[::1] _values
    cdef readonly Py_ssize_t size
    cdef readonly object ports
    @cython.locals(low="Py_ssize_t", high="Py_ssize_t", middle="Py_ssize_t")
    cpdef unsigned int lookup(self, unsigned int address)
