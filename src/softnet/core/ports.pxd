cimport cython

from softnet.core.prefix cimport Table

cdef unsigned int FRAGMENT, UNDECIDED, ROOT, NO_PORT, TCP_BIT, UDP_BIT


@cython.final
cdef class PortRules:
    cdef Table _spans
    cdef const unsigned int[::1] _parents
    cdef const unsigned int[::1] _protocols

    @cython.locals(fallback="unsigned int", node="unsigned int", bit="unsigned int",
                   key="unsigned int", verdict="unsigned int")
    cpdef unsigned int lookup(self, unsigned int value, unsigned int protocol, unsigned int port) except? 0xFFFFFFFF
