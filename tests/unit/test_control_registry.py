"""Where running Softnets are listed, and whose list is believed."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from softnet.control import registry, sockets
from softnet.control.registry import Entry


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOFTNET_RUNTIME_DIR", str(tmp_path / "run"))
    return tmp_path / "run"


def test_an_entry_lives_as_long_as_its_socket(folder: Path) -> None:
    assert registry.running() == []
    made = registry.register()
    assert made is not None
    listener, path = made
    assert folder.stat().st_mode & 0o777 == 0o700
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert registry.running() == [Entry(os.getpid(), path)]
    listener.close()
    assert registry.running() == []
    assert os.listdir(folder) == []


def test_what_is_no_entry_is_left_alone(folder: Path) -> None:
    made = registry.register()
    assert made is not None
    for name in ("notes.txt", "12x.sock", ".sock"):
        (folder / name).write_text("")
    (folder / "77.sock").write_text("a file, no socket")
    with made[0]:
        assert os.getpid() in [entry.pid for entry in registry.running()]
        registry.remove_dead(str(folder))
    assert {"notes.txt", "12x.sock", ".sock", "77.sock"} <= set(os.listdir(folder))


def test_a_folder_that_others_may_enter_is_not_used(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    os.chmod(folder, 0o755)
    assert registry.register() is None
    assert registry.running() == []


def test_a_link_is_not_used(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    assert registry.register() is None
    assert os.listdir(tmp_path / "elsewhere") == []


def test_where_it_cannot_be_made_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTNET_RUNTIME_DIR", "/proc/softnet")
    assert registry.register() is None
    assert registry.running() == []


def test_the_systems_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SOFTNET_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: os.stat(tmp_path).st_uid or 4711)
    expected = f"{tmp_path}/softnet" if os.stat(tmp_path).st_uid else "/tmp/softnet-4711"
    assert registry.own_folder() == expected, "a runtime folder of another user is not ours"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert registry.own_folder() == "/run/softnet"


def test_a_silent_listener_is_alive(folder: Path) -> None:
    """Its process may be busy; only a refused connection means that it is gone."""
    made = registry.register()
    assert made is not None
    listener, path = made
    waiting = []
    for _ in range(40):
        peer = socket.socket(socket.AF_UNIX)
        peer.setblocking(False)
        try:
            peer.connect(path)
        except BlockingIOError:
            break
        finally:
            waiting.append(peer)
    assert registry.running() == [Entry(os.getpid(), path)]
    for peer in [listener, *waiting]:
        peer.close()


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="abstract names are Linux's")


@linux
def test_on_linux_a_name_is_all_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOFTNET_RUNTIME_DIR", raising=False)
    made = registry.register()
    assert made is not None
    listener, name = made
    assert name.startswith(f"@softnet/{os.getpid()}/")
    assert Entry(os.getpid(), name) in registry.running()
    listener.close()
    assert Entry(os.getpid(), name) not in registry.running()


def as_nobody(program: str, *arguments: str) -> str:
    """What a Python program prints that another user runs."""
    drop = "import os, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
    command = [sys.executable, "-c", f"{PRELOAD}\n{drop}{program}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


# Before the drop: another user may be unable to read this interpreter and these sources.
PRELOAD = "import json, socket, sys, time; from softnet.control import client, registry"


@linux
@pytest.mark.root
def test_a_name_that_another_user_took_is_not_believed_and_ours_is_not_for_him(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SOFTNET_RUNTIME_DIR", raising=False)
    made = registry.register()
    assert made is not None
    with made[0] as listener:
        program = "print([entry.path for entry in registry.running()])"
        assert made[1] not in as_nobody(program)
        forge = """
made = registry.register()
print([entry.path == made[1] for entry in registry.running()], flush=True)
"""
        assert "True" in as_nobody(forge)  # his own, he sees
        assert listener.fileno() >= 0


@linux
@pytest.mark.root
def test_a_stranger_is_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOFTNET_RUNTIME_DIR", raising=False)
    made = registry.register()
    assert made is not None
    watched: dict[int, Callable[[float], None]] = {}

    class Loop:
        def watch(self, descriptor: int, react: Callable[[float], None], events: int = 0) -> None:
            watched[descriptor] = react

        def unwatch(self, descriptor: int) -> None:
            del watched[descriptor]

    hub = sockets.Hub(Loop())
    hub.listen(*made, dict)
    ask = """
peer = socket.socket(socket.AF_UNIX)
peer.settimeout(10)
peer.connect("\\0" + sys.argv[1][1:])
print("turned away" if peer.recv(1) == b"" else "served")
"""
    said: list[str] = []
    stranger = threading.Thread(target=lambda: said.append(as_nobody(ask, made[1])))
    stranger.start()
    while stranger.is_alive():
        watched[made[0].fileno()](0.0)
        time.sleep(0.01)
    assert said == ["turned away\n"]
    with sockets.connect_at(made[1]):
        watched[made[0].fileno()](0.0)
        assert len(hub.connections) == 1
    hub.close()
