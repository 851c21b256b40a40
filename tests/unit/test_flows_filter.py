"""Rules with ports and directions, and exposed ports, through the filter: what passes, and why not."""

from harness import corpus
from harness.frames import ICMP, IPV4, MORE_FRAGMENTS, TCP, UDP, ethernet, icmp_echo, ipv4, tcp, udp
from softnet import policy
from softnet.core.filter import Filter
from softnet.core.numbers import FLOWS
from vectors.world import FROM_VM, GLOBAL, GW, GW_MAC, PUBLIC_DNS, TO_VM, VM, VM_MAC

LAN, STRANGER = "10.0.0.5", "172.16.0.9"
FINS, SYN, SYN_ACK, ACK = 0x11, 0x02, 0x12, 0x10
STATE = corpus.states()["bound"]


class World:
    """A bound VM under a policy, and one frame after the other."""

    def __init__(self, allow: str = "", block: str = "") -> None:
        self.filter, self.now = corpus.reached(STATE)
        self.apply(allow, block)

    def apply(self, allow: str = "", block: str = "") -> None:
        rules = policy.parse([allow] if allow else [], [block] if block else [])
        facts = corpus.facts_of(STATE)
        self.filter.set_table(policy.compile_policy(rules, facts), policy.compile_inbound(rules, facts))

    def out(self, remote: str, protocol: int, payload: bytes, fragment: int = 0) -> str:
        frame = ethernet(GW_MAC, VM_MAC, IPV4, ipv4(VM, remote, protocol, payload, fragment=fragment))
        return corpus.judge(self.filter, FROM_VM, [frame], self.now)[0]

    def back(self, remote: str, protocol: int, payload: bytes, fragment: int = 0, to: str = VM) -> str:
        frame = ethernet(VM_MAC, GW_MAC, IPV4, ipv4(remote, to, protocol, payload, fragment=fragment))
        return corpus.judge(self.filter, TO_VM, [frame], self.now)[0]


def test_stateless_rules_with_ports() -> None:
    world = World(allow="10.0.0.0/8:443/tcp", block="0.0.0.0/0:25")
    assert world.out(LAN, TCP, tcp(1024, 443, flags=ACK)) == "pass-rule", "no state, so any segment passes"
    assert world.out(LAN, TCP, tcp(1024, 80)) == "not-global"
    assert world.out(LAN, UDP, udp(1024, 443)) == "not-global"
    assert world.out(GLOBAL, TCP, tcp(1024, 25)) == "blocked"
    assert world.out(GLOBAL, UDP, udp(1024, 25)) == "blocked"
    assert world.out(GLOBAL, TCP, tcp(1024, 80)) == "pass-global"
    assert world.out("127.0.0.1", TCP, tcp(1024, 443)) == "martian"
    assert world.back(STRANGER, TCP, tcp(443, 1024)) == "pass-inbound"


def test_a_rule_with_ports_reads_first_fragments_and_refuses_later_ones() -> None:
    world = World(allow="10.0.0.0/8:443/tcp")
    assert world.out(LAN, TCP, tcp(1024, 443), MORE_FRAGMENTS) == "pass-rule"
    assert world.out(LAN, TCP, tcp(1024, 443), 1) == "fragment"
    assert world.out(LAN, TCP, b"\0\0\0", MORE_FRAGMENTS) == "fragment", "too short to show its ports"
    assert world.out(LAN, UDP, bytes(8), 1) == "not-global", "the rule is not about UDP"
    assert world.out(GLOBAL, TCP, bytes(8), 1) == "pass-global"


def test_without_directions_nothing_is_followed() -> None:
    world = World(allow="10.0.0.0/8:443", block="@host")
    world.out(LAN, TCP, tcp(1024, 443))
    assert world.filter.flows == 0


def test_return_traffic_of_what_is_let_through_passes() -> None:
    world = World(allow="out 10.0.0.0/8:443", block="0.0.0.0/0")
    assert world.back(LAN, TCP, tcp(443, 1024, flags=SYN_ACK)) == "blocked", "nobody asked"
    assert world.out(LAN, TCP, tcp(1024, 443)) == "pass-rule"
    assert world.back(LAN, TCP, tcp(443, 1024, flags=SYN_ACK)) == "pass-return"
    assert world.out(LAN, TCP, tcp(1024, 443, flags=ACK)) == "pass-rule"
    assert world.back(LAN, TCP, tcp(443, 1025, flags=SYN_ACK)) == "blocked"
    assert world.back(LAN, TCP, tcp(443, 1024, flags=SYN)) == "blocked", "a SYN is no return traffic"


def test_what_is_open_by_default_is_followed_too() -> None:
    world = World(block="in 0.0.0.0/0")
    assert world.out(GLOBAL, UDP, udp(5353, 53)) == "pass-global"
    assert world.back(GLOBAL, UDP, udp(53, 5353)) == "pass-return"
    assert world.back(GLOBAL, UDP, udp(54, 5353)) == "blocked"
    assert world.out(GLOBAL, TCP, tcp(1024, 80, flags=ACK)) == "pass-global", "open to any packet"
    assert world.back(GLOBAL, TCP, tcp(80, 1024, flags=ACK)) == "blocked", "but nothing was started"
    assert world.out(GW, ICMP, icmp_echo()) == "pass-gateway"
    assert world.back(GW, ICMP, b"\0" + icmp_echo()[1:]) == "pass-return"
    assert world.back(GW, ICMP, icmp_echo()) == "blocked"


def test_an_incoming_connection_that_a_rule_allows_is_answered() -> None:
    world = World(allow="in 172.16.0.0/12:22", block="0.0.0.0/0")
    assert world.back(STRANGER, TCP, tcp(40000, 23)) == "blocked"
    assert world.back(STRANGER, TCP, tcp(40000, 22, flags=ACK)) == "flow-start"
    assert world.out(STRANGER, TCP, tcp(22, 40000, flags=SYN_ACK)) == "blocked"
    assert world.back(STRANGER, TCP, tcp(40000, 22)) == "pass-inbound"
    assert world.out(STRANGER, TCP, tcp(22, 40000, flags=SYN_ACK)) == "pass-return"
    assert world.out(STRANGER, TCP, tcp(22, 40001, flags=SYN_ACK)) == "blocked"
    assert world.out(STRANGER, TCP, tcp(22, 40000, flags=SYN)) == "blocked"


def test_a_stateful_allow_admits_connections_only() -> None:
    world = World(allow="out 10.0.0.0/8")
    assert world.out(LAN, TCP, tcp(1024, 80, flags=ACK)) == "flow-start"
    assert world.out(LAN, TCP, tcp(1024, 80, flags=FINS)) == "flow-start"
    assert world.out(LAN, UDP, udp(1024, 0)) == "flow-start"
    assert world.out(LAN, 47, bytes(8)) == "flow-start"
    assert world.out(LAN, UDP, udp(1024, 53, bytes(16)), MORE_FRAGMENTS) == "flow-start"
    assert world.out(LAN, UDP, bytes(16), 1) == "flow-start"
    assert world.out(LAN, TCP, tcp(1024, 80)[:16]) == "flow-start"


def test_icmp_errors_about_a_flow_pass_and_no_others() -> None:
    world = World(block="in 0.0.0.0/0")
    datagram = udp(5353, 53)
    assert world.out(GLOBAL, UDP, datagram) == "pass-global"
    quoted = ipv4(VM, GLOBAL, UDP, datagram)
    unreachable = b"\x03\x04\0\0\0\0\x05\0"
    assert world.back(STRANGER, ICMP, unreachable + quoted) == "pass-return", "a router on the way says so"
    assert world.back(STRANGER, ICMP, b"\x05" + unreachable[1:] + quoted) == "blocked", "a redirect"
    assert world.back(STRANGER, ICMP, unreachable + quoted[:27]) == "blocked"
    assert world.back(STRANGER, ICMP, unreachable + ipv4(VM, GLOBAL, UDP, udp(5354, 53))) == "blocked"
    assert world.back(STRANGER, ICMP, unreachable + ipv4(GLOBAL, VM, UDP, datagram)) == "blocked"
    assert world.out(GLOBAL, ICMP, icmp_echo()) == "pass-global"
    exceeded = b"\x0b\0\0\0\0\0\0\0" + ipv4(VM, GLOBAL, ICMP, icmp_echo())
    assert world.back(STRANGER, ICMP, exceeded) == "pass-return"


def test_the_vm_may_report_errors_about_what_came_in() -> None:
    world = World(allow="in 172.16.0.0/12", block="0.0.0.0/0")
    assert world.back(STRANGER, UDP, udp(40000, 9)) == "pass-inbound"
    quoted = ipv4(STRANGER, VM, UDP, udp(40000, 9))
    assert world.out(STRANGER, ICMP, b"\x03\x03\0\0\0\0\0\0" + quoted) == "pass-return"
    assert world.out(LAN, ICMP, b"\x03\x03\0\0\0\0\0\0" + quoted) == "blocked", "to somebody else"


def test_no_inbound_rule_stops_a_dhcp_reply_and_none_lets_its_ports_do_more() -> None:
    world = World(block="0.0.0.0/0,in 0.0.0.0/0")
    assert world.back(GW, UDP, udp(67, 68, bytes(8)), to="255.255.255.255") == "pass-inbound"
    assert world.back(GW, UDP, udp(67, 69, bytes(8))) == "blocked"
    assert world.back(GW, UDP, udp(67, 68, bytes(8)), MORE_FRAGMENTS) == "blocked"


def test_broadcasts_follow_the_inbound_rules_without_state() -> None:
    world = World(allow="in 192.168.64.0/24", block="in 0.0.0.0/0")
    assert world.back("192.168.64.9", UDP, udp(137, 137), to="192.168.64.255") == "pass-inbound"
    assert world.back(STRANGER, UDP, udp(137, 137), to="192.168.64.255") == "blocked"
    assert world.filter.flows == 0


def test_a_new_policy_and_a_new_address_forget_every_flow() -> None:
    world = World(allow="out 10.0.0.0/8", block="0.0.0.0/0")
    world.out(LAN, TCP, tcp(1024, 443))
    assert world.filter.flows == 1
    world.apply(allow="out 10.0.0.0/8,@dns", block="0.0.0.0/0")
    assert world.filter.flows == 0
    assert world.back(LAN, TCP, tcp(443, 1024, flags=SYN_ACK)) == "blocked"
    world.out(LAN, TCP, tcp(1024, 443))
    world.now += 1_000_000
    assert world.filter.next_event(world.now) is not None
    assert world.filter.flows == 0


def test_a_guest_that_opens_flows_without_end_keeps_what_it_had() -> None:
    world = World(allow="out 10.0.0.0/8", block="0.0.0.0/0")
    world.out(LAN, TCP, tcp(1024, 443))
    world.back(LAN, TCP, tcp(443, 1024, flags=SYN_ACK))
    assert world.out(LAN, TCP, tcp(1024, 443, flags=ACK)) == "pass-rule"
    frames = [
        ethernet(GW_MAC, VM_MAC, IPV4, ipv4(VM, f"10.1.{at >> 8}.{at & 255}", UDP, udp(1024, port)))
        for port in (1, 2)
        for at in range(20000)
    ]
    reasons = corpus.judge(world.filter, FROM_VM, frames, world.now)
    assert reasons.count("flow-full") == 40000 + 1 - FLOWS
    assert world.filter.flows == FLOWS
    assert world.out(LAN, TCP, tcp(1024, 443, flags=ACK)) == "pass-rule"
    assert world.back(LAN, TCP, tcp(443, 1024, flags=ACK)) == "pass-return"
    assert world.out(LAN, UDP, udp(9, 9)) == "flow-full"
    world.now += 31
    assert world.out(LAN, UDP, udp(9, 9)) == "pass-rule"


def test_a_full_table_refuses_nothing_that_is_open_by_default() -> None:
    world = World(block="in 0.0.0.0/0")
    frames = [
        ethernet(GW_MAC, VM_MAC, IPV4, ipv4(VM, GLOBAL, UDP, udp(1024, port)))
        for port in range(100, FLOWS + 109)
    ]
    assert set(corpus.judge(world.filter, FROM_VM, frames, world.now)) == {"pass-global"}
    assert world.back(GLOBAL, UDP, udp(100, 1024)) == "pass-return"
    assert world.back(GLOBAL, UDP, udp(FLOWS + 108, 1024)) == "blocked"


def exposed(*ports: tuple[int, int], allow: str = "", block: str = "") -> World:
    world = World(allow, block)
    world.filter.expose(ports)
    return world


def test_an_exposed_port_is_answered_whoever_asks() -> None:
    world = exposed((TCP, 22))
    assert world.out(STRANGER, TCP, tcp(22, 40000, flags=SYN_ACK)) == "not-global"
    assert world.back(STRANGER, TCP, tcp(40000, 22)) == "pass-inbound"
    assert world.out(STRANGER, TCP, tcp(22, 40000, flags=SYN_ACK)) == "pass-return"
    assert world.out(STRANGER, TCP, tcp(22, 40001, flags=SYN_ACK)) == "not-global"
    assert world.back(STRANGER, TCP, tcp(40000, 23)) == "pass-inbound", "as ever, but it cannot be answered"
    assert world.out(STRANGER, TCP, tcp(23, 40000, flags=SYN_ACK)) == "not-global"
    assert world.back(STRANGER, TCP, tcp(40002, 22, flags=ACK)) == "pass-inbound"
    assert world.out(STRANGER, TCP, tcp(22, 40002, flags=ACK)) == "not-global"
    assert world.back(STRANGER, UDP, udp(40000, 22)) == "pass-inbound"
    assert world.out(STRANGER, UDP, udp(22, 40000)) == "not-global"


def test_a_block_outranks_an_exposed_port() -> None:
    world = exposed((UDP, 53), block="172.16.0.0/12")
    world.back(STRANGER, UDP, udp(40000, 53))
    assert world.out(STRANGER, UDP, udp(53, 40000)) == "blocked"
    assert world.back(LAN, UDP, udp(40000, 53)) == "pass-inbound"
    assert world.out(LAN, UDP, udp(53, 40000)) == "pass-return"


def test_exposed_ports_do_not_make_rules_stateful() -> None:
    world = exposed((TCP, 22), allow="10.0.0.0/8", block=PUBLIC_DNS)
    assert world.out(LAN, TCP, tcp(1024, 80, flags=ACK)) == "pass-rule"
    assert world.out(LAN, 47, bytes(8)) == "pass-rule"
    assert world.back(PUBLIC_DNS, UDP, udp(53, 53)) == "pass-inbound"
    assert world.filter.flows == 0
    world.filter.expose(())
    world.back(STRANGER, TCP, tcp(40000, 22))
    assert world.out(STRANGER, TCP, tcp(22, 40000, flags=SYN_ACK)) == "not-global"


def test_frames_that_cannot_be_read_pass_inbound_only_where_no_rule_asks() -> None:
    cut = ethernet(VM_MAC, GW_MAC, IPV4, b"\x45\0\0")
    stateful: Filter = World(allow="in @host").filter
    assert corpus.judge(stateful, TO_VM, [cut], 0.0) == ["ip-malformed"]
    assert corpus.judge(exposed((TCP, 22)).filter, TO_VM, [cut], 0.0) == ["pass-inbound"]
