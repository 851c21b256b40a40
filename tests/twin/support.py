"""Builds the twin on demand, and plays the other end of its wire.

TWIN_BUILD=asan in the environment asks for the twin under AddressSanitizer; python must then have been
started with the sanitizer's library preloaded (`asan_environment`). TWIN_BUILD=ready takes the twin
that is in the cache as it is, for a system without a compiler.
"""

import ctypes
import fcntl
import functools
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent
CACHE = SOURCE.parents[1] / ".cache"
BLOCK_HEADER = Path("/usr/include/Block.h")


@functools.cache
def build(flavour: str = "") -> Path:
    """The folder for VMNET_TWIN; skips the test, with the reason, where it cannot be built."""
    if flavour == "ready":
        return CACHE / "twin"
    if shutil.which("clang") is None or shutil.which("make") is None:
        pytest.skip("the vmnet twin needs clang and make: apt-get install clang make")
    if not BLOCK_HEADER.exists():
        pytest.skip("the vmnet twin needs Block.h: apt-get install libblocksruntime-dev")
    out = CACHE / (f"twin-{flavour}" if flavour else "twin")
    CACHE.mkdir(exist_ok=True)
    sanitize = "address" if flavour == "asan" else ""
    with open(CACHE / "twin.lock", "w") as lock:  # several test runs may want it at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = ["make", "-s", "-C", str(SOURCE), f"OUT={out}", f"SANITIZE={sanitize}"]
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def folder() -> Path:
    """The twin of the flavour that this run of the tests asks for."""
    return build(os.environ.get("TWIN_BUILD", ""))


def asan_environment() -> dict[str, str]:
    """What to set for a python that loads the sanitized twin; skips where clang has no sanitizer."""
    build()
    asked = ["clang", "-print-file-name=libclang_rt.asan-x86_64.so"]
    library = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    if not Path(library).is_absolute() or not Path(library).exists():
        pytest.skip("no AddressSanitizer for clang: apt-get install libclang-rt-14-dev")
    # CPython keeps memory until its end; leaks of the twin's objects have tests of their own.
    return {"LD_PRELOAD": library, "ASAN_OPTIONS": "detect_leaks=0:symbolize=0", "TWIN_BUILD": "asan"}


def live_objects() -> int:
    """How many xpc objects are alive in this process, once dispatch's threads have let go of theirs."""
    library = ctypes.CDLL(str(folder() / "libtwinsystem.so"))
    library.twin_xpc_live.restype = ctypes.c_long
    seen = -1
    while seen != (seen := int(library.twin_xpc_live())):
        time.sleep(0.02)
    return seen


class Wire(socket.socket):
    """The other end of a twin's unix wire: what is sent here, the interface receives, and vice versa."""

    def __init__(self, directory: Path) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.path = directory / "wire"
        self.log_path = directory / "log"
        self.bind(str(directory / "peer"))
        self.settimeout(5)

    def attach(self) -> "Wire":
        """Once the interface is started. The first frame tells it where to answer."""
        self.connect(str(self.path))
        return self

    def log(self) -> list[str]:
        return self.log_path.read_text().splitlines()


@contextmanager
def wire(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    """A twin that anybody may start, on a unix socket in `directory`."""
    monkeypatch.setenv("VMNET_TWIN", str(folder()))
    monkeypatch.setenv("TWIN_ANYUID", "1")
    monkeypatch.setenv("TWIN_WIRE", f"unix:{directory}/wire")
    monkeypatch.setenv("TWIN_LOG", f"{directory}/log")
    with Wire(directory) as end:
        yield end
