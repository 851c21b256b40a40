"""How fast a VM may send and be sent to: what `--rate` and a policy file's `rate` say.

    RATE  = [("from-vm" | "to-vm") ":"] PART {"," PART}
    PART  = NUMBER ("bit" | "kbit" | "mbit" | "gbit")     at most once: bits a second
          | NUMBER ("pps" | "kpps" | "mpps")              at most once: packets a second
          | "burst=" NUMBER ("ms" | "s")                  at most once

At least one part is a limit. Units are tc's, in powers of 1000. Without a direction, each direction
has the limit for itself. A burst is a time, so that one serves bits and packets: what was not used
in that time may be read at once. What is done with it all is `core.rate`'s.
"""

from typing import NamedTuple

LEAST_BITS, MOST_BITS = 64_000, 100_000_000_000
LEAST_PACKETS, MOST_PACKETS = 10, 100_000_000
LEAST_BURST, MOST_BURST = 0.005, 10.0  # a poll may last 2 ms longer than asked, and loses no rate by that
DEFAULT_BURST = 0.1

FROM_VM, TO_VM = "from-vm", "to-vm"
BURST = "burst="
LONGEST_NUMBER = 16

# Each unit after those that it ends with.
_BITS = (("kbit", 10**3), ("mbit", 10**6), ("gbit", 10**9), ("bit", 1))
_PACKETS = (("kpps", 10**3), ("mpps", 10**6), ("pps", 1))
_TIMES = (("ms", 1e-3), ("s", 1.0))


class Limit(NamedTuple):
    """Of one direction: bits and packets a second (0: any number), and a burst in seconds."""

    bits: int = 0
    packets: int = 0
    burst: float = DEFAULT_BURST

    def __str__(self) -> str:
        parts = [_spelled(self.bits, _BITS), _spelled(self.packets, _PACKETS)]
        return ",".join([part for part in parts if part] + [f"{BURST}{self.burst * 1000:g}ms"])


class Rates(NamedTuple):
    """The limit of each direction; None is none."""

    from_vm: Limit | None = None
    to_vm: Limit | None = None


def add_rate(rates: Rates, text: str) -> Rates:
    """`rates` with what `text` says. ValueError for what is not a RATE, or of a direction that has one."""
    head, colon, tail = text.partition(":")
    if not colon:
        head, tail = "", text
    elif head not in (FROM_VM, TO_VM):
        raise ValueError(f"the direction {head!r} is neither {FROM_VM} nor {TO_VM}")
    limit = _limit(tail)
    for direction, present in ((FROM_VM, rates.from_vm), (TO_VM, rates.to_vm)):
        if head in ("", direction) and present is not None:
            raise ValueError(f"{direction} has a rate already, {present}")
    return Rates(
        rates.from_vm if head == TO_VM else limit,
        rates.to_vm if head == FROM_VM else limit,
    )


def _limit(text: str) -> Limit:
    bits = packets = burst = None
    for part in text.split(","):
        if part.startswith(BURST):
            burst = _once("burst", burst, _burst(part.removeprefix(BURST)))
        elif part.endswith("bit"):
            bits = _once("bit rate", bits, _rate(part, _BITS, LEAST_BITS, MOST_BITS))
        elif part.endswith("pps"):
            packets = _once("packet rate", packets, _rate(part, _PACKETS, LEAST_PACKETS, MOST_PACKETS))
        else:
            raise ValueError(
                f"{part!r} is neither a bit rate (bit, kbit, mbit, gbit) nor a packet rate (pps, kpps, mpps) "
                "nor burst=TIME (ms, s)"
            )
    if bits is None and packets is None:
        raise ValueError("a burst without a bit rate or a packet rate limits nothing")
    return Limit(int(bits or 0), int(packets or 0), DEFAULT_BURST if burst is None else burst)


def _once(what: str, before: float | None, value: float) -> float:
    if before is not None:
        raise ValueError(f"has two {what}s")
    return value


def _rate(text: str, units: tuple[tuple[str, int], ...], least: int, most: int) -> int:
    value = round(_quantity(text, units))
    if not least <= value <= most:
        raise ValueError(f"{text!r} is not from {_spelled(least, units)} to {_spelled(most, units)}")
    return value


def _burst(text: str) -> float:
    value = _quantity(text, _TIMES)
    if not LEAST_BURST <= value <= MOST_BURST:
        raise ValueError(f"the burst {text!r} is not from {LEAST_BURST * 1000:g}ms to {MOST_BURST:g}s")
    return value


def _quantity(text: str, units: tuple[tuple[str, float], ...]) -> float:
    """A plain decimal number with one of `units`, in the unit that is 1."""
    for unit, scale in units:
        if text.endswith(unit):
            number = text.removesuffix(unit)
            whole, point, rest = number.partition(".")
            plain = number.isascii() and whole.isdigit() and (rest.isdigit() or not point)
            if plain and len(number) <= LONGEST_NUMBER:
                return float(number) * scale
            break
    raise ValueError(f"{text!r} is not a number with a unit ({', '.join(unit for unit, _scale in units)})")


def _spelled(value: int, units: tuple[tuple[str, int], ...]) -> str:
    """`value` in the largest unit that it is whole in; nothing for 0."""
    if not value:
        return ""
    unit, scale = max((pair for pair in units if value % pair[1] == 0), key=lambda pair: pair[1])
    return f"{value // scale}{unit}"
