"""The lease time of macOS's DHCP server, in the preferences that InternetSharing reads.

With the default of a day, a Mac that starts many short-lived VMs runs out of addresses. The file is
changed as SystemConfiguration changes it, so that neither side loses the other's change:

    lock     "<file>-lock", O_EXLOCK; held only if the name still means that file afterwards
    merge    read under the lock; every other key, also of the `bootpd` dictionary, is kept
    replace  "<file>-new" with the old file's owner and mode, synced, renamed over it
    unlock   the lock file is removed

Nothing is written when everything is right already. Concurrent starts wait for each other. What it
cannot do: leases that are given out keep their expiry, and a network that runs already keeps its lease
time until it is started the next time.
"""

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from softnet.errors import ConfigError, UplinkError

FOLDER = "/Library/Preferences/SystemConfiguration"
PATH = FOLDER + "/com.apple.InternetSharing.default.plist"
DICTIONARY = "bootpd"
LEASE_TIME = "DHCPLeaseTimeSecs"
IGNORE_CLIENT_ID = "dhcp_ignore_client_identifier"
MAX_LEASE_TIME = 2**31 - 1  # a signed 32-bit number there; more would be read as negative
LOCK_TIMEOUT = 10.0
MAX_FILE = 1 << 20


def set_lease_time(seconds: int, ignore_client_id: bool, path: str) -> bool:
    """Whether the file had to be changed. ConfigError, or UplinkError with one line.

    Leases are keyed by MAC address too, unless the file says otherwise and `ignore_client_id` does
    not insist: a guest with a DUID would take a new lease at each installation.
    """
    if not 1 <= seconds <= MAX_LEASE_TIME:
        problem = f"is not from 1 to {MAX_LEASE_TIME} seconds"
        raise ConfigError("--bootpd-lease-time", seconds, problem, "600 is usual")
    try:
        with _locked(path):
            return _merge(path, seconds, ignore_client_id)
    except OSError as error:
        denied = isinstance(error, PermissionError) and os.geteuid() != 0
        remedy = "; needs root: run softnet with sudo" if denied else ""
        raise UplinkError(f"{error.filename or path}: {error.strerror or error}{remedy}") from None


def _merge(path: str, seconds: int, ignore_client_id: bool) -> bool:
    preferences, status = _load(path)
    bootpd = preferences.setdefault(DICTIONARY, {})
    if not isinstance(bootpd, dict):
        raise _unreadable(path, f"its {DICTIONARY} is not a dictionary")
    wanted: dict[str, Any] = {LEASE_TIME: seconds}
    if ignore_client_id or IGNORE_CLIENT_ID not in bootpd:
        wanted[IGNORE_CLIENT_ID] = True
    if all(key in bootpd and bootpd[key] == value for key, value in wanted.items()):
        return False
    bootpd.update(wanted)
    _replace(path, _write_out(path, preferences), status)
    return True


def _load(path: str) -> tuple[dict[str, Any], os.stat_result | None]:
    """Either format of property list; an empty one where there is no file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return {}, None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE:
            raise _unreadable(path, "not a regular file of sensible size")
        return _parse(path, os.read(fd, MAX_FILE)), status
    finally:
        os.close(fd)


def _parse(path: str, text: bytes) -> dict[str, Any]:
    import plistlib

    try:
        preferences = plistlib.loads(text)
    except Exception as error:  # a broken file makes plistlib raise nearly anything
        raise _unreadable(path, f"not a property list ({type(error).__name__})") from None
    if not isinstance(preferences, dict):
        raise _unreadable(path, "not a dictionary")
    return preferences


def _unreadable(path: str, why: str) -> UplinkError:
    return UplinkError(f"{path}: {why}; move it away and macOS makes a new one")


def _write_out(path: str, preferences: dict[str, Any]) -> bytes:
    import plistlib

    try:
        return plistlib.dumps(preferences)
    except (TypeError, ValueError, OverflowError) as error:  # a binary file may hold what XML cannot
        raise _unreadable(path, f"cannot be written as XML ({type(error).__name__})") from None


def _replace(path: str, content: bytes, status: os.stat_result | None) -> None:
    new = path + "-new"
    with suppress(FileNotFoundError):
        os.unlink(new)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            if status is not None:
                os.fchown(fd, status.st_uid, status.st_gid)
            os.fchmod(fd, 0o644 if status is None else stat.S_IMODE(status.st_mode))
            file.write(content)
            file.flush()
            os.fsync(fd)
        os.rename(new, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(new)
        raise


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """The lock of SystemConfiguration. A holder that dies leaves the file, but not the lock on it."""
    lock = path + "-lock"
    deadline = time.monotonic() + LOCK_TIMEOUT
    fd = _lock(lock, deadline)
    try:
        os.write(fd, b"%d\n" % os.getpid())
        yield
    finally:
        with suppress(FileNotFoundError):
            os.unlink(lock)
        os.close(fd)


def _lock(lock: str, deadline: float) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    while True:
        fd = os.open(lock, flags, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # what O_EXLOCK sets, on macOS too
            if os.path.samestat(os.fstat(fd), os.stat(lock)):
                return fd
        except (BlockingIOError, FileNotFoundError):
            if time.monotonic() > deadline:
                os.close(fd)
                held = f"{lock}: still held after {LOCK_TIMEOUT:g} s"
                raise UplinkError(f"{held}; `lsof {lock}` says by whom") from None
            time.sleep(0.01)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
