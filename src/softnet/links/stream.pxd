cimport cython

from softnet.core.frames cimport Batch
from softnet.links.base cimport BaseLink
from softnet.links.framing cimport Framing


cdef Py_ssize_t SHORT


cdef class StreamLink(BaseLink):
    cdef object _socket
    cdef Framing _framing
    cdef readonly object _left
    cdef bytearray _rest

    @cython.locals(used="Py_ssize_t")
    cdef void _split_left(self, Batch batch) except *
    @cython.locals(before="Py_ssize_t", got="Py_ssize_t", end="Py_ssize_t", used="Py_ssize_t")
    cdef bint _read(self, Batch batch) except -1
    @cython.locals(got="Py_ssize_t")
    cdef Py_ssize_t _receive(self, Batch batch, Py_ssize_t before) except -2
    cdef void _look_ahead(self, Batch batch) except *
    cpdef tuple _put(self, Batch batch, unsigned int at)
    cdef int _finish(self) except -1
