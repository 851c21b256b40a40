"""The flow table's promises, one by one, at full size."""

import time

import pytest

from softnet.core.flows import Flows
from softnet.core.numbers import ACK, FIN, FLOWS, FULL, NOT_A_START, OPENED, RST, SYN

FROM_VM, TO_VM = 0, 1
TCP, UDP, ICMP = 6, 17, 1
REMOTE = 0x01020304


@pytest.fixture
def table() -> Flows:
    return Flows()


def test_return_traffic_passes_and_nothing_near_it(table: Flows) -> None:
    assert table.open(FROM_VM, TCP, REMOTE, 443, 50000, SYN, 0.0) == OPENED
    assert table.follow(TO_VM, TCP, REMOTE, 443, 50000, SYN | ACK, 1.0)
    for near in [
        (TO_VM, UDP, REMOTE, 443, 50000, 0, 1.0),
        (TO_VM, TCP, REMOTE + 1, 443, 50000, ACK, 1.0),
        (TO_VM, TCP, REMOTE, 444, 50000, ACK, 1.0),
        (TO_VM, TCP, REMOTE, 443, 50001, ACK, 1.0),
    ]:
        assert not table.follow(*near)


@pytest.mark.parametrize("flags", [0, ACK, SYN | ACK, SYN | FIN, SYN | RST, SYN | 8, SYN | 0x20, RST, FIN])
def test_tcp_starts_with_a_clean_syn(table: Flows, flags: int) -> None:
    assert table.open(FROM_VM, TCP, REMOTE, 80, 1024, flags, 0.0) == NOT_A_START
    assert len(table) == 0


def test_a_syn_with_ecn_is_clean(table: Flows) -> None:
    assert table.open(FROM_VM, TCP, REMOTE, 80, 1024, SYN | 0xC0, 0.0) == OPENED


@pytest.mark.parametrize("protocol", [TCP, UDP])
@pytest.mark.parametrize(("remote_port", "vm_port"), [(0, 1024), (53, 0), (0, 0)])
def test_port_zero_is_refused(table: Flows, protocol: int, remote_port: int, vm_port: int) -> None:
    assert table.open(FROM_VM, protocol, REMOTE, remote_port, vm_port, SYN, 0.0) == NOT_A_START


def test_other_protocols_are_not_tracked(table: Flows) -> None:
    for protocol in (2, 47, 50, 132):
        assert table.open(FROM_VM, protocol, REMOTE, 1, 1, SYN, 0.0) == NOT_A_START


def test_only_the_opener_refreshes(table: Flows) -> None:
    table.open(FROM_VM, UDP, REMOTE, 53, 1024, 0, 0.0)
    assert table.follow(TO_VM, UDP, REMOTE, 53, 1024, 0, 29.0)
    assert not table.follow(TO_VM, UDP, REMOTE, 53, 1024, 0, 30.0)
    table.open(FROM_VM, UDP, REMOTE, 53, 1024, 0, 100.0)
    assert table.follow(FROM_VM, UDP, REMOTE, 53, 1024, 0, 129.0)
    assert table.follow(TO_VM, UDP, REMOTE, 53, 1024, 0, 158.0)


def test_a_handshake_that_nobody_answers_ends_after_a_minute(table: Flows) -> None:
    table.open(FROM_VM, TCP, REMOTE, 80, 1024, SYN, 0.0)
    assert table.follow(FROM_VM, TCP, REMOTE, 80, 1024, ACK, 59.0)
    assert not table.follow(FROM_VM, TCP, REMOTE, 80, 1024, ACK, 60.0)


def test_an_answered_connection_lives_five_minutes_more_with_each_packet(table: Flows) -> None:
    table.open(TO_VM, TCP, REMOTE, 40000, 22, SYN, 0.0)
    assert table.follow(FROM_VM, TCP, REMOTE, 40000, 22, SYN | ACK, 1.0)
    assert table.follow(TO_VM, TCP, REMOTE, 40000, 22, ACK, 2.0)
    assert table.follow(FROM_VM, TCP, REMOTE, 40000, 22, ACK, 301.0)
    assert not table.follow(FROM_VM, TCP, REMOTE, 40000, 22, ACK, 302.0)


def test_the_other_sides_syn_is_not_return_traffic(table: Flows) -> None:
    table.open(TO_VM, TCP, REMOTE, 40000, 22, SYN, 0.0)
    assert not table.follow(FROM_VM, TCP, REMOTE, 40000, 22, SYN, 1.0)


def test_both_fins_and_resets_free_the_place_soon(table: Flows) -> None:
    for port, last in ((1, ACK | FIN), (2, RST)):
        table.open(FROM_VM, TCP, REMOTE, 80, port, SYN, 0.0)
        table.follow(TO_VM, TCP, REMOTE, 80, port, SYN | ACK, 0.0)
        table.follow(FROM_VM, TCP, REMOTE, 80, port, ACK | FIN, 0.0)
        table.follow(TO_VM, TCP, REMOTE, 80, port, last, 1.0)
        assert table.follow(FROM_VM, TCP, REMOTE, 80, port, ACK, 2.0)
    table.expire(11.0)
    assert len(table) == 1, "the opener went on after the reset, which may have been forged"
    assert table.follow(TO_VM, TCP, REMOTE, 80, 2, ACK, 11.0)


def test_echo_goes_one_way(table: Flows) -> None:
    assert table.open(FROM_VM, ICMP, REMOTE, 0, 7, 8, 0.0) == OPENED
    assert table.follow(TO_VM, ICMP, REMOTE, 0, 7, 0, 1.0)
    assert not table.follow(TO_VM, ICMP, REMOTE, 0, 7, 8, 1.0)
    assert not table.follow(TO_VM, ICMP, REMOTE, 0, 8, 0, 1.0)
    assert table.open(FROM_VM, ICMP, REMOTE, 0, 9, 0, 1.0) == NOT_A_START


def test_full_means_refused_and_nobody_is_pushed_out(table: Flows) -> None:
    for at in range(FLOWS):
        assert table.open(FROM_VM, UDP, REMOTE, at + 1, 1024, 0, 0.0) == OPENED
    assert table.open(FROM_VM, UDP, REMOTE, 1, 1025, 0, 29.9) == FULL
    assert table.follow(TO_VM, UDP, REMOTE, 1, 1024, 0, 29.9)
    assert table.open(FROM_VM, UDP, REMOTE, 1, 1025, 0, 30.0) == OPENED
    assert len(table) <= FLOWS


def test_clearing_forgets_everything(table: Flows) -> None:
    for at in range(100):
        table.open(FROM_VM, UDP, REMOTE, at + 1, 1024, 0, 0.0)
    table.clear()
    assert len(table) == 0
    assert not table.follow(TO_VM, UDP, REMOTE, 1, 1024, 0, 1.0)
    assert table.open(FROM_VM, UDP, REMOTE, 1, 1024, 0, 1.0) == OPENED


def test_flows_in_great_number_are_bounded_and_quick(table: Flows) -> None:
    started = time.monotonic()
    for at in range(100_000):
        table.open(FROM_VM, UDP, at * 2654435761 & 0xFFFFFFFF, 53, 1024 + at % 60000, 0, at / 100)
    assert len(table) <= FLOWS
    assert time.monotonic() - started < 20, "chains stay short"


def test_a_quoted_packet_is_known_and_changes_nothing(table: Flows) -> None:
    table.open(FROM_VM, UDP, REMOTE, 53, 1024, 0, 0.0)
    assert table.knows(UDP, REMOTE, 53, 1024, 29.0)
    assert not table.knows(UDP, REMOTE, 53, 1024, 30.0)
    assert not table.knows(TCP, REMOTE, 53, 1024, 1.0)
