"""Whom Softnet becomes, as far as one can ask without being root: names, numbers and refusals."""

import grp
import os
import pwd

import pytest

from softnet import privilege
from softnet.errors import ConfigError
from softnet.privilege import accounts

NOBODY = pwd.getpwnam("nobody")
DAEMON = pwd.getpwnam("daemon")


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A root login: no id is really changed by anything in this file."""
    for name in ("getuid", "geteuid", "getgid", "getegid"):
        monkeypatch.setattr(os, name, lambda: 0)
    monkeypatch.delenv("SUDO_UID", raising=False)
    monkeypatch.delenv("SUDO_GID", raising=False)
    return monkeypatch


def test_a_root_login_becomes_nobody(as_root: pytest.MonkeyPatch) -> None:
    who = privilege.identity(None, None)
    assert (who.uid, who.gid) == (NOBODY.pw_uid, NOBODY.pw_gid)
    assert 0 not in who.groups


def test_sudo_names_the_caller(as_root: pytest.MonkeyPatch) -> None:
    as_root.setenv("SUDO_UID", str(DAEMON.pw_uid))
    as_root.setenv("SUDO_GID", str(NOBODY.pw_gid))
    who = privilege.identity(None, None)
    assert (who.uid, who.gid) == (DAEMON.pw_uid, NOBODY.pw_gid)


def test_root_through_sudo_is_still_a_root_login(as_root: pytest.MonkeyPatch) -> None:
    as_root.setenv("SUDO_UID", "0")
    assert privilege.identity(None, None).uid == NOBODY.pw_uid


def test_a_caller_without_an_account_keeps_its_number(as_root: pytest.MonkeyPatch) -> None:
    as_root.setenv("SUDO_UID", "54321")
    as_root.setenv("SUDO_GID", "54322")
    assert privilege.identity(None, None) == privilege.Identity(54321, 54322, (54322,))


@pytest.mark.parametrize("text", ["-1", "0x10", "4294967295", "1e3", "", "²"])
def test_a_sudo_uid_that_is_no_number_is_refused(as_root: pytest.MonkeyPatch, text: str) -> None:
    as_root.setenv("SUDO_UID", text)
    with pytest.raises(ConfigError, match="SUDO_UID"):
        privilege.identity(None, None)


def test_a_user_brings_its_own_groups(as_root: pytest.MonkeyPatch) -> None:
    for who in (privilege.identity("daemon", None), privilege.identity(str(DAEMON.pw_uid), None)):
        assert (who.uid, who.gid) == (DAEMON.pw_uid, DAEMON.pw_gid)
        assert set(who.groups) == set(os.getgrouplist("daemon", DAEMON.pw_gid))


def test_a_group_replaces_all_groups(as_root: pytest.MonkeyPatch) -> None:
    for group in (grp.getgrgid(DAEMON.pw_gid).gr_name, str(DAEMON.pw_gid)):
        assert privilege.identity("nobody", group) == (NOBODY.pw_uid, DAEMON.pw_gid, (DAEMON.pw_gid,))


def test_a_number_without_an_account_needs_a_group(as_root: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"--user 54321: .*add --group"):
        privilege.identity("54321", None)
    assert privilege.identity("54321", "54322") == (54321, 54322, (54322,))


@pytest.mark.parametrize(
    ("user", "group", "message"),
    [
        ("no-such-user", None, "--user no-such-user: no such user"),
        ("", None, "--user : no such user"),
        ("-1", None, "--user -1: no such user"),
        ("4294967295", None, "--user 4294967295: no such user"),
        ("nobody", "no-such-group", "--group no-such-group: no such group"),
        (None, "no-such-group", "--group no-such-group: no such group"),
        ("root", None, "--user root: is root, which is no drop"),
        ("0", None, "--user 0: is root, which is no drop"),
    ],
)
def test_unknown_names_and_root_are_refused(
    as_root: pytest.MonkeyPatch, user: str | None, group: str | None, message: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        privilege.identity(user, group)
    assert str(refusal.value).startswith(message)


def test_an_ordinary_user_stays_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("getuid", "geteuid"):
        monkeypatch.setattr(os, name, lambda: DAEMON.pw_uid)
    for name in ("getgid", "getegid"):
        monkeypatch.setattr(os, name, lambda: DAEMON.pw_gid)
    monkeypatch.setenv("SUDO_UID", "0")
    who = accounts.own()
    assert privilege.identity(None, None) == who
    assert privilege.identity("daemon", None) == who
    with pytest.raises(ConfigError, match="--user nobody: only root"):
        privilege.identity("nobody", None)
    with pytest.raises(ConfigError, match="--group 54322: only root"):
        privilege.identity(None, "54322")


def test_a_set_user_id_start_returns_to_the_real_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: DAEMON.pw_uid)
    monkeypatch.setattr(os, "getgid", lambda: DAEMON.pw_gid)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("SUDO_UID", str(NOBODY.pw_uid))  # anybody may set this; the real uid counts
    assert privilege.identity(None, None) == (DAEMON.pw_uid, DAEMON.pw_gid, tuple(os.getgroups()))
