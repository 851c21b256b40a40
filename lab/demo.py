"""`make demo`: a real VM tries to get out, on a plain bridge and behind Softnet, side by side.

One row an attempt, printed cell by cell as it happens: what was tried, how far it got without
Softnet, how far with it, and the reason by Softnet's own counters. The exit status is 0 only when
everything allowed got through, nothing else did and has a reason, and each forbidden attempt does
get through where Softnet is not: otherwise its row would prove nothing.
"""

import os
import secrets
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import NamedTuple, TextIO

from lab import image
from lab.attempts import ATTEMPTS, Attempt
from lab.guest import GuestError
from lab.worlds import BehindSoftnet, PlainBridge
from softnet.core.reasons import BY_NAME

PROGRAMS = ("ip", "nft", "nsenter", "setpriv", "dnsmasq", "qemu-system-x86_64", "gcc", "lz4")
TITLE_WIDTH, PLAIN_WIDTH, SOFTNET_WIDTH, REASON_WIDTH = 35, 25, 14, 24
BOLD, DIM, RED, GREEN, YELLOW = "1", "2", "31", "32", "33"


class Row(NamedTuple):
    """One attempt's outcome; `plain` and `softnet` say where it got, "" for nowhere."""

    attempt: Attempt
    plain: str
    softnet: str
    reasons: Counter[str]

    @property
    def right(self) -> bool:
        """Whether Softnet did what it should."""
        if self.attempt.allowed:
            return bool(self.softnet)
        return not self.softnet and bool(self.reasons)

    @property
    def telling(self) -> bool:
        """Whether the attempt works where nothing filters, so that its failure means something."""
        return bool(self.plain)


class Screen:
    """Cells on a terminal or in a file; colour only on a terminal, and not where NO_COLOR is set."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._colour = out.isatty() and not os.environ.get("NO_COLOR")

    def say(self, text: str = "", style: str = "", end: str = "\n") -> None:
        if style and self._colour:
            text = f"\033[{style}m{text}\033[0m"
        print(text, end=end, file=self._out, flush=True)

    def cell(self, text: str, width: int, style: str = "") -> None:
        self.say(text, style, end=" " * max(1, width - len(text)))

    def header(self) -> None:
        self.say()
        self.cell("  what the VM tries", TITLE_WIDTH + 2, BOLD)
        self.cell("without Softnet", PLAIN_WIDTH, BOLD)
        self.cell("with Softnet", SOFTNET_WIDTH, BOLD)
        self.say("reason (frames)", BOLD)
        self.say("  " + "-" * (TITLE_WIDTH + PLAIN_WIDTH + SOFTNET_WIDTH + REASON_WIDTH - 2), DIM)


def play(plain: PlainBridge, behind: BehindSoftnet, screen: Screen, run: str) -> Iterator[Row]:
    """Every attempt, in both worlds; each row is on the screen by the time it is yielded."""
    for number, attempt in enumerate(ATTEMPTS):
        token = f"{run}{number:02}".encode()
        screen.cell(f"  {attempt.title}", TITLE_WIDTH + 2)
        without = attempt.perform(plain, token)
        screen.cell(without or "got nowhere", PLAIN_WIDTH, "" if attempt.allowed else YELLOW)
        before = behind.verdicts()
        reached = attempt.perform(behind, token)
        row = Row(attempt, without, reached, relevant(attempt, behind.verdicts() - before))
        end = reached or ("nothing" if attempt.allowed else "dropped")
        screen.cell(end if row.right else f"{end} (!)", SOFTNET_WIDTH, GREEN if row.right else RED)
        screen.say(reasons_text(row.reasons), DIM)
        yield row
        plain.heal()


def relevant(attempt: Attempt, reasons: Counter[str]) -> Counter[str]:
    """The reasons that explain a row: why it passed (ARP and the gateway apart), or why not."""
    helpers = ("pass-arp", "pass-gateway")
    wanted = {name: n for name, n in reasons.items() if name.startswith("pass-") == attempt.allowed}
    return Counter({name: n for name, n in wanted.items() if name not in helpers})


def reasons_text(reasons: Counter[str]) -> str:
    """`not-global 2`, the most frequent first; without the numbers where they do not fit."""
    most = reasons.most_common()
    text = ", ".join(f"{name} {n}" for name, n in most)
    return text if len(text) <= REASON_WIDTH else ", ".join(name for name, _ in most)


def explain(rows: Sequence[Row], screen: Screen) -> None:
    """Softnet's own sentence for each reason in the table."""
    screen.say()
    seen = dict.fromkeys(name for row in rows for name in row.reasons)
    for name in seen:
        screen.cell(f"  {name}", 18, BOLD)
        screen.say(BY_NAME[name].sentence, DIM)


def verdict(rows: Sequence[Row], screen: Screen, seconds: float) -> bool:
    """The last line, and whether all is well."""
    allowed = [row for row in rows if row.attempt.allowed]
    forbidden = [row for row in rows if not row.attempt.allowed]
    passed, stopped = sum(row.right for row in allowed), sum(row.right for row in forbidden)
    proven = sum(row.telling for row in rows)
    fine = passed == len(allowed) and stopped == len(forbidden) and proven == len(rows)
    screen.say()
    screen.say(
        f"  {'PASS' if fine else 'FAIL'}: Softnet let through {passed} of {len(allowed)} things a VM may do, "
        f"and stopped {stopped} of {len(forbidden)} it may not.",
        f"{BOLD};{GREEN if fine else RED}",
    )
    screen.say(f"  Without it, {proven} of all {len(rows)} got through. {seconds:.0f} seconds.", DIM)
    return fine


def demonstrate(screen: Screen) -> list[Row]:
    """Builds what is missing, boots four VMs, plays every attempt and takes all of it away again."""
    screen.say("  building the guest, where that is not done yet", DIM)
    guest_image = image.build()
    run = f"softnet-{secrets.token_hex(3)}-"
    screen.say("  booting four VMs: two on a plain bridge, two behind softnet run --uplink nat", DIM)
    with (
        closing(PlainBridge(guest_image, run.encode())) as plain,
        closing(BehindSoftnet(guest_image, run.encode())) as behind,
    ):
        plain.ready()
        behind.ready()
        screen.header()
        return list(play(plain, behind, screen, run))


def obstacle() -> str:
    """What keeps the demo from running here, and the remedy; "" for nothing."""
    if not sys.platform.startswith("linux"):
        return "the demo runs on Linux"
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing:
        return f"{', '.join(missing)} not found: run scripts/setup.sh demo"
    if os.geteuid() != 0:
        return "network namespaces and TAP devices need root: run sudo make demo"
    return ""


def main() -> int:
    screen = Screen(sys.stdout)
    if problem := obstacle():
        print(f"demo: {problem}", file=sys.stderr)
        return 1
    started = time.monotonic()
    try:
        rows = demonstrate(screen)
    except (GuestError, image.ImageError, RuntimeError, OSError) as error:
        print(f"\ndemo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    explain(rows, screen)
    return 0 if verdict(rows, screen, time.monotonic() - started) else 1


if __name__ == "__main__":
    sys.exit(main())
