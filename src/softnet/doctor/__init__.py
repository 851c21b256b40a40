"""What this host can do for a VM, one finding a line, each with its remedy. Looks, and changes nothing.

The systems differ in `linux` and `darwin`, which have the same function, `examine`.
"""

import sys
from collections.abc import Iterator
from typing import NamedTuple

OK = "ok"
NOTE = "note"  # works, but the operator may want to know
PROBLEM = "problem"


class Finding(NamedTuple):
    """`name` is stable, for scripts; `remedy` is empty where there is nothing to do."""

    name: str
    state: str
    text: str
    remedy: str = ""


def examine(pool: tuple[int, int]) -> Iterator[Finding]:
    """Every finding about this host. `pool` is the nat uplink's (address, prefix length)."""
    if sys.platform == "darwin":
        from softnet.doctor import darwin

        return darwin.examine(pool)
    from softnet.doctor import linux

    return linux.examine(pool)
