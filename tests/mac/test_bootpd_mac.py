"""bootpd's preferences on a Mac: configd's own lock, Apple's own parser. As root; the file is put back."""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from softnet.uplinks import bootpd

pytestmark = [
    pytest.mark.mac,
    pytest.mark.skipif(sys.platform != "darwin", reason="needs a Mac: plutil, O_EXLOCK"),
]


@pytest.fixture
def preferences(tmp_path: Path) -> Iterator[Path]:
    """The real file, which is what it was again afterwards."""
    path, kept = Path(bootpd.PATH), tmp_path / "kept"
    existed = path.exists()
    if existed:
        shutil.copy2(path, kept)
    yield path
    if existed:
        shutil.copy2(kept, path)
    else:
        path.unlink(missing_ok=True)


def plutil(*arguments: str) -> str:
    return subprocess.run(["plutil", *arguments], capture_output=True, text=True, check=True).stdout.strip()


def test_apples_parser_reads_what_was_written(preferences: Path) -> None:
    bootpd.set_lease_time(601, True, bootpd.PATH)
    assert plutil("-extract", "bootpd.DHCPLeaseTimeSecs", "raw", str(preferences)) == "601"
    assert plutil("-extract", "bootpd.dhcp_ignore_client_identifier", "raw", str(preferences)) == "true"
    assert plutil("-lint", str(preferences)).endswith("OK")
    assert bootpd.set_lease_time(601, True, bootpd.PATH) is False


def test_configds_kind_of_lock_is_waited_for(preferences: Path) -> None:
    held = os.open(f"{bootpd.PATH}-lock", os.O_WRONLY | os.O_CREAT | os.O_EXLOCK, 0o644)  # type: ignore[attr-defined]

    def release() -> None:
        time.sleep(0.5)
        os.unlink(f"{bootpd.PATH}-lock")
        os.close(held)

    thread = threading.Thread(target=release)
    begun = time.monotonic()
    thread.start()
    bootpd.set_lease_time(602, True, bootpd.PATH)
    assert time.monotonic() - begun >= 0.5
    thread.join()
