cimport cython

from softnet.core.prefix cimport Table

cdef unsigned int FRAGMENT, PORT_RULES, UNDECIDED, ROOT, NO_PORT, TCP_BIT, UDP_BIT


@cython.final
cdef class PortRules:
    cdef Table _spans
    cdef const unsigned int[::1] _parents
    cdef const unsigned int[::1] _protocols
    cdef const unsigned int[::1] _nodes
    cdef const unsigned int[::1] _fallbacks

    @cython.locals(pair="unsigned int", fallback="unsigned int", node="unsigned int", bit="unsigned int",
                   key="unsigned int", verdict="unsigned int")
    cpdef unsigned int lookup(self, unsigned int value, unsigned int protocol, unsigned int port) except? 0xFFFFFFFF
