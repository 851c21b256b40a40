"""The Softnets that run on this machine: control sockets, each named after its process.

On Linux the names are abstract (`@softnet/PID/RANDOM`): the kernel lists them in /proc/net/unix, and
they end with their socket, so that a filter leaves nothing behind that it could no longer remove,
having dropped its privileges. Anybody may connect to such a name or take one; who may ask is
decided by the peer's credentials (unix(7), SO_PEERCRED), those of root and of the user that
started the filter, and so is who is believed.

Elsewhere, and where SOFTNET_RUNTIME_DIR says so, they lie in a folder that is its owner's alone (mode
0700). A socket there that nobody listens on was left behind by a process that was killed, and is
removed by whoever looks next. There is no other state, so the list cannot be wrong. Root sees
everybody's, others their own.
"""

import os
import socket
import stat
import sys
from contextlib import suppress
from typing import NamedTuple

from softnet.control.sockets import CLIENTS, connect_at, is_dead, listen_at, peer_uid
from softnet.errors import ConfigError

SUFFIX = ".sock"
VARIABLE = "SOFTNET_RUNTIME_DIR"
ABSTRACT = "@softnet/"
LISTENING = 0x10000  # __SO_ACCEPTCON, in the flags of /proc/net/unix


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
    """A listening socket that can be found, and its path; None where there can be none."""
    if _is_abstract():
        return _register_name()
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


def _is_abstract() -> bool:
    return sys.platform.startswith("linux") and not os.environ.get(VARIABLE)


def _register_name() -> tuple[socket.socket, str] | None:
    """The random part keeps others from taking the name first."""
    name = f"{ABSTRACT}{os.getpid()}/{os.urandom(4).hex()}"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind("\0" + name[1:])
        listener.listen(CLIENTS)
    except OSError:
        listener.close()
        return None
    listener.setblocking(False)
    return listener, name


def _named() -> list[Entry]:
    """The listening names of this network namespace that belong to whom they should."""
    with open("/proc/net/unix", encoding="utf-8", errors="replace") as table:
        rows = [line.split() for line in table]
    names = [row[-1] for row in rows if len(row) == 8 and row[-1].startswith(ABSTRACT)]
    listening = {row[-1] for row in rows if len(row) == 8 and _is_listening(row[3])}
    found = []
    for name in dict.fromkeys(names):
        pid = name.removeprefix(ABSTRACT).partition("/")[0]
        if name in listening and pid.isdigit() and _is_believed(name):
            found.append(Entry(int(pid), name))
    return sorted(found)


def _is_listening(flags: str) -> bool:
    try:
        return bool(int(flags, 16) & LISTENING)
    except ValueError:
        return False  # the heading


def _is_believed(name: str) -> bool:
    """Root looks at everybody's; others at what was started in their own name."""
    try:
        with connect_at(name) as peer:
            return os.geteuid() in (0, peer_uid(peer))
    except BlockingIOError:  # it is busy, and has not said whose it is
        return os.geteuid() == 0
    except OSError:
        return False


def running() -> list[Entry]:
    """Every Softnet that this user may ask, by process number."""
    if _is_abstract():
        return _named()
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
