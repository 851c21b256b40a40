"""macOS: identity alone, since there are no capabilities to give up.

Root's setgid and setuid set the real, effective and saved ids together. There is no way to read the
saved ones from Python, so `drop` proves them by trying the way back. Works with the threads that
libdispatch made for vmnet: XNU keeps credentials per process.
"""

import ctypes
import os
import resource
from collections.abc import Callable, Iterable

from softnet.privilege.accounts import MAX_GROUPS, Identity, PrivilegeError, own

UMASK = 0o077


def has_net_admin() -> bool:
    """vmnet and bootpd's settings want root itself."""
    return os.geteuid() == 0


def drop(identity: Identity) -> None:
    """Become `identity` with no way back. Raises PrivilegeError; the caller then ends at once."""
    if own() != identity or os.getuid() != identity.uid or os.getgid() != identity.gid:
        assume(identity)
    os.umask(UMASK)
    _verify(identity)


def assume(identity: Identity) -> None:
    """Take the ids alone, as a child that is to run somebody's program does. Needs root."""
    try:
        os.setgroups(identity.groups)  # also opts out of the directory's own, longer list of groups
        os.setgid(identity.gid)
        os.setuid(identity.uid)
    except OSError as error:
        raise PrivilegeError(
            f"cannot become uid {identity.uid}, gid {identity.gid}: {error.strerror}; choose with --user"
        ) from None


def confine(
    readable: Iterable[str] = (), writable: Iterable[str] = (), signals: bool = False
) -> tuple[str, ...]:
    """No core file with packets in it, no new process. Files and sockets stay as they are."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    return ("rlimits",)


def loaded_libraries() -> list[str]:
    """Absolute paths of every image that dyld has loaded. The system's own have no file: they are safe."""
    dyld = ctypes.CDLL(None)
    dyld._dyld_get_image_name.restype = ctypes.c_char_p
    names = [dyld._dyld_get_image_name(index) for index in range(dyld._dyld_image_count())]
    return [os.fsdecode(name) for name in names if name]


def _verify(identity: Identity) -> None:
    claims = {
        "uid": os.getuid() == os.geteuid() == identity.uid,
        "gid": os.getgid() == os.getegid() == identity.gid,
        "groups": _kernel_groups() <= {identity.gid, *identity.groups},
        "way back to uid 0": _refused(lambda: os.seteuid(0)) and _refused(lambda: os.setuid(0)),
        "way back to gid 0": identity.gid == 0 or _refused(lambda: os.setegid(0)),
        "way back to groups": _refused(lambda: os.setgroups([0])),
    }
    broken = [claim for claim, holds in claims.items() if not holds]
    if broken:
        raise PrivilegeError(f"privileges were not dropped ({', '.join(broken)}); nothing was forwarded")


def _kernel_groups() -> set[int]:
    """What the kernel holds. `os.getgroups` asks the directory about the effective user instead."""
    held = (ctypes.c_uint32 * MAX_GROUPS)()
    count = ctypes.CDLL(None).getgroups(MAX_GROUPS, held)
    return set(held[:count]) if count >= 0 else {-1}


def _refused(attempt: Callable[[], None]) -> bool:
    try:
        attempt()
    except PermissionError:
        return True
    return False
