"""Captures: blocks that tshark reads, with each frame's verdict, and a reader that is slow."""

import json
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from harness import corpus
from harness.frames import IPV4, TCP, UDP, ethernet, ipv4, tcp, udp
from softnet import pcapng
from softnet.capture import BUFFER, COMMENTS, Capture
from softnet.core import reasons
from vectors.world import GLOBAL, GW_MAC, VM, VM_MAC

PASSED = ethernet(GW_MAC, VM_MAC, IPV4, ipv4(VM, GLOBAL, UDP, udp(1024, 53)))
REFUSED = ethernet(GW_MAC, VM_MAC, IPV4, ipv4(VM, "10.0.0.5", TCP, tcp(1024, 22)))


def judged(frames: dict[bytes, int]) -> Any:
    batch = corpus.batch_of(frames)
    for at, reason in enumerate(frames.values()):
        batch.verdict[at] = reason
    return batch


def capture(dropped_only: bool = False, snaplen: int = 65535) -> Capture:
    return Capture("softnet0", "1.0", snaplen, dropped_only, lambda _capture: None)


def tshark(path: Path, *fields: str) -> list[list[str]]:
    program = shutil.which("tshark")
    if program is None:
        pytest.skip("tshark is not installed")
    words = [program, "-r", str(path), "-T", "fields", *(word for field in fields for word in ("-e", field))]
    ran = subprocess.run(words, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return [line.split("\t") for line in ran.stdout.splitlines()]


def test_tshark_reads_frames_verdicts_and_reasons(tmp_path: Path) -> None:
    made = capture()
    made.look(judged({PASSED: reasons.PASS_GLOBAL, REFUSED: reasons.NOT_GLOBAL}), reasons.FROM_VM, 0.0)
    made.look(judged({REFUSED: reasons.PASS_INBOUND}), reasons.TO_VM, 0.0)
    path = tmp_path / "frames.pcapng"
    path.write_bytes(made.unsent)
    rows = tshark(
        path, "frame.comment", "frame.len", "ip.dst", "frame.packet_flags_direction", "frame.interface_name"
    )
    assert rows == [
        [
            "pass pass-global: the destination is a globally reachable address",
            "42",
            GLOBAL,
            "0x00000002",
            "softnet0",
        ],
        [COMMENTS[reasons.NOT_GLOBAL], "54", "10.0.0.5", "0x00000002", "softnet0"],
        ["pass pass-inbound: incoming traffic for the VM", "54", "10.0.0.5", "0x00000001", "softnet0"],
    ]
    assert rows[1][0].startswith("drop not-global: ")
    (epoch,) = tshark(path, "frame.time_epoch")[0]
    assert float(epoch) > 1_700_000_000


def test_refused_frames_alone() -> None:
    made = capture(dropped_only=True)
    made.look(judged({PASSED: reasons.PASS_GLOBAL, REFUSED: reasons.BLOCKED}), reasons.FROM_VM, 0.0)
    _section, _interface, *frames = pcapng.blocks(made.unsent)
    assert len(frames) == 1
    assert REFUSED in frames[0]


def test_frames_are_cut_to_the_snap_length_and_keep_their_own() -> None:
    made = capture(snaplen=60)
    batch = judged({PASSED + bytes(1000): reasons.OVERSIZE})
    made.look(batch, reasons.FROM_VM, 0.0)
    frame = list(pcapng.blocks(made.unsent))[2]
    assert struct.unpack_from("<II", frame, 20) == (60, 1042)


def test_a_slow_reader_misses_frames_and_is_told_how_many(tmp_path: Path) -> None:
    made = capture()
    large = judged({PASSED + bytes(1400): reasons.PASS_GLOBAL})
    for _ in range(4000):
        made.look(large, reasons.FROM_VM, 0.0)
    assert len(made.unsent) < BUFFER + 2000
    taken = len(list(pcapng.blocks(made.unsent))) - 2
    made.look(judged({PASSED: reasons.PASS_GLOBAL}), reasons.FROM_VM, 0.0)
    path = tmp_path / "last.pcapng"
    path.write_bytes(pcapng.header("x", "x", "x", 1) + made.unsent)
    assert struct.pack("<HHQ", pcapng.EPB_DROPS, 8, 4000 - taken) in path.read_bytes()
    assert len(tshark(path, "frame.len")) == 1


def test_blocks_come_off_whole_and_rubbish_is_said() -> None:
    made = capture()
    made.look(judged({PASSED: reasons.PASS_GLOBAL}), reasons.FROM_VM, 0.0)
    whole = bytes(made.unsent)
    stream, found = bytearray(), []
    for at in range(len(whole)):
        stream += whole[at : at + 1]
        found += pcapng.blocks(stream)
    assert b"".join(found) == whole
    assert not stream
    for rubbish in (
        b'{"jsonrpc":"2.0"}',
        bytes(12),
        struct.pack("<III", 6, 13, 0),
        struct.pack("<III", 6, 1 << 25, 0),
    ):
        with pytest.raises(ValueError, match="not a pcapng block"):
            list(pcapng.blocks(bytearray(rubbish)))


def test_every_reason_has_a_comment() -> None:
    assert set(COMMENTS) == set(reasons.BY_CODE)
    assert json.dumps(COMMENTS)
