"""Whatever runs as root must be changeable by root alone; here that is checked, path by path.

Judged are the interpreter, the program, the environment's `pyvenv.cfg`, every folder that modules can
be imported from, every file they were imported from, every library that is loaded, and each parent
folder and symbolic link on the way to them. *Safe* means owned by root and writable neither by its
group nor by others; a sticky folder such as /tmp is not safe.

It catches an installation that should not have been made (a checkout or a Homebrew prefix in
sudoers). It cannot catch code that has been exchanged already, which would not ask: for that, the
set-user-ID launcher walks the same paths before it starts the interpreter.

For root himself the bar is lower: a developer's checkout may belong to anybody he trusts, and
only what every user of the machine can write is refused.
"""

import errno
import os
import stat
import sys
from collections.abc import Callable

from softnet.privilege.accounts import PrivilegeError, is_for_root

if sys.platform == "darwin":
    from softnet.privilege.darwin import loaded_libraries
else:
    from softnet.privilege.linux import loaded_libraries

MAX_LINKS = 40  # the kernel's own limit on one path

Judge = Callable[[os.stat_result], bool]


def check_installation() -> None:
    """Raises PrivilegeError naming the first unsafe path. Does nothing unless the effective uid is 0."""
    if os.geteuid() != 0:
        return
    unsafe_path = first_unsafe(running_code(), changeable_by_all if is_for_root() else changeable_by_others)
    if unsafe_path is not None:
        raise PrivilegeError(
            f"refusing to run as root: {unsafe_path} can be changed by others than root; "
            "install with `make install` where only root can write"
        )


def running_code() -> list[str]:
    """Absolute paths of all that Python runs in this process, or would import."""
    loaded = list(sys.modules.values())
    files = [getattr(module, name, None) for module in loaded for name in ("__file__", "__cached__")]
    started = [sys.executable, sys.argv[0], os.path.join(sys.prefix, "pyvenv.cfg")]
    paths = (*started, *sys.path, *filter(None, files), *loaded_libraries())
    return [os.path.join(os.getcwd(), path) for path in paths]


def first_unsafe(paths: list[str], unsafe: Judge) -> str | None:
    """What does not exist is safe when its parents are: nobody but root can make it."""
    walk = Walk(unsafe)
    for path in paths:
        try:
            walk.resolve(path)
        except OSError:
            continue
        except UnsafeStepError as step:
            return str(step)
    return None


class UnsafeStepError(Exception):
    """The folder, link or file on the way that others can change."""


class Walk:
    """Resolves paths as the kernel does and judges every step. Not `realpath`, which hides the links."""

    def __init__(self, unsafe: Judge) -> None:
        self._unsafe = unsafe
        self._resolved: dict[str, str] = {}

    def resolve(self, path: str, links: int = MAX_LINKS) -> str:
        """The same place without links. Raises OSError and UnsafeStepError."""
        known = self._resolved.get(path)
        if known is None:
            parent, name = os.path.split(path.rstrip("/") or "/")
            known = self._enter(self.resolve(parent, links), name, links) if name else self._step("/", links)
            self._resolved[path] = known
        return known

    def _enter(self, folder: str, name: str, links: int) -> str:
        if name == "..":
            return os.path.dirname(folder)
        return folder if name == "." else self._step(os.path.join(folder, name), links)

    def _step(self, at: str, links: int) -> str:
        status = os.lstat(at)
        if self._unsafe(status):
            raise UnsafeStepError(at)
        if not stat.S_ISLNK(status.st_mode):
            return at
        if links == 0:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), at)
        return self.resolve(os.path.join(os.path.dirname(at), os.readlink(at)), links - 1)


def changeable_by_others(status: os.stat_result) -> bool:
    """A link's own mode means nothing: who may replace it depends on its folder alone."""
    writable = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not stat.S_ISLNK(status.st_mode)
    return status.st_uid != 0 or bool(writable)


def changeable_by_all(status: os.stat_result) -> bool:
    """Writable by every user, and not a sticky folder, where each may change its own entries only."""
    if stat.S_ISLNK(status.st_mode) or status.st_mode & stat.S_ISVTX:
        return False
    return bool(status.st_mode & stat.S_IWOTH)
