"""The nat uplink's DHCP server: one VM, one address, which is the VM's for as long as Softnet lives.

Sans-IO: a client's BOOTP payload in, a whole Ethernet frame out, or None. It follows RFC 2131 4.3, and
RFC 6842 for the client identifier. What a server with a pool has to decide is decided here by there
being one address and one client:

- It is the only server on the link and knows every binding, so a REQUEST for any other address gets
  a NAK, also in INIT-REBOOT, where a server that is not sure stays silent.
- RELEASE and DECLINE change nothing: the address cannot go to anybody else, and there is no other
  one to offer. A VM that declines is offered the same address again.
- The lease is keyed by the VM's MAC address. A client identifier is echoed and otherwise ignored, so
  that a guest that comes back with another DUID finds its address again: `--ignore-client-id` is how this
  server always works.
- A REQUEST that names another server is the client's refusal of ours, and gets no answer.

No state is kept at all, hence nothing a guest could grow.
"""

from typing import NamedTuple

from softnet.core import dhcp
from softnet.core.address import BROADCAST_IPV4
from softnet.core.dhcp import Message, address_option
from softnet.core.packet import BROADCAST_MAC, udp_frame

OPTION_MESSAGE = 56
INFINITE_LEASE = 0xFFFFFFFF


class Offer(NamedTuple):
    """What the one client gets. `router` None and `dns` empty leave their options out."""

    mac: int
    address: int
    mask: int
    server: int
    server_mac: int
    lease_time: int
    mtu: int
    router: int | None = None
    dns: tuple[int, ...] = ()

    @property
    def broadcast(self) -> int:
        return self.address | ~self.mask & BROADCAST_IPV4


def _seconds(value: int) -> bytes:
    return value.to_bytes(4, "big")


class DhcpServer:
    """Answers the messages of the client that `offer` is for, and nobody else's."""

    def __init__(self, offer: Offer) -> None:
        self._offer = offer

    def answer(self, payload: bytes) -> bytes | None:
        """The frame that answers a client's message; None where RFC 2131 wants silence."""
        message = dhcp.parse(payload)
        if message is None or message.op != dhcp.BOOTREQUEST or message.chaddr != self._offer.mac:
            return None
        if message.message_type == dhcp.DISCOVER:
            return self._grant(dhcp.OFFER, message)
        if message.message_type == dhcp.REQUEST:
            return self._request(message)
        if message.message_type == dhcp.INFORM:
            return self._inform(message)
        return None

    def _request(self, message: Message) -> bytes | None:
        """RFC 2131 4.3.2. SELECTING and INIT-REBOOT state the address in option 50, the others in ciaddr."""
        if message.server_id not in (None, self._offer.server):
            return None
        wanted = message.requested_address
        if wanted is None:
            wanted = message.ciaddr
        if wanted == 0:
            return None
        if wanted != self._offer.address:
            return self._nak(message)
        return self._grant(dhcp.ACK, message)

    def _grant(self, kind: int, message: Message) -> bytes:
        seconds = self._offer.lease_time
        times = [(dhcp.OPTION_LEASE_TIME, _seconds(seconds))]
        if seconds != INFINITE_LEASE:
            times += [(dhcp.OPTION_T1, _seconds(seconds // 2)), (dhcp.OPTION_T2, _seconds(seconds * 7 // 8))]
        ciaddr = message.ciaddr if kind == dhcp.ACK else 0
        options = times + self._configuration(message)
        return self._reply(kind, message, options, ciaddr=ciaddr, yiaddr=self._offer.address)

    def _inform(self, message: Message) -> bytes:
        """RFC 2131 4.3.5: configuration without an address and without times, to ciaddr."""
        return self._reply(dhcp.ACK, message, self._configuration(message), ciaddr=message.ciaddr)

    def _nak(self, message: Message) -> bytes:
        """RFC 2131 4.3.2: always broadcast, as the client's address may be wrong for this network."""
        reason = [(OPTION_MESSAGE, b"not the address of this VM")]
        return self._frame(self._payload(dhcp.NAK, message, reason), BROADCAST_IPV4, BROADCAST_MAC)

    def _configuration(self, message: Message) -> list[tuple[int, bytes]]:
        """The network's options; broadcast address and MTU unless the client asks for others only."""
        offer = self._offer
        wanted = message.options.get(dhcp.OPTION_PARAMETERS)
        options = [(dhcp.OPTION_SUBNET_MASK, address_option(offer.mask))]
        if offer.router is not None:
            options.append((dhcp.OPTION_ROUTER, address_option(offer.router)))
        if offer.dns:
            options.append((dhcp.OPTION_DNS, address_option(*offer.dns)))
        for code, value in (
            (dhcp.OPTION_BROADCAST, address_option(offer.broadcast)),
            (dhcp.OPTION_MTU, offer.mtu.to_bytes(2, "big")),
        ):
            if wanted is None or code in wanted:
                options.append((code, value))
        return options

    def _payload(
        self, kind: int, message: Message, options: list[tuple[int, bytes]], ciaddr: int = 0, yiaddr: int = 0
    ) -> bytes:
        options = [(dhcp.OPTION_SERVER_ID, address_option(self._offer.server)), *options]
        if message.client_id is not None:
            options.append((dhcp.OPTION_CLIENT_ID, message.client_id))
        # The broadcast bit goes back as it came (RFC 2131 table 3).
        return dhcp.build(
            dhcp.BOOTREPLY,
            kind,
            message.xid,
            self._offer.mac,
            flags=message.flags,
            ciaddr=ciaddr,
            yiaddr=yiaddr,
            options=options,
        )

    def _reply(
        self, kind: int, message: Message, options: list[tuple[int, bytes]], ciaddr: int = 0, yiaddr: int = 0
    ) -> bytes:
        """RFC 2131 4.1: to ciaddr if the client has one, else broadcast if it asks so, else to yiaddr."""
        payload = self._payload(kind, message, options, ciaddr, yiaddr)
        destination = message.ciaddr or (0 if message.flags & dhcp.FLAG_BROADCAST else yiaddr)
        if destination:
            return self._frame(payload, destination, self._offer.mac)
        return self._frame(payload, BROADCAST_IPV4, BROADCAST_MAC)

    def _frame(self, payload: bytes, destination: int, destination_mac: int) -> bytes:
        return udp_frame(
            destination_mac,
            self._offer.server_mac,
            self._offer.server,
            destination,
            dhcp.SERVER_PORT,
            dhcp.CLIENT_PORT,
            payload,
        )
