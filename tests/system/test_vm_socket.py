"""`--vm-socket`: the VM connects by path, as QEMU (stream) and vfkit (datagrams and a greeting) do.

What becomes of the path is tried for each who may start Softnet: an ordinary user, sudo, and root.
QEMU itself: `test_qemu_matrix.py`.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from harness.frames import ARP, BROADCAST_MAC, arp, ethernet
from harness.program import Wire, command_for, environment
from vectors.world import NOBODY, OTHER_MAC, VM_MAC

pytestmark = pytest.mark.root

NOBODY_ID = 65534
PROBE = ethernet(BROADCAST_MAC, VM_MAC, ARP, arp(1, VM_MAC, NOBODY, "10.0.0.1"))
ANSWER = ethernet(VM_MAC, OTHER_MAC, ARP, arp(2, OTHER_MAC, "10.0.0.1", NOBODY))
STARTS = {
    "user": ("setpriv", f"--reuid={NOBODY_ID}", f"--regid={NOBODY_ID}", "--clear-groups"),
    "sudo": ("env", f"SUDO_UID={NOBODY_ID}", f"SUDO_GID={NOBODY_ID}"),
    "root": ("env", "-u", "SUDO_UID", "-u", "SUDO_GID"),
}


class Running:
    """Softnet that waits at a path; its uplink is a socket pair."""

    def __init__(self, value: str, start: Sequence[str]) -> None:
        self.uplink = Wire(socket.SOCK_DGRAM)
        uplink = self.uplink.theirs.fileno()
        words = ("--vm-socket", value, "--vm-mac-address", VM_MAC, "--uplink", f"fd={uplink}")
        self.process = subprocess.Popen(
            command_for(start, *words),
            stderr=subprocess.PIPE,
            pass_fds=[uplink],
            env=environment(),
            cwd="/",
            text=True,
        )
        self.uplink.theirs.close()

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(5)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.uplink.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Somewhere an ordinary user can write."""
    path = Path(tempfile.mkdtemp(prefix="snt-"))
    os.chown(path, NOBODY_ID, NOBODY_ID)
    yield path
    shutil.rmtree(path)


@pytest.fixture(params=STARTS)
def start(request: pytest.FixtureRequest) -> Sequence[str]:
    return STARTS[request.param]


def is_there(path: Path) -> bool:
    return path.is_socket()


def wait_for(path: Path, there: bool = True) -> None:
    deadline = time.monotonic() + 5
    while is_there(path) != there:
        assert time.monotonic() < deadline, f"{path} is {'not ' if there else ''}there"
        time.sleep(0.01)


def connect(path: Path, bind: Path | None = None) -> Wire:
    """QEMU's way; with an address of the VM's own, vfkit's."""
    wait_for(path)
    wire = Wire(socket.SOCK_STREAM if bind is None else socket.SOCK_DGRAM)
    wire.close()
    wire.mine = socket.socket(socket.AF_UNIX, wire.mine.type)
    wire.mine.settimeout(5)
    if bind is not None:
        wire.mine.bind(str(bind))
        os.chmod(bind, 0o777)
    for _ in range(100):
        try:
            wire.mine.connect(str(path))
            break
        except ConnectionRefusedError:  # between bind and listen
            time.sleep(0.01)
    if bind is not None:
        wire.mine.send(b"VFKT")
    return wire


def exchange(vm: Wire, uplink: Wire) -> None:
    """A frame each way."""
    vm.send(PROBE)
    assert uplink.receive() == PROBE
    uplink.send(ANSWER)
    assert vm.receive() == ANSWER


def test_a_stream_as_qemu_connects(folder: Path, start: Sequence[str]) -> None:
    running = Running(f"{folder}/vm", start)
    vm = connect(folder / "vm")
    exchange(vm, running.uplink)
    wait_for(folder / "vm", there=False)  # there is one VM, and it is here
    vm.close()
    assert running.process.wait(5) == 0
    running.close()


def test_datagrams_as_vfkit_greets(folder: Path, start: Sequence[str]) -> None:
    running = Running(f"dgram:{folder}/vm", start)
    vm = connect(folder / "vm", bind=folder / "vfkit")
    exchange(vm, running.uplink)
    assert running.end() == 0
    assert not is_there(folder / "vm")
    running.close()
    vm.close()


def test_a_question_before_the_vm_came_does_no_harm(folder: Path, start: Sequence[str]) -> None:
    running = Running(f"{folder}/vm", start)
    wait_for(folder / "vm")
    running.process.send_signal(signal.SIGUSR1)
    vm = connect(folder / "vm")
    exchange(vm, running.uplink)
    vm.close()
    running.close()


@pytest.mark.parametrize("kind", ["stream", "dgram"])
def test_nobody_came(folder: Path, start: Sequence[str], kind: str) -> None:
    running = Running(f"{kind}:{folder}/vm", start)
    wait_for(folder / "vm")
    assert running.end(signal.SIGINT) == 0
    assert not is_there(folder / "vm")
    running.close()


@pytest.mark.parametrize("kind", ["stream", "dgram"])
def test_a_path_that_was_left_behind_is_replaced(folder: Path, start: Sequence[str], kind: str) -> None:
    killed = Running(f"{kind}:{folder}/vm", start)
    wait_for(folder / "vm")
    killed.end(signal.SIGKILL)
    assert is_there(folder / "vm")
    running = Running(f"{kind}:{folder}/vm", start)
    vm = connect(folder / "vm", bind=None if kind == "stream" else folder / "vfkit")
    exchange(vm, running.uplink)
    for each in (killed, running, vm):
        each.close()


def test_in_roots_own_folder_the_name_of_a_datagram_socket_is_left_to_the_next_start(folder: Path) -> None:
    os.chown(folder, 0, 0)
    os.chmod(folder, 0o755)
    for _ in range(2):
        running = Running(f"dgram:{folder}/vm", STARTS["root"])
        vm = connect(folder / "vm", bind=folder / "vfkit")
        exchange(vm, running.uplink)
        assert running.end() == 0
        assert is_there(folder / "vm")
        running.close()
        vm.close()
        (folder / "vfkit").unlink()


def test_only_whoever_asked_may_connect(folder: Path, start: Sequence[str]) -> None:
    running = Running(f"{folder}/vm", start)
    wait_for(folder / "vm")
    info = (folder / "vm").stat()
    assert (info.st_uid, info.st_mode & 0o777) == (NOBODY_ID, 0o600)
    running.close()


def refusal(value: str, start: Sequence[str]) -> str:
    running = Running(value, start)
    assert running.process.wait(5) == 2
    assert running.process.stderr
    said = running.process.stderr.read()
    running.close()
    assert len(said.splitlines()) == 1
    return said


def test_refusals(folder: Path, start: Sequence[str]) -> None:
    (folder / "file").touch()
    remedy = "give a path in a directory that you may write to"
    assert "exists and is not a socket; give another path" in refusal(f"{folder}/file", start)
    assert remedy in refusal(f"{folder}/none/vm", start)
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(f"{folder}/vm")
        taken.listen()
        os.chown(folder / "vm", NOBODY_ID, NOBODY_ID)
        assert "is in use by another process; give another path" in refusal(f"{folder}/vm", start)


def test_a_path_that_only_root_may_write_is_no_path_for_others(folder: Path) -> None:
    os.chown(folder, 0, 0)
    os.chmod(folder, 0o755)
    for start in ("user", "sudo"):
        assert "permission denied" in refusal(f"{folder}/vm", STARTS[start])
