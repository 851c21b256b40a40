"""What is fuzzed. A target takes any bytes and raises when something is wrong, which is all it may do.

Each states more than "does not crash": what passes the filter is checked again by a few lines that share
no code with it, what was joined must come apart again, what was cut must verify.
"""

from collections.abc import Callable, Iterator

from softnet import policy
from softnet.core import dhcp, packet
from softnet.core.drops import Drops
from softnet.core.filter import Filter
from softnet.core.frames import Batch
from softnet.core.handshake import next_syn_ack
from softnet.core.offload import Coalescer, Segmenter
from softnet.core.reasons import BY_CODE, FROM_VM, PASS_DHCP, PASS_LIMIT, TO_VM
from softnet.core.reject import Rejecter
from softnet.core.virtio import GSO_NONE, VIRTIO_HEADER
from softnet.dhcp_server import DhcpServer, Offer
from softnet.links.framing import Framing

MTU = 1500
SLOT = 1536
VM_MAC, GATEWAY_MAC, BROADCAST_MAC = 0x020000000001, 0x020000000002, 0xFFFFFFFFFFFF
VM, GATEWAY = 0x0A000002, 0x0A000001
SECONDS = (0.0, 0.1, 5.0, 700.0)  # the last outlives the lease

POLICIES = (
    ((), ()),
    (("10.0.0.0/8", "@host"), ("10.0.0.0/24", "9.0.0.0/8")),
    (("out 10.0.0.0/8:1-1023", "in 9.0.0.0/8"), ("out 10.0.0.0/24", "in 0.0.0.0/0:22")),
)


def pieces(data: bytes) -> Iterator[tuple[int, bytes]]:
    """A control byte, a length of two, so many bytes; as often as there are any."""
    at = 0
    while at + 3 <= len(data):
        size = int.from_bytes(data[at + 1 : at + 3], "little") % (SLOT + 64)
        yield data[at], data[at + 3 : at + 3 + size]
        at += 3 + size


TABLES = [
    policy.compile_policy(policy.parse(*each), policy.Facts(GATEWAY, GATEWAY_MAC, (GATEWAY,)))
    for each in POLICIES
]


def new_filter(number: int) -> Filter:
    """A filter by one of POLICIES, with or without a lease."""
    judge = Filter(VM_MAC, MTU, TABLES[number % len(TABLES)], GATEWAY, GATEWAY_MAC)
    if number & 0x80:
        grant(judge)
    return judge


def grant(judge: Filter) -> None:
    server = (dhcp.OPTION_SERVER_ID, dhcp.address_option(GATEWAY))
    mask = (dhcp.OPTION_SUBNET_MASK, dhcp.address_option(0xFFFFFF00))
    request = dhcp.build(dhcp.BOOTREQUEST, dhcp.REQUEST, 7, VM_MAC, options=[server])
    seconds = (dhcp.OPTION_LEASE_TIME, (600).to_bytes(4, "big"))
    reply = dhcp.build(dhcp.BOOTREPLY, dhcp.ACK, 7, VM_MAC, yiaddr=VM, options=[server, mask, seconds])
    asked = packet.udp_frame(BROADCAST_MAC, VM_MAC, 0, 0xFFFFFFFF, 68, 67, request)
    granted = packet.udp_frame(VM_MAC, GATEWAY_MAC, GATEWAY, VM, 67, 68, reply)
    for direction, frame in ((FROM_VM, asked), (TO_VM, granted)):
        verdict_on(judge, direction, frame, 0.0)


def verdict_on(judge: Filter, direction: int, frame: bytes, now: float) -> int:
    batch = Batch(1, SLOT)
    batch.append(frame)
    (judge.judge_vm if direction == FROM_VM else judge.judge_uplink)(batch, now)
    judge.tally(batch, direction)
    return int(batch.verdict[0])


def filter_frames(data: bytes) -> None:
    """Frames of both directions through one filter, time passing."""
    if not data:
        return
    judge, now = new_filter(data[0]), 0.0
    for control, frame in pieces(data[1:]):
        now += SECONDS[control >> 1 & 3]
        direction = TO_VM if control & 1 else FROM_VM
        lease = judge.lease
        valid = lease is not None and (lease.expiry is None or now < lease.expiry)
        address = lease.address if lease is not None and valid else None
        verdict = verdict_on(judge, direction, frame, now)
        assert verdict in BY_CODE
        if verdict < PASS_LIMIT:
            check = check_from_vm if direction == FROM_VM else check_to_vm
            check(frame, verdict, address)
        while judge.next_event(now) is not None:
            pass


def check_from_vm(frame: bytes, verdict: int, address: int | None) -> None:
    assert 14 <= len(frame) <= MTU + 14
    assert int.from_bytes(frame[6:12], "big") == VM_MAC
    if frame[12:14] == b"\x08\x06":
        assert int.from_bytes(frame[22:28], "big") == VM_MAC
        assert int.from_bytes(frame[28:32], "big") in (0, address)
        return
    assert frame[12:14] == b"\x08\x00"
    if verdict == PASS_DHCP:
        udp = 14 + (frame[14] & 15) * 4
        assert frame[udp : udp + 4] == b"\0\x44\0\x43"
        assert int.from_bytes(frame[udp + 36 : udp + 42], "big") == VM_MAC
        return
    assert address is not None
    assert int.from_bytes(frame[26:30], "big") == address
    assert frame[30] not in (0, 127)


def check_to_vm(frame: bytes, _verdict: int, _address: int | None) -> None:
    assert 14 <= len(frame) <= MTU + 14
    assert frame[12:14] in (b"\x08\x06", b"\x08\x00")
    assert frame[0] & 1 or int.from_bytes(frame[:6], "big") == VM_MAC


def dhcp_message(data: bytes) -> None:
    """The parser, and the nat uplink's server behind it."""
    message = dhcp.parse(data)
    offer = Offer(VM_MAC, VM, 0xFFFFFF00, GATEWAY, GATEWAY_MAC, 600, MTU, GATEWAY, (GATEWAY,))
    answer = DhcpServer(offer).answer(data)
    if answer is not None:
        assert message is not None
        assert message.op == dhcp.BOOTREQUEST
        reply = dhcp.parse(answer[42:])
        assert reply is not None
        assert (reply.op, reply.xid, reply.chaddr) == (dhcp.BOOTREPLY, message.xid, VM_MAC)


def verifies(frame: bytes) -> bool:
    """Whether the checksums of TCP over IPv4 hold."""
    ihl = (frame[14] & 15) * 4
    tcp = frame[14 + ihl : 14 + int.from_bytes(frame[16:18], "big")]
    source, target = (int.from_bytes(frame[at : at + 4], "big") for at in (26, 30))
    wrong = packet.checksum(frame[14 : 14 + ihl]) or packet.transport_checksum(source, target, 6, tcp)
    return not wrong


def mended(frame: bytes) -> bytes:
    """The frame with right checksums, if it can have any: no fuzzer guesses those."""
    if len(frame) < 54 or frame[14] != 0x45 or frame[23] != 6:
        return frame
    new = bytearray(frame)
    new[16:18] = (len(frame) - 14).to_bytes(2, "big")
    new[24:26] = new[50:52] = b"\0\0"
    new[24:26] = packet.checksum(bytes(new[14:34])).to_bytes(2, "big")
    source, target = (int.from_bytes(new[at : at + 4], "big") for at in (26, 30))
    new[50:52] = packet.transport_checksum(source, target, 6, bytes(new[34:])).to_bytes(2, "big")
    return bytes(new)


def cut(whole: bytes, mtu: int, capacity: int) -> list[bytes]:
    segmenter = Segmenter(mtu)
    segmenter.buffer[: len(whole)] = whole
    segmenter.load(len(whole))
    batch = Batch(capacity, mtu + 14)
    out: list[bytes] = []
    done = False
    while not done:
        batch.clear()
        done = segmenter.fill(batch)
        out += [batch.frame(at) for at in range(batch.count)]
    return out


def coalescer(data: bytes) -> None:
    """Nothing is lost, no flow reordered, and what was joined comes apart into the same frames."""
    frames = [mended(frame) if control & 1 else frame for control, frame in pieces(data)]
    batch = Batch(max(len(frames), 1), SLOT)
    for at, frame in enumerate(frames):
        batch.append(frame)
        batch.verdict[at] = 0
    joiner = Coalescer(batch.capacity)
    order: list[int] = []
    for group in range(joiner.join(batch)):
        members = chain(joiner, group)
        order += members
        whole = b"".join(joiner.pieces(batch, group))
        if len(members) > 1:
            check_group([frames[at] for at in members], whole)
        elif len(frames[members[0]]) <= SLOT:
            assert whole == bytes(VIRTIO_HEADER) + frames[members[0]]
    assert sorted(order) == list(range(len(frames)))
    for flow in {flow_of(frame) for frame in frames} - {None}:
        of_flow = [at for at in order if flow_of(frames[at]) == flow]
        assert of_flow == sorted(of_flow)


def chain(joiner: Coalescer, group: int) -> list[int]:
    at, members = joiner.first[group], []
    for _ in range(joiner.segments[group]):
        members.append(at)
        at = joiner.next[at]
    return members


def flow_of(frame: bytes) -> bytes | None:
    return frame[26:38] if len(frame) >= 54 and frame[12:15] == b"\x08\0\x45" and frame[23] == 6 else None


def check_group(members: list[bytes], whole: bytes) -> None:
    out = cut(whole, MTU, 3)
    counted = members[0][18:20] != members[1][18:20]
    assert len(out) == len(members)
    for piece, member in zip(out, members, strict=True):
        assert verifies(member)
        assert verifies(piece)
        assert (piece[:18], piece[20:24], piece[26:]) == (member[:18], member[20:24], member[26:])
        assert piece == member or not counted


def segmenter(data: bytes) -> None:
    """Never longer than the MTU, always with right checksums, and no more bytes than went in."""
    if not data:
        return
    mtu, whole = (576, 1500, 9000)[data[0] % 3], data[1:]
    out = cut(whole, mtu, 1 + data[0] // 3 % 7)
    if len(whole) >= VIRTIO_HEADER and whole[1] == GSO_NONE:
        assert len(out) <= 1
        return
    assert all(len(frame) <= mtu + 14 and verifies(frame) for frame in out)
    header = 14 + (whole[24] & 15) * 4 + 20 if out else 0
    assert sum(len(frame) - header for frame in out) <= len(whole) + 40 * len(out)


def stream(data: bytes) -> None:
    """QEMU's framing, cut anywhere: the same frames as when it comes in one piece, and nobody who looks
    at them stumbles, although some have a length and no bytes."""
    if len(data) < 2:
        return
    step, text = 1 + data[0], data[1:]
    assert split(text, step) == split(text, len(text))


def split(text: bytes, step: int) -> list[int]:
    framing, lengths, waiting = Framing(), [], b""
    for at in range(0, len(text), step):
        waiting += text[at : at + step]
        while not framing.broken:
            batch = Batch(4, SLOT)
            size = min(len(waiting), len(batch.arena))
            used = framing.split(memoryview(waiting), batch, size)
            assert used <= size
            batch.arena[:used] = waiting[:used]
            waiting = waiting[used:]
            look_at(batch)
            lengths += [batch.length[index] for index in range(batch.count)]
            if batch.count < batch.capacity:
                break
    return lengths


def look_at(batch: Batch) -> None:
    """Everything that looks at the frames of a judged batch."""
    judge, drops = new_filter(0x81), Drops()
    for direction, judged in ((FROM_VM, judge.judge_vm), (TO_VM, judge.judge_uplink)):
        judged(batch, 1.0)
        judge.tally(batch, direction)
        drops.note(batch, direction, 1.0)
        next_syn_ack(batch, 0)
        if direction == FROM_VM:
            Rejecter(GATEWAY, 100.0).answer(batch, VM, 1.0)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "filter": filter_frames,
    "dhcp": dhcp_message,
    "coalescer": coalescer,
    "segmenter": segmenter,
    "stream": stream,
}
