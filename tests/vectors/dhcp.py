"""Section 1, step 3, and section 3 of docs/spec.md as single messages from the VM."""

from harness.frames import (
    DECLINE,
    DISCOVER,
    END,
    INFORM,
    MORE_FRAGMENTS,
    PAD,
    RELEASE,
    REQUEST,
    TCP,
    ip,
    mac,
    option,
    tcp,
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
    Corpus,
    client,
    packet,
)

DISCOVERY = option(53, b"\x01")


def carriers(corpus: Corpus) -> None:
    """What carries a DHCP message: fragments, ports, addresses, Ethernet."""
    corpus.open("dhcp-carriers")
    spec = "1 IPv4 3"
    for state in (
        "none",
        "bound",
        "expired",
        "released",
        "no-gateway",
        "gateway-mac",
        "allow-all",
        "block-all",
        "host-blocked",
        "no-gateway-no-lease",
    ):
        corpus.vm(
            f"discover-{state}",
            "a DISCOVER from 0.0.0.0 to everybody",
            spec,
            "pass-dhcp",
            client(DISCOVER),
            state,
        )
    for state in ("bound", "block-all", "host-blocked", "gateway-blocked", "no-gateway", "gateway-mac"):
        corpus.vm(
            f"renew-{state}",
            "a renewal from the leased address to the lease's server",
            spec,
            "pass-dhcp",
            client(REQUEST, src=VM, dst=GW, eth_dst=GW_MAC, ciaddr=VM),
            state,
        )
    corpus.vm(
        "rebind",
        "from the leased address to everybody",
        spec,
        "pass-dhcp",
        client(REQUEST, src=VM, ciaddr=VM),
    )
    corpus.vm(
        "zero-to-server",
        "from 0.0.0.0 to the lease's server",
        spec,
        "pass-dhcp",
        client(REQUEST, dst=GW, eth_dst=GW_MAC),
    )
    corpus.vm(
        "dhcp-to-station",
        "everybody's address in a frame to one station: section 3 alone judges",
        spec,
        "pass-dhcp",
        client(DISCOVER, eth_dst=OTHER_MAC),
        "gateway-mac",
    )
    corpus.vm(
        "dhcp-server-in-broadcast",
        "the server's address in a broadcast frame: the same",
        spec,
        "pass-dhcp",
        client(REQUEST, src=VM, dst=GW, ciaddr=VM),
    )
    corpus.vm(
        "dhcp-options", "behind IPv4 options", spec, "pass-dhcp", client(DISCOVER, ip_options=b"\x94\x04\0\0")
    )
    corpus.vm(
        "dhcp-source-routed",
        "source routed",
        "1 IPv4 2",
        "ip-options",
        client(DISCOVER, ip_options=b"\x83\x07\x04" + ip(GW)),
    )
    corpus.vm(
        "dhcp-src-mac",
        "another source MAC",
        "1 check 2",
        "src-mac",
        client(DISCOVER, eth_src=OTHER_MAC),
        "none",
    )
    corpus.vm(
        "dhcp-padded",
        "Ethernet padding behind it",
        spec,
        "pass-dhcp",
        client(DISCOVER) + b"\xee" * 40,
        "none",
    )
    corpus.vm(
        "dhcp-dont-fragment",
        "DF is no fragment",
        spec,
        "pass-dhcp",
        client(DISCOVER, fragment=0x4000),
        "none",
    )

    for state in ("none", "bound", "allow-all"):
        corpus.vm(
            f"dhcp-fragment-{state}",
            "a first fragment to port 67",
            spec,
            "dhcp-malformed",
            client(DISCOVER, fragment=MORE_FRAGMENTS),
            state,
        )
        for sport in (0, 53, 66, 67, 69, 1068, 0x4400, 65535):
            corpus.vm(
                f"dhcp-from-{sport}-{state}",
                f"to port 67 from port {sport}",
                spec,
                "dhcp-malformed",
                client(DISCOVER, ports=(sport, 67)),
                state,
            )
        for name, src in (
            ("neighbour", OTHER),
            ("gateway", GW),
            ("everybody", EVERYBODY),
            ("almost-zero", "0.0.0.1"),
        ):
            corpus.vm(
                f"dhcp-src-{name}-{state}",
                f"from {src}",
                spec,
                "dhcp-malformed",
                client(REQUEST, src=src),
                state,
            )
        for name, dst in (
            ("subnet", "192.168.64.255"),
            ("neighbour", OTHER),
            ("global", GLOBAL),
            ("dns", DNS),
            ("multicast", "224.0.0.1"),
            ("zero", NOBODY),
            ("loopback", "127.0.0.1"),
        ):
            corpus.vm(
                f"dhcp-dst-{name}-{state}",
                f"to {dst}",
                spec,
                "dhcp-malformed",
                client(DISCOVER, dst=dst),
                state,
            )
    corpus.vm(
        "dhcp-dst-rule",
        "no rule opens another server",
        spec,
        "dhcp-malformed",
        client(REQUEST, src=VM, dst="10.0.0.1", eth_dst=GW_MAC),
        "rules",
    )
    for state in ("none", "expired", "released"):
        corpus.vm(
            f"dhcp-leased-src-{state}",
            "from an address that is not leased now",
            spec,
            "dhcp-malformed",
            client(REQUEST, src=VM, ciaddr=VM),
            state,
        )
        corpus.vm(
            f"dhcp-server-dst-{state}",
            "to a server of no lease",
            spec,
            "dhcp-malformed",
            client(REQUEST, dst=GW, eth_dst=GW_MAC),
            state,
        )
    right = len(client(DISCOVER)) - 34
    for length in (0, 7, 8, right - 2, right + 1, 65535):
        corpus.vm(
            f"dhcp-udp-length-{length}",
            f"UDP length {length} instead of {right}",
            spec,
            "dhcp-malformed",
            client(DISCOVER, udp_length=length),
            "none",
        )
    for size in range(4):
        corpus.vm(
            f"dhcp-cut-ports-{size}",
            f"{size} bytes of UDP name no port 67",
            "1 IPv4 4",
            "no-lease",
            packet(EVERYBODY, payload=udp(68, 67)[:size], src=NOBODY),
            "none",
        )
    for size in range(4, 9):
        corpus.vm(
            f"dhcp-cut-udp-{size}",
            f"{size} bytes of UDP name port 67 and no message",
            spec,
            "dhcp-malformed",
            packet(EVERYBODY, payload=udp(68, 67)[:size], src=NOBODY),
            "none",
        )
    corpus.vm(
        "dhcp-tcp", "TCP to port 67 is not DHCP", "1 IPv4 9", "pass-gateway", packet(GW, TCP, tcp(68, 67))
    )
    corpus.vm(
        "dhcp-tcp-none",
        "TCP to port 67 without a lease",
        "1 IPv4 4",
        "no-lease",
        packet(EVERYBODY, TCP, tcp(68, 67), src=NOBODY),
        "none",
    )
    for dport in (66, 68, 0x4300):
        corpus.vm(
            f"dhcp-to-{dport}",
            f"from port 68 to {dport} is not DHCP",
            "1 IPv4 9",
            "pass-gateway",
            packet(GW, payload=udp(68, dport)),
        )

    for state in ("none", "bound", "allow-all", "host", "no-gateway", "block-all"):
        corpus.vm(
            f"dhcp-server-{state}",
            "an OFFER from the VM",
            spec,
            "dhcp-server",
            client(2, eth_dst=OTHER_MAC, src=VM, dst=OTHER, ports=(67, 68), op=2, yiaddr=OTHER),
            state,
        )
        corpus.vm(
            f"dhcp-server-empty-{state}",
            "ports 67 to 68 and nothing else",
            spec,
            "dhcp-server",
            packet(EVERYBODY, payload=udp(67, 68), src=GW),
            state,
        )
        corpus.vm(
            f"dhcp-server-fragment-{state}",
            "a first fragment from port 67 to 68",
            spec,
            "dhcp-server",
            packet(OTHER, payload=udp(67, 68, bytes(8)), fragment=MORE_FRAGMENTS),
            state,
        )
    corpus.vm(
        "dhcp-server-to-67",
        "from port 67 to 67, as a relay would",
        spec,
        "dhcp-malformed",
        client(DISCOVER, ports=(67, 67)),
        "none",
    )
    corpus.vm(
        "dhcp-server-67-69",
        "from port 67 to 69 is nothing special",
        "1 IPv4 12",
        "pass-global",
        packet(GLOBAL, payload=udp(67, 69)),
    )
    corpus.vm(
        "dhcp-server-66-68",
        "from port 66 to 68 is nothing special",
        "1 IPv4 12",
        "pass-global",
        packet(GLOBAL, payload=udp(66, 68)),
    )
    corpus.vm(
        "dhcp-server-tcp",
        "TCP from port 67 to 68 is nothing special",
        "1 IPv4 12",
        "pass-global",
        packet(PUBLIC_DNS, TCP, tcp(67, 68)),
    )


def messages(corpus: Corpus) -> None:
    """What is in a DHCP message: BOOTP fields, the message type, options."""
    corpus.open("dhcp-messages")
    spec = "3"
    for kind in (DISCOVER, REQUEST, DECLINE, RELEASE, INFORM):
        corpus.vm(f"message-{kind}", f"message type {kind}", spec, "pass-dhcp", client(kind), "none")
    for kind in (0, 2, 5, 6, 9, 10, 11, 12, 13, 14, 18, 255):
        corpus.vm(f"message-{kind}", f"message type {kind}", spec, "dhcp-malformed", client(kind), "none")
    for field, values in {
        "op": (0, 2, 3, 255),
        "htype": (0, 2, 6, 7, 32, 255),
        "hlen": (0, 1, 5, 7, 8, 16, 255),
    }.items():
        for value in values:
            frame = client(DISCOVER, **{field: value})
            corpus.vm(f"bootp-{field}-{value}", f"{field} {value}", spec, "dhcp-malformed", frame, "none")
    for giaddr in ("0.0.0.1", "128.0.0.0", "0.1.0.0", "0.0.1.0", GW):
        corpus.vm(
            f"bootp-giaddr-{giaddr}",
            f"giaddr {giaddr}",
            spec,
            "dhcp-malformed",
            client(DISCOVER, giaddr=giaddr),
            "none",
        )
    for name, fields in (
        ("broadcast-flag", {"flags": 0x8000}),
        ("ciaddr", {"ciaddr": VM}),
        ("xid-0", {"xid": 0}),
        ("xid-most", {"xid": 0xFFFFFFFF}),
        ("yiaddr", {"yiaddr": OTHER}),
        ("siaddr", {"siaddr": GW}),
        ("sname", {"sname": b"\xff" * 64}),
        ("file", {"file": b"\x01" * 128}),
    ):
        corpus.vm(
            f"bootp-{name}",
            f"{name} is the client's own business",
            spec,
            "pass-dhcp",
            client(DISCOVER, **fields),
            "none",
        )
    for at in range(6):
        wrong = bytearray(mac(VM_MAC))
        wrong[at] ^= 0x01
        corpus.vm(
            f"chaddr-{at}",
            f"octet {at} of chaddr is not the VM's",
            spec,
            "dhcp-chaddr",
            client(DISCOVER, chaddr=bytes(wrong)),
            "none",
        )
    stranger = mac(OTHER_MAC)
    for name, chaddr in (
        ("zero", bytes(6)),
        ("gateway", mac(GW_MAC)),
        ("other", stranger),
        ("late", b"\0" + mac(VM_MAC)),
    ):
        corpus.vm(
            f"chaddr-{name}",
            f"chaddr {chaddr.hex()}",
            spec,
            "dhcp-chaddr",
            client(DISCOVER, chaddr=chaddr),
            "none",
        )
    for name, fields in (
        ("hlen", {"hlen": 7}),
        ("op", {"op": 2}),
        ("htype", {"htype": 6}),
        ("giaddr", {"giaddr": GW}),
        ("options", {"raw": DISCOVERY + b"\x0c\x09ab"}),
        ("type", {"raw": END}),
        ("cookie", {"cookie": b"abcd"}),
    ):
        corpus.vm(
            f"chaddr-and-{name}",
            f"chaddr and {name}: not chaddr only",
            spec,
            "dhcp-malformed",
            client(DISCOVER, chaddr=stranger, **fields),
            "none",
        )
    for at in range(4):
        cookie = bytearray(b"\x63\x82\x53\x63")
        cookie[at] ^= 0x01
        corpus.vm(
            f"cookie-{at}",
            f"octet {at} of the magic cookie is wrong",
            spec,
            "dhcp-malformed",
            client(DISCOVER, cookie=bytes(cookie)),
            "none",
        )
    corpus.vm(
        "bootp-bare",
        "BOOTP without a cookie",
        spec,
        "dhcp-malformed",
        client(DISCOVER, cookie=b"", raw=b""),
        "none",
    )

    name12 = option(12, b"vm")
    walkable = {
        "eaten-end": DISCOVERY + b"\x0c\x02a\xff",
        "no-end": DISCOVERY,
        "no-end-pads": DISCOVERY + PAD * 4,
        "pads": PAD * 3 + DISCOVERY + PAD * 5 + END,
        "pads-after-end": DISCOVERY + END + PAD * 60,
        "rubbish-after-end": DISCOVERY + END + b"\x0c\xff\x01",
        "type-last": name12 + option(55, b"\x01\x03") + DISCOVERY + END,
        "empty-option": DISCOVERY + option(80) + END,
        "longest": DISCOVERY + option(43, bytes(255)) + END,
        "two-names": DISCOVERY + name12 + name12 + END,
        "type-after-end": DISCOVERY + END + option(53, b"\x02"),
    }
    for name, raw in walkable.items():
        corpus.vm(
            f"dhcp-options-{name}", f"DHCP options {raw.hex()}", spec, "pass-dhcp", client(0, raw=raw), "none"
        )
    unwalkable = {
        "none": b"",
        "only-end": END,
        "only-pads": PAD * 20,
        "no-type": name12 + END,
        "past-end": DISCOVERY + b"\x0c\x09ab",
        "past-end-255": DISCOVERY + b"\x0c\xff",
        "no-length": DISCOVERY + b"\x0c",
        "type-hidden-by-end": END + DISCOVERY,
        "type-empty": option(53) + END,
        "type-two-bytes": option(53, b"\x01\x01") + END,
        "type-twice": DISCOVERY + DISCOVERY + END,
        "type-other-twice": DISCOVERY + option(53, b"\x02") + END,
        "type-first-bad": option(53, b"\x02") + DISCOVERY + END,
    }
    for name, raw in unwalkable.items():
        corpus.vm(
            f"dhcp-options-{name}",
            f"DHCP options {raw.hex()}",
            spec,
            "dhcp-malformed",
            client(0, raw=raw),
            "none",
        )

    both, file, sname = (option(52, bytes([value])) for value in (3, 1, 2))
    spec = "3 (RFC 2132 9.3)"
    overloaded = {
        "file-no-end": (DISCOVERY + file + END, {"file": option(12, bytes(126))}),
        "file": (DISCOVERY + file + END, {"file": name12 + END}),
        "sname": (DISCOVERY + sname + END, {"sname": name12 + END}),
        "both": (DISCOVERY + both + END, {"file": name12 + END, "sname": option(60, b"x") + END}),
        "type-in-file": (file + END, {"file": DISCOVERY + END}),
        "type-in-sname": (sname + END, {"sname": DISCOVERY + END}),
        "unused-sname": (DISCOVERY + file + END, {"file": END, "sname": b"\x0c\xff"}),
        "unused-file": (DISCOVERY + sname + END, {"sname": END, "file": b"\x0c\xff"}),
        "full-file": (DISCOVERY + file + END, {"file": option(12, bytes(125)) + END}),
    }
    for name, (raw, fields) in overloaded.items():
        corpus.vm(
            f"overload-{name}",
            f"options go on: {name}",
            spec,
            "pass-dhcp",
            client(0, raw=raw, **fields),
            "none",
        )
    broken = {
        "value-0": (DISCOVERY + option(52, b"\0") + END, {}),
        "value-4": (DISCOVERY + option(52, b"\x04") + END, {}),
        "value-255": (DISCOVERY + option(52, b"\xff") + END, {}),
        "empty": (DISCOVERY + option(52) + END, {}),
        "two-bytes": (DISCOVERY + option(52, b"\x01\x01") + END, {"file": END}),
        "twice": (DISCOVERY + file + sname + END, {"file": END, "sname": END}),
        "file-past-end": (DISCOVERY + file + END, {"file": option(12, bytes(120)) + b"\x0c\x09"}),
        "sname-past-end": (DISCOVERY + sname + END, {"sname": b"\x0c\x3f"}),
        "sname-into-file": (DISCOVERY + both + END, {"sname": b"\x0c\x40", "file": b"ab" + END}),
        "bad-type-in-file": (DISCOVERY + file + END, {"file": option(53, b"\x02") + END}),
        "second-area-broken": (DISCOVERY + both + END, {"file": END, "sname": b"\x0c\xff"}),
    }
    for name, (raw, fields) in broken.items():
        corpus.vm(
            f"overload-{name}",
            f"overload: {name}",
            spec,
            "dhcp-malformed",
            client(0, raw=raw, **fields),
            "none",
        )
