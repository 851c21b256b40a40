"""Becoming root through passwordless sudo, the way the original does it and its users have set it up.

First a probe, `sudo --non-interactive EXE ARGS --sudo-escalation-probing`, which changes nothing:
with that flag and an effective uid of 0, Softnet reads its arguments and ends with 0. Then this process
becomes `sudo --non-interactive --preserve-env=SENTRY_DSN,CIRRUS_SENTRY_TAGS EXE ARGS
--sudo-escalation-done --user U --group G`. A process that sees `--sudo-escalation-done` never
escalates again. The user and group are who asked, unless `--user` or `--group` is there already.

sudo closes every descriptor from 3 up, so sockets with such numbers move to 0, then to 1 (where
Softnet reads and writes nothing of its own), and the arguments say so.

Does not: ask for a password, or leave anything on the two descriptors that may be sockets.
"""

import grp
import os
import pwd
import sys
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

from softnet.errors import ConfigError
from softnet.privilege.accounts import PrivilegeError
from softnet.privilege.installation import changeable_by_others, first_unsafe

PROBING = "--sudo-escalation-probing"
DONE = "--sudo-escalation-done"
KEPT_ENVIRONMENT = "SENTRY_DSN,CIRRUS_SENTRY_TAGS"
FIRST_CLOSED = 3
FREE_SLOTS = (0, 1)
DESCRIPTOR_OPTIONS = {"--vm-fd": "", "--control-fd": "", "--supervisor-fd": "", "--uplink": "fd="}


class Descriptor(NamedTuple):
    """A descriptor's number inside the arguments: `argv[place]` is `prefix` and the number."""

    option: str
    place: int
    prefix: str
    number: int


def escalate(argv: list[str]) -> NoReturn:
    """Continue as root with the same arguments, or raise PrivilegeError or ConfigError."""
    if DONE in argv:
        raise PrivilegeError("sudo started softnet, but not as root; the rule in sudoers must say (root)")
    arguments, moves = keep_descriptors(argv)
    command = own_command()
    said = _probe(["sudo", "--non-interactive", *command, *insert(arguments, [PROBING])])
    if said is not None:
        raise PrivilegeError(_remedy(command[0], said))
    for number, slot in moves:
        os.dup2(number, slot)
    sudo = ["sudo", "--non-interactive", f"--preserve-env={KEPT_ENVIRONMENT}"]
    os.execvp("sudo", [*sudo, *command, *insert(arguments, [DONE, *_caller_options(arguments)])])


def own_command() -> list[str]:
    """The program that runs now, by the absolute path that a rule in sudoers can name."""
    started = sys.argv[0]
    if started and os.path.basename(started) != "__main__.py" and os.access(started, os.X_OK):
        return [os.path.realpath(started)]
    return [sys.executable, "-I", "-m", "softnet"]


def insert(argv: list[str], more: list[str]) -> list[str]:
    """Options go in front of `--`: what follows that is another program's command line."""
    end = _end_of_options(argv)
    return [*argv[:end], *more, *argv[end:]]


def keep_descriptors(argv: list[str]) -> tuple[list[str], list[tuple[int, int]]]:
    """The arguments with every descriptor below 3, and the (from, to) moves that make them true."""
    found = list(_descriptors(argv))
    free = [slot for slot in FREE_SLOTS if slot not in {each.number for each in found}]
    rewritten, moves = list(argv), []
    for each in found:
        if each.number < FIRST_CLOSED:
            continue
        if not free:
            problem, remedy = "sudo closes descriptors from 3 up", "pass it as 0 or 1, or run as root"
            raise ConfigError(each.option, each.number, problem, remedy)
        _require_open(each)
        rewritten[each.place] = f"{each.prefix}{free[0]}"
        moves.append((each.number, free.pop(0)))
    return rewritten, moves


def _require_open(descriptor: Descriptor) -> None:
    try:
        os.fstat(descriptor.number)
    except OSError:
        raise ConfigError(
            descriptor.option, descriptor.number, "is not an open file descriptor", "pass the socket's number"
        ) from None


def _descriptors(argv: list[str]) -> Iterator[Descriptor]:
    end = _end_of_options(argv)
    for index in range(end):
        option, equals, value = argv[index].partition("=")
        place = index if equals else index + 1
        if option not in DESCRIPTOR_OPTIONS or place >= end:
            continue
        text, marker = value if equals else argv[place], DESCRIPTOR_OPTIONS[option]
        if text.startswith(marker) and text[len(marker) :].isdecimal():
            prefix = argv[place][: -len(text)] + marker
            yield Descriptor(option, place, prefix, int(text[len(marker) :]))


def _end_of_options(argv: list[str]) -> int:
    return argv.index("--") if "--" in argv else len(argv)


def _caller_options(argv: list[str]) -> list[str]:
    """Who to become again, unless the arguments say it already. Names where there are any."""
    given = {word.partition("=")[0] for word in argv[: _end_of_options(argv)]}
    if "--user" in given:
        return []
    group = [] if "--group" in given else ["--group", group_name(os.getgid())]
    return ["--user", user_name(os.getuid()), *group]


def _probe(command: list[str]) -> str | None:
    """None when the command may run without a password, else the last line of what was said instead."""
    reader, writer = os.pipe()
    silent = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1)]
    try:
        actions = [*silent, (os.POSIX_SPAWN_DUP2, writer, 2)]
        child = os.posix_spawnp(command[0], command, os.environ, file_actions=actions)
    except OSError as error:
        os.close(reader)
        return f"{command[0]}: {error.strerror}"
    finally:
        os.close(writer)
    with open(reader, "rb") as answer:
        said = answer.read().decode(errors="replace").split("\n")
    failed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
    return (["no reason given", *filter(None, said)][-1]) if failed else None


def _remedy(program: str, said: str) -> str:
    """A rule is only worth suggesting for a program that its user cannot exchange."""
    if first_unsafe([program], changeable_by_others) is not None:
        rule = "install it with `make install`, which also writes the rule"
    else:
        rule = f"add this rule with `visudo`: {user_name(os.getuid())} ALL=(root) NOPASSWD: {program}"
    return f"needs root, and sudo does not give it without a password ({said}); {rule}"


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
