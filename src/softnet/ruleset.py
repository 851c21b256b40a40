"""A set of rules in little memory: 100,000 block-listed prefixes are 800 KB, and found by bisection.

A rule that is an address or prefix and nothing else is one number, `prefix.entry` with the direction and
the reason for its value; the numbers are sorted, and become a `Rule` again when somebody looks. Rules with
ports or a name in them stay `Rule`s, in the order they were given. Every rule is in it once.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from heapq import merge

from softnet.core.address import mask_of
from softnet.core.prefix import entry
from softnet.core.reasons import BLOCKED, PASS_RULE
from softnet.rules import ALLOW, BLOCK, IN, OUT, Rule, Target, order

_WAYS = ("", IN, OUT)
_WAY = {direction: way << 8 for way, direction in enumerate(_WAYS)}
_REASONS = {ALLOW: PASS_RULE, BLOCK: BLOCKED}
_ACTIONS = {PASS_RULE: ALLOW, BLOCKED: BLOCK}
_ANY_WAY = 0xFF << 8


def _encoded(rule: Rule) -> int | None:
    action, (address, length, ports, _dns), direction = rule
    if address is None or ports is not None:
        return None
    return entry(address, length, _WAY[direction] | _REASONS[action])


def _decoded(code: int) -> Rule:
    target = Target(code >> 32, code >> 24 & 0xFF)
    return Rule(_ACTIONS[code & 0xFF], target, _WAYS[code >> 8 & 0xFF])


class RuleSet:
    """Immutable. Iterates in the order of normalised lists; `others` are those that are no numbers."""

    __slots__ = ("_plain", "directed", "others")

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        plain = array("Q")
        others: dict[Rule, None] = {}
        for rule in rules:
            code = _encoded(rule)
            if code is None:
                others[rule] = None
            else:
                plain.append(code)
        self._hold(plain, others)

    def _hold(self, plain: Iterable[int], others: Iterable[Rule]) -> None:
        self._plain = array("Q", sorted(set(plain)))
        self.others = tuple(others)
        self.directed = any(rule.direction for rule in self.others) or any(
            code & _ANY_WAY for code in self._plain
        )

    def __len__(self) -> int:
        return len(self._plain) + len(self.others)

    def __iter__(self) -> Iterator[Rule]:
        return merge(map(_decoded, self._plain), sorted(self.others, key=order), key=order)

    def __contains__(self, rule: Rule) -> bool:
        code = _encoded(rule)
        if code is None:
            return rule in self.others
        at = bisect_left(self._plain, code)
        return self._plain[at : at + 1] == array("Q", [code])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RuleSet):
            return NotImplemented
        return self._plain == other._plain and set(self.others) == set(other.others)

    def __hash__(self) -> int:
        return hash((self._plain.tobytes(), frozenset(self.others)))

    def __or__(self, other: "RuleSet") -> "RuleSet":
        if not self or not other:
            return self or other
        both = RuleSet()
        both._hold(self._plain + other._plain, dict.fromkeys(self.others + other.others))
        return both

    def around(self, address: int) -> Iterator[Rule]:
        """The plain rules whose prefix holds `address`, the shortest prefix first."""
        for length in range(33):
            code = entry(address & mask_of(length), length, 0)
            at = bisect_left(self._plain, code)
            while at < len(self._plain) and self._plain[at] >> 24 == code >> 24:
                yield _decoded(self._plain[at])
                at += 1

    def entries(self, direction: str) -> Iterable[int]:
        """The plain rules that apply to a direction, for `prefix.build`: where two tie, blocked is more."""
        if not self.directed:
            return self._plain
        ways = (_WAY[""], _WAY[direction])
        return [code & ~_ANY_WAY for code in self._plain if code & _ANY_WAY in ways]
