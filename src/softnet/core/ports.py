"""What rules with ports say, behind the values of a `Table` that are no reason codes.

A table's value below `PORT_RULES` is a reason. A value from there on is a pair (`port_value`): the most
specific prefix with port rules around the address (a node), and the reason that holds for the
address where no port rule speaks. A node has disjoint spans of ports with a verdict each, and a
parent, the next shorter prefix with port rules. So the storage is linear in the rules, and a
lookup asks at most one node a prefix length. All nodes' spans lie in one table, keyed by node,
protocol and port. Only TCP and UDP have ports.
"""

from array import array
from collections.abc import Sequence

from softnet.core.numbers import NO_PORT, ROOT, TCP_BIT, UDP_BIT, UNDECIDED
from softnet.core.prefix import Table
from softnet.core.reasons import FRAGMENT


def port_key(node: int, protocol: int, port: int) -> int:
    """Where a node's verdict on a port is kept; `protocol` is 6 or 17."""
    return node << 17 | (protocol == 17) << 16 | port


def port_value(node: int, fallback: int) -> int:
    """A table's value for the addresses of a node; 24 bits at most."""
    return (node + 1) << 8 | fallback


class PortRules:
    """The read side: `lookup` for every packet whose address has a value from PORT_RULES on."""

    __slots__ = ("_parents", "_protocols", "_spans")

    def __init__(self, spans: Table, parents: Sequence[int], protocols: Sequence[int]) -> None:
        """`parents` (ROOT for none) and `protocols` (bits, ancestors' included) are by node."""
        self._spans = spans
        self._parents = memoryview(array("I", parents))
        self._protocols = memoryview(array("I", protocols))

    def lookup(self, value: int, protocol: int, port: int) -> int:
        """The reason for a port, or NO_PORT where the packet shows none (a later fragment, cut short)."""
        fallback = value & 0xFF
        if protocol != 6 and protocol != 17:
            return fallback
        node = (value >> 8) - 1
        if port >= NO_PORT:
            bit = TCP_BIT if protocol == 6 else UDP_BIT
            return FRAGMENT if self._protocols[node] & bit else fallback
        key = (0x10000 if protocol == 17 else 0) | port
        while node != ROOT:
            verdict = self._spans.lookup(node << 17 | key)
            if verdict != UNDECIDED:
                return verdict
            node = self._parents[node]
        return fallback
