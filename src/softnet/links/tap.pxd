from softnet.core.frames cimport Batch
from softnet.links.base cimport BaseLink


cdef class TapLink(BaseLink):
    cdef int _fd

    cpdef unsigned int _read(self, Batch batch) except? 0xFFFFFFFF
    cpdef tuple _put(self, Batch batch, unsigned int at)
    cpdef tuple _write(self, Batch batch, unsigned int at)
