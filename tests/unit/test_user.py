"""The user uplink without passt: its command line, and the handshakes that are completed for it."""

from contextlib import suppress

import pytest

from softnet.config import UDP, Expose, Settings, UplinkChoice
from softnet.core.address import parse_ipv4
from softnet.core.frames import Batch
from softnet.core.packet import (
    ETHERTYPE_IPV4,
    PROTOCOL_TCP,
    View,
    checksum,
    ethernet,
    ipv4,
    transport_checksum,
)
from softnet.core.reasons import PASS_RETURN, SRC_IP, UPLINK_BUSY
from softnet.errors import ConfigError
from softnet.links import answering, memory
from softnet.policy import parse
from softnet.uplinks import user

VM_MAC, GATEWAY_MAC = 0x020000000001, 0x020000000002
VM, CLIENT = parse_ipv4("10.231.0.2"), parse_ipv4("192.0.2.1")
SETTINGS = Settings(VM_MAC, UplinkChoice("user"))
SYN, ACK, RST, ECE = 2, 16, 4, 64


def arguments(*allow: str, **changes: object) -> str:
    settings = SETTINGS._replace(**changes)  # type: ignore[arg-type]
    return " ".join(user.arguments(settings, parse(allow), (CLIENT,), 7))


def segment(flags: int = SYN | ACK, port: int = 80, number: int = 0xFFFFFFFF) -> bytes:
    """A frame of the VM's, with the options that Linux sends in a SYN-ACK."""
    fields = port.to_bytes(2, "big") + (40000).to_bytes(2, "big") + number.to_bytes(4, "big")
    header = fields + (1001).to_bytes(4, "big") + bytes([0x80, flags]) + b"\xff\xff"
    options = bytes.fromhex("020405b40101040201030307")
    value = transport_checksum(VM, CLIENT, PROTOCOL_TCP, header + bytes(4) + options)
    packet = ipv4(VM, CLIENT, PROTOCOL_TCP, header + value.to_bytes(2, "big") + bytes(2) + options)
    return ethernet(GATEWAY_MAC, VM_MAC, ETHERTYPE_IPV4, packet)


def batch_of(*frames: bytes, verdict: int = PASS_RETURN) -> Batch:
    batch = Batch(64, 1536)
    for at, frame in enumerate(frames):
        assert batch.append(frame)
        batch.verdict[at] = verdict
    return batch


def test_the_vm_has_the_second_address_of_the_pool() -> None:
    line = arguments(pool=(parse_ipv4("10.9.0.0"), 24), mtu=9000)
    assert "--address 10.9.0.2 --netmask 24 --gateway 10.9.0.1" in line
    assert "--fd 7 --mtu 9000" in line
    assert "--dns 192.0.2.1" in line
    assert "--ipv4-only" in line


@pytest.mark.parametrize("rules", ["", "10.0.0.0/8", "0.0.0.0/0", "10.231.0.1", "@dns", "in @host"])
def test_without_a_rule_that_says_host_passt_does_not_know_the_way(rules: str) -> None:
    assert "--no-map-gw" in arguments(*filter(None, [rules]))


@pytest.mark.parametrize("rules", ["@host", "@host:22", "10.0.0.0/8,out @host"])
def test_with_one_it_does(rules: str) -> None:
    assert "--no-map-gw" not in arguments(rules)


def test_nor_where_the_rules_may_change_or_answers_have_to_find_back() -> None:
    assert "--no-map-gw" not in arguments(control_fd=5)
    assert "--no-map-gw" not in arguments(control="/run/vm.sock")
    assert "--no-map-gw" not in arguments(expose=(Expose(None, 53, 53, UDP),))
    assert "--no-map-gw" in arguments(expose=(Expose(None, 80, 80),))


def test_no_dns_server_is_said_explicitly() -> None:
    assert "--no-dhcp-dns" in user.arguments(SETTINGS, parse(), (), 7)


def test_ports() -> None:
    ports = (Expose(None, 8080, 80), Expose(parse_ipv4("127.0.0.1"), 53, 5353, UDP))
    line = arguments(expose=ports)
    assert line.endswith("--tcp-ports 8080:80 --udp-ports 127.0.0.1/53:5353")


def test_an_address_that_is_not_the_hosts_cannot_be_bound() -> None:
    with pytest.raises(ConfigError, match=r"--expose 192\.0\.2\.1:8080:80/tcp: cannot be bound"):
        user.check_free(Expose(CLIENT, 8080, 80))


def test_acknowledgement() -> None:
    answer = View(user.acknowledgement(segment()))
    assert (answer.u48(0), answer.u48(6), answer.u16(12)) == (VM_MAC, GATEWAY_MAC, ETHERTYPE_IPV4)
    assert (answer.u32(26), answer.u32(30)) == (CLIENT, VM)
    assert (answer.u16(34), answer.u16(36)) == (40000, 80)
    assert (answer.u32(38), answer.u32(42)) == (1001, 0)  # the sequence number wraps
    assert answer.u16(46) == 0x5010
    assert answer.length == 54
    assert checksum(answer.copy(14, 34)) == 0
    assert transport_checksum(CLIENT, VM, PROTOCOL_TCP, answer.copy(34, 54)) == 0


def test_a_repeated_syn_ack_is_answered_and_still_sent() -> None:
    ours, theirs = memory.pair(64)
    link, received = user.HandshakeLink(ours), Batch(64, 1536)
    assert link.send(batch_of(segment()), UPLINK_BUSY) == 0
    assert not link.pending
    assert link.send(batch_of(segment()), UPLINK_BUSY) == 0
    assert link.pending
    assert link.receive(received) == 1
    assert received.frame(0) == user.acknowledgement(segment())
    assert not link.pending
    assert theirs.receive(received) == 2
    link.close()
    theirs.close()


@pytest.mark.parametrize(
    "frame",
    [
        segment(SYN),
        segment(ACK),
        segment(SYN | ACK | RST),
        segment()[:53],
        segment()[:23] + b"\x11" + segment()[24:],
        segment()[:14] + b"\x46" + segment()[15:],
    ],
)
def test_nothing_else_is_answered(frame: bytes) -> None:
    assert not answered(batch_of(frame, frame))


def test_what_the_filter_drops_is_not_answered() -> None:
    assert not answered(batch_of(segment(), segment(), verdict=SRC_IP))


def test_congestion_notification_does_not_matter() -> None:
    assert len(answered(batch_of(segment(SYN | ACK | ECE), segment(SYN | ACK | ECE)))) == 1


def answered(batch: Batch) -> list[bytes]:
    ours, theirs = memory.pair(256)
    link, received = user.HandshakeLink(ours), Batch(64, 1536)
    link.send(batch, UPLINK_BUSY)
    if link.pending:
        link.receive(received)
    link.close()
    theirs.close()
    return [received.frame(at) for at in range(received.count)]


def test_each_connection_is_known_by_itself_and_only_the_last_are_remembered() -> None:
    different = [segment(number=number) for number in range(user.HANDSHAKES)]
    ours, theirs = memory.pair(1024)
    link = user.HandshakeLink(ours)
    link.send(batch_of(*different), UPLINK_BUSY)
    assert not link.pending
    link.send(batch_of(segment(number=9999)), UPLINK_BUSY)
    link.send(batch_of(different[0]), UPLINK_BUSY)  # forgotten, so it is new
    assert not link.pending
    link.close()
    theirs.close()


def test_answers_wait_in_a_bounded_queue() -> None:
    frames = [segment(number=number) for number in range(32)]
    answers = answered(batch_of(*frames, *frames))
    assert len(answers) == answering.MAX_ANSWERS
    assert answers[-1] == user.acknowledgement(frames[-1])


def test_the_stream_holds_all_that_the_system_grants() -> None:
    """passt drops what its socket does not take at once."""
    ours, theirs = user._stream()
    with ours, theirs, open("/proc/sys/net/core/wmem_max", encoding="ascii") as file:
        granted = min(user.ROOM, int(file.read()))
        for end in (ours, theirs):
            end.setblocking(False)
            held = 0
            with suppress(BlockingIOError):
                while True:
                    held += end.send(bytes(1518))
            assert held >= granted * 0.9
