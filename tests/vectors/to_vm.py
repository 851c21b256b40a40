"""Section 2 of docs/spec.md, and every cut-short length of one frame of each kind."""

from harness.frames import (
    ACK,
    ARP,
    BROADCAST_MAC,
    DHCP_OPTIONS_AT,
    DISCOVER,
    IPV4,
    IPV6,
    MORE_FRAGMENTS,
    REQUEST,
    TCP,
    ZERO_MAC,
    arp,
    ethernet,
    icmp_echo,
    ipv4,
    option,
    tcp,
    udp,
)
from vectors.world import (
    GLOBAL,
    GW,
    GW_MAC,
    OTHER,
    OTHER_MAC,
    TO_VM,
    VM,
    VM_MAC,
    Corpus,
    client,
    packet,
    server,
)


def _incoming(
    src: str = GLOBAL, dst: str = VM, eth_dst: str = VM_MAC, payload: bytes = b"", **fields: int
) -> bytes:
    body = payload or udp(9, 40000, b"hello")
    return ethernet(eth_dst, GW_MAC, IPV4, ipv4(src, dst, 17, body, **fields))


def inbound(corpus: Corpus) -> None:
    corpus.open("inbound")
    spec = "2"
    whole = _incoming()
    for state in ("none", "bound", "expired", "gateway-mac", "block-all", "no-gateway", "released"):
        corpus.up(f"in-udp-{state}", "a packet for the VM", spec, "pass-inbound", whole, state)
    fine = {
        "broadcast": _incoming(dst="255.255.255.255", eth_dst=BROADCAST_MAC),
        "multicast": _incoming(dst="224.0.0.251", eth_dst="01:00:5e:00:00:fb"),
        "least-group": _incoming(eth_dst="01:00:00:00:00:00"),
        "private-source": _incoming(src="10.0.0.1"),
        "loopback-source": _incoming(src="127.0.0.1"),
        "other-destination": _incoming(dst=OTHER),
        "fragment": _incoming(fragment=MORE_FRAGMENTS),
        "last-fragment": _incoming(fragment=3),
        "options": _incoming(options=b"\x83\x07\x04" + bytes(4)),
        "version-6": _incoming(version=6),
        "ihl-0": _incoming(ihl=0),
        "ihl-15": _incoming(ihl=15),
        "total-0": _incoming(total=0),
        "total-most": _incoming(total=65535),
        "padded": whole + bytes(20),
        "header-only": whole[:14],
        "tcp": ethernet(VM_MAC, GW_MAC, IPV4, ipv4(GLOBAL, VM, TCP, tcp(443, 40000))),
        "icmp": ethernet(VM_MAC, GW_MAC, IPV4, ipv4(GLOBAL, VM, 1, icmp_echo())),
        "from-vm-itself": ethernet(VM_MAC, VM_MAC, IPV4, ipv4(VM, VM, 17, udp(1, 2))),
        "from-other-vm": ethernet(VM_MAC, OTHER_MAC, IPV4, ipv4(OTHER, VM, 17, udp(1, 2))),
        "dhcp-client": client(DISCOVER, eth_src=OTHER_MAC),
        "dhcp-server": server(ACK),
        "arp-request": ethernet(BROADCAST_MAC, GW_MAC, ARP, arp(1, GW_MAC, GW, VM)),
        "arp-reply": ethernet(VM_MAC, GW_MAC, ARP, arp(2, GW_MAC, GW, VM, VM_MAC)),
        "arp-neighbour": ethernet(VM_MAC, OTHER_MAC, ARP, arp(2, OTHER_MAC, OTHER, VM, VM_MAC)),
        "arp-empty": ethernet(VM_MAC, GW_MAC, ARP),
        "arp-op-9": ethernet(VM_MAC, GW_MAC, ARP, arp(9, OTHER_MAC, OTHER, VM)),
    }
    for name, frame in fine.items():
        corpus.up(f"in-{name}", f"{name}: it receives any incoming traffic", spec, "pass-inbound", frame)
    for ethertype in (0x0000, 0x05DC, 0x0801, 0x0805, 0x0807, 0x8035, 0x8100, 0x88A8, 0x88CC, 0x888E, 0xFFFF):
        corpus.up(
            f"in-ethertype-{ethertype:04x}",
            f"ethertype {ethertype:#06x}",
            spec,
            "ethertype",
            ethernet(VM_MAC, GW_MAC, ethertype, bytes(46)),
        )
    corpus.up("in-ipv6", "an IPv6 packet", spec, "ipv6", ethernet(VM_MAC, GW_MAC, IPV6, bytes(40)))
    corpus.up(
        "in-ipv6-multicast",
        "a router advertisement",
        spec,
        "ipv6",
        ethernet("33:33:00:00:00:01", GW_MAC, IPV6, bytes(40)),
    )
    corpus.up(
        "in-ethertype-first",
        "the ethertype comes before the station",
        spec,
        "ethertype",
        ethernet(OTHER_MAC, GW_MAC, 0x88CC, bytes(46)),
    )
    for at in range(6):
        wrong = bytearray(whole)
        wrong[at] ^= 0x40
        corpus.up(
            f"in-other-mac-{at}",
            f"octet {at} of the destination is not the VM's",
            spec,
            "other-mac",
            bytes(wrong),
        )
    for name, eth_dst in (("zero", ZERO_MAC), ("gateway", GW_MAC), ("other", OTHER_MAC)):
        corpus.up(f"in-other-mac-{name}", f"for {eth_dst}", spec, "other-mac", _incoming(eth_dst=eth_dst))
    corpus.up(
        "in-other-mac-arp",
        "ARP for another station",
        spec,
        "other-mac",
        ethernet(OTHER_MAC, GW_MAC, ARP, arp(2, GW_MAC, GW, OTHER, OTHER_MAC)),
        "gateway-mac",
    )
    corpus.up(
        "in-other-mac-ack",
        "an ACK in a frame for another station",
        spec,
        "other-mac",
        server(ACK, eth_dst=OTHER_MAC),
    )

    spec = "2 arp-gateway"
    for op in (0, 1, 2, 9):
        lie = arp(op, OTHER_MAC, GW, VM)
        for name, eth_dst in (
            ("unicast", VM_MAC),
            ("broadcast", BROADCAST_MAC),
            ("multicast", "01:00:5e:00:00:01"),
        ):
            frame = ethernet(eth_dst, OTHER_MAC, ARP, lie)
            corpus.up(
                f"in-arp-gateway-{op}-{name}",
                f"operation {op} claims the gateway's address",
                spec,
                "arp-gateway",
                frame,
                "gateway-mac",
            )
            corpus.up(
                f"in-arp-gateway-{op}-{name}-unknown",
                "the gateway's MAC is not known",
                spec,
                "pass-inbound",
                frame,
                "none",
            )
            corpus.up(
                f"in-arp-gateway-{op}-{name}-learnt",
                "the gateway's MAC is known from the lease it granted",
                spec,
                "arp-gateway",
                frame,
            )
    for at in range(6):
        lie = bytearray(ethernet(VM_MAC, GW_MAC, ARP, arp(2, GW_MAC, GW, VM, VM_MAC)))
        lie[22 + at] ^= 0x01
        corpus.up(
            f"in-arp-gateway-octet-{at}",
            f"octet {at} of the sender's MAC is not the gateway's",
            spec,
            "arp-gateway",
            bytes(lie),
            "gateway-mac",
        )
    corpus.up(
        "in-arp-gateway-ieee",
        "hardware type 6, which Linux reads like 1",
        spec,
        "arp-gateway",
        ethernet(VM_MAC, OTHER_MAC, ARP, arp(2, OTHER_MAC, GW, VM, htype=6)),
        "gateway-mac",
    )
    corpus.up(
        "in-arp-gateway-vm",
        "in the name of the VM's own MAC",
        spec,
        "arp-gateway",
        ethernet(VM_MAC, OTHER_MAC, ARP, arp(2, VM_MAC, GW, VM)),
        "gateway-mac",
    )
    corpus.up(
        "in-arp-gateway-gratuitous",
        "gratuitous",
        spec,
        "arp-gateway",
        ethernet(BROADCAST_MAC, OTHER_MAC, ARP, arp(1, OTHER_MAC, GW, GW)),
        "gateway-mac",
    )
    corpus.up(
        "in-arp-gateway-itself",
        "the gateway itself",
        spec,
        "pass-inbound",
        ethernet(VM_MAC, GW_MAC, ARP, arp(2, GW_MAC, GW, VM, VM_MAC)),
        "gateway-mac",
    )
    corpus.up(
        "in-arp-about-gateway",
        "a question about the gateway is no claim",
        spec,
        "pass-inbound",
        ethernet(BROADCAST_MAC, OTHER_MAC, ARP, arp(1, OTHER_MAC, OTHER, GW)),
        "gateway-mac",
    )
    corpus.up(
        "in-arp-neighbour-known",
        "a neighbour about itself",
        spec,
        "pass-inbound",
        ethernet(VM_MAC, OTHER_MAC, ARP, arp(2, OTHER_MAC, OTHER, VM)),
        "gateway-mac",
    )

    spec = "2, 1 check 1"
    corpus.up("in-empty", "a zero-length datagram", spec, "runt", b"")
    corpus.up("in-thirteen", "one byte short of an Ethernet header", spec, "runt", whole[:13])
    for state, mtu in (("bound", 1500), ("jumbo", 9000), ("small", 576)):
        full = _incoming(payload=udp(1, 2, bytes(mtu - 28)))
        corpus.up(f"in-mtu-{mtu}", f"as long as an MTU of {mtu} allows", spec, "pass-inbound", full, state)
        corpus.up(f"in-mtu-{mtu}-over", "one byte longer", spec, "oversize", full + b"\0", state)


def cuts(corpus: Corpus) -> None:
    corpus.open("cuts")
    question = ethernet(BROADCAST_MAC, VM_MAC, ARP, arp(1, VM_MAC, VM, GW)) + bytes(18)
    runt = (0, 13, "runt")
    corpus.cuts(
        "cut-arp",
        "a padded ARP request",
        "1 ARP",
        question,
        [runt, (14, 41, "arp-malformed"), (42, 60, "pass-arp")],
    )
    vlan = ethernet(GW_MAC, VM_MAC, 0x8100, bytes(46))
    corpus.cuts("cut-vlan", "a tagged frame", "1 check 3", vlan, [runt, (14, 60, "ethertype")])
    foreign = packet(GLOBAL, eth_src=OTHER_MAC)
    corpus.cuts(
        "cut-foreign", "a foreign source", "1 check 2", foreign, [runt, (14, len(foreign), "src-mac")]
    )
    kinds = {
        "udp": packet(GLOBAL),
        "tcp": packet(GLOBAL, TCP, tcp(40000, 443, b"GET /")),
        "icmp": packet(GLOBAL, 1, icmp_echo()),
        "options": packet(GLOBAL, options=b"\x94\x04\0\0\x07\x07\x04" + bytes(4) + b"\0"),
    }
    for name, frame in kinds.items():
        end = len(frame)
        corpus.cuts(
            f"cut-{name}",
            "lengths as they were",
            "1 IPv4 1",
            frame,
            [runt, (14, end - 1, "ip-malformed"), (end, end, "pass-global")],
        )
        header = 14 + 4 * (frame[14] & 15)
        fitting = [runt, (14, header - 1, "ip-malformed"), (header, end, "pass-global")]
        corpus.cuts(f"fit-{name}", "lengths made to fit", "1 IPv4 1", frame, fitting, refit=True)
    for name, frame, state, ends in (
        (
            "discover",
            client(DISCOVER, option(12, b"vm") + option(55, b"\x01\x03\x06")),
            "none",
            (3, 7, 12, 13),
        ),
        ("renewal", client(REQUEST, src=VM, dst=GW, eth_dst=GW_MAC, ciaddr=VM), "bound", (3, 4)),
    ):
        end = len(frame)
        corpus.cuts(
            f"cut-{name}",
            "lengths as they were",
            "1 IPv4 1",
            frame,
            [runt, (14, end - 1, "ip-malformed"), (end, end, "pass-dhcp")],
            state=state,
        )
        portless = "no-lease" if state == "none" else "pass-gateway"
        fitting = [runt, (14, 33, "ip-malformed"), (34, 37, portless)]
        for whole in (DHCP_OPTIONS_AT + end for end in ends):  # where an option ends, all can be walked
            fitting.append((fitting[-1][1] + 1, whole - 1, "dhcp-malformed"))
            fitting.append((whole, whole, "pass-dhcp"))
        fitting = [run for run in fitting if run[0] <= run[1]]
        corpus.cuts(f"fit-{name}", "lengths made to fit", "3", frame, fitting, state=state, refit=True)
    for name, frame in (("ack", server(ACK)), ("packet", _incoming())):
        end = len(frame)
        for refit in (False, True):
            corpus.cuts(
                f"{'fit' if refit else 'cut'}-in-{name}",
                "on the way to the VM",
                "2",
                frame,
                [runt, (14, end, "pass-inbound")],
                direction=TO_VM,
                state="none",
                refit=refit,
            )
    lie = ethernet(VM_MAC, OTHER_MAC, ARP, arp(2, OTHER_MAC, GW, VM))
    corpus.cuts(
        "cut-in-arp-gateway",
        "a claim that is cut short is none",
        "2 arp-gateway",
        lie,
        [runt, (14, 41, "pass-inbound"), (42, 42, "arp-gateway")],
        direction=TO_VM,
        state="gateway-mac",
    )
