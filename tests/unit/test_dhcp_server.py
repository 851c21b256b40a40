"""The nat uplink's DHCP server against RFC 2131 4.3: every message in every state, and its frames."""

import struct
from typing import NamedTuple

import pytest

from softnet.core import dhcp
from softnet.dhcp_server import INFINITE_LEASE, DhcpServer, Offer

MAC = 0x02000000000A
OTHER_MAC = 0x02000000000B
ADDRESS = 0x0AE70005
OTHER_ADDRESS = 0x0AE70006
SERVER = 0x0AE70001
OTHER_SERVER = 0x0AE70002
SERVER_MAC = 0x02530AE70005
XID = 0xCAFE0001
BROADCAST = 0xFFFFFFFF
BROADCAST_MAC = 0xFFFFFFFFFFFF
OPTION_MESSAGE = 56

OFFER = Offer(
    mac=MAC,
    address=ADDRESS,
    mask=0xFFFFF000,
    server=SERVER,
    server_mac=SERVER_MAC,
    lease_time=600,
    mtu=1500,
    router=SERVER,
    dns=(0x09090909, 0x01010101),
)


class Reply(NamedTuple):
    ethernet_destination: int
    destination: int
    message: dhcp.Message
    payload: bytes


def internet_sum(data: bytes) -> int:
    """RFC 1071 the slow way: a correct checksum makes the sum 0xffff."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total > 0xFFFF:
        total = (total >> 16) + (total & 0xFFFF)
    return total


def read(frame: bytes | None) -> Reply:
    """Takes a reply apart, checking everything that is the same in all of them."""
    assert frame is not None
    assert frame[6:12] == SERVER_MAC.to_bytes(6, "big")
    assert frame[12:14] == b"\x08\x00"
    packet = frame[14:]
    version, _tos, total, _id, fragment, ttl, protocol = struct.unpack("!BBHHHBB", packet[:10])
    assert (version, total, fragment & 0x3FFF, protocol) == (0x45, len(packet), 0, 17)
    assert ttl > 1
    assert internet_sum(packet[:20]) == 0xFFFF
    source, destination = struct.unpack("!II", packet[12:20])
    assert source == SERVER
    ports = struct.unpack("!HHHH", packet[20:28])
    assert ports[:3] == (67, 68, len(packet) - 20)
    assert ports[3] != 0
    assert internet_sum(packet[12:20] + struct.pack("!HH", 17, len(packet) - 20) + packet[20:]) == 0xFFFF
    message = dhcp.parse(packet[28:])
    assert message is not None
    assert (message.op, message.htype, message.hlen, message.chaddr) == (2, 1, 6, MAC)
    assert message.xid == XID
    assert message.giaddr == 0
    assert len(packet) - 28 >= 300
    return Reply(int.from_bytes(frame[:6], "big"), destination, message, packet[28:])


def ask(
    kind: int,
    *,
    offer: Offer = OFFER,
    chaddr: int = MAC,
    flags: int = 0,
    ciaddr: int = 0,
    requested: int | None = None,
    server: int | None = None,
    options: tuple[tuple[int, bytes], ...] = (),
    op: int = dhcp.BOOTREQUEST,
) -> bytes | None:
    extra = list(options)
    if requested is not None:
        extra.append((dhcp.OPTION_REQUESTED_ADDRESS, requested.to_bytes(4, "big")))
    if server is not None:
        extra.append((dhcp.OPTION_SERVER_ID, server.to_bytes(4, "big")))
    payload = dhcp.build(op, kind, XID, chaddr, flags=flags, ciaddr=ciaddr, options=extra)
    return DhcpServer(offer).answer(payload)


def option(reply: Reply, code: int) -> int:
    return int.from_bytes(reply.message.options[code], "big")


def assert_granted(reply: Reply, kind: int) -> None:
    assert reply.message.message_type == kind
    assert reply.message.yiaddr == ADDRESS
    assert reply.message.subnet_mask == 0xFFFFF000
    assert reply.message.routers == (SERVER,)
    assert reply.message.dns_servers == (0x09090909, 0x01010101)
    assert reply.message.server_id == SERVER
    assert [option(reply, code) for code in (51, 58, 59)] == [600, 300, 525]


# RFC 2131 4.3.1 and 4.3.2: an address.


def test_discover_is_offered_the_address() -> None:
    reply = read(ask(dhcp.DISCOVER))
    assert_granted(reply, dhcp.OFFER)
    assert reply.message.ciaddr == 0
    assert (reply.ethernet_destination, reply.destination) == (MAC, ADDRESS)


def test_discover_with_a_wish_is_offered_the_vms_address_all_the_same() -> None:
    assert_granted(read(ask(dhcp.DISCOVER, requested=OTHER_ADDRESS)), dhcp.OFFER)


def test_selecting() -> None:
    assert_granted(read(ask(dhcp.REQUEST, requested=ADDRESS, server=SERVER)), dhcp.ACK)


def test_selecting_another_server_is_silence() -> None:
    assert ask(dhcp.REQUEST, requested=ADDRESS, server=OTHER_SERVER) is None


def test_init_reboot_with_the_vms_address() -> None:
    assert_granted(read(ask(dhcp.REQUEST, requested=ADDRESS)), dhcp.ACK)


@pytest.mark.parametrize("flags", [0, dhcp.FLAG_BROADCAST])
@pytest.mark.parametrize("server", [None, SERVER])
def test_a_wrong_requested_address_is_refused_by_broadcast(server: int | None, flags: int) -> None:
    reply = read(ask(dhcp.REQUEST, requested=OTHER_ADDRESS, server=server, flags=flags))
    assert reply.message.message_type == dhcp.NAK
    assert (reply.ethernet_destination, reply.destination) == (BROADCAST_MAC, BROADCAST)
    assert (reply.message.yiaddr, reply.message.ciaddr) == (0, 0)
    assert set(reply.message.options) == {dhcp.OPTION_MESSAGE_TYPE, dhcp.OPTION_SERVER_ID, OPTION_MESSAGE}


@pytest.mark.parametrize("flags", [0, dhcp.FLAG_BROADCAST])
def test_renewing_and_rebinding_are_answered_to_ciaddr(flags: int) -> None:
    reply = read(ask(dhcp.REQUEST, ciaddr=ADDRESS, flags=flags))
    assert_granted(reply, dhcp.ACK)
    assert reply.message.ciaddr == ADDRESS
    assert (reply.ethernet_destination, reply.destination) == (MAC, ADDRESS)


def test_renewing_another_address_is_refused_by_broadcast() -> None:
    reply = read(ask(dhcp.REQUEST, ciaddr=OTHER_ADDRESS))
    assert reply.message.message_type == dhcp.NAK
    assert (reply.ethernet_destination, reply.destination) == (BROADCAST_MAC, BROADCAST)


def test_a_request_for_no_address_is_silence() -> None:
    assert ask(dhcp.REQUEST) is None


# RFC 2131 4.1: where the answer goes.


@pytest.mark.parametrize("kind", [dhcp.DISCOVER, dhcp.REQUEST])
def test_the_broadcast_flag_is_honoured_and_returned(kind: int) -> None:
    reply = read(ask(kind, requested=ADDRESS, flags=dhcp.FLAG_BROADCAST))
    assert (reply.ethernet_destination, reply.destination) == (BROADCAST_MAC, BROADCAST)
    assert reply.message.flags == dhcp.FLAG_BROADCAST
    assert reply.message.yiaddr == ADDRESS


# RFC 2131 4.3.3 to 4.3.5.


def test_inform_is_answered_without_address_and_times() -> None:
    reply = read(ask(dhcp.INFORM, ciaddr=ADDRESS))
    assert reply.message.message_type == dhcp.ACK
    assert (reply.message.yiaddr, reply.message.ciaddr) == (0, ADDRESS)
    assert (reply.ethernet_destination, reply.destination) == (MAC, ADDRESS)
    assert reply.message.routers == (SERVER,)
    assert not {51, 58, 59} & set(reply.message.options)


def test_inform_without_an_address_is_answered_by_broadcast() -> None:
    reply = read(ask(dhcp.INFORM))
    assert (reply.ethernet_destination, reply.destination) == (BROADCAST_MAC, BROADCAST)


@pytest.mark.parametrize("kind", [dhcp.RELEASE, dhcp.DECLINE])
def test_release_and_decline_are_silent_and_the_address_stays_the_vms(kind: int) -> None:
    server = DhcpServer(OFFER)
    identify = [(dhcp.OPTION_SERVER_ID, SERVER.to_bytes(4, "big"))]
    asked = (dhcp.OPTION_REQUESTED_ADDRESS, ADDRESS.to_bytes(4, "big"))
    gone = dhcp.build(dhcp.BOOTREQUEST, kind, XID, MAC, ciaddr=ADDRESS, options=[*identify, asked])
    assert server.answer(gone) is None
    again = server.answer(dhcp.build(dhcp.BOOTREQUEST, dhcp.DISCOVER, XID, MAC))
    assert_granted(read(again), dhcp.OFFER)


# Who and what is not answered.


@pytest.mark.parametrize("kind", [dhcp.DISCOVER, dhcp.REQUEST, dhcp.INFORM])
def test_another_chaddr_is_silence(kind: int) -> None:
    assert ask(kind, chaddr=OTHER_MAC, requested=ADDRESS, ciaddr=ADDRESS) is None


@pytest.mark.parametrize("kind", [dhcp.OFFER, dhcp.ACK, dhcp.NAK, 0, 9, 255])
def test_what_no_client_says_is_silence(kind: int) -> None:
    assert ask(kind, requested=ADDRESS) is None


def test_a_reply_is_not_answered() -> None:
    assert ask(dhcp.DISCOVER, op=dhcp.BOOTREPLY) is None


def test_plain_bootp_is_silence() -> None:
    request = bytearray(dhcp.build(dhcp.BOOTREQUEST, dhcp.DISCOVER, XID, MAC))
    request[240:243] = b"\xff\0\0"
    assert DhcpServer(OFFER).answer(bytes(request)) is None


def test_no_length_of_a_message_raises() -> None:
    whole = dhcp.build(
        dhcp.BOOTREQUEST,
        dhcp.REQUEST,
        XID,
        MAC,
        options=[(50, ADDRESS.to_bytes(4, "big")), (61, b"\1abcdef")],
    )
    server = DhcpServer(OFFER)
    answered = [length for length in range(len(whole) + 1) if server.answer(whole[:length]) is not None]
    assert answered
    assert answered[0] == 249  # not before the requested address is there in full


# Options.


@pytest.mark.parametrize("identifier", [b"\x01\x02\0\0\0\0\x0a", b"\xff" + bytes(range(18)), b"x" * 300])
@pytest.mark.parametrize("kind", [dhcp.DISCOVER, dhcp.REQUEST, dhcp.INFORM])
def test_the_client_identifier_comes_back(kind: int, identifier: bytes) -> None:
    reply = read(ask(kind, requested=ADDRESS, options=((dhcp.OPTION_CLIENT_ID, identifier),)))
    assert reply.message.client_id == identifier


def test_a_refusal_returns_the_client_identifier_too() -> None:
    reply = read(ask(dhcp.REQUEST, requested=OTHER_ADDRESS, options=((dhcp.OPTION_CLIENT_ID, b"\0me"),)))
    assert reply.message.client_id == b"\0me"


def test_without_an_identifier_none_is_made_up() -> None:
    assert dhcp.OPTION_CLIENT_ID not in read(ask(dhcp.DISCOVER)).message.options


def test_any_identifier_gets_the_same_address() -> None:
    for identifier in (b"\x01a", b"\xffduid", b"\0"):
        reply = read(ask(dhcp.DISCOVER, options=((dhcp.OPTION_CLIENT_ID, identifier),)))
        assert reply.message.yiaddr == ADDRESS


def test_broadcast_address_and_mtu_for_a_client_without_a_wish_list() -> None:
    reply = read(ask(dhcp.DISCOVER))
    assert option(reply, dhcp.OPTION_BROADCAST) == 0x0AE70FFF
    assert option(reply, dhcp.OPTION_MTU) == 1500


@pytest.mark.parametrize("wanted", [bytes((1, 3)), bytes((1, 3, 26)), bytes((28,)), bytes((26, 28))])
def test_broadcast_address_and_mtu_only_where_the_wish_list_has_them(wanted: bytes) -> None:
    reply = read(ask(dhcp.DISCOVER, options=((dhcp.OPTION_PARAMETERS, wanted),)))
    assert_granted(reply, dhcp.OFFER)
    for code in (dhcp.OPTION_BROADCAST, dhcp.OPTION_MTU):
        assert (code in reply.message.options) == (code in wanted)


def test_a_lease_for_ever_has_no_timers() -> None:
    reply = read(ask(dhcp.DISCOVER, offer=OFFER._replace(lease_time=INFINITE_LEASE)))
    assert reply.message.lease_time == INFINITE_LEASE
    assert not {58, 59} & set(reply.message.options)


@pytest.mark.parametrize("seconds", [1, 2, 3, 7, 2**31 - 1])
def test_timers_are_in_order_for_any_lease(seconds: int) -> None:
    reply = read(ask(dhcp.DISCOVER, offer=OFFER._replace(lease_time=seconds)))
    assert option(reply, 58) <= option(reply, 59) <= option(reply, 51) == seconds


def test_a_network_without_a_way_out_names_no_router_and_no_dns() -> None:
    reply = read(ask(dhcp.DISCOVER, offer=OFFER._replace(router=None, dns=())))
    assert reply.message.routers == ()
    assert reply.message.dns_servers == ()
    assert reply.message.subnet_mask == 0xFFFFF000
