"""Medians and spreads. A ratio is taken round by round, between neighbours in time, and then summed up."""

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple


class Summary(NamedTuple):
    """The median, and the values that half of all rounds lie between."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g}-{self.high:.3g})"


def summary(values: Sequence[float]) -> Summary:
    ordered = sorted(values)
    quarter = len(ordered) // 4
    return Summary(median(ordered), ordered[quarter], ordered[len(ordered) - 1 - quarter])


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Summary:
    return summary([our / their for our, their in zip(ours, theirs, strict=True)])


def verdict(ratio_of: Summary) -> str:
    """`more`, `less`, or `the same` when 1 lies within the spread."""
    if ratio_of.low > 1:
        return "more"
    return "less" if ratio_of.high < 1 else "the same"
