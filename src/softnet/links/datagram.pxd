from softnet.core.frames cimport Batch
from softnet.links.base cimport BaseLink


cdef class DatagramLink(BaseLink):
    cdef object _socket, _name, _watch

    cpdef tuple _put(self, Batch batch, unsigned int at)
