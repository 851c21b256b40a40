"""The verdict of every frame, as docs/spec.md says: batches in, reasons out.

`judge_vm` and `judge_uplink` write one reason code for each frame of a batch; the caller sends what
passes and then calls `tally`, so that a frame that the other side did not take is counted once, as
busy. `now` is any clock that counts time asleep, in seconds; nothing is done behind the caller's
back, so a lease that expired passes nothing even if nobody called in between.

State is kept only where something asks for it. A policy with directions (`inbound`) follows every
connection that it lets through: what belongs to one passes whatever the tables say, and what a rule
allows without starting or belonging to one is refused. Ports that are exposed let the VM answer
those who came through them, unless a rule blocks them by address.

Events (a lease bound, renewed, lost) wait in a queue until `next_event` is asked; `next_deadline`
is the time of the next thing that happens by itself.
"""

from array import array
from collections.abc import Iterable

from softnet.core.address import BROADCAST_IPV4, MAC_GROUP_BIT
from softnet.core.flows import Flows
from softnet.core.frames import Batch
from softnet.core.lease import Lease, LeaseEvent, Snooper
from softnet.core.numbers import FULL, NO_PORT, OPENED, PORT_RULES
from softnet.core.packet import View
from softnet.core.ports import PortRules
from softnet.core.prefix import Table, build, entry, everywhere, overlay
from softnet.core.reasons import (
    ARP_GATEWAY,
    ARP_MALFORMED,
    ARP_OP,
    ARP_SHA,
    ARP_SPA,
    BLOCKED,
    BROADCAST,
    DHCP_MALFORMED,
    DHCP_SERVER,
    DST_MAC,
    ETHERTYPE,
    FLOW_FULL,
    FLOW_START,
    FROM_VM,
    IP_MALFORMED,
    IP_OPTIONS,
    IPV6,
    MARTIAN,
    NO_LEASE,
    OTHER_MAC,
    OVERSIZE,
    PASS_ARP,
    PASS_DNS,
    PASS_GATEWAY,
    PASS_INBOUND,
    PASS_LIMIT,
    PASS_RETURN,
    PASS_RULE,
    REASON_LIMIT,
    REASONS,
    RUNT,
    SRC_IP,
    SRC_MAC,
    TO_VM,
)

# Options that let a packet choose its own way (RFC 791 3.1): loose and strict source routing.
OPTION_END = 0
OPTION_NOP = 1
OPTION_LSRR = 131
OPTION_SSRR = 137

NO_ADDRESS = 1 << 32
NO_MAC = 1 << 48


class Filter:
    """One VM's filter. `mac` is the VM's, `mtu` bounds its frames at `mtu + 14` bytes.

    `table` maps destinations to reasons (`softnet.policy.compile_policy`). `gateway` and
    `gateway_mac` are the uplink's own addresses, None where unknown; an unknown `gateway_mac` is
    taken from the first DHCP grant that came from the gateway.
    """

    __slots__ = (
        "_address",
        "_broadcast",
        "_bytes",
        "_dns",
        "_expiry",
        "_exposed",
        "_flows",
        "_frames",
        "_gateway",
        "_gateway_mac",
        "_inbound",
        "_inbound_ports",
        "_limit",
        "_mac",
        "_mask",
        "_ports",
        "_snooper",
        "_table",
        "_view",
    )

    def __init__(
        self, mac: int, mtu: int, table: Table, gateway: int | None = None, gateway_mac: int | None = None
    ) -> None:
        self._mac = mac
        self._limit = mtu + 14
        self._address = 0
        self._exposed: Table | None = None
        self._flows: Flows | None = None
        self.set_table(table)
        self._gateway = NO_ADDRESS if gateway is None else gateway
        self._gateway_mac = NO_MAC if gateway_mac is None else gateway_mac
        self._snooper = Snooper(mac, gateway)
        self._frames = memoryview(array("Q", bytes(2 * REASON_LIMIT * 8)))
        self._bytes = memoryview(array("Q", bytes(2 * 8)))
        self._view = View(b"")
        self._adopt_lease()

    # What the rest of the program asks and tells.

    @property
    def lease(self) -> Lease | None:
        """The VM's lease, which may have expired since the last frame or `next_event`."""
        return self._snooper.lease

    @property
    def gateway_mac(self) -> int | None:
        return None if self._gateway_mac == NO_MAC else self._gateway_mac

    @property
    def flows(self) -> int:
        """How many connections are followed, at most; those that ended may still be among them."""
        return 0 if self._flows is None else len(self._flows)

    def set_table(self, table: Table, inbound: Table | None = None) -> None:
        """A new policy, whole: no frame is judged by half of it. `inbound` makes it stateful."""
        self._table = table
        self._ports: PortRules | None = table.ports
        self._inbound = inbound
        self._inbound_ports: PortRules | None = None if inbound is None else inbound.ports
        self._renew_flows()

    def expose(self, ports: Iterable[tuple[int, int]]) -> None:
        """The (protocol, port of the VM) whose incoming connections the VM may answer."""
        wanted = [entry(protocol << 16 | port, 32, 1) for protocol, port in ports]
        self._exposed = Table(overlay(build(wanted), everywhere(0))) if wanted else None
        self._renew_flows()

    def next_event(self, now: float) -> LeaseEvent | None:
        """The oldest event that nobody has seen, expiry included; None when there is none."""
        if now >= self._expiry:
            self._snooper.expire(now)
            self._adopt_lease()
        return self._snooper.events.popleft() if self._snooper.events else None

    def next_deadline(self) -> float | None:
        """When `next_event` should be asked although no frame came."""
        lease = self._snooper.lease
        return None if lease is None or lease.expiry == float("inf") else lease.expiry

    def release_frames(self, now: float) -> list[bytes]:
        """The DHCPRELEASEs to send on behalf of a VM that has ended."""
        return self._snooper.release_frames(now)

    def counts(self, direction: int) -> dict[str, int]:
        """Frames by reason name, in the order of the spec, those that never occurred left out."""
        base = direction * REASON_LIMIT
        return {
            reason.name: self._frames[base + reason.code]
            for reason in REASONS
            if self._frames[base + reason.code]
        }

    def passed_bytes(self, direction: int) -> int:
        """Bytes of the frames that passed, Ethernet headers included."""
        return self._bytes[direction]

    # Batches.

    def judge_vm(self, batch: Batch, now: float) -> None:
        """A verdict for each frame that came from the VM."""
        self._table.warm(batch, 30)
        self._view.over(batch.data)
        for at in range(batch.count):
            length = batch.length[at]
            if length > self._limit or length > batch.slot:
                batch.verdict[at] = OVERSIZE
            else:
                self._view.place(batch.offset[at], length)
                batch.verdict[at] = self._from_vm(now)

    def judge_uplink(self, batch: Batch, now: float) -> None:
        """A verdict for each frame on its way to the VM."""
        if self._inbound is not None:
            self._inbound.warm(batch, 26)
        self._view.over(batch.data)
        for at in range(batch.count):
            length = batch.length[at]
            if length > self._limit or length > batch.slot:
                batch.verdict[at] = OVERSIZE
            else:
                self._view.place(batch.offset[at], length)
                batch.verdict[at] = self._to_vm(now)

    def tally(self, batch: Batch, direction: int) -> int:
        """Counts the verdicts, once a frame's fate is final; returns how many frames were dropped."""
        base = direction * REASON_LIMIT
        dropped = 0
        for at in range(batch.count):
            verdict = batch.verdict[at]
            self._frames[base + verdict] += 1
            if verdict < PASS_LIMIT:
                self._bytes[direction] += batch.length[at]
            else:
                dropped += 1
        return dropped

    # From the VM.

    def _from_vm(self, now: float) -> int:
        frame = self._view
        if frame.length < 14:
            return RUNT
        if frame.u48(6) != self._mac:
            return SRC_MAC
        ethertype = frame.u16(12)
        if ethertype == 0x0800:
            return self._ipv4_from_vm(now)
        if ethertype == 0x0806:
            return self._arp_from_vm(now)
        return IPV6 if ethertype == 0x86DD else ETHERTYPE

    def _arp_from_vm(self, now: float) -> int:
        frame = self._view
        if frame.length < 42 or frame.u32(14) != 0x00010800 or frame.u16(18) != 0x0604:
            return ARP_MALFORMED
        operation = frame.u16(20)
        if operation != 1 and operation != 2:
            return ARP_OP
        if frame.u48(22) != self._mac:
            return ARP_SHA
        sender = frame.u32(28)
        if sender == 0 and operation == 1:  # an RFC 5227 probe
            return PASS_ARP
        return PASS_ARP if now < self._expiry and sender == self._address else ARP_SPA

    def _ipv4_from_vm(self, now: float) -> int:
        frame = self._view
        if frame.length < 34:
            return IP_MALFORMED
        version = frame.u8(14)
        header = (version & 15) << 2
        total = frame.u16(16)
        if version >> 4 != 4 or header < 20 or header > total or total > frame.length - 14:
            return IP_MALFORMED
        if header > 20 and not self._options_are_harmless(14 + header):
            return IP_OPTIONS
        fragment = frame.u16(20) & 0x3FFF
        protocol = frame.u8(23)
        source_port = NO_PORT
        port = NO_PORT
        if (protocol == 17 or protocol == 6) and not fragment & 0x1FFF and total >= header + 4:
            source_port = frame.u16(14 + header)
            port = frame.u16(16 + header)
        if protocol == 17:
            if port == 67:
                return self._dhcp_from_vm(header, total, fragment, source_port, now)
            if port == 68 and source_port == 67:
                return DHCP_SERVER
        if now >= self._expiry:
            return NO_LEASE
        if frame.u32(26) != self._address:
            return SRC_IP
        address = frame.u32(30)
        if not self._fits_ethernet(address):
            return DST_MAC
        verdict = self._destination(address, protocol, port, fragment)
        if self._flows is None or verdict == MARTIAN:
            return verdict
        return self._track(FROM_VM, verdict, address, protocol, fragment, header, total, now)

    def _destination(self, address: int, protocol: int, port: int, fragment: int) -> int:
        """Steps 7 to 12: the rules, and what is open by default."""
        verdict = self._table.lookup(address)
        if verdict >= PORT_RULES and self._ports is not None:
            verdict = self._ports.lookup(verdict, protocol, port)
        if verdict in (MARTIAN, PASS_RULE, BLOCKED, PASS_GATEWAY):
            return verdict
        if port == 53 and not fragment and address in self._dns:
            return PASS_DNS
        return BROADCAST if address == self._broadcast else verdict

    def _fits_ethernet(self, address: int) -> bool:
        """Whether the frame is addressed to a station that this IPv4 destination belongs to."""
        if address >> 28 == 14 or address == BROADCAST_IPV4 or address == self._broadcast:
            return True
        destination = self._view.u48(0)
        if destination & MAC_GROUP_BIT:
            return False
        if self._gateway_mac == NO_MAC or destination == self._gateway_mac:
            return True
        return (address ^ self._address) & self._mask == 0

    def _options_are_harmless(self, end: int) -> bool:
        """No source routing, and options that can be walked (RFC 791 3.1)."""
        frame = self._view
        at = 34
        while at < end:
            option = frame.u8(at)
            if option == OPTION_END:
                return True
            if option == OPTION_NOP:
                at += 1
                continue
            if option in (OPTION_LSRR, OPTION_SSRR) or at + 1 >= end:
                return False
            length = frame.u8(at + 1)
            if length < 2 or at + length > end:
                return False
            at += length
        return True

    def _dhcp_from_vm(self, header: int, total: int, fragment: int, source_port: int, now: float) -> int:
        """A DHCP client's message, by section 3 and by nothing else."""
        frame = self._view
        udp = 14 + header
        source = frame.u32(26)
        destination = frame.u32(30)
        lease = self._snooper.lease if now < self._expiry else None
        if fragment or source_port != 68 or total < header + 8:
            return DHCP_MALFORMED
        if source != 0 and (lease is None or source != lease.address):
            return DHCP_MALFORMED
        if destination != BROADCAST_IPV4 and (lease is None or destination != lease.server):
            return DHCP_MALFORMED
        length = frame.u16(udp + 4)
        if length < 8 or length > total - header:
            return DHCP_MALFORMED
        if lease is None:
            self._snooper.expire(now)
        verdict = self._snooper.from_client(frame.copy(udp + 8, udp + length), destination, now)
        self._adopt_lease()
        return verdict

    # To the VM.

    def _to_vm(self, now: float) -> int:
        frame = self._view
        if frame.length < 14:
            return RUNT
        ethertype = frame.u16(12)
        if ethertype != 0x0800 and ethertype != 0x0806:
            return IPV6 if ethertype == 0x86DD else ETHERTYPE
        destination = frame.u48(0)
        if destination != self._mac and not destination & MAC_GROUP_BIT:
            return OTHER_MAC
        if ethertype == 0x0806:
            if self._usurps_gateway():
                return ARP_GATEWAY
            return PASS_INBOUND
        if frame.length >= 42 and frame.u8(23) == 17:
            self._snoop(now)
        return PASS_INBOUND if self._flows is None else self._ipv4_to_vm(now)

    def _usurps_gateway(self) -> bool:
        """ARP that binds the gateway's address to another MAC address than its own."""
        frame = self._view
        if frame.length < 42 or self._gateway_mac == NO_MAC:
            return False
        return frame.u32(28) == self._gateway and frame.u48(22) != self._gateway_mac

    def _snoop(self, now: float) -> None:
        """Shows the snooper an unfragmented DHCP reply, if this is one that it waits for."""
        frame = self._view
        version = frame.u8(14)
        header = (version & 15) << 2
        total = frame.u16(16)
        if version >> 4 != 4 or header < 20 or total > frame.length - 14 or total < header + 8 + 240:
            return
        udp = 14 + header
        if frame.u16(20) & 0x3FFF or frame.u32(udp) != 67 << 16 | 68:
            return
        length = frame.u16(udp + 4)
        source = frame.u32(26)
        if length < 8 + 240 or length > total - header:
            return
        if not self._snooper.awaits(frame.u32(udp + 12), source):
            return
        self._snooper.expire(now)
        self._snooper.from_server(frame.copy(udp + 8, udp + length), source, frame.u48(6), now)
        self._adopt_lease()

    def _ipv4_to_vm(self, now: float) -> int:
        """What comes to the VM where state is kept: by the inbound rules, which never stop a DHCP reply."""
        frame = self._view
        stateful = self._inbound is not None
        if frame.length < 34:
            return IP_MALFORMED if stateful else PASS_INBOUND
        version = frame.u8(14)
        header = (version & 15) << 2
        total = frame.u16(16)
        if version >> 4 != 4 or header < 20 or header > total or total > frame.length - 14:
            return IP_MALFORMED if stateful else PASS_INBOUND
        fragment = frame.u16(20) & 0x3FFF
        protocol = frame.u8(23)
        port = NO_PORT
        if (protocol == 17 or protocol == 6) and not fragment & 0x1FFF and total >= header + 4:
            port = frame.u16(16 + header)
            if protocol == 17 and port == 68 and not fragment and frame.u16(14 + header) == 67:
                return PASS_INBOUND
        address = frame.u32(26)
        verdict = self._sender(address, protocol, port)
        if now < self._expiry and frame.u32(30) == self._address:
            verdict = self._track(TO_VM, verdict, address, protocol, fragment, header, total, now)
        return PASS_INBOUND if verdict == PASS_RULE else verdict

    def _sender(self, address: int, protocol: int, port: int) -> int:
        """What the inbound rules say: PASS_RULE, BLOCKED, or PASS_INBOUND where they say nothing."""
        if self._inbound is None:
            return PASS_INBOUND
        verdict = self._inbound.lookup(address)
        if verdict >= PORT_RULES and self._inbound_ports is not None:
            verdict = self._inbound_ports.lookup(verdict, protocol, port)
        return verdict

    # Connections.

    def _track(
        self,
        direction: int,
        verdict: int,
        remote: int,
        protocol: int,
        fragment: int,
        header: int,
        total: int,
        now: float,
    ) -> int:
        """The verdict once the connections that are followed have had their say."""
        flows = self._flows
        if flows is None:
            return verdict
        frame = self._view
        start = 14 + header
        room = 0 if fragment else total - header
        flags = 0
        source = 0
        port = 0
        if protocol == 6 and room >= 20:
            flags = frame.u8(start + 13)
        elif protocol == 1 and room >= 8:
            flags = frame.u8(start)
            source = port = frame.u16(start + 4)
        elif protocol != 17 or room < 8:
            return self._untracked(verdict)
        if protocol == 1 and (flags == 3 or flags == 11 or flags == 12):
            known = self._quotes_flow(direction, remote, start + 8, room - 8, now)
            return (verdict if verdict < PASS_LIMIT else PASS_RETURN) if known else self._untracked(verdict)
        if protocol != 1:
            source = frame.u16(start)
            port = frame.u16(start + 2)
        vm_port = source if direction == FROM_VM else port
        remote_port = port if direction == FROM_VM else source
        if flows.follow(direction, protocol, remote, remote_port, vm_port, flags, now):
            return verdict if verdict < PASS_LIMIT else PASS_RETURN
        if not self._opens(direction, verdict, remote, protocol, vm_port):
            return self._untracked(verdict)
        opened = flows.open(direction, protocol, remote, remote_port, vm_port, flags, now)
        if opened == OPENED:
            return verdict
        return FLOW_FULL if opened == FULL and verdict == PASS_RULE else self._untracked(verdict)

    def _untracked(self, verdict: int) -> int:
        """A rule that allows does so for connections; what is open by default is open to any packet."""
        return FLOW_START if verdict == PASS_RULE and self._inbound is not None else verdict

    def _opens(self, direction: int, verdict: int, remote: int, protocol: int, vm_port: int) -> bool:
        """Whether a packet with this verdict may start a flow."""
        if verdict >= PASS_LIMIT:
            return False
        if verdict != PASS_INBOUND:
            return self._inbound is not None
        if self._exposed is None or not self._exposed.lookup(protocol << 16 | vm_port):
            return False
        # The host relays exposed ports: closing the host to the VM does not close them.
        return remote == self._gateway or self._destination(remote, 0, NO_PORT, 0) != BLOCKED

    def _quotes_flow(self, direction: int, remote: int, at: int, room: int, now: float) -> bool:
        """Whether an ICMP error quotes a packet of a flow that went the other way (RFC 1122 3.2.2)."""
        frame = self._view
        if self._flows is None or room < 28:
            return False
        header = (frame.u8(at) & 15) << 2
        if header < 20 or room < header + 8 or frame.u16(at + 6) & 0x1FFF:
            return False
        protocol = frame.u8(at + 9)
        source = frame.u32(at + 12)
        destination = frame.u32(at + 16)
        ports = frame.u32(at + header)
        if protocol == 1:
            return (
                direction == TO_VM
                and source == self._address
                and self._flows.knows(1, destination, 0, frame.u16(at + header + 4), now)
            )
        if direction == TO_VM:
            return source == self._address and self._flows.knows(
                protocol, destination, ports & 0xFFFF, ports >> 16, now
            )
        return (
            source == remote
            and destination == self._address
            and self._flows.knows(protocol, source, ports >> 16, ports & 0xFFFF, now)
        )

    def _renew_flows(self) -> None:
        """No flow outlives the policy that admitted it."""
        if self._inbound is None and self._exposed is None:
            self._flows = None
        elif self._flows is None:
            self._flows = Flows()
        else:
            self._flows.clear()

    def _adopt_lease(self) -> None:
        """Copies what every frame is compared with out of the snooper's lease."""
        lease = self._snooper.lease
        if self._flows is not None and (lease is None or lease.address != self._address):
            self._flows.clear()
        if lease is None:
            self._address = 0
            self._mask = 0
            self._broadcast = BROADCAST_IPV4
            self._expiry = float("-inf")
            self._dns: tuple[int, ...] = ()
            return
        self._address = lease.address
        self._mask = lease.mask
        self._broadcast = lease.broadcast
        self._expiry = lease.expiry
        self._dns = lease.dns
        if self._gateway_mac == NO_MAC and self._gateway != NO_ADDRESS:
            self._gateway_mac = lease.server_mac
