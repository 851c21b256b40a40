cdef class Table:
    cdef const unsigned int[::1] _starts
    cdef const unsigned int[::1] _values
    cdef readonly Py_ssize_t size
    cpdef unsigned int lookup(self, unsigned int address)
