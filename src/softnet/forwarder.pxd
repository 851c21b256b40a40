cimport cython

from softnet.core.filter cimport Filter
from softnet.core.frames cimport Batch
from softnet.core.rate cimport Bucket

cdef int POLLIN, POLLOUT, POLLGONE
cdef unsigned int FROM_VM
cdef unsigned char UNJUDGED
cdef double ALIVE_SECONDS, NEVER


@cython.final
cdef class Way:
    cdef object source, sink
    cdef Batch batch
    cdef unsigned int direction
    cdef unsigned char busy
    cdef tuple gone
    cdef unsigned char[::1] judged
    cdef Bucket bucket
    cdef bint held, paused
    cdef Py_ssize_t refused
    cdef double due

    cdef double owed(self, double now) except? -1.0
    cdef void keep(self) except *
    @cython.locals(at="unsigned int")
    cdef void retry(self) except *
    @cython.locals(at="unsigned int")
    cdef void settle(self) except *


@cython.final
cdef class Forwarder:
    cdef readonly Filter filter
    cdef readonly object vm, uplink
    cdef public list listeners, timers, droppers, taps
    cdef readonly tuple buckets
    cdef Way _out, _in
    cdef Batch _nothing
    cdef dict _watched
    cdef object _poll, _ending
    cdef int _vm_events, _uplink_events
    cdef double _due, _alive_due

    cdef void _poll_links(self) except *
    @cython.locals(frames="int")
    cdef int _wanted(self, Way into, Way out_of) except -1
    cdef void _poll_for(self, int descriptor, int events) except *
    @cython.locals(way=Way, paid="double")
    cdef object _patience(self, double now)
    cdef void _attend(self, Way into, Way out_of, int events, double now) except *
    cdef void _move_on(self, Way way, double now) except *
    @cython.locals(batch=Batch, refused="Py_ssize_t")
    cdef void _move(self, Way way, double now) except *
    @cython.locals(refused="Py_ssize_t")
    cdef void _resume(self, Way way, double now) except *
    cdef Py_ssize_t _send(self, Way way) except -1
    cdef void _write_on(self, Way way) except *
    cdef void _account(self, Way way, double now) except *
    cdef void _deliver(self, double now) except *
    cdef void _end(self, object how) except *
