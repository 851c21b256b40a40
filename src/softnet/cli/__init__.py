"""The command line: one file a command, each with `main(argv) -> exit code`.

`softnet` with flags and no command is the contract that Tart relies on, and lives in `serve`. Every
error that an operator can cause ends here in one line on standard error, and in its exit code.
"""

import sys
from collections.abc import Sequence
from importlib import import_module

from softnet.errors import ConfigError, SoftnetError

COMMANDS = {
    "run": "start a command (QEMU, ...) with a network card behind Softnet",
    "doctor": "what this host can do, and how to mend what it cannot",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `softnet ARGV`; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        name, rest = _command(words)
        return int(import_module(f"softnet.cli.{name}").main(rest))
    except SoftnetError as error:
        complain(str(error))
        return error.exit_code


def _command(words: list[str]) -> tuple[str, list[str]]:
    """The module in this package that runs, and its arguments."""
    if not words or words[0].startswith("-"):
        return "serve", words
    if words[0] not in COMMANDS:
        raise ConfigError("command", words[0], "is not known", f"use one of {', '.join(COMMANDS)}, or --help")
    return words[0], words[1:]


def complain(message: str) -> None:
    """One line on standard error, whatever the message holds."""
    sys.stderr.write("softnet: " + " ".join(message.split()) + "\n")
    sys.stderr.flush()
