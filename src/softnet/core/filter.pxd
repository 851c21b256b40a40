cimport cython

from softnet.core.flows cimport Flows
from softnet.core.frames cimport Batch
from softnet.core.packet cimport View
from softnet.core.ports cimport PortRules
from softnet.core.prefix cimport Table

cdef unsigned char ARP_GATEWAY, ARP_MALFORMED, ARP_OP, ARP_SHA, ARP_SPA, BLOCKED, BROADCAST, DHCP_MALFORMED
cdef unsigned char DHCP_SERVER, DST_MAC, ETHERTYPE, IP_MALFORMED, IP_OPTIONS, IPV6, MARTIAN, NO_LEASE, OTHER_MAC
cdef unsigned char OVERSIZE, PASS_ARP, PASS_DNS, PASS_GATEWAY, PASS_INBOUND, PASS_LIMIT, PASS_RULE
cdef unsigned char RUNT, SRC_IP, SRC_MAC
cdef unsigned int OPTION_END, OPTION_NOP, OPTION_LSRR, OPTION_SSRR
cdef unsigned int REASON_LIMIT, BROADCAST_IPV4, NO_PORT
cdef unsigned int FROM_VM, TO_VM, OPENED, FULL
cdef int PORT_RULES, FLOW_FULL, FLOW_START, PASS_RETURN
cdef unsigned long long NO_ADDRESS, NO_MAC, MAC_GROUP_BIT


@cython.final
cdef class Filter:
    cdef unsigned long long _mac, _gateway, _gateway_mac
    cdef unsigned int _limit, _address, _mask, _broadcast
    cdef double _expiry
    cdef tuple _dns
    cdef object _snooper
    cdef Table _table, _inbound, _exposed
    cdef PortRules _ports, _inbound_ports
    cdef Flows _flows
    cdef View _view
    cdef unsigned long long[::1] _frames
    cdef unsigned long long[::1] _bytes

    @cython.locals(at="unsigned int", length="unsigned int")
    cpdef void judge_vm(self, Batch batch, double now) except *
    @cython.locals(at="unsigned int", length="unsigned int")
    cpdef void judge_uplink(self, Batch batch, double now) except *
    @cython.locals(at="unsigned int", base="unsigned int", verdict="unsigned char", dropped="int")
    cpdef int tally(self, Batch batch, unsigned int direction) except -1

    @cython.locals(frame=View, ethertype="unsigned int")
    cdef int _from_vm(self, double now) except -1
    @cython.locals(frame=View, operation="unsigned int", sender="unsigned int")
    cdef int _arp_from_vm(self, double now) except -1
    @cython.locals(frame=View, version="unsigned int", header="unsigned int", total="unsigned int",
                   fragment="unsigned int", protocol="unsigned int", source_port="unsigned int",
                   port="unsigned int", address="unsigned int", verdict="unsigned int")
    cdef int _ipv4_from_vm(self, double now) except -1
    @cython.locals(verdict="unsigned int")
    cdef int _destination(self, unsigned int address, unsigned int protocol, unsigned int port,
                          unsigned int fragment) except -1
    @cython.locals(destination="unsigned long long")
    cdef bint _fits_ethernet(self, unsigned int address) except -1
    @cython.locals(frame=View, at="unsigned int", option="unsigned int", length="unsigned int")
    cdef bint _options_are_harmless(self, unsigned int end) except -1
    @cython.locals(frame=View, udp="unsigned int", source="unsigned int", destination="unsigned int",
                   length="unsigned int")
    cdef int _dhcp_from_vm(self, unsigned int header, unsigned int total, unsigned int fragment,
                           unsigned int source_port, double now) except -1
    @cython.locals(frame=View, ethertype="unsigned int", destination="unsigned long long")
    cdef int _to_vm(self, double now) except -1
    @cython.locals(frame=View)
    cdef bint _usurps_gateway(self) except -1
    @cython.locals(frame=View, version="unsigned int", header="unsigned int", total="unsigned int",
                   udp="unsigned int", length="unsigned int", source="unsigned int")
    cdef void _snoop(self, double now) except *
    @cython.locals(frame=View, stateful="bint", version="unsigned int", header="unsigned int", total="unsigned int",
                   fragment="unsigned int", protocol="unsigned int", port="unsigned int",
                   address="unsigned int", verdict="unsigned int")
    cdef int _ipv4_to_vm(self, double now) except -1
    cdef int _sender(self, unsigned int address, unsigned int protocol, unsigned int port) except -1
    @cython.locals(flows=Flows, frame=View, start="unsigned int", room="unsigned int", flags="unsigned int",
                   source="unsigned int", port="unsigned int", known="bint", vm_port="unsigned int",
                   remote_port="unsigned int", opened="int")
    cdef int _track(self, unsigned int direction, unsigned int verdict, unsigned int remote, unsigned int protocol,
                    unsigned int fragment, unsigned int header, unsigned int total, double now) except -1
    cdef int _untracked(self, unsigned int verdict) except -1
    cdef bint _opens(self, unsigned int direction, unsigned int verdict, unsigned int remote, unsigned int protocol,
                     unsigned int vm_port) except -1
    @cython.locals(frame=View, header="unsigned int", protocol="unsigned int", source="unsigned int",
                   destination="unsigned int", ports="unsigned int")
    cdef bint _quotes_flow(self, unsigned int direction, unsigned int remote, unsigned int at, unsigned int room,
                           double now) except -1
    cdef void _renew_flows(self) except *
    cdef void _adopt_lease(self) except *
