"""Landlock: from now on this process opens only what is named here (Linux 5.13 and later).

Everything that the running kernel's ABI can take away is taken away: reading, writing, making,
removing and running files, and from ABI 6 on signals to, and abstract sockets of, processes outside.
Descriptors that are open already keep working. Restricts the calling thread.

Not covered by any ABI used here, and so still possible: stat, chdir, and connect to a socket's path.
"""

import ctypes
import os
from collections.abc import Iterable

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # one numbering on every architecture
VERSION = 1
RULE_PATH_BENEATH = 1

WRITE_FILE, READ_FILE, READ_DIR, REMOVE_FILE = 1 << 1, 1 << 2, 1 << 3, 1 << 5
MAKE_REG, MAKE_SOCK, TRUNCATE = 1 << 8, 1 << 9, 1 << 14
RIGHTS_OF_ABI = (0, 13, 14, 15, 15, 16)  # how many file rights ABI 0 to 5 know; later ones add none

READ = READ_FILE | READ_DIR
WRITE = READ | WRITE_FILE | REMOVE_FILE | MAKE_REG | MAKE_SOCK | TRUNCATE
RIGHTS_ON_A_FILE = READ_FILE | WRITE_FILE | TRUNCATE

SCOPE_ABSTRACT_UNIX_SOCKET = 1 << 0
SCOPE_SIGNAL = 1 << 1
FIRST_ABI_WITH_SCOPES = 6


class _Ruleset(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("files", "network", "scoped")]


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def abi(libc: ctypes.CDLL) -> int:
    """0 where the kernel has no Landlock, or has it switched off."""
    level: int = libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), VERSION)
    return max(0, level)


def restrict(libc: ctypes.CDLL, readable: Iterable[str], writable: Iterable[str], signals: bool) -> bool:
    """False when this kernel has no Landlock. OSError for a writable path that is not there."""
    level = abi(libc)
    if level == 0:
        return False
    files = (1 << RIGHTS_OF_ABI[min(level, 5)]) - 1
    scoped = SCOPE_ABSTRACT_UNIX_SOCKET | (0 if signals else SCOPE_SIGNAL)
    rules = _Ruleset(files, 0, scoped if level >= FIRST_ABI_WITH_SCOPES else 0)
    ruleset = _call(libc, CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(ctypes.sizeof(rules)), 0)
    try:
        for path in readable:
            if os.path.exists(path):
                _allow(libc, ruleset, path, READ & files)
        for path in writable:
            _allow(libc, ruleset, path, WRITE & files)
        _call(libc, RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return True


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, rights: int) -> None:
    parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        allowed = rights if os.path.isdir(path) else rights & RIGHTS_ON_A_FILE
        beneath = _PathBeneath(allowed, parent)
        _call(libc, ADD_RULE, ruleset, RULE_PATH_BENEATH, ctypes.byref(beneath), 0)
    finally:
        os.close(parent)


def _call(libc: ctypes.CDLL, number: int, *arguments: object) -> int:
    result: int = libc.syscall(number, *arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), "Landlock")
    return result
