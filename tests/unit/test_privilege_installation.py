"""The walk over paths: every step on the way is judged, links included, and nothing else is."""

import os
import stat
from pathlib import Path

import pytest

from softnet import privilege
from softnet.privilege import installation


def visited(path: str) -> list[str]:
    """The steps that are judged on the way to `path`, in the order of their first judgement."""
    seen: list[str] = []
    walk = installation.Walk(lambda status: seen.append(f"{status.st_dev}:{status.st_ino}") is not None)
    walk.resolve(path)
    return list(dict.fromkeys(seen))


def inodes(*paths: Path | str) -> list[str]:
    return [f"{os.lstat(path).st_dev}:{os.lstat(path).st_ino}" for path in paths]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return Path(os.path.realpath(tmp_path))


def test_a_plain_path_is_its_parents_and_itself(base: Path) -> None:
    (base / "file").touch()
    path = base / "file"
    assert visited(str(path)) == inodes(*reversed(path.parents), path)


def test_links_are_judged_and_followed_folder_by_folder(base: Path) -> None:
    (base / "real" / "deep").mkdir(parents=True)
    (base / "real" / "deep" / "file").touch()
    (base / "hop").symlink_to("real/./deep")
    (base / "start").symlink_to(base / "hop")
    walked = visited(str(base / "start" / ".." / "deep" / "file"))
    expected = inodes(base / "start", base / "hop", base / "real", base / "real" / "deep")
    assert walked == [*inodes(*reversed(base.parents), base), *expected, *inodes(base / "real/deep/file")]


def test_a_loop_of_links_ends(base: Path) -> None:
    (base / "a").symlink_to("b")
    (base / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        visited(str(base / "a"))
    assert installation.first_unsafe([str(base / "a")], lambda status: False) is None


def test_the_first_bad_step_is_named(base: Path) -> None:
    (base / "open").mkdir()
    (base / "open").chmod(0o777)
    (base / "open" / "file").touch()
    paths = [str(base), str(base / "missing" / "file"), str(base / "open" / "file")]
    assert installation.first_unsafe(paths, installation.changeable_by_all) == str(base / "open")


def status(mode: int, uid: int = 0) -> os.stat_result:
    return os.stat_result((mode, 1, 1, 1, uid, 0, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("mode", "uid", "by_others", "by_all"),
    [
        (stat.S_IFREG | 0o755, 0, False, False),
        (stat.S_IFREG | 0o644, 501, True, False),
        (stat.S_IFREG | 0o664, 0, True, False),
        (stat.S_IFREG | 0o646, 0, True, True),
        (stat.S_IFDIR | 0o755, 0, False, False),
        (stat.S_IFDIR | 0o775, 0, True, False),
        (stat.S_IFDIR | 0o1777, 0, True, False),
        (stat.S_IFDIR | 0o777, 0, True, True),
        (stat.S_IFLNK | 0o777, 0, False, False),
        (stat.S_IFLNK | 0o777, 501, True, False),
    ],
)
def test_who_can_change_what(mode: int, uid: int, by_others: bool, by_all: bool) -> None:
    assert installation.changeable_by_others(status(mode, uid)) is by_others
    assert installation.changeable_by_all(status(mode, uid)) is by_all


def test_what_runs_includes_interpreter_program_and_loaded_modules() -> None:
    paths = installation.running_code()
    assert installation.__file__ in paths
    assert os.path.dirname(os.__file__) in paths
    assert any(os.path.basename(path).startswith("python") for path in paths)
    assert all(os.path.isabs(path) for path in paths)


def test_an_ordinary_user_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 501)
    monkeypatch.setattr(installation, "running_code", lambda: pytest.fail("judged"))
    privilege.check_installation()
