cimport cython

from softnet.core.frames cimport Batch

cdef unsigned int SHORTEST, PROTOCOL_TCP, SYN_ACK, FIN_SYN_RST_ACK
cdef unsigned char PASS_LIMIT

@cython.locals(start="size_t", is_tcp="bint")
cpdef unsigned int next_syn_ack(Batch batch, unsigned int at) except? 0xFFFFFFFF
