"""The whole suite of the vmnet binding once more, over a twin that was built with AddressSanitizer."""

import os
import subprocess
import sys
from pathlib import Path

from twin import support

UNIT = Path(__file__).parents[1] / "unit"


def test_the_suite_under_address_sanitizer() -> None:
    files = sorted(str(path) for path in UNIT.glob("test_vmnet_*.py") if path.stem != "test_vmnet_abi")
    assert len(files) >= 8
    options = ["-o", "addopts=--import-mode=importlib", "-x", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, *files]
    environment = os.environ | support.asan_environment()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def test_the_sanitizer_is_really_there() -> None:
    """A read past the end of a block of the twin's memory ends the process with the sanitizer's report."""
    environment = os.environ | support.asan_environment()
    library = support.build("asan") / "libtwinsystem.so"
    program = f"""
import ctypes
system = ctypes.CDLL({str(library)!r})
system.dispatch_semaphore_create.restype = ctypes.c_void_p
semaphore = system.dispatch_semaphore_create(0)
system.dispatch_release(ctypes.c_void_p(semaphore + 4096))
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "AddressSanitizer" in done.stderr
