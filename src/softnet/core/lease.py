"""The DHCP snooper: which address is the VM's, learnt from the messages that pass by.

States are NONE (no lease) and BOUND. What may change the state:

    state        event                                                   next
    NONE, BOUND  ACK to the VM's own REQUEST, with address and lease time  BOUND
    BOUND        NAK to the VM's own REQUEST                              NONE
    BOUND        the VM's own RELEASE or DECLINE is forwarded             NONE
    BOUND        the lease's expiry passes                                NONE

Nothing else teaches anything: no OFFER, no answer to an INFORM, no reply that is not for this
chaddr, not from the gateway (without a known gateway: not from the server that the REQUEST named,
where it named one) or not to the outstanding xid. The xid of a REQUEST that a
RELEASE or DECLINE overtook never counts again: its ACK names an address that the server has freed.

The VM is also kept from starving the server's pool: MAX_CLIENT_IDS different client identifiers and
MAX_DECLINES DECLINEs in its life, and a token bucket for all of its messages. What a guest can
grow here is bounded by those numbers: at most one grant for each identifier, and one without.
"""

from collections import deque
from typing import NamedTuple

from softnet.core import dhcp
from softnet.core.address import BROADCAST_IPV4
from softnet.core.packet import BROADCAST_MAC, udp_frame
from softnet.core.reasons import DHCP_CHADDR, DHCP_CLIENT_ID, DHCP_MALFORMED, DHCP_RATE, PASS_DHCP

MAX_CLIENT_IDS = 4
MAX_DECLINES = 3
BUCKET_MESSAGES = 20.0
BUCKET_REFILL = 1.0  # messages a second
SPENT_XIDS = 32  # more REQUESTs than the bucket lets through while an answer can still be late

NONE = "none"
BOUND = "bound"

GRANTED = "ack"
REFUSED = "nak"
RELEASED = "release"
DECLINED = "decline"
EXPIRED = "expired"

_NEXT = {
    (NONE, GRANTED): BOUND,
    (BOUND, GRANTED): BOUND,
    (NONE, REFUSED): NONE,
    (BOUND, REFUSED): NONE,
    (NONE, RELEASED): NONE,
    (BOUND, RELEASED): NONE,
    (NONE, DECLINED): NONE,
    (BOUND, DECLINED): NONE,
    (BOUND, EXPIRED): NONE,
}

_CLIENT_TYPES = frozenset((dhcp.DISCOVER, dhcp.REQUEST, dhcp.DECLINE, dhcp.RELEASE, dhcp.INFORM))


class Lease(NamedTuple):
    """What the server granted. `expiry` is in seconds of the filter's clock, inf for ever."""

    address: int
    mask: int
    router: int | None
    dns: tuple[int, ...]
    server: int
    server_mac: int
    expiry: float
    client_id: bytes | None
    xid: int

    @property
    def broadcast(self) -> int:
        """The subnet's broadcast address; 255.255.255.255 where a subnet this small has none."""
        host = ~self.mask & BROADCAST_IPV4
        return self.address | host if host > 1 else BROADCAST_IPV4


class LeaseEvent(NamedTuple):
    """`kind` is bound (a new or another address), renewed or lost; `cause` names what did it."""

    kind: str
    cause: str
    lease: Lease
    at: float


class _Request(NamedTuple):
    """The VM's outstanding REQUEST: `server` is the one it named, if it did."""

    xid: int
    server: int | None
    client_id: bytes | None


class Snooper:
    """Judges the VM's DHCP messages and follows the server's. `lease` is None in state NONE."""

    def __init__(self, mac: int, gateway: int | None) -> None:
        self.lease: Lease | None = None
        self.events: deque[LeaseEvent] = deque()
        self._mac = mac
        self._gateway = gateway
        self._request: _Request | None = None
        self._unanswered: deque[int] = deque(maxlen=SPENT_XIDS)
        self._spent: deque[int] = deque(maxlen=SPENT_XIDS)
        self._grants: dict[bytes | None, Lease] = {}
        self._client_ids: set[bytes] = set()
        self._declines = 0
        self._tokens = BUCKET_MESSAGES
        self._refilled = 0.0

    @property
    def state(self) -> str:
        return NONE if self.lease is None else BOUND

    def awaits(self, xid: int, source: int) -> bool:
        """Whether a reply with this xid from this address could teach anything (a cheap first look)."""
        request = self._request
        if request is None or request.xid != xid:
            return False
        expected = request.server if self._gateway is None else self._gateway
        return expected is None or source == expected

    def from_client(self, payload: bytes, destination: int, now: float) -> int:
        """The reason for a client message of the VM; where it passes, its effect on the lease."""
        message = dhcp.parse(payload)
        if message is None or not _well_formed(message):
            return DHCP_MALFORMED
        if message.chaddr != self._mac:
            return DHCP_CHADDR
        reason = self._admit(message, now)
        if reason == PASS_DHCP:
            self._follow(message, destination, now)
        return reason

    def from_server(self, payload: bytes, source: int, source_mac: int, now: float) -> None:
        """Learns from a reply on its way to the VM."""
        message = dhcp.parse(payload)
        if message is None or not self._counts(message, source):
            return
        if message.message_type in (dhcp.ACK, dhcp.NAK) and message.xid in self._unanswered:
            self._unanswered.remove(message.xid)
        if message.message_type == dhcp.NAK:
            self._request = None
            self._apply(REFUSED, now)
        elif message.message_type == dhcp.ACK and message.yiaddr and message.lease_time is not None:
            self._grant(message, source, source_mac, now)

    def expire(self, now: float) -> None:
        """Ends a lease whose time has come."""
        if self.lease is not None and now >= self.lease.expiry:
            self._apply(EXPIRED, now)

    def release_frames(self, now: float) -> list[bytes]:
        """A DHCPRELEASE (RFC 2131 4.4.6) for every address that the VM still holds."""
        held = [lease for lease in self._grants.values() if now < lease.expiry]
        self._grants.clear()
        return [self._release_frame(lease) for lease in held]

    def _admit(self, message: dhcp.Message, now: float) -> int:
        """Whether the VM may send one more message; counts it when it may."""
        identifier = message.client_id
        is_new = identifier is not None and identifier not in self._client_ids
        if is_new and len(self._client_ids) >= MAX_CLIENT_IDS:
            return DHCP_CLIENT_ID
        elapsed = max(0.0, now - self._refilled)
        self._tokens = min(BUCKET_MESSAGES, self._tokens + elapsed * BUCKET_REFILL)
        self._refilled = now
        is_decline = message.message_type == dhcp.DECLINE
        if self._tokens < 1 or (is_decline and self._declines >= MAX_DECLINES):
            return DHCP_RATE
        self._tokens -= 1
        self._declines += is_decline
        if identifier is not None:
            self._client_ids.add(identifier)
        return PASS_DHCP

    def _follow(self, message: dhcp.Message, destination: int, now: float) -> None:
        """What a message that the VM may send changes."""
        kind = message.message_type
        if kind == dhcp.REQUEST:
            named = message.server_id
            if named is None and destination != BROADCAST_IPV4:
                named = destination
            self._unanswered.append(message.xid)
            known = _Request(message.xid, named, message.client_id)
            self._request = None if message.xid in self._spent else known
        elif kind == dhcp.INFORM and self._request is not None and self._request.xid == message.xid:
            self._request = None
        elif kind in (dhcp.RELEASE, dhcp.DECLINE):
            self._give_back(message)
            self._request = None  # an answer on its way names an address that may be somebody else's by now
            self._spent.extend(self._unanswered)
            self._unanswered.clear()
            self._apply(RELEASED if kind == dhcp.RELEASE else DECLINED, now)

    def _give_back(self, message: dhcp.Message) -> None:
        """Forgets a grant, but only when the server will: it compares identifier and address."""
        grant = self._grants.get(message.client_id)
        named = message.ciaddr if message.message_type == dhcp.RELEASE else message.requested_address
        if grant is not None and grant.address == named:
            del self._grants[message.client_id]

    def _counts(self, message: dhcp.Message, source: int) -> bool:
        return (
            message.op == dhcp.BOOTREPLY
            and message.htype == dhcp.HTYPE_ETHERNET
            and message.hlen == dhcp.HLEN_ETHERNET
            and message.chaddr == self._mac
            and self.awaits(message.xid, source)
        )

    def _grant(self, message: dhcp.Message, source: int, source_mac: int, now: float) -> None:
        request, seconds = self._request, message.lease_time
        if request is None or seconds is None:
            return
        lease = Lease(
            address=message.yiaddr,
            mask=BROADCAST_IPV4 if message.subnet_mask is None else message.subnet_mask,
            router=message.routers[0] if message.routers else None,
            dns=message.dns_servers,
            server=source if message.server_id is None else message.server_id,
            server_mac=source_mac,
            expiry=float("inf") if seconds == 0xFFFFFFFF else now + seconds,
            client_id=request.client_id,
            xid=message.xid,
        )
        self._grants[lease.client_id] = lease
        self._apply(GRANTED, now, lease)

    def _apply(self, event: str, now: float, granted: Lease | None = None) -> None:
        """The one place that moves the state."""
        before = self.lease
        following = _NEXT.get((self.state, event))
        if following is None:
            raise ValueError(f"event {event} cannot happen in state {self.state}")
        self.lease = granted if following == BOUND else None
        if before is not None and (granted is None or granted.address != before.address):
            self.events.append(LeaseEvent("lost", event, before, now))
        if granted is not None:
            renewed = before is not None and before.address == granted.address
            self.events.append(LeaseEvent("renewed" if renewed else "bound", event, granted, now))

    def _release_frame(self, lease: Lease) -> bytes:
        options = [(dhcp.OPTION_SERVER_ID, dhcp.address_option(lease.server))]
        if lease.client_id is not None:
            options.append((dhcp.OPTION_CLIENT_ID, lease.client_id))
        payload = dhcp.build(
            dhcp.BOOTREQUEST,
            dhcp.RELEASE,
            lease.xid,
            self._mac,
            ciaddr=lease.address,
            options=options,
        )
        return udp_frame(
            lease.server_mac or BROADCAST_MAC,
            self._mac,
            lease.address,
            lease.server,
            dhcp.CLIENT_PORT,
            dhcp.SERVER_PORT,
            payload,
        )


def _well_formed(message: dhcp.Message) -> bool:
    """Everything but chaddr, which has a reason of its own."""
    return (
        message.op == dhcp.BOOTREQUEST
        and message.htype == dhcp.HTYPE_ETHERNET
        and message.hlen == dhcp.HLEN_ETHERNET
        and message.giaddr == 0
        and message.message_type in _CLIENT_TYPES
    )
