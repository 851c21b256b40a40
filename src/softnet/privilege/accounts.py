"""Whom to become: `--user` and `--group`, else whoever asked for this process.

The caller is, in this order: the real user of a set-user-ID start, the user named by sudo, and for
a root login `nobody`. A root login has no lesser user to return to, and staying uid 0 is no drop:
without any capability that uid still owns root's files, from /root to /etc/shadow.

Looks accounts up and changes nothing.
"""

import grp
import os
import pwd
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from softnet.errors import ConfigError, SoftnetError

ROOT = 0
NOBODY = "nobody"
MAX_GROUPS = 16 if sys.platform == "darwin" else 65536  # NGROUPS_MAX


class PrivilegeError(SoftnetError):
    """Privileges could not be had, or could not be given up. Ends the process."""


class Identity(NamedTuple):
    """`groups` is the whole list of supplementary groups, not an addition to `gid`."""

    uid: int
    gid: int
    groups: tuple[int, ...]


def identity(user: str | None, group: str | None) -> Identity:
    """The identity to drop to. Raises ConfigError for what does not exist or cannot be reached."""
    who = caller() if user is None else _named(user, group)
    if group is not None:
        gid = _gid(group)
        who = Identity(who.uid, gid, (gid,))
    if who.uid == ROOT:
        raise ConfigError("--user", user, "is root, which is no drop", "name an unprivileged user")
    if os.geteuid() != ROOT and who.uid != os.geteuid():
        raise ConfigError("--user", user, "only root can become another user", "leave it out, or use sudo")
    if os.geteuid() != ROOT and who.gid != os.getegid():
        raise ConfigError("--group", group, "only root can change its group", "leave it out, or use sudo")
    return who if os.geteuid() == ROOT else own()


def own() -> Identity:
    """Who this process is."""
    return Identity(os.geteuid(), os.getegid(), tuple(os.getgroups()))


_set_user_id_caller: Identity | None = None


def take_root() -> None:
    """After a set-user-ID start, be root with the real ids too, and remember whose they were.

    access(2), and programs that are started now, go by the real ids.
    """
    global _set_user_id_caller
    if os.geteuid() == ROOT and os.getuid() != ROOT:
        _set_user_id_caller = caller()
        os.setgid(ROOT)
        os.setuid(ROOT)


def caller() -> Identity:
    """The one on whose behalf this process runs; see the module's text for the order."""
    if _set_user_id_caller is not None:
        return _set_user_id_caller
    if os.getuid() != ROOT:
        return Identity(os.getuid(), os.getgid(), _real_groups())
    by_sudo = _environment_id("SUDO_UID")
    if by_sudo is not None and by_sudo != ROOT:
        return _account(by_sudo, _environment_id("SUDO_GID"))
    return _named(NOBODY, None)


def asker() -> Identity | None:
    """Who a command given on our command line must run as; None when that is root itself.

    A rule in sudoers lets its users run Softnet as root, not programs of their choice.
    """
    return None if is_for_root() else caller()


@contextmanager
def acting_as(who: Identity | None) -> Iterator[None]:
    """For a path that the caller named, while still root: opened, made and owned as the caller's.

    `with acting_as(asker()):`. Without it, root would open what the caller may not. Does nothing for
    None, or when not root.
    """
    if who is None or os.geteuid() != ROOT:
        yield
        return
    before = os.getgroups()[:MAX_GROUPS], os.getegid()
    try:
        os.setgroups(who.groups)
        os.setegid(who.gid)
        os.seteuid(who.uid)
        yield
    finally:
        os.seteuid(ROOT)
        os.setegid(before[1])
        os.setgroups(before[0])


def is_for_root() -> bool:
    """True when root asked for this process itself, and not through sudo as somebody else."""
    by_root = os.getuid() == ROOT and _set_user_id_caller is None
    return by_root and _environment_id("SUDO_UID") in (None, ROOT)


def _real_groups() -> tuple[int, ...]:
    """The groups of the user who started a set-user-ID program.

    Linux leaves them as they were, also when that is fewer than the account has. A Mac's getgroups
    answers for the effective user, so there the account's are taken.
    """
    if sys.platform == "darwin":
        return _account(os.getuid(), os.getgid()).groups
    return tuple(os.getgroups())


def _named(user: str, group: str | None) -> Identity:
    """An account by name, else by number; like chown, a name of digits only is a name first."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        return _numbered(user, group)
    return _with_groups(entry, entry.pw_gid)


def _numbered(user: str, group: str | None) -> Identity:
    uid = _number(user)
    if uid is None:
        raise ConfigError("--user", user, "no such user", "name one that exists, or a number")
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        if group is None:
            raise ConfigError("--user", user, "has no account to take a group from", "add --group") from None
        return Identity(uid, uid, ())
    return _with_groups(entry, entry.pw_gid)


def _account(uid: int, gid: int | None) -> Identity:
    """The account with this number, in a group it may have chosen itself (newgrp, sudo -g)."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        gid = uid if gid is None else gid
        return Identity(uid, gid, (gid,))
    return _with_groups(entry, entry.pw_gid if gid is None else gid)


def _with_groups(entry: pwd.struct_passwd, gid: int) -> Identity:
    return Identity(entry.pw_uid, gid, tuple(os.getgrouplist(entry.pw_name, gid)[:MAX_GROUPS]))


def _gid(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        gid = _number(group)
    if gid is None:
        raise ConfigError("--group", group, "no such group", "name one that exists, or a number")
    return gid


def _environment_id(name: str) -> int | None:
    """SUDO_UID or SUDO_GID. Only asked with a real uid of 0, whose environment sudo or root made."""
    text = os.environ.get(name)
    if text is None:
        return None
    number = _number(text)
    if number is None:
        raise ConfigError(name, text, "is not a user's number", "unset it, or name the user with --user")
    return number


def _number(text: str) -> int | None:
    """A uid or gid in decimal; 2**32 - 1 is left out, as it means 'leave as it is' to setresuid."""
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        return None
    return int(text) if int(text) < 0xFFFFFFFF else None
