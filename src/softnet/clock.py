"""The clock of leases: monotonic, and counting the time that the machine was asleep."""

import sys
import time

if sys.platform == "darwin":
    # mach_continuous_time; CPython's own time.monotonic() stops while a Mac sleeps.
    CLOCK = time.CLOCK_MONOTONIC
else:
    CLOCK = time.CLOCK_BOOTTIME


def now() -> float:
    """Seconds since some moment in the past."""
    return time.clock_gettime(CLOCK)
