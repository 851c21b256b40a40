cimport cython

from softnet.core.frames cimport Batch


@cython.final
cdef class Rows:
    cdef object _whole
    cdef unsigned long long[::1] _rows
    cdef Py_ssize_t _size
    cpdef void put(self, unsigned long long address, unsigned long long value) except *


@cython.locals(rows=Rows, depth="Py_ssize_t", code="unsigned long long", first="unsigned long long",
               value="unsigned long long", after="unsigned long long")
cpdef object build(object entries)


@cython.locals(upper="const unsigned long long[::1]", lower="const unsigned long long[::1]", rows=Rows,
               up="Py_ssize_t", low="Py_ssize_t", rise="unsigned long long", turn="unsigned long long",
               above="unsigned long long", below="unsigned long long")
cpdef object overlay(object top, object bottom, unsigned long long through=*)


@cython.final
cdef class Table:
    cdef const unsigned long long[::1] _rows
    cdef readonly Py_ssize_t size
    cdef readonly object ports
    cdef unsigned int[::1] _directory
    cdef int _shift
    cdef unsigned long long _seen
    @cython.locals(at="Py_ssize_t", row="unsigned long long", before="unsigned long long")
    cdef void _check(self) except *
    @cython.locals(at="Py_ssize_t", slot="unsigned long long")
    cdef void _index(self, int bits) except *
    @cython.locals(slot="unsigned long long", low="Py_ssize_t", high="Py_ssize_t", middle="Py_ssize_t")
    cpdef unsigned int lookup(self, unsigned int address)
    @cython.locals(seen="unsigned long long", at="unsigned int", place="size_t", slot="unsigned long long")
    cpdef void warm(self, Batch batch, size_t field) except *
