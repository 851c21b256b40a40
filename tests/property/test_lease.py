"""The snooper against a slow twin: section 3 of docs/spec.md, said once more as plain as it goes.

Messages are drawn from few values, so that identifiers, xids and servers meet often. The lease is
seen from outside only: by the reason of a packet that needs one.
"""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from harness import corpus
from harness.frames import ACK, DECLINE, DISCOVER, INFORM, NAK, OFFER, RELEASE, REQUEST, ip, mac, option
from vectors.world import GLOBAL, GW, GW_MAC, NOBODY, OTHER, VM, client, lease_options, packet, server

STATES = corpus.states()


class Twin:
    """Who may send what, and what is leased until when."""

    def __init__(self) -> None:
        self.address: str | None = None
        self.until = 0.0
        self.asked: int | None = None
        self.unanswered: list[int] = []
        self.overtaken: set[int] = set()
        self.identifiers: set[bytes] = set()
        self.declines = 0
        self.tokens = 20.0
        self.last = 0.0

    def holds(self, now: float) -> str | None:
        return self.address if self.address is not None and now < self.until else None

    def from_vm(self, now: float, kind: int, xid: int, identifier: bytes | None, right_chaddr: bool) -> str:
        if not right_chaddr:
            return "dhcp-chaddr"
        if identifier is not None and identifier not in self.identifiers and len(self.identifiers) == 4:
            return "dhcp-client-id"
        self.tokens = min(20.0, self.tokens + now - self.last)
        self.last = now
        if self.tokens < 1 or (kind == DECLINE and self.declines == 3):
            return "dhcp-rate"
        self.tokens -= 1
        if identifier is not None:
            self.identifiers.add(identifier)
        if kind == DECLINE:
            self.declines += 1
        if kind in (DECLINE, RELEASE):
            self.address = self.asked = None
            self.overtaken.update(self.unanswered)
            self.unanswered = []
        elif kind == REQUEST:
            self.unanswered.append(xid)
            self.asked = None if xid in self.overtaken else xid
        elif kind == INFORM and xid == self.asked:
            self.asked = None
        return "pass-dhcp"

    def from_server(
        self, now: float, kind: int, xid: int, address: str, seconds: int | None, counts: bool
    ) -> None:
        if not counts or xid != self.asked:
            return
        if kind in (ACK, NAK) and xid in self.unanswered:
            self.unanswered.remove(xid)
        if kind == NAK:
            self.address = self.asked = None
        elif kind == ACK and address != NOBODY and seconds is not None:
            self.address, self.until = address, now + seconds


xids = st.sampled_from([1, 1, 1, 2])
waits = st.sampled_from([0.0, 0.0, 0.25, 1.0, 5.0, 31.0])
identifiers = st.sampled_from([None, None, b"a", b"b", b"c", b"d", b"e"])
client_messages = st.fixed_dictionaries(
    {
        "kind": st.sampled_from([DISCOVER, REQUEST, REQUEST, REQUEST, DECLINE, RELEASE, INFORM]),
        "xid": xids,
        "identifier": identifiers,
        "right_chaddr": st.sampled_from([True] * 7 + [False]),
    }
)
server_messages = st.fixed_dictionaries(
    {
        "kind": st.sampled_from([ACK, ACK, ACK, OFFER, NAK]),
        "xid": xids,
        "address": st.sampled_from([VM, VM, OTHER, NOBODY]),
        "seconds": st.sampled_from([1, 30, 3600, None]),
        "counts": st.sampled_from([True] * 5 + [False]),
    }
)
steps = st.lists(st.tuples(waits, st.one_of(client_messages, server_messages)), min_size=1, max_size=40)


def sent(message: dict[str, Any]) -> bytes:
    """A client message of the VM, from 0.0.0.0 to everybody."""
    named = message["identifier"]
    options = b"" if named is None else option(61, named)
    chaddr = {} if message["right_chaddr"] else {"chaddr": mac(GW_MAC)}
    return client(message["kind"], options, xid=message["xid"], **chaddr)


def answered(message: dict[str, Any]) -> bytes:
    """A reply; one that does not count comes from a stranger."""
    without = option(54, ip(GW)) + option(1, b"\xff\xff\xff\0")
    options = without if message["seconds"] is None else lease_options(seconds=message["seconds"])
    src = GW if message["counts"] else OTHER
    return server(message["kind"], options, xid=message["xid"], yiaddr=message["address"], src=src)


@settings(max_examples=300, deadline=None)
@given(steps)
def test_the_snooper_follows_the_table(steps: list[tuple[float, dict[str, Any]]]) -> None:
    subject, twin, now = corpus.filter_of(STATES["none"]), Twin(), corpus.START
    twin.last = now
    for wait, message in steps:
        now += wait
        if "identifier" in message:
            assert corpus.judge(subject, corpus.FROM_VM, [sent(message)], now) == [
                twin.from_vm(now, **message)
            ]
        else:
            assert corpus.judge(subject, "to-vm", [answered(message)], now) == ["pass-inbound"]
            twin.from_server(now, **message)
        for address in (VM, OTHER):
            expected = {address: "pass-global", None: "no-lease"}.get(twin.holds(now), "src-ip")
            assert corpus.judge(subject, corpus.FROM_VM, [packet(GLOBAL, src=address)], now) == [expected]


@settings(max_examples=100, deadline=None)
@given(steps)
def test_events_tell_the_whole_story(steps: list[tuple[float, dict[str, Any]]]) -> None:
    """Whoever only reads the events knows at any time which address is leased."""
    subject, now = corpus.filter_of(STATES["none"]), corpus.START
    known: int | None = None
    for wait, message in steps:
        now += wait
        if "identifier" in message:
            corpus.judge(subject, corpus.FROM_VM, [sent(message)], now)
        else:
            corpus.judge(subject, "to-vm", [answered(message)], now)
        while (event := subject.next_event(now)) is not None:
            assert (event.kind == "bound") <= (known is None)
            assert event.kind == "bound" or known == event.lease.address
            known = None if event.kind == "lost" else event.lease.address
        lease = subject.lease
        assert known == (None if lease is None else lease.address)
        deadline = subject.next_deadline()
        assert (deadline is None) == (lease is None)
        assert deadline is None or deadline > now


@settings(max_examples=100, deadline=None)
@given(steps)
def test_what_a_guest_can_grow_is_bounded(steps: list[tuple[float, dict[str, Any]]]) -> None:
    """At the end at most five addresses have to be given back: one an identifier, and one without."""
    subject, now = corpus.filter_of(STATES["none"]), corpus.START
    for wait, message in steps:
        now += wait
        if "identifier" in message:
            corpus.judge(subject, corpus.FROM_VM, [sent(message)], now)
        else:
            corpus.judge(subject, "to-vm", [answered(message)], now)
    releases = subject.release_frames(now)
    assert len(releases) <= 5
    if subject.lease is not None and subject.lease.expiry > now:
        assert releases
    assert subject.release_frames(now) == []
