"""Linux: identity, capabilities and what goes with them, given up for good.

Order matters. The bounding set and the securebits need CAP_SETPCAP, so they go before the identity;
groups go before the gid, and the gid before the uid, since each needs the privilege that the next
one takes. A process without CAP_SETPCAP (not root, or root in a stripped container) skips the first
two, which lose nothing: no_new_privs alone keeps execve from ever adding a capability.

capset, prctl and seccomp act on one thread. `drop` therefore refuses to run with more than one.
"""

import ctypes
import errno
import os
import resource
import sys
from collections.abc import Callable, Iterable
from typing import NamedTuple, NoReturn

from softnet.privilege import landlock, seccomp
from softnet.privilege.accounts import Identity, PrivilegeError, own

PR_SET_DUMPABLE = 4
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_SECUREBITS = 28
PR_SET_NO_NEW_PRIVS = 38
PR_GET_NO_NEW_PRIVS = 39
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

CAPABILITY_VERSION_3 = 0x20080522
CAP_SETPCAP = 8
CAP_NET_ADMIN = 12

# uid 0 is no longer special (NOROOT), ambient capabilities cannot be raised, and both stay so; the
# two that would carry capabilities across a change of uid are locked in their off state.
SECUREBITS = 0x01 | 0x02 | 0x08 | 0x20 | 0x40 | 0x80

UNCHANGED = -1
UMASK = 0o077
LIBRARIES = ("/usr/lib", "/lib", "/lib64", "/usr/lib64", "/etc/ld.so.cache")

_libc = ctypes.CDLL(None, use_errno=True)


class _CapabilityHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _CapabilityHalf(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


class Capabilities(NamedTuple):
    """Each a mask of `1 << CAP_...`."""

    effective: int
    permitted: int
    inheritable: int


def has_net_admin() -> bool:
    """Whether interfaces, routes and nftables rules of this network namespace may be changed."""
    return bool(capabilities().effective >> CAP_NET_ADMIN & 1)


def drop(identity: Identity) -> None:
    """Become `identity` with no capability and no way back. Raises PrivilegeError, then end at once."""
    _require_one_thread()
    stripped = bool(capabilities().effective >> CAP_SETPCAP & 1)
    if stripped:
        _empty_bounding_set()
        _prctl("lock the securebits", PR_SET_SECUREBITS, SECUREBITS)
    if own() != identity or os.getresuid() != (identity.uid,) * 3 or os.getresgid() != (identity.gid,) * 3:
        assume(identity)
    _prctl("clear ambient capabilities", PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    _clear_capabilities()
    _prctl("set no_new_privs", PR_SET_NO_NEW_PRIVS, 1)
    # No core file with packets in it, and no ptrace by another process of the same user. The kernel
    # still lets a process use its own /proc/self; others find /proc/PID/fd and the like owned by root.
    _prctl("clear the dumpable flag", PR_SET_DUMPABLE, 0)
    os.umask(UMASK)
    _verify(identity, stripped)


def assume(identity: Identity) -> None:
    """Take the ids alone, as a child that is to run somebody's program does. Needs root."""
    try:
        os.setgroups(identity.groups)
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
    except OSError as error:
        remedy = "name a user that exists in this user namespace with --user"
        raise PrivilegeError(
            f"cannot become uid {identity.uid}, gid {identity.gid}: {error.strerror}; {remedy}"
        ) from None


def confine(
    readable: Iterable[str] = (), writable: Iterable[str] = (), signals: bool = False
) -> tuple[str, ...]:
    """Give up files, programs and sockets that a filter never needs; returns the measures that hold.

    Afterwards only `readable` can be read, besides the code of Python, Softnet and the system's
    libraries, and /proc/self; files can be written, made and removed only in `writable`; no program
    can be started. `signals`: this process will yet signal others, such as a command that it started.
    Raises PrivilegeError for a path in `writable` that is not there.
    """
    _require_one_thread()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        files = landlock.restrict(_libc, [*_code(), *readable], writable, signals)
    except OSError as error:
        raise PrivilegeError(f"cannot confine file access: {error.filename}: {error.strerror}") from None
    measures = {"landlock": files, "seccomp": seccomp.restrict(_libc)}
    return tuple(name for name, holds in measures.items() if holds)


def loaded_libraries() -> list[str]:
    """Absolute paths of every executable file that is mapped: interpreter, extensions, libraries."""
    with open("/proc/self/maps") as maps:
        fields = [line.split(None, 5) for line in maps]
    return sorted({each[5].rstrip() for each in fields if "x" in each[1] and each[5:] and each[5][0] == "/"})


def _code() -> list[str]:
    """Where modules that are imported late and the libraries they link to come from, and ourselves."""
    return [*(path for path in sys.path if path.startswith("/")), *LIBRARIES, "/proc/self"]


def capabilities() -> Capabilities:
    header = _CapabilityHeader(CAPABILITY_VERSION_3, 0)
    halves = (_CapabilityHalf * 2)()
    if _libc.capget(ctypes.byref(header), halves) != 0:
        _fail("read the capabilities")
    low, high = halves
    return Capabilities(
        low.effective | high.effective << 32,
        low.permitted | high.permitted << 32,
        low.inheritable | high.inheritable << 32,
    )


def bounding_set() -> int:
    """Ends at the first number that this kernel does not know (EINVAL)."""
    mask, number = 0, 0
    while (held := _libc.prctl(PR_CAPBSET_READ, *_longs(number))) >= 0:
        mask |= held << number
        number += 1
    return mask


def _clear_capabilities() -> None:
    header = _CapabilityHeader(CAPABILITY_VERSION_3, 0)
    if _libc.capset(ctypes.byref(header), (_CapabilityHalf * 2)()) != 0:
        _fail("give up the capabilities")


def _empty_bounding_set() -> None:
    for number in range(bounding_set().bit_length()):
        _prctl(f"take capability {number} out of the bounding set", PR_CAPBSET_DROP, number)


def _require_one_thread() -> None:
    try:
        threads = len(os.listdir("/proc/self/task"))
    except OSError:
        return  # no /proc in this chroot; the Python side starts no thread before the drop
    if threads != 1:
        raise PrivilegeError(f"{threads} threads run, and privileges are dropped one thread at a time")


def _verify(identity: Identity, stripped: bool) -> None:
    """Every claim that this module makes, asked back from the kernel."""
    held = capabilities()
    claims = {
        "uid": os.getresuid() == (identity.uid,) * 3,
        "gid": os.getresgid() == (identity.gid,) * 3,
        "groups": set(os.getgroups()) == set(identity.groups),
        "capabilities": held == Capabilities(0, 0, 0),
        "bounding set": not stripped or bounding_set() == 0,
        "no_new_privs": _libc.prctl(PR_GET_NO_NEW_PRIVS, *_longs(0)) == 1,
        "way back to uid 0": _refused(lambda: os.setresuid(UNCHANGED, 0, UNCHANGED)),
        "way back to gid 0": identity.gid == 0 or _refused(lambda: os.setresgid(UNCHANGED, 0, UNCHANGED)),
        "way back to groups": _refused(lambda: os.setgroups([0])),
    }
    broken = [claim for claim, holds in claims.items() if not holds]
    if broken:
        raise PrivilegeError(f"privileges were not dropped ({', '.join(broken)}); nothing was forwarded")


def _refused(attempt: Callable[[], None]) -> bool:
    try:
        attempt()
    except PermissionError:
        return True
    return False


def _longs(*arguments: int) -> tuple[ctypes.c_ulong, ...]:
    """prctl reads five machine words, and refuses some calls unless the unused ones are 0."""
    return tuple(ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:4])


def _prctl(what: str, option: int, *arguments: int) -> None:
    if _libc.prctl(option, *_longs(*arguments)) < 0:
        _fail(what)


def _fail(what: str) -> NoReturn:
    number = ctypes.get_errno()
    raise PrivilegeError(f"cannot {what}: {os.strerror(number)} ({errno.errorcode.get(number, number)})")
