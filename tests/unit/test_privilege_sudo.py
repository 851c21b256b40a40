"""What sudo is asked: the rewriting of arguments and the line that says what to set up."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from softnet import privilege
from softnet.errors import ConfigError
from softnet.privilege import sudo


@pytest.fixture
def high() -> Iterator[tuple[int, int, int]]:
    """Three open descriptors, all above 2."""
    numbers = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]
    yield numbers[0], numbers[1], numbers[2]
    for number in numbers:
        os.close(number)


@pytest.mark.parametrize("argv", [[], ["--vm-fd", "0"], ["--vm-fd=2", "--control-fd", "1"], ["--vm-fd", "x"]])
def test_low_descriptors_stay(argv: list[str]) -> None:
    assert sudo.keep_descriptors(argv) == (argv, [])


def test_a_high_descriptor_becomes_standard_input(high: tuple[int, int, int]) -> None:
    vm = high[0]
    assert sudo.keep_descriptors(["--vm-fd", f"{vm}", "-v"]) == (["--vm-fd", "0", "-v"], [(vm, 0)])
    assert sudo.keep_descriptors([f"--vm-fd={vm}"]) == (["--vm-fd=0"], [(vm, 0)])
    assert sudo.keep_descriptors(["--uplink", f"fd={vm}"]) == (["--uplink", "fd=0"], [(vm, 0)])
    assert sudo.keep_descriptors([f"--uplink=fd={vm}"]) == (["--uplink=fd=0"], [(vm, 0)])


def test_a_second_one_takes_the_free_slot(high: tuple[int, int, int]) -> None:
    vm, control, _ = high
    argv = ["--vm-fd", f"{vm}", "--control-fd", f"{control}"]
    assert sudo.keep_descriptors(argv) == (["--vm-fd", "0", "--control-fd", "1"], [(vm, 0), (control, 1)])
    argv = ["--vm-fd", "0", "--control-fd", f"{control}"]
    assert sudo.keep_descriptors(argv) == (["--vm-fd", "0", "--control-fd", "1"], [(control, 1)])


def test_a_third_one_is_refused(high: tuple[int, int, int]) -> None:
    vm, control, uplink = high
    with pytest.raises(ConfigError, match=f"--uplink {uplink}: sudo closes descriptors from 3 up"):
        sudo.keep_descriptors(["--vm-fd", f"{vm}", "--control-fd", f"{control}", "--uplink", f"fd={uplink}"])


def test_a_descriptor_that_is_not_open_is_refused() -> None:
    with pytest.raises(ConfigError, match="--vm-fd 987654: is not an open file descriptor"):
        sudo.keep_descriptors(["--vm-fd", "987654"])


def test_the_command_of_run_is_left_alone(high: tuple[int, int, int]) -> None:
    command = ["--", "qemu", "--vm-fd", f"{high[0]}"]
    assert sudo.keep_descriptors(["run", *command]) == (["run", *command], [])
    assert sudo.insert(["run", "-v", *command], ["--x"]) == ["run", "-v", "--x", *command]
    assert sudo.insert(["-v"], ["--x"]) == ["-v", "--x"]


def test_a_run_that_came_from_sudo_does_not_ask_again() -> None:
    with pytest.raises(privilege.PrivilegeError, match=r"must say \(root\)"):
        sudo.escalate(["--vm-fd", "0", "--sudo-escalation-done"])


def fake_sudo(folder: Path, script: str) -> None:
    (folder / "sudo").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "sudo").chmod(0o755)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'sudo: a password is required' >&2; exit 1", "(sudo: a password is required)"),
        ("echo first >&2; echo 'softnet: refusing' >&2; exit 1", "(softnet: refusing)"),
        ("exit 3", "(no reason given)"),
        ("kill -9 $$", "(no reason given)"),
        (None, "(sudo: No such file or directory)"),
    ],
)
def test_a_refusal_is_one_line_with_sudo_s_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, said: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["/usr/bin/env"])  # some program that root alone can write
    if script:
        fake_sudo(tmp_path, script)
    with pytest.raises(privilege.PrivilegeError) as refusal:
        sudo.escalate(["--vm-fd", "0"])
    assert said in str(refusal.value)
    assert "ALL=(root) NOPASSWD: /" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_no_rule_is_suggested_for_a_program_that_others_can_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_sudo(tmp_path, "exit 1")
    (tmp_path / "sudo").chmod(0o777)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.argv", [str(tmp_path / "sudo")])
    with pytest.raises(privilege.PrivilegeError, match="install it with `make install`"):
        sudo.escalate([])


def test_nothing_is_asked_where_no_root_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sudo, "escalate", lambda argv: pytest.fail("asked sudo"))
    privilege.acquire(["--uplink", "user"], needs_root=False)
    monkeypatch.setattr(privilege, "has_net_admin", lambda: True)
    privilege.acquire(["--uplink", "nat"], needs_root=True)
