"""Policy files: the rules of a VM, its exposed ports and what refusals look like, in TOML.

    version = 1                                   # required
    allow = ["10.0.0.0/8:443/tcp", "@dns"]        # rules, as --allow takes them, one a string
    block = ["0.0.0.0/0"]
    expose = ["2222:22"]                          # as --expose takes them
    deny = "reject"                               # or "drop"
    deny-rate = 100                               # answers a second, at most
    rate = "20mbit,5kpps"                         # as --rate takes it, or a list of such strings

Every mistake is a FileError that says file, line and column. TOML's reader keeps no places, so `_place`
finds them again; for what it cannot find it says the line of the key.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, TypeVar

from softnet.config import DROP, REJECT, Expose
from softnet.errors import ConfigError
from softnet.limits import Rates, add_rate
from softnet.policy import Policy
from softnet.rules import ALLOW, BLOCK, parse_rule
from softnet.ruleset import RuleSet

T = TypeVar("T")

VERSION = 1
DENY_ACTIONS = (DROP, REJECT)
LARGEST_RATE = 10_000
LARGEST_FILE = 4 << 20

_KEYS = ("version", ALLOW, BLOCK, "expose", "deny", "deny-rate", "rate")
_POSITION = re.compile(r" \(at line (\d+), column (\d+)\)$")


class FileError(ConfigError):
    """A mistake in a policy file: `FILE:LINE:COLUMN: what is wrong`."""

    def __init__(self, path: str, line: int, column: int, problem: str) -> None:
        super().__init__("--policy", f"{path}:{line}:{column}", problem)


class PolicyFile(NamedTuple):
    """What a file says; None where it says nothing."""

    policy: Policy = Policy()
    expose: tuple[Expose, ...] = ()
    deny: str | None = None
    deny_rate: int | None = None
    rates: Rates = Rates()


def read(path: str) -> str:
    """The file's text."""
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        remedy = "name a file that can be read"
        raise ConfigError("--policy", path, f"cannot read: {error.strerror}", remedy) from None
    if len(data) > LARGEST_FILE:
        remedy = "join its addresses into prefixes, or leave out comments and blanks"
        raise ConfigError("--policy", path, f"is larger than {LARGEST_FILE} bytes", remedy)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FileError(path, line, 1, "not UTF-8") from None


def parse(path: str, text: str, parse_expose: Callable[[str], Expose]) -> PolicyFile:
    """What `text` says; `path` is for messages, `parse_expose` reads one exposed port."""
    import tomllib

    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _POSITION.search(str(error))
        last = (text.count("\n") + 1, len(text.rsplit("\n", 1)[-1]) + 1)
        line, column = (int(found[1]), int(found[2])) if found else last
        raise FileError(path, line, column, _POSITION.sub("", str(error))) from None
    return _File(path, text, content).checked(parse_expose)


class _File:
    """One file while it is being checked."""

    def __init__(self, path: str, text: str, content: dict[str, Any]) -> None:
        self._path, self._text, self._content = path, text, content

    def checked(self, parse_expose: Callable[[str], Expose]) -> PolicyFile:
        for key in self._content:
            if key not in _KEYS:
                raise self._error(f"unknown key {key!r}; known are {', '.join(_KEYS)}", key)
        if "version" not in self._content:
            raise FileError(self._path, 1, 1, f"no version; write version = {VERSION}")
        if self._content["version"] != VERSION or isinstance(self._content["version"], bool):
            raise self._error(f"this Softnet reads version {VERSION} only", "version")
        lists = (self._each(action, partial(parse_rule, action)) for action in (ALLOW, BLOCK))
        rules = RuleSet(chain.from_iterable(lists))
        expose = tuple(dict.fromkeys(self._each("expose", parse_expose)))
        return PolicyFile(Policy(rules), expose, self._deny(), self._deny_rate(), self._rates())

    def _each(self, key: str, parse: Callable[[str], T]) -> Iterator[T]:
        entries = self._content.get(key, [])
        if not isinstance(entries, list):
            raise self._error(f"{key} must be a list of strings", key)
        for at, entry in enumerate(entries):
            if not isinstance(entry, str):
                raise self._error(f"{key} must be a list of strings", key)
            try:
                yield parse(entry)
            except ValueError as error:
                raise self._error(f"{key} {entry!r}: {error}", key, at) from None

    def _deny(self) -> str | None:
        deny = self._content.get("deny")
        if deny is not None and deny not in DENY_ACTIONS:
            raise self._error(f"deny must be {' or '.join(map(repr, DENY_ACTIONS))}", "deny", 0)
        return deny if isinstance(deny, str) else None

    def _deny_rate(self) -> int | None:
        rate = self._content.get("deny-rate")
        if rate is not None and (type(rate) is not int or not 1 <= rate <= LARGEST_RATE):
            raise self._error(f"deny-rate must be a number from 1 to {LARGEST_RATE}", "deny-rate")
        return rate

    def _rates(self) -> Rates:
        rates = Rates()
        given = self._content.get("rate", [])
        texts = given if isinstance(given, list) else [given]
        for at, text in enumerate(texts):
            if not isinstance(text, str):
                raise self._error("rate must be a string or a list of strings", "rate")
            try:
                rates = add_rate(rates, text)
            except ValueError as error:
                raise self._error(f"rate {text!r}: {error}", "rate", at) from None
        return rates

    def _error(self, problem: str, key: str, string: int | None = None) -> FileError:
        return FileError(self._path, *_place(self._text, key, string), problem)


_STRING = re.compile(r'"(?:[^"\\]|\\.)*"' + "|'[^']*'|#[^\n]*")


def _place(text: str, key: str, string: int | None) -> tuple[int, int]:
    """Line and column of `key` at the top level, or of the string numbered `string` of its value."""
    assigned = re.search(rf"^[ \t]*\[*[ \t]*[\"']?({re.escape(key)})[\"']?[ \t]*[=.\]]", text, re.MULTILINE)
    if assigned is None:
        return 1, 1
    at = assigned.start(1)
    if string is not None:
        literals = [each for each in _STRING.finditer(text, assigned.end()) if not each[0].startswith("#")]
        at = literals[string].start() if string < len(literals) else at
    return text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
