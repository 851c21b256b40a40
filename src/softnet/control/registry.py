"""The Softnets that run on this machine: a folder of control sockets, each named after its process.

A socket that nobody listens on was left behind by a process that was killed, and is removed by
whoever looks next. There is no other state, so the list cannot be wrong. A folder is its owner's
alone (mode 0700); root sees everybody's, others their own.
"""

import os
import socket
import stat
from contextlib import suppress
from typing import NamedTuple

from softnet.control.sockets import is_dead, listen_at
from softnet.errors import ConfigError

SUFFIX = ".sock"
VARIABLE = "SOFTNET_RUNTIME_DIR"


class Entry(NamedTuple):
    """A running Softnet."""

    pid: int
    path: str


def own_folder() -> str:
    """Where this user's Softnets are listed: SOFTNET_RUNTIME_DIR, else the system's place for such things."""
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return chosen
    uid = os.geteuid()
    if uid == 0 and os.path.isdir("/run"):
        return "/run/softnet"
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{uid}"
    return f"{runtime}/softnet" if _is_ours(runtime) else f"/tmp/softnet-{uid}"


def register() -> tuple[socket.socket, str] | None:
    """A listening socket in the folder, and its path; None where there can be none."""
    folder = own_folder()
    with suppress(OSError):
        os.mkdir(folder, 0o700)
    if not _is_private(folder):
        return None
    remove_dead(folder)
    path = os.path.join(folder, f"{os.getpid()}{SUFFIX}")
    try:
        return listen_at(path, "registry"), path
    except ConfigError:
        return None


def running() -> list[Entry]:
    """Every Softnet that this user may ask, by process number."""
    found = []
    for folder in _folders():
        remove_dead(folder)
        for name in _names(folder):
            path = os.path.join(folder, name)
            if not is_dead(path):
                found.append(Entry(int(name.removesuffix(SUFFIX)), path))
    return sorted(set(found))


def remove_dead(folder: str) -> None:
    """Removes what killed processes left, from a folder of our own: another's may change under us."""
    if not (_is_ours(folder) and _is_private(folder)):
        return
    for name in _names(folder):
        path = os.path.join(folder, name)
        if is_dead(path):
            with suppress(OSError):
                os.unlink(path)


def _folders() -> list[str]:
    """The folders that this user may look into: root everybody's, but where VARIABLE names one."""
    folders = [own_folder()]
    if os.geteuid() == 0 and not os.environ.get(VARIABLE):
        with suppress(OSError):
            folders += [f"/run/user/{uid}/softnet" for uid in os.listdir("/run/user")]
        with suppress(OSError):
            folders += [f"/tmp/{name}" for name in os.listdir("/tmp") if name.startswith("softnet-")]
    return [folder for folder in dict.fromkeys(folders) if _is_private(folder)]


def _names(folder: str) -> list[str]:
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return [name for name in names if name.endswith(SUFFIX) and name.removesuffix(SUFFIX).isdigit()]


def _is_ours(path: str) -> bool:
    try:
        return os.lstat(path).st_uid == os.geteuid()
    except OSError:
        return False


def _is_private(path: str) -> bool:
    """A folder, no link, that only its owner may enter; the owner is us, or we are root."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    trusted = status.st_uid == os.geteuid() or os.geteuid() == 0
    return stat.S_ISDIR(status.st_mode) and not stat.S_IMODE(status.st_mode) & 0o077 and trusted
