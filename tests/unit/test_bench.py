"""The measurements themselves: sums, tables, and the two C programs on real sockets."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bench import report, statistics
from bench.statistics import Summary

BENCH = Path(report.__file__).parent


def test_a_summary_is_the_median_and_the_middle_half() -> None:
    assert statistics.summary([9, 1, 2, 3, 4, 5, 6, 7, 8]) == Summary(5, 3, 7)
    assert statistics.summary([2, 1]) == Summary(1.5, 1, 2)
    assert statistics.summary([7]) == Summary(7, 7, 7)


def test_a_ratio_is_taken_between_neighbours() -> None:
    """Both halve in the second round: the ratio stays."""
    assert statistics.ratio([10, 5], [20, 10]) == Summary(0.5, 0.5, 0.5)
    with pytest.raises(ValueError):
        statistics.ratio([1], [1, 2])


def test_nothing_is_called_faster_within_the_spread() -> None:
    assert statistics.verdict(Summary(1.2, 0.9, 1.3)) == "the same"
    assert statistics.verdict(Summary(1.2, 1.1, 1.3)) == "more"
    assert statistics.verdict(Summary(0.8, 0.7, 0.9)) == "less"


def test_results_are_written_as_json_markdown_and_a_picture(tmp_path: Path) -> None:
    ratio = Summary(0.8, 0.7, 0.9)
    row = {"subject": "pump <&", "direction": "to VM", "size": 64, "ns_per_frame": ratio, "cpu_ratio": ratio}
    markdown = report.write({"frames": ("Frames", [row])}, ["vde (vde_switch is not installed)"], tmp_path)
    assert "### Frames" in markdown
    assert "| pump <& | to VM | 64 | 0.8 (0.7 - 0.9) | 0.8 (0.7 - 0.9) less |" in markdown
    assert "Not measured: vde (vde_switch is not installed)." in markdown
    assert json.loads((tmp_path / "results.json").read_text())["results"]["frames"][0]["size"] == 64
    picture = ET.parse(tmp_path / "frames-ns-per-frame.svg").getroot()
    assert "pump <&, 64 bytes, to VM" in [element.text for element in picture.iter()]


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    folder = tmp_path_factory.mktemp("bench")
    for name in ("pump", "load"):
        command = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", folder / name, BENCH / f"{name}.c"]
        subprocess.run(command, check=True)
    return folder


class Pumped:
    """A pump between two pairs; `vm` and `uplink` are the ends to use."""

    def __init__(self, tools: Path, kind: str) -> None:
        style = socket.SOCK_DGRAM if kind == "d" else socket.SOCK_STREAM
        self.vm, vm_far = socket.socketpair(socket.AF_UNIX, style)
        self.uplink, uplink_far = socket.socketpair(socket.AF_UNIX, style)
        far = [vm_far.fileno(), uplink_far.fileno()]
        self.process = subprocess.Popen([tools / "pump", *(f"{kind}:{fd}" for fd in far)], pass_fds=far)
        for end in (vm_far, uplink_far):
            end.close()
        for end in (self.vm, self.uplink):
            end.settimeout(5)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for end in (self.vm, self.uplink):
            end.close()


@pytest.fixture
def datagrams(tools: Path) -> Iterator[Pumped]:
    pumped = Pumped(tools, "d")
    yield pumped
    pumped.close()


def test_the_pump_moves_datagrams_both_ways_unchanged(datagrams: Pumped) -> None:
    for near, far in ((datagrams.vm, datagrams.uplink), (datagrams.uplink, datagrams.vm)):
        for frame in (b"a" * 60, b"", b"b" * 1514):
            near.send(frame)
            assert far.recv(65536) == frame


def test_the_pump_drops_what_nobody_takes_and_does_not_stop(datagrams: Pumped) -> None:
    datagrams.vm.setblocking(False)
    deadline = time.monotonic() + 0.2
    while time.monotonic() < deadline:
        try:
            datagrams.vm.send(b"x" * 1514)
        except BlockingIOError:
            time.sleep(0.001)
    datagrams.uplink.send(b"other way")
    datagrams.vm.settimeout(5)
    assert datagrams.vm.recv(65536) == b"other way"


def test_the_pump_moves_a_stream_and_ends_with_it(tools: Path) -> None:
    pumped = Pumped(tools, "s")
    frames = [b"a" * 60, b"b" * 1514]
    sent = b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames)
    pumped.vm.sendall(sent)
    received = b""
    while len(received) < len(sent):
        received += pumped.uplink.recv(65536)
    assert received == sent
    pumped.vm.close()
    assert pumped.process.wait(5) == 0
    pumped.close()


def load(tools: Path, *words: str, ends: tuple[socket.socket, ...]) -> dict[str, float]:
    command = [tools / "load", words[0], *(str(end.fileno()) for end in ends[:2]), *words[1:]]
    fds = [end.fileno() for end in ends]
    ran = subprocess.run(command, pass_fds=fds, stdout=subprocess.PIPE, check=True, timeout=20)
    found: dict[str, float] = json.loads(ran.stdout)
    return found


def test_the_load_counts_what_arrives(tools: Path, datagrams: Pumped) -> None:
    ends = (datagrams.vm, datagrams.uplink)
    counts = load(tools, "frames", "0.2", "32", "00" * 64, "30", "1", "9", ends=ends)
    assert counts["sent"] == counts["received"] > 100
    assert counts["lost"] == 0


def test_the_load_notices_what_is_lost(tools: Path) -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far:
        counts = load(tools, "frames", "0.1", "8", "00" * 64, "30", "1", "1", ends=(near, near))
    assert counts["sent"] == counts["lost"] == 8


def test_latency_has_percentiles_in_order(tools: Path, datagrams: Pumped) -> None:
    ends = (datagrams.uplink, datagrams.vm)
    flood = (str(datagrams.vm.fileno()), str(datagrams.uplink.fileno()), "00" * 100)
    for extra in ((), flood):
        found = load(tools, "latency", "50", "200", "00" * 100, *extra, ends=ends)
        assert found["count"] + found["lost"] == 50
        assert 0 < found["p50"] <= found["p99"] <= found["p100"]
        assert (found["flood"] > 0) == bool(extra)
