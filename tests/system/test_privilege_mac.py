"""What only a Mac can show: identity and installation there, with its own getgroups and dyld.

Run as root on a Mac: `pytest -m mac tests/system/test_privilege_mac.py`. Each test forks, as a drop is final.
"""

import os
import pwd
from collections.abc import Callable

import pytest

from softnet.privilege import accounts, darwin, installation

pytestmark = pytest.mark.mac


def in_child(check: Callable[[], bool]) -> bool:
    """Whether `check` was true in a process of its own."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if check() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_drop_to_a_user_with_many_groups_is_complete() -> None:
    """An administrator has more groups than the kernel's 16: the first 16 it is."""
    console = pwd.getpwuid(os.stat("/dev/console").st_uid).pw_name
    who = accounts.identity(console if console != "root" else "nobody", None)

    def check() -> bool:
        darwin.drop(who)
        return os.getuid() == who.uid and darwin._kernel_groups() <= {who.gid, *who.groups}

    assert len(who.groups) <= 16
    assert in_child(check)


def test_a_set_user_id_start_returns_to_its_user() -> None:
    def check() -> bool:
        os.setregid(20, 0)
        os.setreuid(501, 0)
        accounts.take_root()
        who = accounts.identity(None, None)
        darwin.drop(who)
        return (os.getuid(), os.getgid()) == (501, 20)

    assert in_child(check)


def test_no_process_starts_after_confine() -> None:
    def check() -> bool:
        darwin.drop(accounts.identity("nobody", None))
        darwin.confine()
        try:
            os.fork()
        except BlockingIOError:
            return True
        return False

    assert in_child(check)


def test_loaded_libraries_are_listed_and_the_system_s_are_safe() -> None:
    libraries = darwin.loaded_libraries()
    assert any("libSystem" in path for path in libraries)
    system = [path for path in libraries if path.startswith(("/usr/lib/", "/System/"))]
    assert installation.first_unsafe(system, installation.changeable_by_others) is None
