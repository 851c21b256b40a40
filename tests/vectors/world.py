"""The little network that the corpus plays in, and what collects its vectors.

Everything here and in its sibling modules is derived from docs/spec.md and knows no softnet code:
reasons are written by name, so that a vector is a reading of the page and not of the program.
"""

from typing import Any

from harness.frames import (
    ACK,
    BROADCAST_MAC,
    DISCOVER,
    END,
    IPV4,
    OFFER,
    REQUEST,
    UDP,
    Bootp,
    ethernet,
    ip,
    ipv4,
    mac,
    number,
    option,
    udp,
)

VM_MAC, GW_MAC, OTHER_MAC = "f2:9c:41:80:00:fe", "f2:5e:00:00:ff:01", "f2:9c:41:80:00:ff"
VM, GW, OTHER = "192.168.64.7", "192.168.64.1", "192.168.64.9"
DNS, PUBLIC_DNS = "10.9.8.53", "1.1.1.1"
GLOBAL = "9.9.9.9"
NOBODY, EVERYBODY = "0.0.0.0", "255.255.255.255"
XID = 0xCAFE0001
FROM_VM, TO_VM = "from-vm", "to-vm"


def client(
    kind: int,
    options: bytes = b"",
    *,
    src: str = NOBODY,
    dst: str = EVERYBODY,
    eth_dst: str = BROADCAST_MAC,
    eth_src: str = VM_MAC,
    ports: tuple[int, int] = (68, 67),
    raw: bytes | None = None,
    fragment: int = 0,
    udp_length: int | None = None,
    ip_options: bytes = b"",
    **fields: Any,
) -> bytes:
    """A DHCP client's message from the VM; `raw` replaces all options, the message type included."""
    packed = option(53, bytes([kind])) + options + END if raw is None else raw
    message = Bootp(**({"xid": XID, "chaddr": mac(VM_MAC), "options": packed} | fields)).pack()
    datagram = udp(*ports, message, length=udp_length)
    return ethernet(
        eth_dst, eth_src, IPV4, ipv4(src, dst, UDP, datagram, fragment=fragment, options=ip_options)
    )


def lease_options(seconds: int = 3600, mask: str = "255.255.255.0", server: str = GW) -> bytes:
    return (
        option(54, ip(server))
        + option(1, ip(mask))
        + option(3, ip(GW))
        + option(6, ip(DNS) + ip(PUBLIC_DNS))
        + option(51, number(4, seconds))
    )


def server(
    kind: int,
    options: bytes | None = None,
    *,
    src: str = GW,
    dst: str = VM,
    eth_dst: str = VM_MAC,
    eth_src: str = GW_MAC,
    ports: tuple[int, int] = (67, 68),
    raw: bytes | None = None,
    fragment: int = 0,
    ip_options: bytes = b"",
    udp_length: int | None = None,
    **fields: Any,
) -> bytes:
    """A DHCP server's answer to the VM, by default one that grants the lease of the corpus."""
    packed = option(53, bytes([kind])) + (lease_options() if options is None else options) + END
    given = {
        "op": 2,
        "xid": XID,
        "chaddr": mac(VM_MAC),
        "yiaddr": VM,
        "options": packed if raw is None else raw,
    }
    message = Bootp(**(given | fields)).pack()
    datagram = udp(*ports, message, length=udp_length)
    return ethernet(
        eth_dst, eth_src, IPV4, ipv4(src, dst, UDP, datagram, fragment=fragment, options=ip_options)
    )


def request(address: str = VM, server_id: str | None = GW, **fields: Any) -> bytes:
    named = b"" if server_id is None else option(54, ip(server_id))
    return client(REQUEST, option(50, ip(address)) + named, **fields)


def packet(
    dst: str, protocol: int = UDP, payload: bytes | None = None, *, src: str = VM, **fields: Any
) -> bytes:
    """An IPv4 packet from the VM by way of the gateway; `eth_dst` and `eth_src` go to Ethernet."""
    eth_dst, eth_src = fields.pop("eth_dst", GW_MAC), fields.pop("eth_src", VM_MAC)
    body = udp(40000, 9, b"hello") if payload is None else payload
    return ethernet(eth_dst, eth_src, IPV4, ipv4(src, dst, protocol, body, **fields))


def step(
    now: float, direction: str, reason: str, frame: bytes, note: str = "", **expect: Any
) -> dict[str, Any]:
    """One frame of a sequence, `now` seconds after its state was reached; `expect` may hold

    `repeat`, how often the frame is sent, and `lease`, what the filter knows afterwards.
    """
    return {"now": now, "direction": direction, "reason": reason, "note": note, "frame": frame.hex()} | expect


def vm(now: float, reason: str, frame: bytes, note: str = "", **expect: Any) -> dict[str, Any]:
    return step(now, FROM_VM, reason, frame, note, **expect)


def up(
    now: float, frame: bytes, note: str = "", reason: str = "pass-inbound", **expect: Any
) -> dict[str, Any]:
    return step(now, TO_VM, reason, frame, note, **expect)


def has_lease(now: float, src: str = VM) -> dict[str, Any]:
    return vm(now, "pass-global", packet(GLOBAL, src=src), "there is a lease")


def no_lease(now: float, src: str = VM) -> dict[str, Any]:
    return vm(now, "no-lease", packet(GLOBAL, src=src), "there is no lease")


def handshake(ack: bytes | None = None) -> list[dict[str, Any]]:
    return [
        vm(0, "pass-dhcp", client(DISCOVER)),
        up(0, server(OFFER)),
        vm(0, "pass-dhcp", request()),
        up(0, server(ACK) if ack is None else ack),
    ]


class Corpus:
    """Vectors by file, in the order in which they were added; names are unique."""

    def __init__(self) -> None:
        self.files: dict[str, list[dict[str, Any]]] = {}
        self.file = ""
        self.names: set[str] = set()

    def open(self, file: str) -> None:
        self.file = file
        self.files[file] = []

    def _add(self, entry: dict[str, Any]) -> None:
        if entry["name"] in self.names:
            raise ValueError(f"two vectors are called {entry['name']}")
        self.names.add(entry["name"])
        self.files[self.file].append(entry)

    def _vector(
        self, direction: str, name: str, what: str, spec: str, reason: str, frame: bytes, state: str
    ) -> None:
        head = {
            "name": name,
            "what": what,
            "spec": spec,
            "state": state,
            "direction": direction,
            "reason": reason,
        }
        self._add(head | {"frame": frame.hex()})

    def vm(self, name: str, what: str, spec: str, reason: str, frame: bytes, state: str = "bound") -> None:
        self._vector(FROM_VM, name, what, spec, reason, frame, state)

    def up(self, name: str, what: str, spec: str, reason: str, frame: bytes, state: str = "bound") -> None:
        self._vector(TO_VM, name, what, spec, reason, frame, state)

    def cuts(
        self,
        name: str,
        what: str,
        spec: str,
        frame: bytes,
        reasons: list[tuple[int, int, str]],
        *,
        direction: str = FROM_VM,
        state: str = "bound",
        refit: bool = False,
    ) -> None:
        """Every length of `frame` from 0 to whole, as runs of one reason; `refit`: see harness.frames."""
        head = {
            "name": name,
            "what": what,
            "spec": spec,
            "state": state,
            "direction": direction,
            "refit": refit,
        }
        self._add(head | {"cuts": reasons, "frame": frame.hex()})

    def sequence(
        self, name: str, what: str, spec: str, steps: list[dict[str, Any]], state: str = "none"
    ) -> None:
        self._add({"name": name, "what": what, "spec": spec, "state": state, "steps": steps})

    def state(
        self, name: str, what: str, steps: list[dict[str, Any]], now: float = 0, **settings: Any
    ) -> None:
        defaults: dict[str, Any] = {
            "mac": VM_MAC,
            "mtu": 1500,
            "gateway": GW,
            "gateway_mac": None,
            "host_addresses": [],
            "allow": [],
            "block": [],
        }
        self._add({"name": f"{name}", "what": what} | defaults | settings | {"steps": steps, "now": now})


def states(corpus: Corpus) -> None:
    bound = handshake()
    corpus.open("states")
    corpus.state("none", "no lease yet", [])
    corpus.state("bound", "192.168.64.7/24 leased from the gateway, with two DNS servers", bound)
    one_second = handshake(server(ACK, lease_options(seconds=1)))
    corpus.state("expired", "the same lease for one second, two seconds ago", one_second, now=2)
    released = client(7, option(54, ip(GW)), src=VM, dst=GW, eth_dst=GW_MAC, ciaddr=VM)
    corpus.state("released", "the same lease, given back", [*bound, vm(0, "pass-dhcp", released)])
    corpus.state("gateway-mac", "bound, and the gateway's MAC address is known", bound, gateway_mac=GW_MAC)
    corpus.state("no-gateway", "bound, on an uplink whose gateway is not known", bound, gateway=None)
    corpus.state("no-gateway-no-lease", "no lease, on an uplink whose gateway is not known", [], gateway=None)
    twenty = handshake(server(ACK, lease_options(mask="255.255.240.0")))
    corpus.state("wide", "bound in a /20: its broadcast is 192.168.79.255", twenty)
    corpus.state("jumbo", "bound, MTU 9000", bound, mtu=9000)
    corpus.state("small", "bound, MTU 576", bound, mtu=576)
    own = ["10.0.0.2", "100.64.0.1", "8.8.4.4", GW]
    corpus.state("host", "bound; the host has four addresses of its own", bound, host_addresses=own)
    corpus.state("host-allowed", "the same, --allow @host", bound, host_addresses=own, allow=["@host"])
    corpus.state("host-blocked", "the same, --block @host", bound, host_addresses=own, block=["@host"])
    corpus.state(
        "gateway-blocked",
        "the same, the gateway blocked by its address",
        bound,
        host_addresses=own,
        block=[GW],
    )
    corpus.state(
        "host-both",
        "the same, @host blocked and one of its addresses in a shorter allowed prefix",
        bound,
        host_addresses=own,
        allow=["10.0.0.0/8"],
        block=["@host"],
    )
    corpus.state(
        "rules",
        "bound; rules that nest, tie, and close what is global",
        bound,
        allow=[
            "10.0.0.0/8,10.1.2.0/24",
            "172.16.5.0/24",
            "192.168.64.0/25",
            "224.0.0.251",
            "169.254.169.254",
        ],
        block=["10.1.0.0/16", "172.16.5.0/24,10.1.2.128/25", "9.9.9.0/24"],
    )
    corpus.state("allow-all", "bound, --allow 0.0.0.0/0", bound, allow=["0.0.0.0/0"])
    corpus.state("block-all", "bound, --block 0.0.0.0/0", bound, block=["0.0.0.0/0"])
    corpus.state(
        "allow-all-no-lease",
        "no lease, --allow 0.0.0.0/0 and of all that is in it",
        [],
        allow=["0.0.0.0/0", "@host"],
    )
    corpus.state(
        "only-gateway", "bound, everything blocked but the host", bound, allow=["@host"], block=["0.0.0.0/0"]
    )
