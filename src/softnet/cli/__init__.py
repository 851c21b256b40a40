"""The command line: one file a command, each with `main(argv) -> exit code`.

`softnet` with flags and no command is the contract that Tart relies on, and lives in `serve`. Every
error that an operator can cause ends here in one line on standard error, and in its exit code.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from softnet.errors import ConfigError, SoftnetError

COMMANDS = {
    "run": "start a command (QEMU, ...) with a network card behind Softnet",
    "doctor": "what this host can do, and how to mend what it cannot",
    "ps": "the running Softnets",
    "stats": "frames by reason of a running Softnet",
    "top": "the same, live: rates, reasons, recent refusals",
    "policy": "read or replace the policy of a running VM",
    "explain": "whether the VM reaches an address, and which rule decides",
    "capture": "frames with their verdicts, as pcapng for Wireshark",
    "check": "check a policy file",
    "exporter": "Prometheus metrics of all running Softnets on one port",
}
# These do nothing that takes privileges: a set-user-id or sudo installation runs them as the caller.
FOR_THE_CALLER = frozenset(("ps", "stats", "top", "policy", "explain", "capture", "check", "exporter"))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `softnet ARGV`; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        name, rest = _command(words)
        if name in FOR_THE_CALLER:
            _become_caller()
        return int(import_module(f"softnet.cli.{name}").main(rest))
    except SoftnetError as error:
        complain(str(error))
        if error.exit_code == 1:  # 2 is the operator's own mistake
            _report(error)
        return error.exit_code
    except Exception as error:
        _report(error)
        raise


def _report(error: Exception) -> None:
    """To whom SENTRY_DSN names: the module is only there when `serve` found that set."""
    reporting = sys.modules.get("softnet.reporting")
    if reporting is not None:
        reporting.report(error)


def _command(words: list[str]) -> tuple[str, list[str]]:
    """The module in this package that runs, and its arguments."""
    if not words or words[0].startswith("-"):
        return "serve", words
    if words[0] not in COMMANDS:
        raise ConfigError("command", words[0], "is not known", f"use one of {', '.join(COMMANDS)}, or --help")
    return words[0], words[1:]


def _become_caller() -> None:
    """Take the identity of whoever gave the command; nothing for root itself and ordinary users."""
    if os.geteuid() == 0:
        from softnet import privilege

        who = privilege.asker()
        if who is not None:
            privilege.assume(who)


def complain(message: str) -> None:
    """One line on standard error, whatever the message holds."""
    sys.stderr.write("softnet: " + " ".join(message.split()) + "\n")
    sys.stderr.flush()
