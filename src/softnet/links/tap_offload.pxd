cimport cython

from softnet.core.frames cimport Batch
from softnet.core.offload cimport Coalescer, Segmenter
from softnet.links.tap cimport TapLink


cdef class OffloadTapLink(TapLink):
    cdef Segmenter _segmenter
    cdef Coalescer _coalescer

    cpdef unsigned int _read(self, Batch batch) except? 0xFFFFFFFF
    cpdef tuple _write(self, Batch batch, unsigned int at)
    @cython.locals(count="unsigned int", frame="unsigned int")
    cpdef unsigned int _refuse(self, Batch batch, unsigned int at, unsigned char busy) except? 0xFFFFFFFF
    @cython.locals(refused="unsigned int", group="unsigned int")
    cpdef unsigned int _refuse_rest(self, Batch batch, unsigned int at, unsigned char busy) except? 0xFFFFFFFF
