"""TCP/IPv4 in bulk for a TAP with `vnet_hdr`: many segments joined into one frame, one cut into many.

The kernel takes and gives one TCP frame of up to 64 KiB where the VM's link carries MTU-sized ones
(virtio 1.2, 5.1.6: `struct virtio_net_hdr`, 10 bytes, little-endian). `Coalescer` is generic receive
offload (GRO) over the frames of one batch, `Segmenter` is TCP segmentation offload (TSO). Nothing is
held from one batch to the next, so neither adds latency. The filter judges single frames only: before
they are joined, after they are cut.

Coalescer. A frame joins the group that its flow (addresses and ports) has open when a super-segment cut
up again gives both frames back, which is what the kernel's own GRO asks:
- IPv4 without options or fragmentation, no padding; same Ethernet header, TOS, TTL and DF; identification
  one more than the frame before, or, with DF, always the same (an atomic datagram, RFC 6864: cut up again
  these count up);
- TCP with the flags ACK or ACK and PSH and no other, same acknowledgement, window and options (so equal
  timestamps), urgent pointer 0, at least one byte of payload that continues the sequence;
- as much payload as the first segment of the group; less payload, or PSH, ends it. At most 65,535
  bytes of IPv4, and 64 frames.
- both checksums of every frame of a group have been verified, because the virtio header vouches for
  them. A frame that fails, or that joins nothing, goes out as it came and nobody vouches for it.
Groups go out in the order of their first frames, and a frame only ever joins its flow's latest group, so
no flow is reordered. What ends a group: a TCP frame of its flow that cannot join; any fragment or IPv4
packet with options that carries TCP (its ports are unknown: ends all groups); a ninth flow (the open ones
give way in turn); the end of the batch.

Segmenter. Every segment has the header of the whole with its own length, identification (counting up),
sequence number and checksums; CWR stays on the first, FIN and PSH on the last (RFC 3168 6.1.2; Linux'
tcp_gso_segment does the same). No segment exceeds the MTU, whatever the virtio header asks. A frame with
only a checksum to complete is completed, any other passes as it is, and one too long stays too long for
the filter to see. A virtio header that does not fit its frame drops the frame and counts as `malformed`.
"""

from array import array

from softnet.core import octets
from softnet.core.frames import Batch
from softnet.core.packet import ETHERNET_HEADER, ETHERTYPE_IPV4, PROTOCOL_TCP
from softnet.core.reasons import PASS_LIMIT, UNJUDGED
from softnet.core.virtio import GSO_ECN, GSO_NONE, GSO_TCPV4, NEEDS_CSUM, VIRTIO_HEADER

IPV4 = 20
TCP = 20
TCP_AT = ETHERNET_HEADER + IPV4  # where TCP starts behind an IPv4 header without options
TCP_CHECKSUM = 16
FIN, PSH, ACK, CWR = 0x01, 0x08, 0x10, 0x80
LONGEST_PACKET = 65535
MOST_SEGMENTS = 64  # in a group: bounds what one write gathers
LONGEST_READ = VIRTIO_HEADER + ETHERNET_HEADER + 4 + LONGEST_PACKET  # a VLAN tag may be there too

OPEN_FLOWS = 8
LONGEST_HEAD = VIRTIO_HEADER + ETHERNET_HEADER + IPV4 + 60  # the most that goes before a group's payload
END = 0xFFFFFFFF  # of a chain of frames; of a flow: it has no open group
SEQUENCE = 0xFFFFFFFF  # what sequence numbers count in

# What a frame is to the coalescer.
OTHER = 0  # not TCP over IPv4: nobody's order depends on it
UNKNOWN = 1  # TCP of a flow that cannot be told
ALONE = 2  # TCP of a known flow that must not be joined
DATA = 3  # may join or be joined


def pseudo_header(data: memoryview, ip: int, size: int) -> int:
    """The sum of the TCP pseudo-header (RFC 9293, 3.1) of the IPv4 header at `ip`, `size` bytes of TCP."""
    return octets.fold(octets.sum_of(data, ip + 12, 8) + PROTOCOL_TCP + size)


class Coalescer:
    """`join` groups the passing frames of a batch of at most `capacity`; group `k` is written as one frame:

    `headroom + skip[k]` bytes of `head` at `k * pitch`, then, for the `segments[k]` frames `first[k]`,
    `next[first[k]]` and so on, everything from byte `skip[k]` on (`pieces` lists just that).
    """

    __slots__ = (
        "_addresses",
        "_group",
        "_gso",
        "_id_step",
        "_last",
        "_next_id",
        "_next_seq",
        "_payload",
        "_ports",
        "_total",
        "_turn",
        "capacity",
        "count",
        "first",
        "head",
        "headroom",
        "next",
        "pitch",
        "segments",
        "skip",
    )

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.count = 0
        self.pitch = LONGEST_HEAD
        self.headroom = VIRTIO_HEADER
        self.head = memoryview(bytearray(capacity * LONGEST_HEAD))
        self.first = memoryview(array("I", bytes(4 * capacity)))
        self.next = memoryview(array("I", bytes(4 * capacity)))
        self.skip = memoryview(array("I", bytes(4 * capacity)))
        self.segments = memoryview(array("I", bytes(4 * capacity)))
        self._last = memoryview(array("I", bytes(4 * capacity)))
        self._gso = memoryview(array("I", bytes(4 * capacity)))
        self._total = memoryview(array("I", bytes(4 * capacity)))
        self._next_seq = memoryview(array("I", bytes(4 * capacity)))
        self._next_id = memoryview(array("I", bytes(4 * capacity)))
        self._id_step = memoryview(array("I", bytes(4 * capacity)))
        self._addresses = memoryview(array("Q", bytes(8 * OPEN_FLOWS)))
        self._ports = memoryview(array("I", bytes(4 * OPEN_FLOWS)))
        self._group = memoryview(array("I", bytes(4 * OPEN_FLOWS)))
        self._turn = 0
        self._payload = 0

    def join(self, batch: Batch) -> int:
        """Groups the frames whose verdict passes; returns `count`, the number of groups."""
        self.count = 0
        self._close_all()
        for at in range(batch.count):
            if batch.verdict[at] < PASS_LIMIT:
                self._take(batch, at)
        for group in range(self.count):
            self._write_head(batch, group)
        return self.count

    def pieces(self, batch: Batch, group: int) -> list[memoryview]:
        """What to write for `group`, in order; for links that write Python objects, and tests."""
        base = group * LONGEST_HEAD
        at = self.first[group]
        skip = self.skip[group]
        pieces = [self.head[base : base + VIRTIO_HEADER + skip]]
        for _ in range(self.segments[group]):
            pieces.append(batch.data[batch.offset[at] + skip : batch.offset[at] + batch.length[at]])
            at = self.next[at]
        return pieces

    def _take(self, batch: Batch, at: int) -> None:
        kind = OTHER  # as is a frame of which not every byte is here: no link sends that
        if batch.length[at] <= batch.slot:
            kind = self._classify(batch.data, batch.offset[at], batch.length[at])
        if kind == OTHER:
            self._start(at)
        elif kind == UNKNOWN:
            self._close_all()
            self._start(at)
        else:
            self._take_tcp(batch, at, kind)

    def _take_tcp(self, batch: Batch, at: int, kind: int) -> None:
        data = batch.data
        start = batch.offset[at]
        addresses = octets.load32(data, start + 26)
        addresses = addresses << 32 | octets.load32(data, start + 30)
        ports = octets.load32(data, start + 34)
        flow = self._find(addresses, ports)
        if kind == DATA and flow < OPEN_FLOWS and self._joins(batch, self._group[flow], at):
            self._append(batch, self._group[flow], at)
            if data[start + 47] & PSH or self._payload < self._gso[self._group[flow]]:
                self._group[flow] = END
            return
        if flow < OPEN_FLOWS:
            self._group[flow] = END
        group = self._start(at)
        if kind == DATA and not data[start + 47] & PSH:
            self._open(data, start, group, addresses, ports)

    def _classify(self, data: memoryview, start: int, length: int) -> int:
        """What the frame is; for DATA, `_payload` is then its payload's size."""
        if length < ETHERNET_HEADER + IPV4:
            return OTHER
        if octets.load16(data, start + 12) != ETHERTYPE_IPV4 or data[start + 23] != PROTOCOL_TCP:
            return OTHER
        total = octets.load16(data, start + 16)
        fragment = octets.load16(data, start + 20) & 0xBFFF
        if data[start + 14] != 0x45 or fragment or total < IPV4 + TCP or total > length - ETHERNET_HEADER:
            return UNKNOWN
        header = IPV4 + (data[start + 46] >> 4) * 4
        flags = octets.load16(data, start + 46) & 0xFFF & ~PSH
        if total != length - ETHERNET_HEADER or header < IPV4 + TCP or header >= total or flags != ACK:
            return ALONE
        # 0xFFFF is the other spelling of a checksum of 0, which cutting up again would not give back.
        if octets.load16(data, start + 24) == 0xFFFF or octets.load16(data, start + 50) == 0xFFFF:
            return ALONE
        if octets.load16(data, start + 52) != 0:
            return ALONE
        self._payload = total - header
        return DATA

    def _start(self, at: int) -> int:
        """A group of its own for frame `at`."""
        group = self.count
        self.count = group + 1
        self.first[group] = at
        self._last[group] = at
        self.next[at] = END
        self.segments[group] = 1
        self.skip[group] = 0
        return group

    def _open(self, data: memoryview, start: int, group: int, addresses: int, ports: int) -> None:
        """Lets later frames join `group`, whose first frame is at `start`."""
        self._gso[group] = self._payload
        self._total[group] = octets.load16(data, start + 16)
        self._next_seq[group] = octets.load32(data, start + 38) + self._payload & SEQUENCE
        self._next_id[group] = octets.load16(data, start + 18)
        flow = self._find(addresses, ports)
        if flow == OPEN_FLOWS:
            flow = self._make_room()
        self._addresses[flow] = addresses
        self._ports[flow] = ports
        self._group[flow] = group

    def _find(self, addresses: int, ports: int) -> int:
        """Where the flow stands, open or not; OPEN_FLOWS when nowhere."""
        for flow in range(OPEN_FLOWS):
            if self._addresses[flow] == addresses and self._ports[flow] == ports:
                return flow
        return OPEN_FLOWS

    def _make_room(self) -> int:
        """A flow that has no open group, or else the next in turn."""
        for flow in range(OPEN_FLOWS):
            if self._group[flow] == END:
                return flow
        flow = self._turn
        self._turn = (flow + 1) % OPEN_FLOWS
        return flow

    def _close_all(self) -> None:
        for flow in range(OPEN_FLOWS):
            self._group[flow] = END
            self._addresses[flow] = 0
            self._ports[flow] = 0

    def _joins(self, batch: Batch, group: int, at: int) -> bool:
        """Whether frame `at`, of `_payload` bytes, continues `group`."""
        if group == END or self._payload > self._gso[group] or self.segments[group] == MOST_SEGMENTS:
            return False
        data = batch.data
        start = batch.offset[at]
        if octets.load32(data, start + 38) != self._next_seq[group]:
            return False
        return (
            self._total[group] + self._payload <= LONGEST_PACKET
            and self._same_headers(data, batch.offset[self.first[group]], start)
            and self._id_continues(data, start, group)
            and self._verified(batch, group, at)
        )

    def _same_headers(self, data: memoryview, one: int, other: int) -> bool:
        """Everything but lengths, identification, sequence, PSH and checksums (the flow is the same)."""
        header = (data[other + 46] >> 4) * 4
        return (
            octets.same(data, one, other, 16)  # Ethernet, version, IHL, TOS
            and octets.same(data, one + 20, other + 20, 4)  # DF, TTL, protocol
            and octets.same(data, one + 42, other + 42, 5)  # acknowledgement, data offset
            and octets.same(data, one + 48, other + 48, 2)  # window
            and octets.same(data, one + TCP_AT + TCP, other + TCP_AT + TCP, header - TCP)  # options
        )

    def _id_continues(self, data: memoryview, start: int, group: int) -> bool:
        """The second frame of a group decides whether its identifications count up or stand still."""
        step = (octets.load16(data, start + 18) - self._next_id[group]) & 0xFFFF
        if self.segments[group] > 1:
            return step == self._id_step[group]
        self._id_step[group] = step
        return step == 1 or (step == 0 and data[start + 20] == 0x40)

    def _verified(self, batch: Batch, group: int, at: int) -> bool:
        """The checksums of frame `at`, and of the first frame when `at` would be the second."""
        if self.segments[group] == 1 and not self._checksums_hold(batch, self.first[group]):
            return False
        return self._checksums_hold(batch, at)

    def _checksums_hold(self, batch: Batch, at: int) -> bool:
        data = batch.data
        start = batch.offset[at]
        size = batch.length[at] - TCP_AT
        if octets.sum_of(data, start + ETHERNET_HEADER, IPV4) != 0xFFFF:
            return False
        pseudo = pseudo_header(data, start + ETHERNET_HEADER, size)
        return octets.fold(pseudo + octets.sum_of(data, start + TCP_AT, size)) == 0xFFFF

    def _append(self, batch: Batch, group: int, at: int) -> None:
        self.next[self._last[group]] = at
        self.next[at] = END
        self._last[group] = at
        self.segments[group] += 1
        self._total[group] += self._payload
        self._next_seq[group] = self._next_seq[group] + self._payload & SEQUENCE
        self._next_id[group] = octets.load16(batch.data, batch.offset[at] + 18)

    def _write_head(self, batch: Batch, group: int) -> None:
        """The virtio header, and for joined frames the headers of the whole."""
        head = self.head
        base = group * LONGEST_HEAD
        for at in range(base, base + VIRTIO_HEADER):
            head[at] = 0
        if self.segments[group] == 1:
            return
        start = batch.offset[self.first[group]]
        size = TCP_AT + (batch.data[start + 46] >> 4) * 4
        self.skip[group] = size
        head[base] = NEEDS_CSUM
        head[base + 1] = GSO_TCPV4
        store_little(head, base + 2, size)
        store_little(head, base + 4, self._gso[group])
        store_little(head, base + 6, TCP_AT)
        store_little(head, base + 8, TCP_CHECKSUM)
        self._write_headers(batch, group, base + VIRTIO_HEADER, start, size)

    def _write_headers(self, batch: Batch, group: int, base: int, start: int, size: int) -> None:
        """Ethernet, IPv4 and TCP of the first frame, with the length of the whole and the PSH of the last."""
        head = self.head
        ip = base + ETHERNET_HEADER
        tcp = base + TCP_AT
        octets.copy(head, base, batch.data, start, size)
        octets.store16(head, ip + 2, self._total[group])
        write_ip_checksum(head, ip, IPV4)
        head[tcp + 13] = batch.data[batch.offset[self._last[group]] + 47]
        octets.store16(head, tcp + TCP_CHECKSUM, pseudo_header(head, ip, self._total[group] - IPV4))


def store_little(data: memoryview, at: int, value: int) -> None:
    """Two bytes, the low one first, as virtio has them."""
    octets.store16(data, at, (value & 255) << 8 | value >> 8)


def load_little(data: memoryview, at: int) -> int:
    value = octets.load16(data, at)
    return (value & 255) << 8 | value >> 8


def write_ip_checksum(data: memoryview, ip: int, size: int) -> None:
    octets.store16(data, ip + 10, 0)
    octets.store16(data, ip + 10, 0xFFFF - octets.sum_of(data, ip, size))


class Segmenter:
    """Read a frame with its virtio header into `buffer`, `load` it, `fill` batches until it is all out.

    `pending` says that a loaded frame, or the rest of one, still waits for room in a batch.
    """

    __slots__ = (
        "_at",
        "_end",
        "_gso",
        "_header",
        "_ip_header",
        "_limit",
        "_segments",
        "buffer",
        "malformed",
        "pending",
    )

    def __init__(self, mtu: int) -> None:
        self.buffer = memoryview(bytearray(LONGEST_READ))
        self.malformed = 0
        self.pending = False
        self._limit = mtu + ETHERNET_HEADER
        self._gso = 0  # payload a segment; 0: the frame goes out whole
        self._header = 0  # bytes of Ethernet, IPv4 and TCP header
        self._ip_header = 0
        self._at = 0  # where in `buffer` the rest begins
        self._end = 0
        self._segments = 0  # already out

    def load(self, size: int) -> None:
        """`size` bytes of `buffer` are a virtio header and a frame. What was pending is forgotten."""
        self.pending = VIRTIO_HEADER <= size <= LONGEST_READ and self._accept(size)
        if not self.pending:
            self.malformed += 1

    def fill(self, batch: Batch) -> bool:
        """Appends what is pending to `batch`; False when that is full and something still waits."""
        while self.pending:
            if batch.count >= batch.capacity:
                return False
            if self._gso:
                self._cut(batch)
            else:
                self._pass_whole(batch)
        return True

    def _accept(self, size: int) -> bool:
        """Reads the virtio header; False when it does not fit the frame."""
        flags = self.buffer[0]
        kind = self.buffer[1] & ~GSO_ECN
        self._gso = 0
        self._at = VIRTIO_HEADER
        self._end = size
        if self.buffer[1] == GSO_NONE:
            return not flags & NEEDS_CSUM or self._complete_checksum(size)
        return kind == GSO_TCPV4 and flags & NEEDS_CSUM != 0 and self._accept_tcp(size - VIRTIO_HEADER)

    def _complete_checksum(self, size: int) -> bool:
        """Its field holds the pseudo-header's sum already. A sum of 0 is sent as 0xFFFF (RFC 768)."""
        start = VIRTIO_HEADER + load_little(self.buffer, 6)
        field = start + load_little(self.buffer, 8)
        if field + 2 > size:
            return False
        if size - VIRTIO_HEADER <= self._limit:
            value = 0xFFFF - octets.sum_of(self.buffer, start, size - start)
            octets.store16(self.buffer, field, value if value else 0xFFFF)
        return True

    def _accept_tcp(self, length: int) -> bool:
        """Reads the headers of `length` bytes of frame that are to be cut."""
        data = self.buffer
        ip = VIRTIO_HEADER + ETHERNET_HEADER
        if length < TCP_AT + TCP or octets.load16(data, ip - 2) != ETHERTYPE_IPV4 or data[ip] >> 4 != 4:
            return False
        self._ip_header = (data[ip] & 15) * 4
        total = octets.load16(data, ip + 2)
        if self._ip_header < IPV4 or self._ip_header + TCP > total or total > length - ETHERNET_HEADER:
            return False
        if data[ip + 9] != PROTOCOL_TCP or octets.load16(data, ip + 6) & 0x3FFF:
            return False
        if not self._checksum_is_tcp():
            return False
        tcp = ip + self._ip_header
        self._header = ETHERNET_HEADER + self._ip_header + (data[tcp + 12] >> 4) * 4
        if data[tcp + 12] >> 4 < 5 or self._header > ETHERNET_HEADER + total or self._header >= self._limit:
            return False
        self._gso = load_little(data, 4)
        self._at = VIRTIO_HEADER + self._header
        self._end = ip + total
        self._segments = 0
        return self._gso > 0

    def _checksum_is_tcp(self) -> bool:
        """Whether the checksum that the virtio header speaks of is TCP's."""
        return (
            load_little(self.buffer, 6) == ETHERNET_HEADER + self._ip_header
            and load_little(self.buffer, 8) == TCP_CHECKSUM
        )

    def _pass_whole(self, batch: Batch) -> None:
        length = self._end - self._at
        present = length if length < batch.slot else batch.slot
        start = self._add(batch, length)
        octets.copy(batch.data, start, self.buffer, self._at, present)
        self.pending = False

    def _add(self, batch: Batch, length: int) -> int:
        """The next slot of `batch`, for a frame of `length` bytes; returns where it starts."""
        index = batch.count
        start = index * batch.slot
        batch.offset[index] = start
        batch.length[index] = length
        batch.verdict[index] = UNJUDGED
        batch.count = index + 1
        return start

    def _cut(self, batch: Batch) -> None:
        """The next segment."""
        limit = self._limit if self._limit < batch.slot else batch.slot
        if limit <= self._header:
            raise ValueError(f"a batch's slot of {batch.slot} bytes has no room for a segment")
        size = self._gso if self._gso < limit - self._header else limit - self._header
        if size > self._end - self._at:
            size = self._end - self._at
        start = self._add(batch, self._header + size)
        octets.copy(batch.data, start, self.buffer, VIRTIO_HEADER, self._header)
        octets.copy(batch.data, start + self._header, self.buffer, self._at, size)
        self._write_headers(batch.data, start + ETHERNET_HEADER, size, self._at + size == self._end)
        self._at += size
        self._segments += 1
        self.pending = self._at < self._end

    def _write_headers(self, data: memoryview, ip: int, payload: int, last: bool) -> None:
        """Length, identification, sequence number, flags and checksums of one segment."""
        tcp = ip + self._ip_header
        size = self._header - ETHERNET_HEADER - self._ip_header + payload
        done = self._at - VIRTIO_HEADER - self._header
        octets.store16(data, ip + 2, self._ip_header + size)
        octets.store16(data, ip + 4, octets.load16(data, ip + 4) + self._segments)
        write_ip_checksum(data, ip, self._ip_header)
        octets.store32(data, tcp + 4, octets.load32(data, tcp + 4) + done)
        if not last:
            data[tcp + 13] &= 0xFF - FIN - PSH
        if self._segments:
            data[tcp + 13] &= 0xFF - CWR
        octets.store16(data, tcp + TCP_CHECKSUM, 0)
        total = pseudo_header(data, ip, size) + octets.sum_of(data, tcp, size)
        octets.store16(data, tcp + TCP_CHECKSUM, 0xFFFF - octets.fold(total))
