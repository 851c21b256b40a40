cimport cython

from softnet.core cimport octets_native as octets
from softnet.core.frames cimport Batch

cdef unsigned int ETHERNET_HEADER, ETHERTYPE_IPV4, PROTOCOL_TCP, VIRTIO_HEADER
cdef unsigned int IPV4, TCP, TCP_AT, TCP_CHECKSUM, MOST_SEGMENTS, LONGEST_PACKET, LONGEST_READ, OPEN_FLOWS, LONGEST_HEAD, END, SEQUENCE
cdef unsigned int OTHER, UNKNOWN, ALONE, DATA
cdef unsigned int FIN, PSH, ACK, CWR
cdef unsigned char PASS_LIMIT, UNJUDGED, NEEDS_CSUM, GSO_NONE, GSO_TCPV4, GSO_ECN

cdef unsigned int pseudo_header(unsigned char[::1] data, size_t ip, unsigned int size) except? 0xFFFFFFFF
cdef void store_little(unsigned char[::1] data, size_t at, unsigned int value) except *
@cython.locals(value="unsigned int")
cdef unsigned int load_little(unsigned char[::1] data, size_t at) except? 0xFFFFFFFF
cdef void write_ip_checksum(unsigned char[::1] data, size_t ip, unsigned int size) except *


@cython.final
cdef class Coalescer:
    cdef unsigned int _turn, _payload
    cdef unsigned int[::1] _last, _gso, _total, _next_seq, _next_id, _id_step
    cdef unsigned long long[::1] _addresses
    cdef unsigned int[::1] _ports, _group
    cdef readonly unsigned int capacity, count, pitch, headroom
    cdef readonly unsigned char[::1] head
    cdef readonly unsigned int[::1] first, next, segments, skip

    @cython.locals(at="unsigned int", group="unsigned int")
    cpdef unsigned int join(self, Batch batch) except? 0xFFFFFFFF
    @cython.locals(base="size_t", at="unsigned int", skip="unsigned int")
    cpdef list pieces(self, Batch batch, unsigned int group)
    @cython.locals(kind="unsigned int")
    cdef void _take(self, Batch batch, unsigned int at) except *
    @cython.locals(data="unsigned char[::1]", start="size_t", addresses="unsigned long long", ports="unsigned int",
                   flow="unsigned int", group="unsigned int")
    cdef void _take_tcp(self, Batch batch, unsigned int at, unsigned int kind) except *
    @cython.locals(total="unsigned int", fragment="unsigned int", header="unsigned int", flags="unsigned int")
    cdef unsigned int _classify(self, unsigned char[::1] data, size_t start, size_t length) except? 0xFFFFFFFF
    @cython.locals(group="unsigned int")
    cdef unsigned int _start(self, unsigned int at) except? 0xFFFFFFFF
    @cython.locals(flow="unsigned int")
    cdef void _open(self, unsigned char[::1] data, size_t start, unsigned int group, unsigned long long addresses,
                    unsigned int ports) except *
    @cython.locals(flow="unsigned int")
    cdef unsigned int _find(self, unsigned long long addresses, unsigned int ports) except? 0xFFFFFFFF
    @cython.locals(flow="unsigned int")
    cdef unsigned int _make_room(self) except? 0xFFFFFFFF
    @cython.locals(flow="unsigned int")
    cdef void _close_all(self) except *
    @cython.locals(data="unsigned char[::1]", start="size_t")
    cdef bint _joins(self, Batch batch, unsigned int group, unsigned int at) except -1
    @cython.locals(header="unsigned int")
    cdef bint _same_headers(self, unsigned char[::1] data, size_t one, size_t other) except -1
    @cython.locals(step="unsigned int")
    cdef bint _id_continues(self, unsigned char[::1] data, size_t start, unsigned int group) except -1
    cdef bint _verified(self, Batch batch, unsigned int group, unsigned int at) except -1
    @cython.locals(start="size_t", size="unsigned int", pseudo="unsigned int")
    cdef bint _checksums_hold(self, Batch batch, unsigned int at) except -1
    cdef void _append(self, Batch batch, unsigned int group, unsigned int at) except *
    @cython.locals(at="size_t", base="size_t", start="size_t", size="unsigned int")
    cdef void _write_head(self, Batch batch, unsigned int group) except *
    @cython.locals(ip="size_t", tcp="size_t")
    cdef void _write_headers(
        self, Batch batch, unsigned int group, size_t base, size_t start, unsigned int size) except *


@cython.final
cdef class Segmenter:
    cdef unsigned int _limit, _gso, _header, _ip_header, _at, _end, _segments
    cdef readonly unsigned char[::1] buffer
    cdef readonly unsigned long long malformed
    cdef readonly bint pending

    cpdef void load(self, size_t size) except *
    cpdef bint fill(self, Batch batch) except -1
    @cython.locals(flags="unsigned int", kind="unsigned int")
    cdef bint _accept(self, unsigned int size) except -1
    @cython.locals(start="unsigned int", field="unsigned int", value="unsigned int")
    cdef bint _complete_checksum(self, unsigned int size) except -1
    @cython.locals(ip="unsigned int", tcp="unsigned int", total="unsigned int")
    cdef bint _accept_tcp(self, unsigned int length) except -1
    cdef bint _checksum_is_tcp(self) except -1
    @cython.locals(length="unsigned int", present="unsigned int", start="size_t")
    cdef void _pass_whole(self, Batch batch) except *
    @cython.locals(index="unsigned int", start="size_t")
    cdef size_t _add(self, Batch batch, unsigned int length) except? 0xFFFFFFFF
    @cython.locals(limit="unsigned int", size="unsigned int", start="size_t")
    cdef void _cut(self, Batch batch) except *
    @cython.locals(tcp="size_t", size="unsigned int", done="unsigned int", total="unsigned int")
    cdef void _write_headers(self, unsigned char[::1] data, size_t ip, unsigned int payload, bint last) except *
