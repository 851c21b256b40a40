"""The flow table against a slow twin: a dictionary, scanned whole on every step."""

from hypothesis import given, settings
from hypothesis import strategies as st

from softnet.core import numbers
from softnet.core.flows import Flows
from softnet.core.numbers import ACK, ECHO_REPLY, ECHO_REQUEST, FIN, RST, SYN

CAPACITY = 4
TCP, UDP, ICMP = 6, 17, 1
Key = tuple[int, int, int, int]
Step = tuple[str, int, tuple[int, int], int, int, int, float]


class Twin:
    """key -> [opener, answered, FINs seen, expiry, when that expiry was set]"""

    def __init__(self) -> None:
        self.table: dict[Key, dict[str, float]] = {}

    def key(self, direction: int, protocol: int, remote: int, rport: int, vport: int, flags: int) -> Key:
        if protocol == ICMP:
            return (protocol, remote, direction if flags == ECHO_REQUEST else 1 - direction, vport)
        return (protocol, remote, rport, vport)

    def live(self, now: float) -> None:
        self.table = {key: flow for key, flow in self.table.items() if now < flow["expiry"]}

    def follow(
        self, direction: int, protocol: int, remote: int, rport: int, vport: int, flags: int, now: float
    ) -> bool:
        self.live(now)
        flow = self.table.get(self.key(direction, protocol, remote, rport, vport, flags))
        if flow is None:
            return False
        opener = flow["opener"] == direction
        if protocol != TCP:
            if opener:
                flow["expiry"] = now + 30
            return True
        if not opener and flags & SYN and not flags & ACK:
            return False
        if opener and flags & 0x3F == SYN:
            flow.update(answered=0, fins=0, expiry=now + 60)
            return True
        if not opener and flags & SYN:
            flow["answered"] = 1
        if flags & FIN:
            flow["fins"] = int(flow["fins"]) | (1 if opener else 2)
        if flags & RST or flow["fins"] == 3:
            flow["expiry"] = min(flow["expiry"], now + 10)
        elif opener and flow["answered"]:
            flow["expiry"] = now + 300
        return True

    def open(
        self, direction: int, protocol: int, remote: int, rport: int, vport: int, flags: int, now: float
    ) -> int:
        self.live(now)
        clean = flags & 0x3F == SYN if protocol == TCP else protocol == UDP or flags == ECHO_REQUEST
        if not clean or (protocol != ICMP and 0 in (rport, vport)):
            return numbers.NOT_A_START
        key = self.key(direction, protocol, remote, rport, vport, flags)
        if key in self.table:
            return numbers.OPENED
        if len(self.table) >= CAPACITY:
            return numbers.FULL
        lifetime = 60 if protocol == TCP else 30
        self.table[key] = {"opener": direction, "answered": 0, "fins": 0, "expiry": now + lifetime}
        return numbers.OPENED


FLAGS = [SYN, SYN | ACK, ACK, ACK | FIN, RST, SYN | FIN, SYN | 0xC0, 0]
tcp = st.tuples(st.just(TCP), st.sampled_from(FLAGS))
udp = st.tuples(st.just(UDP), st.just(0))
echo = st.tuples(st.just(ICMP), st.sampled_from([ECHO_REQUEST, ECHO_REPLY]))
steps = st.tuples(
    st.sampled_from(["follow", "follow", "open", "open", "knows", "expire"]),
    st.integers(0, 1),
    st.one_of(tcp, tcp, udp, echo),
    st.sampled_from([0x01010101, 0x02020202]),
    st.sampled_from([0, 53, 80]),
    st.sampled_from([1000, 1001]),
    st.sampled_from([0.0, 1.0, 9.0, 10.0, 29.0, 30.0, 60.0, 240.0, 300.0]),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(steps, max_size=60))
def test_every_step_is_the_twins(sequence: list[Step]) -> None:
    table, twin, now = Flows(CAPACITY), Twin(), 1000.0
    for verb, direction, (protocol, flags), remote, rport, vport, later in sequence:
        now += later
        packet = (direction, protocol, remote, rport, vport, flags, now)
        if verb == "follow":
            assert table.follow(*packet) == twin.follow(*packet)
        elif verb == "open":
            assert table.open(*packet) == twin.open(*packet)
        elif verb == "knows" and protocol != ICMP:
            twin.live(now)
            key = (protocol, remote, rport, vport)
            assert table.knows(*key, now) == (key in twin.table)
        else:
            table.expire(now)
            twin.live(now)
            assert len(table) == len(twin.table)
        assert len(table) <= CAPACITY
