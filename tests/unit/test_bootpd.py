"""bootpd's lease time: merged under the lock, everything else kept, one line for each failure."""

import contextlib
import errno
import fcntl
import multiprocessing
import os
import plistlib
import random
from pathlib import Path
from typing import Any

import pytest

from softnet.errors import ConfigError, SoftnetError, UplinkError
from softnet.uplinks import bootpd

RIGHT = {"bootpd": {"DHCPLeaseTimeSecs": 600, "dhcp_ignore_client_identifier": True}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.plist"


def read(path: Path) -> Any:
    return plistlib.loads(path.read_bytes())


def write(path: Path, value: Any, **options: Any) -> None:
    path.write_bytes(plistlib.dumps(value, **options))


def set_time(path: Path, seconds: int = 600, ignore: bool = False) -> bool:
    return bootpd.set_lease_time(seconds, ignore, str(path))


def test_a_file_is_made_where_there_is_none(path: Path) -> None:
    assert set_time(path)
    assert read(path) == RIGHT
    assert path.read_bytes().startswith(b"<?xml")
    assert path.stat().st_mode & 0o7777 == 0o644
    assert os.listdir(path.parent) == [path.name]


def test_what_is_right_is_not_written_again(path: Path) -> None:
    set_time(path)
    before = path.stat()
    assert not set_time(path)
    after = path.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("format", [plistlib.FMT_XML, plistlib.FMT_BINARY])
def test_everything_else_is_kept(path: Path, format: Any) -> None:
    other = {"NAT": {"Enabled": 1, "blob": b"\0\xff"}, "bootpd": {"detect_other_dhcp_server": True}}
    write(path, other | {"bootpd": other["bootpd"] | {"DHCPLeaseTimeSecs": 86400}}, fmt=format)
    assert set_time(path)
    assert read(path) == other | {"bootpd": other["bootpd"] | RIGHT["bootpd"]}


def test_owner_and_mode_are_kept(path: Path) -> None:
    write(path, {})
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 65534, 65533)
    before = path.stat()
    assert set_time(path)
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


def test_the_client_identifier_is_ignored_unless_the_file_says_otherwise(path: Path) -> None:
    write(path, {"bootpd": {"dhcp_ignore_client_identifier": False}})
    assert set_time(path)
    assert read(path)["bootpd"] == {"dhcp_ignore_client_identifier": False, "DHCPLeaseTimeSecs": 600}
    assert not set_time(path)
    assert set_time(path, ignore=True)
    assert read(path) == RIGHT


@pytest.mark.parametrize("seconds", [1, 600, 2**31 - 1])
def test_the_ends_of_the_range(path: Path, seconds: int) -> None:
    assert set_time(path, seconds)
    assert read(path)["bootpd"]["DHCPLeaseTimeSecs"] == seconds


@pytest.mark.parametrize("seconds", [0, -1, 2**31, 2**32 + 600])
def test_a_lease_time_that_would_turn_negative_is_refused(path: Path, seconds: int) -> None:
    with pytest.raises(
        ConfigError, match=rf"^--bootpd-lease-time {seconds}: is not from 1 to 2147483647 seconds"
    ):
        set_time(path, seconds)
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "not a property list"),
        (b"bplist00garbage", "not a property list"),
        (b"<?xml version='1.0'?><plist><dict><key>a</key></dict></plist>", "not a property list"),
        (b"<plist><dict>", "not a property list"),
        (b"<plist version='1.0'><array/></plist>", "not a dictionary"),
        (
            b"<plist version='1.0'><dict><key>bootpd</key><true/></dict></plist>",
            "its bootpd is not a dictionary",
        ),
        (b"x" * (bootpd.MAX_FILE + 1), "not a regular file of sensible size"),
    ],
)
def test_a_file_that_cannot_be_merged_is_left_alone(path: Path, content: bytes, why: str) -> None:
    path.write_bytes(content)
    with pytest.raises(UplinkError) as caught:
        set_time(path)
    assert why in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content
    assert os.listdir(path.parent) == [path.name]


def test_any_damage_is_one_line_or_a_merge(path: Path) -> None:
    """Cut short at every byte, and with bytes changed at random, in both formats."""
    choose = random.Random(4)
    for format in (plistlib.FMT_XML, plistlib.FMT_BINARY):
        whole = plistlib.dumps(RIGHT | {"list": [1, 2.5, "x", b"y"]}, fmt=format)
        damaged = [whole[:length] for length in range(0, len(whole), 3)]
        for _ in range(150):
            changed = bytearray(whole)
            changed[choose.randrange(len(whole))] = choose.randrange(256)
            damaged.append(bytes(changed))
        for content in damaged:
            path.write_bytes(content)
            with contextlib.suppress(SoftnetError):
                set_time(path, 1200)
                assert read(path)["bootpd"]["DHCPLeaseTimeSecs"] == 1200
            assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("kind", ["folder", "fifo", "symlink"])
def test_what_is_no_file_is_refused_without_waiting(path: Path, kind: str) -> None:
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("/etc/passwd")
    with pytest.raises(UplinkError, match=rf"^{path}"):
        set_time(path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UplinkError, match=r"^.*/none/x\.plist-lock: No such file or directory"):
        set_time(tmp_path / "none" / "x.plist")


@pytest.mark.parametrize(
    ("code", "euid", "said"),
    [
        (errno.EACCES, 501, True),
        (errno.EPERM, 501, True),
        (errno.EPERM, 0, False),
        (errno.ENOSPC, 501, False),
    ],
)
def test_root_is_asked_for_when_it_would_help(
    path: Path, monkeypatch: pytest.MonkeyPatch, code: int, euid: int, said: bool
) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    write(path, {})
    monkeypatch.setattr(os, "geteuid", lambda: euid)
    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(UplinkError) as caught:
        set_time(path)
    assert str(caught.value).startswith(f"{path}: {os.strerror(code)}")
    assert str(caught.value).endswith("; needs root: run softnet with sudo") is said
    assert os.listdir(path.parent) == [path.name]


def test_what_a_crash_left_behind_is_no_obstacle(path: Path) -> None:
    Path(f"{path}-lock").write_text("4711\n")
    Path(f"{path}-new").write_text("half a plist")
    assert set_time(path)
    assert read(path) == RIGHT
    assert os.listdir(path.parent) == [path.name]


def test_a_failed_write_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, {"a": 1})

    def fail(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UplinkError, match=r"No space left on device$"):
        set_time(path)
    assert read(path) == {"a": 1}
    assert os.listdir(path.parent) == [path.name]


def test_a_lock_that_stays_held_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootpd, "LOCK_TIMEOUT", 0.1)
    with open(f"{path}-lock", "w") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(UplinkError, match=r"x\.plist-lock: still held after 0\.1 s; `lsof "):
            set_time(path)
        assert os.path.exists(holder.name)


def _count(path: str, rounds: int) -> None:
    for _ in range(rounds):
        with bootpd._locked(path):
            number = int(Path(path).read_text() or 0)
            Path(path).write_text(str(number + 1))


def _alternate(path: str, seconds: int) -> None:
    for _ in range(20):
        bootpd.set_lease_time(seconds, False, path)


def _together(function: Any, arguments: list[tuple[Any, ...]]) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=function, args=each) for each in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0] * len(processes)


def test_the_lock_excludes(path: Path) -> None:
    path.write_text("")
    _together(_count, [(str(path), 50)] * 4)
    assert path.read_text() == "200"
    assert os.listdir(path.parent) == [path.name]


def test_concurrent_starts_lose_nothing(path: Path) -> None:
    write(path, {"other": {"kept": True}, "bootpd": {"also": "kept"}})
    _together(_alternate, [(str(path), 600 + number) for number in range(4)])
    found = read(path)
    assert found.pop("other") == {"kept": True}
    assert found["bootpd"].pop("DHCPLeaseTimeSecs") in range(600, 604)
    assert found == {"bootpd": {"also": "kept", "dhcp_ignore_client_identifier": True}}
    assert os.listdir(path.parent) == [path.name]
