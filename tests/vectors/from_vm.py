"""Section 1 of docs/spec.md but for DHCP: Ethernet, ARP, IPv4, destinations, fragments."""

from harness.frames import (
    ARP,
    BROADCAST_MAC,
    ICMP,
    IPV4,
    IPV6,
    MORE_FRAGMENTS,
    TCP,
    UDP,
    ZERO_MAC,
    arp,
    ethernet,
    icmp_echo,
    ip,
    ipv4,
    number,
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
    packet,
)

ALL_HOSTS_MAC, MDNS_MAC = "01:00:5e:00:00:01", "01:00:5e:00:00:fb"


def _request(**changed: object) -> bytes:
    fields: dict = {"op": 1, "sha": VM_MAC, "spa": VM, "tpa": GW} | changed
    return ethernet(BROADCAST_MAC, VM_MAC, ARP, arp(**fields))


def ethernets(corpus: Corpus) -> None:
    corpus.open("ethernet")
    spec = "1 check 1"
    corpus.vm("empty", "a zero-length datagram is a frame, not an end of file", spec, "runt", b"")
    corpus.vm("one-byte", "one byte", spec, "runt", b"\xf2")
    whole = packet(GLOBAL)
    corpus.vm("thirteen", "one byte short of an Ethernet header", spec, "runt", whole[:13])
    corpus.vm("fourteen", "an Ethernet header and nothing else", "1 IPv4 1", "ip-malformed", whole[:14])
    for state, mtu in (("bound", 1500), ("jumbo", 9000), ("small", 576)):
        full = packet(GLOBAL, payload=udp(1, 2, bytes(mtu - 28)))
        corpus.vm(f"mtu-{mtu}", f"as long as an MTU of {mtu} allows", spec, "pass-global", full, state)
        corpus.vm(f"mtu-{mtu}-over", "one byte longer, as padding", spec, "oversize", full + b"\0", state)
        longer = packet(GLOBAL, payload=udp(1, 2, bytes(mtu - 27)))
        corpus.vm(f"mtu-{mtu}-packet", "one byte longer, as an IPv4 packet", spec, "oversize", longer, state)
    oversized_foreign = ethernet(GW_MAC, OTHER_MAC, IPV4, bytes(1501))
    corpus.vm("oversize-first", "length is looked at before the source", spec, "oversize", oversized_foreign)

    spec = "1 check 2"
    for at in range(6):
        wrong = bytearray(whole)
        wrong[6 + at] ^= 0x01
        corpus.vm(f"src-mac-{at}", f"octet {at} of the source is not the VM's", spec, "src-mac", bytes(wrong))
    for name, source in (
        ("zero", ZERO_MAC),
        ("broadcast", BROADCAST_MAC),
        ("gateway", GW_MAC),
        ("other-vm", OTHER_MAC),
    ):
        corpus.vm(f"src-mac-{name}", f"source {source}", spec, "src-mac", packet(GLOBAL, eth_src=source))
    corpus.vm(
        "src-mac-ipv6",
        "a foreign source comes before the ethertype",
        spec,
        "src-mac",
        ethernet(GW_MAC, OTHER_MAC, IPV6, bytes(40)),
    )
    corpus.vm(
        "src-mac-arp",
        "a foreign source with an honest ARP body",
        spec,
        "src-mac",
        ethernet(BROADCAST_MAC, OTHER_MAC, ARP, arp(1, VM_MAC, VM, GW)),
    )

    spec = "1 check 3"
    kinds = {
        0x0000: "LLC length 0",
        0x0026: "LLC length: spanning tree",
        0x05DC: "LLC length 1500",
        0x0600: "XNS",
        0x0799: "no assignment",
        0x0801: "one above IPv4",
        0x07FF: "one below IPv4",
        0x0805: "X.25",
        0x0807: "one above ARP",
        0x0808: "Frame Relay ARP",
        0x0008: "IPv4 in the wrong byte order",
        0x0608: "ARP in the wrong byte order",
        0x6558: "Ethernet over Ethernet",
        0x8035: "RARP",
        0x8100: "802.1Q tag",
        0x8847: "MPLS",
        0x8863: "PPPoE discovery",
        0x8864: "PPPoE session",
        0x888E: "EAPOL",
        0x88A8: "802.1ad tag",
        0x88CC: "LLDP",
        0x88E5: "MACsec",
        0x9100: "an older QinQ tag",
        0x9000: "loopback",
        0x86DC: "one below IPv6",
        0x86DE: "one above IPv6",
        0xFFFF: "reserved",
    }
    for ethertype, what in kinds.items():
        body = whole[14:] if ethertype not in (0x8100, 0x88A8, 0x9100) else b"\x00\x05" + whole[12:]
        frame = ethernet(GW_MAC, VM_MAC, ethertype, body)
        corpus.vm(f"ethertype-{ethertype:04x}", what, spec, "ethertype", frame)
    corpus.vm(
        "ethertype-no-lease",
        "802.1Q tag without a lease",
        spec,
        "ethertype",
        ethernet(GW_MAC, VM_MAC, 0x8100, b"\0\x05" + whole[12:]),
        "none",
    )
    corpus.vm("ipv6", "an IPv6 header", spec, "ipv6", ethernet(GW_MAC, VM_MAC, IPV6, b"\x60" + bytes(39)))
    corpus.vm(
        "ipv6-empty", "the IPv6 ethertype and nothing else", spec, "ipv6", ethernet(GW_MAC, VM_MAC, IPV6)
    )
    corpus.vm(
        "ipv6-multicast",
        "a router solicitation",
        spec,
        "ipv6",
        ethernet("33:33:00:00:00:02", VM_MAC, IPV6, b"\x60" + bytes(47)),
        "allow-all",
    )


def arps(corpus: Corpus) -> None:
    corpus.open("arp")
    spec = "1 ARP"
    corpus.vm("arp-request", "who has the gateway", spec, "pass-arp", _request())
    corpus.vm(
        "arp-request-unicast",
        "the same to the gateway alone",
        spec,
        "pass-arp",
        ethernet(GW_MAC, VM_MAC, ARP, arp(1, VM_MAC, VM, GW, GW_MAC)),
    )
    corpus.vm(
        "arp-reply",
        "the VM answers the gateway",
        spec,
        "pass-arp",
        ethernet(GW_MAC, VM_MAC, ARP, arp(2, VM_MAC, VM, GW, GW_MAC)),
    )
    corpus.vm("arp-padded", "padded to the least Ethernet frame", spec, "pass-arp", _request() + bytes(18))
    corpus.vm(
        "arp-gratuitous", "a gratuitous request for the leased address", spec, "pass-arp", _request(tpa=VM)
    )
    corpus.vm(
        "arp-gratuitous-reply",
        "a gratuitous reply for the leased address",
        spec,
        "pass-arp",
        ethernet(BROADCAST_MAC, VM_MAC, ARP, arp(2, VM_MAC, VM, VM, BROADCAST_MAC)),
    )
    corpus.vm("arp-anyone", "a request for a neighbour", spec, "pass-arp", _request(tpa=OTHER))
    for state in ("none", "bound", "expired", "released"):
        corpus.vm(
            f"arp-probe-{state}", "an RFC 5227 probe", spec, "pass-arp", _request(spa=NOBODY, tpa=VM), state
        )
        corpus.vm(
            f"arp-zero-reply-{state}",
            "0.0.0.0 in a reply is no probe",
            spec,
            "arp-spa",
            _request(op=2, spa=NOBODY),
            state,
        )
    for state in ("none", "expired", "released"):
        corpus.vm(
            f"arp-spa-{state}", "the address of a lease that is not there", spec, "arp-spa", _request(), state
        )
    for field, values in {
        "htype": (0, 2, 6, 0x0100, 0xFFFF),
        "ptype": (0, 0x0801, 0x0008, 0x86DD, 0xFFFF),
        "hlen": (0, 5, 7, 8, 255),
        "plen": (0, 3, 5, 6, 16, 255),
    }.items():
        for value in values:
            frame = _request(**{field: value})
            corpus.vm(f"arp-{field}-{value}", f"{field} {value:#x}", spec, "arp-malformed", frame)
    corpus.vm("arp-short", "27 of 28 bytes", spec, "arp-malformed", _request()[:-1])
    corpus.vm("arp-empty", "no ARP at all", spec, "arp-malformed", _request()[:14])
    for op in (0, 3, 4, 8, 9, 10, 0x0100, 0x0200, 0xFFFF):
        corpus.vm(f"arp-op-{op}", f"operation {op}", spec, "arp-op", _request(op=op))
    corpus.vm(
        "arp-op-first", "the operation comes before the sender", spec, "arp-op", _request(op=3, sha=OTHER_MAC)
    )
    honest = _request()
    for at in range(6):
        wrong = bytearray(honest)
        wrong[22 + at] ^= 0x80
        corpus.vm(f"arp-sha-{at}", f"octet {at} of the sender is not the VM's", spec, "arp-sha", bytes(wrong))
    corpus.vm("arp-sha-gateway", "the gateway's MAC as sender", spec, "arp-sha", _request(sha=GW_MAC))
    corpus.vm(
        "arp-sha-first",
        "the sender's MAC comes before its address",
        spec,
        "arp-sha",
        _request(sha=OTHER_MAC, spa=OTHER),
    )
    corpus.vm(
        "arp-sha-probe",
        "a probe in the name of another MAC",
        spec,
        "arp-sha",
        _request(sha=OTHER_MAC, spa=NOBODY),
        "none",
    )
    for at in range(4):
        wrong = bytearray(honest)
        wrong[28 + at] ^= 0x01
        corpus.vm(
            f"arp-spa-{at}", f"octet {at} of the sender's address is wrong", spec, "arp-spa", bytes(wrong)
        )
    for name, spa in (
        ("gateway", GW),
        ("neighbour", OTHER),
        ("broadcast", EVERYBODY),
        ("loopback", "127.0.0.1"),
        ("almost-zero", "0.0.0.1"),
    ):
        for op in (1, 2):
            corpus.vm(
                f"arp-spa-{name}-{op}",
                f"operation {op} claims {spa}",
                spec,
                "arp-spa",
                _request(op=op, spa=spa),
            )
    corpus.vm(
        "arp-spa-allow-all", "no rule opens another's address", spec, "arp-spa", _request(spa=GW), "allow-all"
    )


def ipv4s(corpus: Corpus) -> None:
    corpus.open("ipv4")
    spec = "1 IPv4 1"
    for version in (0, 3, 5, 6, 15):
        frame = packet(GLOBAL, version=version)
        corpus.vm(f"ip-version-{version}", f"version {version}", spec, "ip-malformed", frame)
    for ihl in range(5):
        corpus.vm(f"ip-ihl-{ihl}", f"header of {ihl} words", spec, "ip-malformed", packet(GLOBAL, ihl=ihl))
    short = packet(GLOBAL, payload=b"12345678")
    corpus.vm(
        "ip-ihl-past-total",
        "IHL 8 in a packet of 28 bytes",
        spec,
        "ip-malformed",
        packet(GLOBAL, payload=b"12345678", ihl=8),
    )
    corpus.vm(
        "ip-ihl-15-past-end",
        "IHL 15 in a packet of 28 bytes",
        spec,
        "ip-malformed",
        packet(GLOBAL, payload=b"12345678", ihl=15),
    )
    corpus.vm(
        "ip-ihl-is-total",
        "IHL 7 fills a packet of 28 bytes",
        spec,
        "pass-global",
        packet(GLOBAL, ICMP, options=b"\x01" * 8, payload=b""),
    )
    corpus.vm("ip-ihl-15", "a header of 60 bytes", spec, "pass-global", packet(GLOBAL, options=b"\x01" * 40))
    corpus.vm(
        "ip-total-0",
        "total length 0 (unfinished segmentation)",
        spec,
        "ip-malformed",
        packet(GLOBAL, total=0),
    )
    for total in (1, 19, 0x1400):
        corpus.vm(
            f"ip-total-{total}", f"total length {total}", spec, "ip-malformed", packet(GLOBAL, total=total)
        )
    corpus.vm("ip-total-20", "a header and no payload", spec, "pass-global", packet(GLOBAL, total=20))
    corpus.vm("ip-total-is-length", "total length is what is there", spec, "pass-global", short)
    corpus.vm(
        "ip-total-over",
        "one byte more than is there",
        spec,
        "ip-malformed",
        packet(GLOBAL, payload=b"12345678", total=29),
    )
    corpus.vm("ip-total-65535", "total length 65535", spec, "ip-malformed", packet(GLOBAL, total=65535))
    corpus.vm("ip-padding", "a short packet padded to 60 bytes", spec, "pass-global", short + bytes(18))
    corpus.vm(
        "ip-padding-rubbish", "a short packet padded with rubbish", spec, "pass-global", short + b"\xee" * 90
    )
    corpus.vm(
        "ip-checksum",
        "a wrong header checksum: offloads",
        spec,
        "pass-global",
        packet(GLOBAL, header_checksum=0xDEAD),
    )
    corpus.vm(
        "ip-malformed-no-lease",
        "form comes before the lease",
        spec,
        "ip-malformed",
        packet(GLOBAL, version=6),
        "none",
    )
    corpus.vm(
        "ip-is-arp",
        "an ARP body under the IPv4 ethertype",
        spec,
        "ip-malformed",
        ethernet(GW_MAC, VM_MAC, IPV4, arp(1, VM_MAC, VM, GW)),
    )
    corpus.vm("ip-protocols-0", "protocol 0", "1 IPv4 12", "pass-global", packet(GLOBAL, 0))
    for protocol in (2, 4, 41, 47, 50, 132, 255):
        corpus.vm(
            f"ip-protocol-{protocol}",
            f"protocol {protocol} goes by its addresses",
            "1 IPv4 12",
            "pass-global",
            packet(GLOBAL, protocol),
        )

    spec = "1 IPv4 2"
    route = b"\x07\x04" + ip(GW)
    refused = {
        "lsrr": b"\x83" + route,
        "ssrr": b"\x89" + route,
        "lsrr-after-nops": b"\x01\x01\x01\x83" + route,
        "ssrr-after-router-alert": b"\x94\x04\0\0\x89" + route,
        "lsrr-empty": b"\x83\x03\x04\x01",
        "lsrr-length-0": b"\x83\x00\x04\x01",
        "lsrr-last-byte": b"\x01\x01\x01\x83",
        "ssrr-last-byte": b"\x01\x01\x01\x89",
        "lsrr-past-end": b"\x83\x27\x04\x01",
        "length-0": b"\x07\x00\x04\x01",
        "length-1": b"\x07\x01\x04\x01",
        "past-end": b"\x07\x05\x04\x01",
        "no-length": b"\x01\x01\x01\x07",
        "length-255": b"\x44\xff\x05\x00",
        "second-past-end": b"\x94\x04\0\0\x07\x05\0\0",
        "lsrr-40": b"\x83\x27\x04" + ip(GW) * 9 + b"\x00",
    }
    for name, options in refused.items():
        frame = packet(GLOBAL, options=options)
        corpus.vm(f"options-{name}", f"options {options.hex()}", spec, "ip-options", frame)
    fine = {
        "end": b"\x00\x00\x00\x00",
        "nops": b"\x01\x01\x01\x01",
        "router-alert": b"\x94\x04\x00\x00",
        "record-route": b"\x07\x07\x04" + bytes(4) + b"\x00",
        "timestamp": b"\x44\x08\x05\x00" + bytes(4),
        "security": b"\x82\x0b" + bytes(9) + b"\x00",
        "unknown": b"\xde\x02\x01\x01",
        "unknown-fills": b"\x5e\x04\x12\x34",
        "not-lsrr-03": b"\x03\x04\x04\x00",
        "not-ssrr-09": b"\x09\x04\x04\x00",
        "after-end": b"\x00\x83\x07\x04",
    }
    for name, options in fine.items():
        what = f"options {options.hex()} can be walked and route nothing"
        corpus.vm(f"options-{name}", what, spec, "pass-global", packet(GLOBAL, options=options))
    lsrr = b"\x83" + route
    corpus.vm(
        "options-no-lease",
        "options come before the lease",
        spec,
        "ip-options",
        packet(GLOBAL, options=lsrr),
        "none",
    )
    corpus.vm(
        "options-allow-all",
        "no rule opens source routing",
        spec,
        "ip-options",
        packet(GLOBAL, options=lsrr),
        "allow-all",
    )
    corpus.vm(
        "options-dhcp-server",
        "options come before DHCP",
        spec,
        "ip-options",
        packet(EVERYBODY, payload=udp(67, 68, bytes(240)), options=lsrr),
    )
    corpus.vm(
        "options-then-dns",
        "ports are found behind options",
        "1 IPv4 10",
        "pass-dns",
        packet(DNS, payload=udp(40000, 53), options=b"\x94\x04\0\0"),
    )
    corpus.vm(
        "options-look-like-ports",
        "option bytes are not ports",
        "1 IPv4 10",
        "not-global",
        packet(DNS, payload=udp(40000, 54), options=b"\x01\x01\x00\x35"),
    )

    spec = "1 IPv4 4"
    for state in ("none", "expired", "released", "no-gateway-no-lease", "allow-all-no-lease"):
        for name, dst in (
            ("global", GLOBAL),
            ("gateway", GW),
            ("multicast", "224.0.0.251"),
            ("loopback", "127.0.0.1"),
        ):
            frame = packet(dst)
            corpus.vm(f"no-lease-{state}-{name}", f"to {dst} without a lease", spec, "no-lease", frame, state)
    corpus.vm(
        "no-lease-zero", "from 0.0.0.0 without a lease", spec, "no-lease", packet(GLOBAL, src=NOBODY), "none"
    )
    spec = "1 IPv4 5"
    for at in range(4):
        octets = [int(octet) for octet in VM.split(".")]
        octets[at] ^= 1
        src = ".".join(map(str, octets))
        corpus.vm(f"src-ip-{at}", f"from {src}", spec, "src-ip", packet(GLOBAL, src=src))
    for name, src in (
        ("zero", NOBODY),
        ("gateway", GW),
        ("neighbour", OTHER),
        ("broadcast", EVERYBODY),
        ("loopback", "127.0.0.1"),
        ("multicast", "224.0.0.1"),
        ("destination", GLOBAL),
    ):
        corpus.vm(f"src-ip-{name}", f"from {src}", spec, "src-ip", packet(GLOBAL, src=src))
        corpus.vm(
            f"src-ip-{name}-allow-all",
            f"from {src}: no rule opens it",
            spec,
            "src-ip",
            packet(GLOBAL, src=src),
            "allow-all",
        )
    corpus.vm(
        "src-ip-68-67-tcp",
        "a foreign source from TCP port 68 to 67",
        spec,
        "src-ip",
        packet(EVERYBODY, TCP, tcp(68, 67), src=OTHER),
    )
    corpus.vm(
        "src-ip-broadcast-68",
        "UDP from port 68 to another port of 255.255.255.255",
        spec,
        "src-ip",
        packet(EVERYBODY, payload=udp(68, 9), src=OTHER, eth_dst=BROADCAST_MAC),
    )

    spec = "1 IPv4 6"
    for name, eth_dst in (
        ("broadcast", BROADCAST_MAC),
        ("multicast", ALL_HOSTS_MAC),
        ("least", "01:00:00:00:00:00"),
    ):
        for to, dst in (("global", GLOBAL), ("gateway", GW), ("neighbour", OTHER), ("loopback", "127.0.0.1")):
            for state in ("bound", "gateway-mac", "no-gateway"):
                corpus.vm(
                    f"dst-mac-{name}-{to}-{state}",
                    f"{dst} in a frame to {eth_dst}",
                    spec,
                    "dst-mac",
                    packet(dst, eth_dst=eth_dst),
                    state,
                )
    corpus.vm(
        "dst-mac-allow-all",
        "no rule opens a unicast packet in a broadcast frame",
        spec,
        "dst-mac",
        packet(OTHER, eth_dst=BROADCAST_MAC),
        "allow-all",
    )
    for to, dst in (
        ("global", GLOBAL),
        ("private", "10.0.0.1"),
        ("subnet-after", "192.168.65.0"),
        ("subnet-before", "192.168.63.255"),
        ("loopback", "127.0.0.1"),
    ):
        corpus.vm(
            f"dst-mac-station-{to}",
            f"off-link {dst} by way of another station",
            spec,
            "dst-mac",
            packet(dst, eth_dst=OTHER_MAC),
            "gateway-mac",
        )
    for at in range(6):
        near = bytearray(packet(GLOBAL))
        near[at] ^= 0x40
        corpus.vm(
            f"dst-mac-octet-{at}",
            f"octet {at} is not the gateway's",
            spec,
            "dst-mac",
            bytes(near),
            "gateway-mac",
        )
    corpus.vm(
        "dst-mac-gateway",
        "off-link by way of the gateway",
        spec,
        "pass-global",
        packet(GLOBAL),
        "gateway-mac",
    )
    corpus.vm(
        "dst-mac-unknown",
        "no MAC known for the gateway: any station will do",
        spec,
        "pass-global",
        packet(GLOBAL, eth_dst=OTHER_MAC),
        "no-gateway",
    )
    corpus.vm(
        "dst-mac-learnt",
        "the gateway's MAC is known from the lease it granted",
        spec,
        "dst-mac",
        packet(GLOBAL, eth_dst=OTHER_MAC),
    )
    corpus.vm(
        "dst-mac-on-link",
        "an on-link destination goes to its own station",
        "1 IPv4 12",
        "not-global",
        packet(OTHER, eth_dst=OTHER_MAC),
        "gateway-mac",
    )
    corpus.vm(
        "dst-mac-on-link-first",
        "192.168.64.0 is on-link",
        "1 IPv4 12",
        "not-global",
        packet("192.168.64.0", eth_dst=OTHER_MAC),
        "gateway-mac",
    )
    corpus.vm(
        "dst-mac-multicast",
        "multicast in a multicast frame has no wrong station",
        "1 IPv4 11",
        "multicast",
        packet("224.0.0.251", eth_dst=MDNS_MAC),
        "gateway-mac",
    )
    corpus.vm(
        "dst-mac-subnet-broadcast",
        "the subnet's broadcast in a broadcast frame",
        "1 IPv4 11",
        "broadcast",
        packet("192.168.64.255", eth_dst=BROADCAST_MAC),
        "gateway-mac",
    )
    corpus.vm(
        "src-ip-before-dst-mac",
        "the source comes before the station",
        "1 IPv4 5",
        "src-ip",
        packet(GLOBAL, src=OTHER, eth_dst=BROADCAST_MAC),
    )


SPECIAL = {
    "0.0.0.0": 8,
    "10.0.0.0": 8,
    "100.64.0.0": 10,
    "127.0.0.0": 8,
    "169.254.0.0": 16,
    "172.16.0.0": 12,
    "192.0.0.0": 24,
    "192.0.2.0": 24,
    "192.88.99.0": 24,
    "192.168.0.0": 16,
    "198.18.0.0": 15,
    "198.51.100.0": 24,
    "203.0.113.0": 24,
    "224.0.0.0": 4,
    "240.0.0.0": 4,
    "168.63.129.16": 32,
}


def _edges(first_text: str, length: int) -> tuple[int, int]:
    first = int.from_bytes(ip(first_text), "big")
    return first, first + (1 << 32 - length) - 1


def _text(address: int) -> str:
    return ".".join(str(octet) for octet in address.to_bytes(4, "big"))


def _default(address: int) -> str:
    """What section 1, steps 7 and 9 to 12, says about a destination in the state `bound`."""
    if address >> 24 in (0, 127):
        return "martian"
    if address == 0xFFFFFFFF:
        return "broadcast"
    if address >> 28 == 14:
        return "multicast"
    inside = any(first <= address <= last for first, last in (_edges(*block) for block in SPECIAL.items()))
    return "not-global" if inside else "pass-global"


def destinations(corpus: Corpus) -> None:
    corpus.open("destinations")
    seen = set()
    for block, length in SPECIAL.items():
        first, last = _edges(block, length)
        for where, address in (("before", first - 1), ("first", first), ("last", last), ("after", last + 1)):
            if address in seen or not 0 <= address <= 0xFFFFFFFF:
                continue
            seen.add(address)
            what = f"{_text(address)}: {where} of {block}/{length}"
            corpus.vm(
                f"dst-{_text(address)}", what, "1 IPv4 7, 11, 12", _default(address), packet(_text(address))
            )
    for dst, reason in (
        ("169.254.169.254", "not-global"),
        ("192.0.0.9", "not-global"),
        ("192.0.0.10", "not-global"),
        ("128.0.0.0", "pass-global"),
        ("127.0.0.1", "martian"),
        ("192.31.196.1", "pass-global"),
        ("192.52.193.1", "pass-global"),
        ("192.175.48.1", "pass-global"),
        ("8.8.8.8", "pass-global"),
        ("239.255.255.250", "multicast"),
        (VM, "not-global"),
        (OTHER, "not-global"),
    ):
        if int.from_bytes(ip(dst), "big") not in seen:
            corpus.vm(f"dst-{dst}", f"to {dst}", "1 IPv4 7, 11, 12", reason, packet(dst))
    for name, payload, protocol in (("tcp", tcp(40000, 443), TCP), ("icmp", icmp_echo(), ICMP)):
        corpus.vm(
            f"global-{name}",
            f"{name} to {GLOBAL}",
            "1 IPv4 12",
            "pass-global",
            packet(GLOBAL, protocol, payload),
        )
        corpus.vm(
            f"private-{name}",
            f"{name} to 10.0.0.1",
            "1 IPv4 12",
            "not-global",
            packet("10.0.0.1", protocol, payload),
        )

    for dst in ("127.0.0.1", "127.255.255.255", "0.0.0.0", "0.255.255.255"):
        for state in ("allow-all", "host-allowed"):
            corpus.vm(
                f"martian-{dst}-{state}",
                f"{dst}: no rule opens it",
                "1 IPv4 7",
                "martian",
                packet(dst),
                state,
            )
    corpus.vm(
        "martian-block-all",
        "martian comes before the rules",
        "1 IPv4 7",
        "martian",
        packet("127.0.0.1"),
        "block-all",
    )

    spec = "1 IPv4 8"
    for dst, reason in (
        ("10.0.0.0", "pass-rule"),
        ("10.255.255.255", "pass-rule"),
        ("9.255.255.255", "pass-global"),
        ("11.0.0.0", "pass-global"),
        ("10.0.255.255", "pass-rule"),
        ("10.1.0.0", "blocked"),
        ("10.1.1.255", "blocked"),
        ("10.1.2.0", "pass-rule"),
        ("10.1.2.127", "pass-rule"),
        ("10.1.2.128", "blocked"),
        ("10.1.2.255", "blocked"),
        ("10.1.3.0", "blocked"),
        ("10.1.255.255", "blocked"),
        ("10.2.0.0", "pass-rule"),
        ("172.16.5.0", "blocked"),
        ("172.16.5.255", "blocked"),
        ("172.16.6.0", "not-global"),
        ("172.16.4.255", "not-global"),
        ("9.9.9.0", "blocked"),
        ("9.9.9.255", "blocked"),
        ("9.9.8.255", "pass-global"),
        ("9.9.10.0", "pass-global"),
        (GW, "pass-rule"),
        (OTHER, "pass-rule"),
        ("192.168.64.127", "pass-rule"),
        ("192.168.64.128", "not-global"),
        ("169.254.169.254", "pass-rule"),
        ("169.254.169.253", "not-global"),
    ):
        corpus.vm(f"rule-{dst}", f"{dst} under the state's rules", spec, reason, packet(dst), "rules")
    corpus.vm(
        "rule-multicast",
        "a rule opens one group",
        spec,
        "pass-rule",
        packet("224.0.0.251", eth_dst=MDNS_MAC),
        "rules",
    )
    corpus.vm(
        "rule-multicast-other",
        "and not the next",
        "1 IPv4 11",
        "multicast",
        packet("224.0.0.252", eth_dst="01:00:5e:00:00:fc"),
        "rules",
    )
    for dst, reason in (
        (GLOBAL, "pass-rule"),
        (GW, "pass-rule"),
        ("10.0.0.1", "pass-rule"),
        (EVERYBODY, "pass-rule"),
        ("192.168.64.255", "pass-rule"),
        ("224.0.0.1", "pass-rule"),
        ("240.0.0.1", "pass-rule"),
        ("169.254.169.254", "pass-rule"),
        ("168.63.129.16", "pass-rule"),
        (DNS, "pass-rule"),
    ):
        corpus.vm(
            f"allow-all-{dst}", f"{dst} under --allow 0.0.0.0/0", spec, reason, packet(dst), "allow-all"
        )
        blocked = packet(dst, payload=udp(40000, 53))
        corpus.vm(f"block-all-{dst}", f"{dst} under --block 0.0.0.0/0", spec, "blocked", blocked, "block-all")
    corpus.vm(
        "only-gateway-gateway",
        "a /32 of @host outranks 0.0.0.0/0",
        spec,
        "pass-rule",
        packet(GW),
        "only-gateway",
    )
    corpus.vm(
        "only-gateway-global", "and all else is closed", spec, "blocked", packet(GLOBAL), "only-gateway"
    )

    spec = "1 IPv4 9"
    corpus.vm("gateway", "the gateway", spec, "pass-gateway", packet(GW))
    corpus.vm("gateway-icmp", "the gateway, pinged", spec, "pass-gateway", packet(GW, ICMP, icmp_echo()))
    corpus.vm(
        "gateway-dns",
        "the gateway comes before DNS",
        spec,
        "pass-gateway",
        packet(GW, payload=udp(40000, 53)),
    )
    corpus.vm(
        "gateway-unknown",
        "nobody knows that this is the gateway",
        spec,
        "not-global",
        packet(GW),
        "no-gateway",
    )
    for dst in ("10.0.0.2", "100.64.0.1", "8.8.4.4", GW):
        corpus.vm(f"host-{dst}", "an address of the host itself", spec, "pass-gateway", packet(dst), "host")
        corpus.vm(
            f"host-allowed-{dst}", "@host expands to it", "1 @host", "pass-rule", packet(dst), "host-allowed"
        )
        corpus.vm(
            f"host-blocked-{dst}", "@host expands to it", "1 @host", "blocked", packet(dst), "host-blocked"
        )
        corpus.vm(
            f"gateway-blocked-{dst}",
            "the gateway's verdict is the host's",
            spec,
            "blocked",
            packet(dst),
            "gateway-blocked",
        )
        corpus.vm(
            f"host-both-{dst}",
            "@host is a /32: longer than the allowed /8",
            "1 @host",
            "blocked",
            packet(dst),
            "host-both",
        )
    for dst, reason in (("10.0.0.1", "not-global"), ("10.0.0.3", "not-global"), ("8.8.4.5", "pass-global")):
        for state in ("host", "host-blocked", "host-allowed"):
            corpus.vm(
                f"{state}-beside-{dst}", "beside an address of the host", spec, reason, packet(dst), state
            )
    corpus.vm(
        "host-blocked-global",
        "@host closes the host only",
        "1 IPv4 12",
        "pass-global",
        packet(GLOBAL),
        "host-blocked",
    )

    spec = "1 IPv4 10"
    for name, protocol, payload in (("udp", UDP, udp(40000, 53, bytes(12))), ("tcp", TCP, tcp(40000, 53))):
        corpus.vm(
            f"dns-{name}",
            f"the lease's first DNS server by {name}",
            spec,
            "pass-dns",
            packet(DNS, protocol, payload),
        )
        corpus.vm(
            f"dns-public-{name}",
            "its second, a global address",
            spec,
            "pass-dns",
            packet(PUBLIC_DNS, protocol, payload),
        )
        corpus.vm(
            f"dns-other-{name}",
            "no DNS server of the lease",
            spec,
            "not-global",
            packet("10.9.8.54", protocol, payload),
        )
    for port in (0, 52, 54, 0x3500, 443, 853):
        corpus.vm(
            f"dns-port-{port}", f"its port {port}", spec, "not-global", packet(DNS, payload=udp(40000, port))
        )
    corpus.vm(
        "dns-source-port", "from port 53 to another", spec, "not-global", packet(DNS, payload=udp(53, 40000))
    )
    corpus.vm("dns-icmp", "ICMP has no ports", spec, "not-global", packet(DNS, ICMP, udp(40000, 53)))
    corpus.vm("dns-sctp", "SCTP ports are not DNS", spec, "not-global", packet(DNS, 132, udp(40000, 53)))
    corpus.vm(
        "dns-blocked",
        "a rule comes before DNS",
        "1 IPv4 8",
        "blocked",
        packet(PUBLIC_DNS, payload=udp(1, 53)),
        "block-all",
    )
    corpus.vm(
        "dns-ports-in-padding",
        "ports behind the packet's end are not its ports",
        spec,
        "not-global",
        packet(DNS, payload=udp(40000, 53), total=22),
    )
    corpus.vm(
        "dns-half-ports",
        "a destination port cut in two",
        spec,
        "not-global",
        packet(DNS, payload=udp(40000, 53)[:3]),
    )

    spec = "1 IPv4 11"
    for dst in (EVERYBODY, "192.168.64.255"):
        corpus.vm(
            f"broadcast-{dst}",
            f"{dst} in a broadcast frame",
            spec,
            "broadcast",
            packet(dst, eth_dst=BROADCAST_MAC),
        )
    for dst, reason in (
        ("192.168.79.255", "broadcast"),
        ("192.168.64.255", "not-global"),
        ("192.168.80.255", "not-global"),
    ):
        corpus.vm(f"wide-{dst}", "the broadcast of a /20", spec, reason, packet(dst), "wide")
    for dst, eth_dst in (
        ("224.0.0.1", ALL_HOSTS_MAC),
        ("224.0.0.251", MDNS_MAC),
        ("239.255.255.255", "01:00:5e:7f:ff:ff"),
    ):
        corpus.vm(
            f"multicast-{dst}", f"{dst} in its own frame", spec, "multicast", packet(dst, eth_dst=eth_dst)
        )


def fragments(corpus: Corpus) -> None:
    corpus.open("fragments")
    spec = "1 fragments"
    shapes = {"first": MORE_FRAGMENTS, "middle": MORE_FRAGMENTS | 1, "last": 185, "furthest": 0x1FFF}
    for name, field in shapes.items():
        for to, dst, reason in (
            ("global", GLOBAL, "pass-global"),
            ("gateway", GW, "pass-gateway"),
            ("private", "10.0.0.1", "not-global"),
            ("dns", DNS, "not-global"),
            ("public-dns", PUBLIC_DNS, "pass-global"),
        ):
            for ports, protocol, payload in (
                ("udp", UDP, udp(40000, 53, bytes(8))),
                ("tcp", TCP, tcp(40000, 53)),
            ):
                corpus.vm(
                    f"fragment-{name}-{to}-{ports}",
                    f"{name} fragment to {dst}, as if to port 53",
                    spec,
                    reason,
                    packet(dst, protocol, payload, fragment=field),
                )
        corpus.vm(
            f"fragment-{name}-src",
            "a foreign source",
            "1 IPv4 5",
            "src-ip",
            packet(GLOBAL, src=OTHER, fragment=field),
        )
        corpus.vm(
            f"fragment-{name}-no-lease",
            "no lease",
            "1 IPv4 4",
            "no-lease",
            packet(GLOBAL, fragment=field),
            "none",
        )
        corpus.vm(
            f"fragment-{name}-rule",
            "opened by a rule on its address",
            spec,
            "pass-rule",
            packet("10.0.0.1", fragment=field),
            "rules",
        )
    for name, field in (("dont-fragment", 0x4000), ("reserved-bit", 0x8000)):
        corpus.vm(
            f"{name}-dns",
            f"{name} alone is no fragment",
            "1 IPv4 10",
            "pass-dns",
            packet(DNS, payload=udp(1, 53), fragment=field),
        )
    ports = number(2, 68) + number(2, 67) + bytes(8)
    for name, field in (("middle", MORE_FRAGMENTS | 1), ("last", 1)):
        corpus.vm(
            f"fragment-{name}-like-dhcp",
            "payload that looks like DHCP ports",
            spec,
            "pass-gateway",
            packet(GW, payload=ports, fragment=field),
        )
        corpus.vm(
            f"fragment-{name}-like-dhcp-none",
            "the same without a lease",
            "1 IPv4 4",
            "no-lease",
            packet(EVERYBODY, payload=ports, src=NOBODY, fragment=field),
            "none",
        )
    tiny = ipv4(VM, GLOBAL, UDP, b"", fragment=MORE_FRAGMENTS)
    corpus.vm(
        "fragment-empty",
        "a first fragment without payload",
        spec,
        "pass-global",
        ethernet(GW_MAC, VM_MAC, IPV4, tiny),
    )
