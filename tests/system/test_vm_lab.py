"""The laboratory itself: its archive, its table, and that a lab that was killed leaves nothing behind."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab import demo, image, wire

REPOSITORY = Path(__file__).resolve().parents[2]
SLEEPER = """
import time
from lab import image, worlds
world = worlds.{world}(image.build(), b"softnet-killed-")
print("up", flush=True)
time.sleep(60)
"""


def descendants(pid: int) -> set[int]:
    """Process ids under `pid`, however deep."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return set().union(*({int(child)} | descendants(int(child)) for child in children))


def running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.root
@pytest.mark.vm
@pytest.mark.parametrize("world", ["PlainBridge", "BehindSoftnet"])
def test_a_killed_lab_leaves_no_process(world: str) -> None:
    path = os.pathsep.join([str(REPOSITORY), *sys.path])
    lab = subprocess.Popen(
        [sys.executable, "-c", SLEEPER.format(world=world)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert lab.stdout
    with lab, lab.stdout:
        assert lab.stdout.readline() == b"up\n"
        started = descendants(lab.pid)
        assert len(started) >= 3
        lab.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while left := [pid for pid in started if running(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def test_cpio_is_what_the_kernel_reads() -> None:
    archive = image.cpio({"bin/tool": b"#!", "empty": b""}, folders=("bin",))
    listing = subprocess.run(["/bin/busybox", "cpio", "-tv"], input=archive, capture_output=True, check=True)
    modes = {line.split()[-1]: line.split()[0] for line in listing.stdout.decode().splitlines()}
    assert modes == {"bin": "drwxr-xr-x", "bin/tool": "-rwxr-xr-x", "empty": "-rwxr-xr-x"}


def test_a_signature_is_cut_off_and_nothing_else() -> None:
    signature = b"PKCS"
    trailer = bytes(8) + len(signature).to_bytes(4) + image.SIGNATURE_MAGIC
    assert image.without_signature(b"\x7fELF module" + signature + trailer) == b"\x7fELF module"
    assert image.without_signature(b"\x7fELF module") == b"\x7fELF module"


def test_internet_checksum_of_a_header_that_holds_its_own_is_zero() -> None:
    header = wire.ipv4("192.0.2.1", "192.0.2.2", wire.UDP, b"", wire.source_route("192.0.2.3"))
    assert header[0] == 0x47
    assert wire.checksum(header) == 0


@pytest.mark.parametrize(("no_colour", "expected"), [("", b"\033[31mred\033[0m"), ("1", b"red")])
def test_colour_on_a_terminal_unless_forbidden(
    monkeypatch: pytest.MonkeyPatch, no_colour: str, expected: bytes
) -> None:
    monkeypatch.setenv("NO_COLOR", no_colour)
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as terminal:
        demo.Screen(terminal).say("red", demo.RED)
        assert os.read(leader, 100).strip() == expected
    os.close(leader)


def test_no_colour_in_a_file(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w+") as file:
        demo.Screen(file).say("red", demo.RED)
        file.seek(0)
        assert file.read() == "red\n"
