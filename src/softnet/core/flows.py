"""The connections that stateful rules and exposed ports have admitted: a bounded table of exact tuples.

A flow is (protocol, remote address, remote port, VM's port); the VM's own address is not in it,
because the table is cleared whenever that address or the policy changes. A flow is opened by a
clean first packet and only the side that opened it keeps it alive:

    kind    opened by                                    lives        on its way out
    TCP     a SYN without ACK, FIN, RST, PSH or URG      SYN_SECONDS until the other side's SYN-ACK, then
            (RFC 9293 3.5; ECN's bits are allowed)       TCP_SECONDS; CLOSE_SECONDS after RST or both FINs
    UDP     any datagram with two ports that are not 0   UDP_SECONDS
    echo    an ICMP echo request (RFC 792)               ECHO_SECONDS

The other side's SYN is not return traffic: it has to be allowed for itself. Nor is an echo request
in answer to one. At most `capacity` flows live; a full table admits no more, and whoever is in it
stays. Flows of one lifetime are a list in order of expiry, so finding those that have ended costs
nothing. The hash is multilinear (keys from the interpreter's own per-process secret): no choice of
addresses and ports makes a guest's flows collide more often than chance.
"""

from array import array

from softnet.core.numbers import (
    ACK,
    CLOSE_SECONDS,
    ECHO_REQUEST,
    ECHO_SECONDS,
    FIN,
    FLAGS,
    FLOWS,
    FULL,
    ICMP,
    NOT_A_START,
    OPENED,
    RST,
    SYN,
    SYN_SECONDS,
    TCP,
    TCP_SECONDS,
    UDP,
    UDP_SECONDS,
)

# State bits of a flow; the lowest is the direction of the side that opened it.
_OPENER = 1
_ANSWERED = 2
_FIN_OPENER = 4
_FIN_OTHER = 8

# The lists, one a lifetime; each has a sentinel behind the last flow.
_IN_SYN = 0
_IN_TCP = 1
_IN_UDP = 2
_IN_ECHO = 3
_IN_CLOSE = 4
_LISTS = 5

_NONE = 0xFFFFFFFF
_BUCKETS = 32768
_WORD = 0xFFFFFFFFFFFFFFFF
_REAP = 4


def _column(kind: str, size: int, count: int) -> memoryview:
    return memoryview(array(kind, bytes(size * count)))


class Flows:
    """Arguments: `direction` is FROM_VM (0) or TO_VM (1), `port` the remote side's, `flags` TCP's flags.

    For ICMP `flags` is the type and `vm_port` the echo identifier.
    """

    __slots__ = (
        "_after",
        "_before",
        "_capacity",
        "_chain",
        "_expiry",
        "_free",
        "_heads",
        "_keys",
        "_ports",
        "_protocol",
        "_remote",
        "_state",
        "size",
    )

    def __init__(self, capacity: int = FLOWS) -> None:
        self._capacity = capacity
        self._remote = _column("I", 4, capacity)
        self._ports = _column("I", 4, capacity)
        self._protocol = _column("B", 1, capacity)
        self._state = _column("B", 1, capacity)
        self._expiry: memoryview[float] = memoryview(array("d", bytes(8 * capacity)))
        self._chain = _column("I", 4, capacity)
        self._after = _column("I", 4, capacity + _LISTS)
        self._before = _column("I", 4, capacity + _LISTS)
        self._heads = _column("I", 4, _BUCKETS)
        self._keys = memoryview(array("Q", [hash(f"flow {at}") & _WORD for at in range(4)]))
        self.clear()

    def __len__(self) -> int:
        """The flows that take room, including those that ended since the last `expire`."""
        return self.size

    def clear(self) -> None:
        """Forget every flow."""
        for at in range(_BUCKETS):
            self._heads[at] = _NONE
        for at in range(self._capacity):
            self._after[at] = at + 1 if at + 1 < self._capacity else _NONE
        for at in range(self._capacity, self._capacity + _LISTS):
            self._after[at] = at
            self._before[at] = at
        self._free = 0 if self._capacity else _NONE
        self.size = 0

    def follow(
        self, direction: int, protocol: int, remote: int, port: int, vm_port: int, flags: int, now: float
    ) -> bool:
        """Whether a packet belongs to a flow; its effect on the flow's life."""
        at = self._find(protocol, remote, _pair(direction, protocol, port, vm_port, flags))
        if at == _NONE:
            return False
        if now >= self._expiry[at]:
            self._remove(at)
            return False
        opener = (self._state[at] & _OPENER) == direction
        if protocol == TCP:
            return self._follow_opener(at, flags, now) if opener else self._follow_other(at, flags, now)
        if opener:
            self._move(at, _IN_UDP if protocol == UDP else _IN_ECHO, now)
        return True

    def knows(self, protocol: int, remote: int, port: int, vm_port: int, now: float) -> bool:
        """Whether a packet quoted in an ICMP error (RFC 792) belongs to a flow; changes nothing."""
        at = self._find(protocol, remote, port << 16 | vm_port)
        return at != _NONE and now < self._expiry[at]

    def open(
        self, direction: int, protocol: int, remote: int, port: int, vm_port: int, flags: int, now: float
    ) -> int:
        """OPENED for a packet that starts a flow, or has the tuple of a live one; else why not."""
        if not _starts(protocol, port, vm_port, flags):
            return NOT_A_START
        ports = _pair(direction, protocol, port, vm_port, flags)
        at = self._find(protocol, remote, ports)
        if at != _NONE and now < self._expiry[at]:
            return OPENED
        self._reap(now, _REAP)
        at = self._free
        if at == _NONE:
            return FULL
        self._insert(at, protocol, remote, ports)
        self._state[at] = direction
        self._link(at, _IN_SYN if protocol == TCP else _IN_UDP if protocol == UDP else _IN_ECHO, now)
        return OPENED

    def expire(self, now: float) -> None:
        """Drop every flow that has ended."""
        self._reap(now, self._capacity)

    # TCP.

    def _follow_opener(self, at: int, flags: int, now: float) -> bool:
        state = self._state[at]
        if (flags & FLAGS) == SYN:
            self._state[at] = state & _OPENER
            self._move(at, _IN_SYN, now)
            return True
        if flags & FIN:
            state |= _FIN_OPENER
            self._state[at] = state
        if (flags & RST) or (state & _FIN_OPENER and state & _FIN_OTHER):
            self._close(at, now)
        elif state & _ANSWERED:
            self._move(at, _IN_TCP, now)
        return True

    def _follow_other(self, at: int, flags: int, now: float) -> bool:
        state = self._state[at]
        if (flags & SYN) and not flags & ACK:
            return False
        if flags & SYN:
            state |= _ANSWERED
        if flags & FIN:
            state |= _FIN_OTHER
        self._state[at] = state
        if (flags & RST) or (state & _FIN_OPENER and state & _FIN_OTHER):
            self._close(at, now)
        return True

    def _close(self, at: int, now: float) -> None:
        """Brings the end near, never further away."""
        if self._expiry[at] > now + CLOSE_SECONDS:
            self._move(at, _IN_CLOSE, now)

    # The hash.

    def _bucket(self, protocol: int, remote: int, ports: int) -> int:
        keys = self._keys
        mixed = (keys[0] + keys[1] * remote + keys[2] * ports + keys[3] * protocol) & _WORD
        return mixed >> 49

    def _find(self, protocol: int, remote: int, ports: int) -> int:
        at = self._heads[self._bucket(protocol, remote, ports)]
        while at != _NONE:
            if self._ports[at] == ports and self._remote[at] == remote and self._protocol[at] == protocol:
                return at
            at = self._chain[at]
        return _NONE

    def _insert(self, at: int, protocol: int, remote: int, ports: int) -> None:
        """Takes the first free place, `at`, for a tuple."""
        self._free = self._after[at]
        self._protocol[at] = protocol
        self._remote[at] = remote
        self._ports[at] = ports
        bucket = self._bucket(protocol, remote, ports)
        self._chain[at] = self._heads[bucket]
        self._heads[bucket] = at
        self.size += 1

    def _remove(self, at: int) -> None:
        bucket = self._bucket(self._protocol[at], self._remote[at], self._ports[at])
        look = self._heads[bucket]
        if look == at:
            self._heads[bucket] = self._chain[at]
        else:
            while self._chain[look] != at:
                look = self._chain[look]
            self._chain[look] = self._chain[at]
        self._unlink(at)
        self._after[at] = self._free
        self._free = at
        self.size -= 1

    # The lists in order of expiry.

    def _link(self, at: int, lifetime: int, now: float) -> None:
        self._expiry[at] = now + _seconds(lifetime)
        sentinel = self._capacity + lifetime
        last = self._before[sentinel]
        self._after[last] = at
        self._before[at] = last
        self._after[at] = sentinel
        self._before[sentinel] = at

    def _unlink(self, at: int) -> None:
        self._after[self._before[at]] = self._after[at]
        self._before[self._after[at]] = self._before[at]

    def _move(self, at: int, lifetime: int, now: float) -> None:
        self._unlink(at)
        self._link(at, lifetime, now)

    def _reap(self, now: float, most: int) -> None:
        """Drops flows that have ended, at most `most` of each list."""
        for sentinel in range(self._capacity, self._capacity + _LISTS):
            for _ in range(most):
                at = self._after[sentinel]
                if at == sentinel or now < self._expiry[at]:
                    break
                self._remove(at)


def _pair(direction: int, protocol: int, port: int, vm_port: int, flags: int) -> int:
    """Both ports in one word. For an echo: the identifier and the direction of its request."""
    if protocol != ICMP:
        return port << 16 | vm_port
    return (direction if flags == ECHO_REQUEST else 1 - direction) << 16 | vm_port


def _starts(protocol: int, port: int, vm_port: int, flags: int) -> bool:
    if protocol == TCP:
        return (flags & FLAGS) == SYN and port != 0 and vm_port != 0
    if protocol == UDP:
        return port != 0 and vm_port != 0
    return protocol == ICMP and flags == ECHO_REQUEST


def _seconds(lifetime: int) -> float:
    if lifetime == _IN_SYN:
        return SYN_SECONDS
    if lifetime == _IN_TCP:
        return TCP_SECONDS
    if lifetime == _IN_UDP:
        return UDP_SECONDS
    return ECHO_SECONDS if lifetime == _IN_ECHO else CLOSE_SECONDS
