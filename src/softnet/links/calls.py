"""Which implementation of `burst` this process uses: the one place that chooses."""

from typing import TYPE_CHECKING

from softnet.links import burst

__all__ = ["COMPILED", "calls"]

if TYPE_CHECKING:
    from softnet.links import burst as calls
else:
    try:
        from softnet.links import _burst as calls
    except (ImportError, TypeError, ValueError):  # not built, or `core.frames` itself is not compiled
        calls = burst

COMPILED = calls is not burst
