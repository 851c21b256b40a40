"""Every verdict there is: a code, a name, and a sentence that an operator understands.

A frame ends in exactly one reason. Codes below `PASS_LIMIT` pass; all others drop, and so does
`UNJUDGED`, the state of a frame that nobody has looked at yet. Codes are an implementation detail
(they index counters); names are the contract.
"""

FROM_VM = 0
TO_VM = 1

PASS_ARP = 0
PASS_DHCP = 1
PASS_RULE = 2
PASS_GATEWAY = 3
PASS_DNS = 4
PASS_GLOBAL = 5
PASS_INBOUND = 6
PASS_RETURN = 7
PASS_LIMIT = 16

RUNT = 16
OVERSIZE = 17
SRC_MAC = 18
IPV6 = 19
ETHERTYPE = 20
ARP_MALFORMED = 21
ARP_OP = 22
ARP_SHA = 23
ARP_SPA = 24
IP_MALFORMED = 25
IP_OPTIONS = 26
DHCP_MALFORMED = 27
DHCP_CHADDR = 28
DHCP_CLIENT_ID = 29
DHCP_RATE = 30
DHCP_SERVER = 31
NO_LEASE = 32
SRC_IP = 33
DST_MAC = 34
MARTIAN = 35
BLOCKED = 36
BROADCAST = 37
MULTICAST = 38
NOT_GLOBAL = 39
OTHER_MAC = 40
ARP_GATEWAY = 41
VM_BUSY = 42
UPLINK_BUSY = 43
FRAGMENT = 44
FLOW_START = 45
FLOW_FULL = 46

REASON_LIMIT = 64
UNJUDGED = 255


class Reason:
    """One verdict: `code` indexes the counters, `name` is what users read and scripts match."""

    __slots__ = ("code", "name", "sentence")

    def __init__(self, code: int, name: str, sentence: str) -> None:
        self.code = code
        self.name = name
        self.sentence = sentence

    @property
    def passes(self) -> bool:
        return self.code < PASS_LIMIT

    def __repr__(self) -> str:
        return f"Reason({self.name!r})"


REASONS = (
    Reason(PASS_ARP, "pass-arp", "ARP from the VM's own MAC address and leased IPv4 address"),
    Reason(PASS_DHCP, "pass-dhcp", "a well-formed DHCP client message from the VM itself"),
    Reason(PASS_RULE, "pass-rule", "the destination is opened by --allow"),
    Reason(PASS_GATEWAY, "pass-gateway", "the destination is the gateway or another address of the host"),
    Reason(PASS_DNS, "pass-dns", "the destination is a DNS server that the lease names, port 53"),
    Reason(PASS_GLOBAL, "pass-global", "the destination is a globally reachable address"),
    Reason(PASS_INBOUND, "pass-inbound", "incoming traffic for the VM"),
    Reason(PASS_RETURN, "pass-return", "return traffic of a connection that was let through"),
    Reason(RUNT, "runt", "the frame is shorter than an Ethernet header"),
    Reason(OVERSIZE, "oversize", "the frame is longer than the MTU allows"),
    Reason(SRC_MAC, "src-mac", "the Ethernet source is not the VM's own MAC address"),
    Reason(IPV6, "ipv6", "IPv6 is not let through"),
    Reason(ETHERTYPE, "ethertype", "neither ARP nor IPv4 (a VLAN tag, LLC, RARP, LLDP or the like)"),
    Reason(ARP_MALFORMED, "arp-malformed", "ARP that is cut short or not for IPv4 over Ethernet"),
    Reason(ARP_OP, "arp-op", "ARP that is neither a request nor a reply"),
    Reason(ARP_SHA, "arp-sha", "ARP whose sender hardware address is not the VM's MAC address"),
    Reason(ARP_SPA, "arp-spa", "ARP whose sender protocol address is not the VM's leased address"),
    Reason(IP_MALFORMED, "ip-malformed", "an IPv4 header whose lengths do not hold together"),
    Reason(IP_OPTIONS, "ip-options", "source routing, or IPv4 options that cannot be walked"),
    Reason(DHCP_MALFORMED, "dhcp-malformed", "not a DHCP client message that the VM may send"),
    Reason(DHCP_CHADDR, "dhcp-chaddr", "a DHCP message in the name of another MAC address"),
    Reason(DHCP_CLIENT_ID, "dhcp-client-id", "too many different DHCP client identifiers from one VM"),
    Reason(DHCP_RATE, "dhcp-rate", "too many DHCP messages, or too many DHCPDECLINEs, from one VM"),
    Reason(DHCP_SERVER, "dhcp-server", "a DHCP server's message, which a VM never sends"),
    Reason(NO_LEASE, "no-lease", "the VM holds no valid DHCP lease"),
    Reason(SRC_IP, "src-ip", "the IPv4 source is not the VM's leased address"),
    Reason(DST_MAC, "dst-mac", "the Ethernet destination does not fit the IPv4 destination"),
    Reason(MARTIAN, "martian", "the destination is 127.0.0.0/8 or 0.0.0.0/8, which no rule opens"),
    Reason(BLOCKED, "blocked", "the destination is closed by --block"),
    Reason(BROADCAST, "broadcast", "an IPv4 broadcast that no rule opens"),
    Reason(MULTICAST, "multicast", "IPv4 multicast that no rule opens"),
    Reason(NOT_GLOBAL, "not-global", "the destination is not globally reachable and no rule opens it"),
    Reason(OTHER_MAC, "other-mac", "a unicast frame for another station"),
    Reason(ARP_GATEWAY, "arp-gateway", "ARP that claims the gateway's address for another MAC address"),
    Reason(VM_BUSY, "vm-busy", "the VM did not take the frame in time"),
    Reason(UPLINK_BUSY, "uplink-busy", "the uplink did not take the frame in time"),
    Reason(FRAGMENT, "fragment", "no ports to read, and a rule with ports holds for the other side"),
    Reason(FLOW_START, "flow-start", "allowed with state, but it neither starts nor belongs to a connection"),
    Reason(FLOW_FULL, "flow-full", "allowed with state, but the table of connections is full"),
)

BY_CODE = {reason.code: reason for reason in REASONS}
BY_NAME = {reason.name: reason for reason in REASONS}
