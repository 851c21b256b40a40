cimport cython

from softnet.core.frames cimport Batch
from softnet.core.packet cimport View

cdef unsigned int BLOCKED, FLOW_FULL, FLOW_START, NOT_GLOBAL


@cython.final
cdef class Rejecter:
    cdef object _gateway
    cdef double _rate, _tokens, _refilled
    cdef View _view

    @cython.locals(answers=list, at="unsigned int", verdict="unsigned int")
    cpdef list answer(self, Batch batch, unsigned int address, double now)
    cdef void _refill(self, double now) except *
