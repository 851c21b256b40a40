from softnet.core.frames cimport Batch


cdef class BaseLink:
    cdef public bint pending, needs_alive_check
    cdef bint _stalled

    cpdef tuple _put(self, Batch batch, unsigned int at)
    cpdef unsigned int _refuse(self, Batch batch, unsigned int at, unsigned char busy) except? 0xFFFFFFFF
    cpdef unsigned int _refuse_rest(self, Batch batch, unsigned int at, unsigned char busy) except? 0xFFFFFFFF
