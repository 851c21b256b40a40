"""The state table of docs/spec.md section 3, its bounds, and what a lease opens, message by message."""

from typing import Any

from harness.frames import (
    ACK,
    ARP,
    BROADCAST_MAC,
    DECLINE,
    DISCOVER,
    END,
    INFORM,
    MORE_FRAGMENTS,
    NAK,
    OFFER,
    RELEASE,
    REQUEST,
    arp,
    ethernet,
    ip,
    mac,
    number,
    option,
    udp,
)
from vectors.world import (
    DNS,
    EVERYBODY,
    GLOBAL,
    GW,
    GW_MAC,
    NOBODY,
    OTHER,
    OTHER_MAC,
    PUBLIC_DNS,
    VM,
    VM_MAC,
    XID,
    Corpus,
    client,
    handshake,
    has_lease,
    lease_options,
    no_lease,
    packet,
    request,
    server,
    up,
    vm,
)

Steps = list[dict[str, Any]]
WEEK = 7 * 86400.0
LEASE = {
    "address": VM,
    "mask": "255.255.255.0",
    "router": GW,
    "dns": [DNS, PUBLIC_DNS],
    "server": GW,
    "seconds": 3600,
}


def renewal(xid: int = XID, **fields: Any) -> bytes:
    return client(REQUEST, src=VM, dst=GW, eth_dst=GW_MAC, ciaddr=VM, xid=xid, **fields)


def release() -> bytes:
    return client(RELEASE, option(54, ip(GW)), src=VM, dst=GW, eth_dst=GW_MAC, ciaddr=VM, xid=9)


def decline(xid: int = 9) -> bytes:
    return client(DECLINE, option(50, ip(VM)) + option(54, ip(GW)), xid=xid)


def getting(corpus: Corpus) -> None:
    corpus.open("dhcp-lease")
    spec = "3 table"
    announce = ethernet(BROADCAST_MAC, VM_MAC, ARP, arp(1, VM_MAC, VM, VM))
    broadcast = {"dst": EVERYBODY, "eth_dst": BROADCAST_MAC}
    for name, how in (
        ("unicast", {}),
        ("broadcast", broadcast),
        ("broadcast-ip", {"dst": EVERYBODY}),
        ("broadcast-frame", {"eth_dst": BROADCAST_MAC}),
    ):
        steps = [
            no_lease(0),
            vm(0, "pass-dhcp", client(DISCOVER)),
            up(0, server(OFFER, **how)),
            no_lease(0),
            vm(0, "arp-spa", announce),
            vm(0, "pass-dhcp", request()),
            no_lease(0),
            up(0, server(ACK, **how), lease=LEASE),
            has_lease(0),
            vm(0, "pass-arp", announce),
            vm(0, "src-ip", packet(GLOBAL, src=OTHER)),
            has_lease(1),
        ]
        corpus.sequence(f"handshake-{name}", f"DISCOVER, OFFER, REQUEST, ACK; {name} replies", spec, steps)
    corpus.sequence(
        "init-reboot",
        "REQUEST without a server identifier, right after boot",
        spec,
        [vm(0, "pass-dhcp", request(server_id=None)), up(0, server(ACK), lease=LEASE), has_lease(0)],
    )
    corpus.sequence(
        "init-reboot-nak",
        "INIT-REBOOT refused, then a new address",
        spec,
        [
            vm(0, "pass-dhcp", request("192.168.1.5", server_id=None)),
            up(0, server(NAK, b"", yiaddr=NOBODY, **broadcast)),
            no_lease(0),
            *handshake(),
            has_lease(0),
        ],
    )
    corpus.sequence(
        "two-handshakes",
        "the second ACK changes the address",
        spec,
        [
            *handshake(),
            has_lease(0),
            vm(1, "pass-dhcp", request(OTHER, xid=2)),
            up(1, server(ACK, yiaddr=OTHER, xid=2)),
            has_lease(1, OTHER),
            vm(1, "src-ip", packet(GLOBAL)),
            vm(1, "src-ip", packet(GLOBAL, src=GW)),
        ],
    )
    corpus.sequence(
        "two-requests-one-xid",
        "two REQUESTs of one xid, two ACKs: the last counts, for the first address is free again",
        spec,
        [
            vm(0, "pass-dhcp", request()),
            vm(0, "pass-dhcp", request(OTHER)),
            up(0, server(ACK)),
            has_lease(0),
            up(0, server(ACK, yiaddr=OTHER)),
            has_lease(0, OTHER),
            vm(0, "src-ip", packet(GLOBAL)),
        ],
    )
    corpus.sequence(
        "ack-then-nak",
        "two REQUESTs of one xid, an ACK and a NAK: again the last word",
        spec,
        [
            vm(0, "pass-dhcp", request()),
            vm(0, "pass-dhcp", request(OTHER)),
            up(0, server(ACK)),
            has_lease(0),
            up(0, server(NAK, b"", yiaddr=NOBODY)),
            no_lease(0),
        ],
    )
    corpus.sequence(
        "ack-behind-options",
        "an ACK behind IPv4 options counts",
        spec,
        [
            vm(0, "pass-dhcp", request()),
            up(0, server(ACK, ip_options=b"\x94\x04\0\0")),
            has_lease(0),
        ],
    )
    corpus.sequence(
        "padded-ack",
        "Ethernet padding behind an ACK is no option",
        spec,
        [
            vm(0, "pass-dhcp", request()),
            up(0, server(ACK) + option(51, number(4, 1))),
            has_lease(2),
        ],
    )
    for name, fields, options in (
        ("split", {}, option(51, b"\0\0") + option(51, b"\x0e\x10")),
        ("far", {}, option(43, bytes(200)) + option(51, number(4, 3600))),
        ("file", {"file": option(51, number(4, 3600)) + END}, option(52, b"\x01")),
        ("sname", {"sname": option(51, number(4, 3600)) + END}, option(52, b"\x02")),
        (
            "both",
            {"file": option(51, b"\0\0") + END, "sname": option(51, b"\x0e\x10") + END},
            option(52, b"\x03"),
        ),
    ):
        packed = option(54, ip(GW)) + option(1, b"\xff\xff\xff\0") + option(3, ip(GW)) + options
        packed += option(6, ip(DNS)) + option(12, b"vm") + option(6, ip(PUBLIC_DNS))
        corpus.sequence(
            f"ack-options-{name}",
            f"lease time: {name}; DNS servers in two pieces (RFC 3396)",
            "3 (RFC 3396)",
            [
                vm(0, "pass-dhcp", request()),
                up(0, server(ACK, packed, **fields), lease=LEASE),
                has_lease(0),
                vm(0, "pass-dns", packet(DNS, payload=udp(1, 53))),
                vm(0, "pass-dns", packet(PUBLIC_DNS, payload=udp(1, 53))),
            ],
        )


IGNORED: dict[str, tuple[str, bytes]] = {
    "offer": ("an OFFER", server(OFFER)),
    "no-lease-time": (
        "an ACK without lease time",
        server(ACK, option(54, ip(GW)) + option(1, b"\xff\xff\xff\0")),
    ),
    "lease-time-short": (
        "a lease time of three bytes",
        server(ACK, option(54, ip(GW)) + option(51, b"\0\x0e\x10")),
    ),
    "lease-time-long": (
        "a lease time of five bytes",
        server(ACK, option(54, ip(GW)) + option(51, bytes(3) + b"\x0e\x10")),
    ),
    "yiaddr-0": ("yiaddr 0.0.0.0", server(ACK, yiaddr=NOBODY)),
    "xid": ("another xid", server(ACK, xid=XID ^ 1)),
    "xid-high": ("another xid, in its first octet", server(ACK, xid=XID ^ 0x80000000)),
    "server": ("from another address than the gateway's", server(ACK, src=OTHER)),
    "server-0": ("from 0.0.0.0", server(ACK, src=NOBODY)),
    "chaddr": ("for another chaddr", server(ACK, chaddr=mac(OTHER_MAC))),
    "chaddr-first": ("for a chaddr with another first octet", server(ACK, chaddr=mac("f3:9c:41:80:00:fe"))),
    "op": ("a BOOTREQUEST", server(ACK, op=1)),
    "op-0": ("BOOTP operation 0", server(ACK, op=0)),
    "sport": ("from port 68", server(ACK, ports=(68, 68))),
    "sport-66": ("from port 66", server(ACK, ports=(66, 68))),
    "dport": ("to port 67", server(ACK, ports=(67, 67))),
    "dport-69": ("to port 69", server(ACK, ports=(67, 69))),
    "fragment": ("a first fragment", server(ACK, fragment=MORE_FRAGMENTS)),
    "last-fragment": ("a later fragment", server(ACK, fragment=1)),
    "cookie": ("another magic cookie", server(ACK, cookie=b"\x63\x82\x53\x62")),
    "no-options": ("no options", server(ACK, raw=b"")),
    "no-type": ("no message type", server(ACK, raw=lease_options() + END)),
    "past-end": (
        "options that run past the end",
        server(ACK, raw=option(53, b"\x05") + lease_options() + b"\x0c\x09a"),
    ),
    "inform": ("type INFORM", server(INFORM)),
    "request": ("type REQUEST", server(REQUEST)),
    "ack-type-13": ("type 13", server(13)),
    "udp-short": ("a UDP length of 8", server(ACK, udp_length=8)),
    "tcp": ("TCP", bytes([*server(ACK)[:23], 6, *server(ACK)[24:]])),
}


def ignoring(corpus: Corpus) -> None:
    corpus.open("dhcp-ignored")
    spec = "3: when a reply counts"
    for name, (what, frame) in IGNORED.items():
        steps = [
            vm(0, "pass-dhcp", request()),
            up(0, frame, what, lease=None),
            no_lease(0),
            up(0, server(ACK), "the real one still counts"),
            has_lease(0),
        ]
        corpus.sequence(f"ignored-{name}", f"{what} teaches nothing", spec, steps)
    other = server(ACK, eth_dst=OTHER_MAC)
    corpus.sequence(
        "ignored-other-mac",
        "an ACK in a frame for another station teaches nothing",
        spec,
        [
            vm(0, "pass-dhcp", request()),
            up(0, other, reason="other-mac"),
            no_lease(0),
        ],
    )
    corpus.sequence("ack-unasked", "an ACK that nobody asked for", spec, [up(0, server(ACK)), no_lease(0)])
    corpus.sequence(
        "ack-xid-0-unasked", "an unasked ACK with xid 0", spec, [up(0, server(ACK, xid=0)), no_lease(0)]
    )
    corpus.sequence(
        "ack-to-discover",
        "an ACK to a DISCOVER, with no REQUEST",
        spec,
        [
            vm(0, "pass-dhcp", client(DISCOVER)),
            up(0, server(ACK)),
            no_lease(0),
        ],
    )
    for name, ack in (
        ("with-lease-time", server(ACK)),
        ("without", server(ACK, option(54, ip(GW)), yiaddr=NOBODY)),
    ):
        corpus.sequence(
            f"inform-{name}",
            f"an ACK to an INFORM, {name}",
            spec,
            [
                vm(0, "pass-dhcp", client(INFORM, ciaddr=VM)),
                up(0, ack),
                no_lease(0),
            ],
        )
    corpus.sequence(
        "inform-of-the-same-xid",
        "an INFORM takes over the xid of a REQUEST: the ACK may be its own, and teaches nothing",
        spec,
        [
            vm(0, "pass-dhcp", request()),
            vm(0, "pass-dhcp", client(INFORM, ciaddr=VM)),
            up(0, server(ACK)),
            no_lease(0),
        ],
    )
    changed = server(ACK, lease_options(seconds=1), yiaddr=OTHER, xid=3)
    corpus.sequence(
        "inform-bound",
        "an ACK to an INFORM leaves the lease as it is",
        spec,
        [
            vm(0, "pass-dhcp", client(INFORM, src=VM, ciaddr=VM, xid=3)),
            up(0, changed),
            has_lease(0),
            has_lease(2),
        ],
        "bound",
    )
    for name, frame, reason in (
        ("malformed", request(giaddr=GW), "dhcp-malformed"),
        ("chaddr", request(chaddr=mac(OTHER_MAC)), "dhcp-chaddr"),
        ("src-mac", request(eth_src=OTHER_MAC), "src-mac"),
        ("fragment", request(fragment=MORE_FRAGMENTS), "dhcp-malformed"),
    ):
        corpus.sequence(
            f"refused-request-{name}",
            "an answer to a REQUEST that was refused",
            spec,
            [
                vm(0, reason, frame),
                up(0, server(ACK)),
                no_lease(0),
            ],
        )
    corpus.sequence(
        "spoofed-reply",
        "an ACK that the VM sends itself",
        spec,
        [
            vm(0, "pass-dhcp", request()),
            vm(0, "dhcp-server", server(ACK, eth_src=VM_MAC, eth_dst=GW_MAC)),
            no_lease(0),
        ],
    )
    corpus.sequence(
        "named-server-is-no-gateway",
        "the VM names another server; only the gateway's answer counts",
        spec,
        [
            vm(0, "pass-dhcp", request(server_id=OTHER)),
            up(0, server(ACK, lease_options(server=OTHER), src=OTHER)),
            no_lease(0),
        ],
    )
    for name, first, reason in (("named", OTHER, "no-lease"), ("other", GW, "pass-global")):
        corpus.sequence(
            f"no-gateway-{name}",
            "without a known gateway, the server that the REQUEST named counts",
            spec,
            [
                vm(0, "pass-dhcp", request(server_id=first)),
                up(0, server(ACK, src=GW)),
                vm(0, reason, packet(GLOBAL)),
            ],
            "no-gateway-no-lease",
        )
    corpus.sequence(
        "no-gateway-renewal",
        "a unicast renewal names its server by its destination",
        spec,
        [
            vm(1, "pass-dhcp", renewal(2)),
            up(1, server(ACK, lease_options(seconds=1), xid=2, src=OTHER)),
            has_lease(3),
            vm(3, "pass-dhcp", renewal(3)),
            up(3, server(ACK, lease_options(seconds=1), xid=3)),
            no_lease(5),
        ],
        "no-gateway",
    )


def keeping(corpus: Corpus) -> None:
    corpus.open("dhcp-time")
    spec = "3 table"

    def bound_for(seconds: int) -> Steps:
        return handshake(server(ACK, lease_options(seconds=seconds)))

    def renewed(now: float, seconds: int, frame: bytes) -> Steps:
        return [vm(now, "pass-dhcp", frame), up(now, server(ACK, lease_options(seconds=seconds), xid=2))]

    corpus.sequence(
        "expiry",
        "a lease ends when its time is over",
        spec,
        [
            *bound_for(60),
            has_lease(0),
            has_lease(59.5),
            no_lease(60.5),
            vm(60.5, "arp-spa", ethernet(BROADCAST_MAC, VM_MAC, ARP, arp(1, VM_MAC, VM, GW))),
            vm(60.5, "pass-arp", ethernet(BROADCAST_MAC, VM_MAC, ARP, arp(1, VM_MAC, NOBODY, VM))),
            vm(60.5, "dhcp-malformed", renewal(2)),
            vm(60.5, "pass-dhcp", client(DISCOVER)),
        ],
    )
    corpus.sequence(
        "expiry-second", "a lease of one second", spec, [*bound_for(1), has_lease(0.25), no_lease(1.5)]
    )
    corpus.sequence(
        "expiry-asleep",
        "a lease ends while the host sleeps for a week",
        spec,
        [
            *bound_for(3600),
            has_lease(1),
            no_lease(WEEK),
            no_lease(WEEK + 1),
        ],
    )
    corpus.sequence("lease-0", "a lease of no time is over at once", spec, [*bound_for(0), no_lease(0.5)])
    corpus.sequence(
        "lease-infinite",
        "RFC 2131's infinity outlasts ten years",
        "3 (RFC 2131 3.3)",
        [*bound_for(0xFFFFFFFF), has_lease(10 * 365 * 86400.0)],
    )
    corpus.sequence(
        "renewal",
        "a unicast renewal prolongs from the ACK on",
        spec,
        [
            *bound_for(60),
            *renewed(30, 60, renewal(2)),
            has_lease(61),
            has_lease(89.5),
            no_lease(90.5),
        ],
    )
    corpus.sequence(
        "rebinding",
        "a broadcast REQUEST from the leased address, answered by the gateway",
        spec,
        [
            *bound_for(60),
            *renewed(53, 60, client(REQUEST, src=VM, ciaddr=VM, xid=2)),
            has_lease(112.5),
            no_lease(113.5),
        ],
    )
    corpus.sequence(
        "renewal-unanswered",
        "a renewal alone prolongs nothing",
        spec,
        [
            *bound_for(60),
            vm(30, "pass-dhcp", renewal(2)),
            has_lease(59.5),
            no_lease(60.5),
        ],
    )
    corpus.sequence(
        "renewal-shorter",
        "a shorter lease shortens",
        spec,
        [
            *bound_for(3600),
            *renewed(10, 20, renewal(2)),
            has_lease(29.5),
            no_lease(30.5),
        ],
    )
    corpus.sequence(
        "ack-late",
        "a lease runs from the ACK, not from the REQUEST",
        spec,
        [
            vm(0, "pass-dhcp", request()),
            up(3, server(ACK, lease_options(seconds=10))),
            has_lease(12.5),
            no_lease(13.5),
        ],
    )
    nak = server(NAK, option(54, ip(GW)), yiaddr=NOBODY, xid=2, dst=EVERYBODY, eth_dst=BROADCAST_MAC)
    corpus.sequence(
        "nak",
        "a NAK to a renewal ends the lease at once",
        spec,
        [
            vm(1, "pass-dhcp", renewal(2)),
            has_lease(1),
            up(1, nak, lease=None),
            no_lease(1),
            vm(1, "arp-spa", ethernet(BROADCAST_MAC, VM_MAC, ARP, arp(2, VM_MAC, VM, GW))),
        ],
        "bound",
    )
    for name, frame in (
        ("xid", server(NAK, b"", yiaddr=NOBODY, xid=77)),
        ("server", server(NAK, b"", yiaddr=NOBODY, xid=2, src=OTHER)),
        ("chaddr", server(NAK, b"", yiaddr=NOBODY, xid=2, chaddr=mac(OTHER_MAC))),
        ("op", server(NAK, b"", op=1, xid=2)),
        ("port", server(NAK, b"", xid=2, ports=(68, 68))),
    ):
        corpus.sequence(
            f"nak-{name}",
            f"a NAK of the wrong {name} ends nothing",
            spec,
            [
                vm(1, "pass-dhcp", renewal(2)),
                up(1, frame),
                has_lease(1),
            ],
            "bound",
        )
    corpus.sequence(
        "release",
        "the VM's own RELEASE ends the lease at once",
        spec,
        [
            has_lease(0),
            vm(1, "pass-dhcp", release(), lease=None),
            no_lease(1),
            vm(1, "dhcp-malformed", renewal(2)),
            *[step | {"now": 2} for step in handshake()],
            has_lease(2),
        ],
        "bound",
    )
    corpus.sequence(
        "release-late-ack",
        "an ACK that comes after the RELEASE",
        spec,
        [
            vm(1, "pass-dhcp", renewal(2)),
            vm(1, "pass-dhcp", release()),
            up(1, server(ACK, xid=2)),
            no_lease(1),
            up(1, server(ACK, xid=9)),
            no_lease(1),
        ],
        "bound",
    )
    corpus.sequence(
        "decline",
        "the VM's own DECLINE ends the lease at once",
        spec,
        [
            has_lease(0),
            vm(1, "pass-dhcp", decline(), lease=None),
            no_lease(1),
        ],
        "bound",
    )
    for name, frame, reason in (
        ("chaddr", client(RELEASE, chaddr=mac(OTHER_MAC)), "dhcp-chaddr"),
        ("source", client(RELEASE, src=OTHER), "dhcp-malformed"),
        ("server", client(RELEASE, src=VM, dst=OTHER), "dhcp-malformed"),
        ("giaddr", client(RELEASE, giaddr=GW), "dhcp-malformed"),
    ):
        corpus.sequence(
            f"refused-release-{name}",
            "a RELEASE that is not forwarded ends nothing",
            spec,
            [
                vm(0, reason, frame),
                has_lease(0),
            ],
            "bound",
        )
    corpus.sequence(
        "inbound-release",
        "a RELEASE on the way to the VM ends nothing",
        spec,
        [
            up(0, client(RELEASE, eth_src=OTHER_MAC)),
            has_lease(0),
        ],
        "bound",
    )


def bounds(corpus: Corpus) -> None:
    corpus.open("dhcp-bounds")
    spec = "3: against starvation"
    ask = client(DISCOVER)
    burst = [vm(0, "pass-dhcp", ask, repeat=20)]
    corpus.sequence(
        "rate",
        "20 messages at once, then one a second",
        spec,
        [
            *burst,
            vm(0, "dhcp-rate", ask),
            vm(0.5, "dhcp-rate", ask),
            vm(1.25, "pass-dhcp", ask),
            vm(1.25, "dhcp-rate", ask),
            vm(2.25, "pass-dhcp", ask),
            vm(2.25, "dhcp-rate", ask),
            vm(5.5, "pass-dhcp", ask),
            vm(5.5, "pass-dhcp", ask),
            vm(5.5, "pass-dhcp", ask),
            vm(5.5, "dhcp-rate", ask),
        ],
    )
    corpus.sequence(
        "rate-full",
        "the bucket never holds more than 20",
        spec,
        [
            *burst,
            vm(WEEK, "pass-dhcp", ask, repeat=20),
            vm(WEEK, "dhcp-rate", ask),
        ],
    )
    corpus.sequence(
        "rate-request",
        "a REQUEST over the rate asks for nothing",
        spec,
        [
            *burst,
            vm(0, "dhcp-rate", request()),
            up(0, server(ACK)),
            no_lease(0),
        ],
    )
    corpus.sequence(
        "rate-release",
        "a RELEASE over the rate is not forwarded and ends nothing",
        spec,
        [
            vm(0, "pass-dhcp", renewal(2), repeat=18),
            vm(0, "dhcp-rate", release()),
            has_lease(0),
        ],
        "bound",
    )
    corpus.sequence(
        "rate-order",
        "form comes before the rate",
        spec,
        [
            *burst,
            vm(0, "dhcp-malformed", client(DISCOVER, giaddr=GW)),
            vm(0, "dhcp-chaddr", client(DISCOVER, chaddr=bytes(6))),
        ],
    )
    corpus.sequence(
        "rate-free",
        "what is refused for its form costs no token",
        spec,
        [
            vm(0, "dhcp-malformed", client(DISCOVER, giaddr=GW), repeat=30),
            *burst,
            vm(0, "dhcp-rate", ask),
        ],
    )

    def named(identifier: bytes) -> bytes:
        return client(DISCOVER, option(61, identifier))

    ids = [b"\x01" + mac(VM_MAC), b"\xffiaid-duid", b"\x00name", b"\x00" * 255]
    four = [vm(0, "pass-dhcp", named(identifier)) for identifier in ids]
    again = [vm(0, "pass-dhcp", named(identifier)) for identifier in ids]
    corpus.sequence(
        "client-ids",
        "four client identifiers, as often as one likes; the fifth is refused",
        spec,
        [
            *four,
            *again,
            vm(0, "dhcp-client-id", named(b"\x00fifth")),
            *again,
            vm(WEEK, "dhcp-client-id", named(b"\x00sixth")),
        ],
    )
    for name, frame in (
        ("prefix", named(b"\x00nam")),
        ("longer", named(b"\x00names")),
        ("case", named(b"\x00Name")),
        ("type", named(b"\x01name")),
        ("long-almost", named(b"\x00" * 254)),
        ("long-last", named(b"\x00" * 254 + b"\x01")),
        ("request", client(REQUEST, option(61, b"\x00fifth"))),
        ("inform", client(INFORM, option(61, b"\x00fifth"))),
        ("repeated", client(DISCOVER, option(61, b"\x00name") + option(61, b"\x01"))),
        ("split", client(DISCOVER, option(61, b"\x00na") + option(61, b"mes"))),
        ("split-254", client(DISCOVER, option(61, b"\x00" * 255) + option(61, b"\x00"))),
        ("file", client(DISCOVER, option(52, b"\x01"), file=option(61, b"\x00fifth") + END)),
        ("sname", client(DISCOVER, option(52, b"\x02"), sname=option(61, b"\x00fifth") + END)),
        (
            "file-repeated",
            client(DISCOVER, option(61, b"\x00name") + option(52, b"\x01"), file=option(61, b"x") + END),
        ),
    ):
        corpus.sequence(
            f"client-id-{name}",
            f"a fifth client identifier: {name}",
            spec,
            [*four, vm(0, "dhcp-client-id", frame)],
        )
    for name, frame in (
        ("split", client(DISCOVER, option(61, b"\x00na") + option(12, b"vm") + option(61, b"me"))),
        ("file", client(DISCOVER, option(52, b"\x01"), file=option(61, b"\x00name") + END)),
        (
            "file-split",
            client(
                DISCOVER,
                option(61, b"\x00n") + option(52, b"\x03"),
                file=option(61, b"a") + END,
                sname=option(61, b"me") + END,
            ),
        ),
    ):
        corpus.sequence(
            f"client-id-known-{name}",
            f"a known one, written otherwise: {name}",
            f"{spec}; RFC 3396",
            [*four, vm(0, "pass-dhcp", frame)],
        )
    corpus.sequence(
        "client-id-refused-request",
        "a REQUEST refused for its client identifier asks for nothing",
        spec,
        [
            *four,
            vm(0, "dhcp-client-id", client(REQUEST, option(61, b"\x00fifth"))),
            up(0, server(ACK)),
            no_lease(0),
        ],
    )
    corpus.sequence(
        "client-id-malformed",
        "what is refused for its form names no client identifier",
        spec,
        [
            *[
                vm(0, "dhcp-malformed", client(DISCOVER, option(61, bytes([9, at])), giaddr=GW))
                for at in range(5)
            ],
            *four,
        ],
    )
    declines = [vm(float(at), "pass-dhcp", decline(at)) for at in range(3)]
    corpus.sequence(
        "declines",
        "three DECLINEs in the VM's life; the fourth is refused",
        spec,
        [
            *declines,
            vm(3, "dhcp-rate", decline()),
            vm(WEEK, "dhcp-rate", decline()),
            vm(WEEK, "pass-dhcp", client(DISCOVER)),
        ],
    )
    corpus.sequence(
        "decline-refused",
        "a DECLINE that is not forwarded ends nothing",
        spec,
        [
            *declines,
            *[step | {"now": 3} for step in handshake()],
            vm(3, "dhcp-rate", decline()),
            has_lease(3),
        ],
    )
