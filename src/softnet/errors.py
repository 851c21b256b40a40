"""The errors an operator can cause or meet, each of which ends in one line on standard error.

A bad packet is never an error: it is a reason (`softnet.core.reasons`). Anything raised that is
not one of these is a bug.
"""


class SoftnetError(Exception):
    """Something outside the program failed. The message is one line and says what to do next."""

    exit_code = 1


class ConfigError(SoftnetError):
    """A bad option: names the option, the value and the remedy, e.g.

    `ConfigError("--vm-fd", "77", "is not an open file descriptor", "pass the number of ...")`.
    """

    exit_code = 2

    def __init__(self, option: str, value: object, problem: str, remedy: str = "") -> None:
        self.option, self.value, self.problem, self.remedy = option, value, problem, remedy
        super().__init__(f"{option} {value}: {problem}" + (f"; {remedy}" if remedy else ""))


class UplinkError(SoftnetError):
    """The network side could not be opened, or went away; everything it did has been undone."""


class LinkClosed(Exception):  # noqa: N818 - an event in a link's life, not an error
    """The other side of a link is gone. Not an operator's error: the forwarder ends on it."""
