"""What a running Softnet tells and may be asked: the real program between two socket pairs.

No root is needed. The VM's side and the uplink's are this test's; DHCP is played by the corpus.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import corpus
from harness.frames import IPV4, TCP, UDP, checksum, ethernet, ip, ipv4, tcp, udp
from harness.program import Program, command, environment
from vectors.world import GLOBAL, GW, GW_MAC, VM, VM_MAC

FLOWS = int(os.environ.get("SOFTNET_FLOWS", "100000"))  # a million takes a few minutes
STATE = corpus.states()["bound"]
PATIENCE = 10.0
LAN = "10.0.0.5"


def to(address: str, port: int = 443, source_port: int = 40000, size: int = 0) -> bytes:
    return ethernet(GW_MAC, VM_MAC, IPV4, ipv4(VM, address, TCP, tcp(source_port, port, bytes(size))))


class Observed(Program):
    """The program with more options, and the commands that ask it."""

    def __init__(self, *extra: str, allow: str = "", block: str = "", fds: tuple[int, ...] = ()) -> None:
        state = STATE | {"allow": [allow] if allow else [], "block": [block] if block else []}
        super().__init__(state, *extra, fds=fds)
        self.reach(STATE)

    def cli(self, *words: str, code: int = 0) -> str:
        ran = subprocess.run(
            command(*words), capture_output=True, text=True, timeout=30, env=environment(), cwd="/"
        )
        assert ran.returncode == code, ran.stderr
        return ran.stdout if code == 0 else ran.stderr

    def ask(self, *words: str) -> Any:
        return json.loads(self.cli(*words, "--json"))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime folder, short enough for a socket's path."""
    monkeypatch.setenv("SOFTNET_RUNTIME_DIR", str(tmp_path / "run"))
    return tmp_path


@pytest.fixture
def start(home: Path) -> Iterator[Callable[..., Observed]]:
    started: list[Observed] = []

    def begin(*options: str, **more: Any) -> Observed:
        started.append(Observed(*options, **more))
        return started[-1]

    yield begin
    for program in started:
        program.__exit__()


def eventually(check: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = check()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"never: {what}")


def events(path: Path, kind: str) -> list[dict[str, Any]]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in map(json.loads, lines) if line["event"] == kind]


def test_events_tell_the_life_of_a_vm(start: Callable[..., Observed], tmp_path: Path) -> None:
    log = tmp_path / "events"
    program = start("--events", str(log), block="10.0.0.0/8,0.0.0.0/0:25")
    for _ in range(5):
        program.vm.send(to(LAN))
    (first,) = eventually(lambda: events(log, "drop"), "a drop event")
    assert (first["reason"], first["rule"], first["destination"], first["destinationPort"]) == (
        *("blocked", "block 10.0.0.0/8"),
        *(LAN, 443),
    )
    assert program.ask("explain", f"{LAN}:443/tcp")["rule"] == first["rule"], "explain names the same rule"
    program.vm.send(to(GLOBAL, 25))
    eventually(lambda: events(log, "drop")[1:], "the second drop event")
    assert events(log, "drop")[1]["rule"] == "block 0.0.0.0/0:25"
    (bound,) = events(log, "lease")
    assert (bound["state"], bound["address"], bound["vm"]) == ("bound", VM, VM_MAC)
    program.end()
    assert program.code == 0
    kinds = [line["event"] for line in map(json.loads, log.read_text().splitlines())]
    assert kinds[:3] == ["start", "uplink", "policy"]
    assert kinds[-1] == "stop"
    assert events(log, "stop")[0]["frames"]["from-vm"]["blocked"] == 6


def test_events_into_a_descriptor_that_nobody_reads(start: Callable[..., Observed]) -> None:
    reader, writer = os.pipe()
    program = start("--events", f"fd={writer}", fds=(writer,))
    os.close(writer)
    for batch in range(300):
        program.vm.send(to(f"10.{batch >> 8}.{batch & 255}.1"))
    program.exchange(corpus.FROM_VM, [(to(GLOBAL), "pass-global")])
    stats = program.ask("stats")
    assert stats["frames"]["from-vm"]["not-global"] == 300
    assert stats["unreported"] > 0
    os.close(reader)
    program.end()
    assert program.code == 0


def test_a_refused_connection_is_answered_at_once(start: Callable[..., Observed]) -> None:
    program = start("--deny", "reject", allow="10.1.0.0/16")
    began = time.monotonic()
    program.vm.send(to(LAN))
    answer = program.vm.receive()
    assert time.monotonic() - began < 0.1
    assert answer[:12] == to(LAN)[6:12] + to(LAN)[:6]
    assert answer[47] == 0x14
    datagram = udp(40000, 53, b"query")
    program.vm.send(ethernet(GW_MAC, VM_MAC, IPV4, ipv4(VM, LAN, UDP, datagram)))
    answer = program.vm.receive()
    assert (answer[26:30], answer[34:36], checksum(answer[34:])) == (ip(GW), b"\x03\x0d", 0)
    for _ in range(1000):
        program.vm.send(to(LAN))
    assert program.ask("stats")["rejects"] <= 320


def test_by_default_nothing_is_answered(start: Callable[..., Observed]) -> None:
    program = start()
    program.vm.send(to(LAN))
    program.exchange(corpus.FROM_VM, [(to(GLOBAL), "pass-global")])
    assert program.vm.waiting() == []


def rpc(peer: socket.socket, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
    request = {"jsonrpc": "2.0", "id": 1, "method": method} | ({} if params is None else {"params": params})
    peer.sendall(json.dumps(request).encode() + b"\n")
    data = b""
    while not data.endswith(b"\n"):
        more = peer.recv(1 << 20)
        assert more, "the channel ended"
        data += more
    return json.loads(data)


def test_the_control_descriptor_has_the_contract_and_no_more(start: Callable[..., Observed]) -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE)
    program = start("--control-fd", str(theirs.fileno()), fds=(theirs.fileno(),))
    theirs.close()
    assert rpc(ours, "softnet.policy.get")["result"]["allow"] == []
    assert rpc(ours, "softnet.stats")["error"]["code"] == -32601
    program.exchange(corpus.FROM_VM, [(to(GLOBAL), "pass-global"), (to(LAN), "not-global")])
    result = rpc(
        ours, "softnet.policy.set", {"allow": ["10.9.9.9/8"], "block": ["0.0.0.0/0"], "desiredRevision": "a"}
    )
    assert result["result"]["allow"] == ["10.0.0.0/8"]
    program.exchange(corpus.FROM_VM, [(to(GLOBAL), "blocked"), (to(LAN), "pass-rule")])
    conflict = rpc(ours, "softnet.policy.set", {"allow": [], "block": [], "desiredRevision": "a"})
    assert conflict["error"]["code"] == -32001
    assert rpc(ours, "softnet.policy.set", {"allow": ["0.0.0.0/0"], "block": []})["error"]["code"] == -32002
    ours.close()
    program.exchange(corpus.FROM_VM, [(to(GLOBAL), "blocked"), (to(LAN), "pass-rule")])
    program.end()
    assert program.code == 0
    assert program.silent()


def test_a_control_descriptor_that_is_none_is_refused_before_anything(home: Path) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        words = ["--vm-fd", "0", "--vm-mac-address", VM_MAC, "--uplink", f"fd={theirs.fileno()}"]
        for number, why in (
            (theirs.fileno(), "is not an AF_UNIX stream socket"),
            (99, "is not an open file"),
        ):
            ran = subprocess.run(
                command(*words, "--control-fd", str(number)),
                stdin=ours,
                pass_fds=[theirs.fileno()],
                capture_output=True,
                text=True,
                env=environment(),
                timeout=30,
            )
            assert ran.returncode == 2
            assert f"--control-fd {number}: {why}" in ran.stderr
    assert not os.path.exists(home / "run")


def test_a_swap_under_full_traffic_judges_no_frame_by_half_a_policy(start: Callable[..., Observed]) -> None:
    """Either LAN or GLOBAL is open, never both and never neither: pairs arrive whole or as the other half."""
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE)
    policies = [
        {"allow": ["10.0.0.5"], "block": ["9.9.9.9"]},
        {"allow": ["9.9.9.9"], "block": ["10.0.0.0/8"]},
    ]
    program = start(
        "--control-fd",
        str(theirs.fileno()),
        fds=(theirs.fileno(),),
        allow="10.0.0.5",
        block="9.9.9.9",
    )
    theirs.close()
    sent = 0
    for swap in range(1, 60):
        for at in range(8):
            program.vm.send(to(LAN, source_port=1000 + at))
            program.vm.send(to(GLOBAL, source_port=1000 + at))
            sent += 1
        assert "result" in rpc(ours, "softnet.policy.set", policies[swap % 2])
    frames = program.uplink.waiting()
    counts = program.ask("stats")["frames"]["from-vm"]
    assert counts["pass-rule"] == len(frames)
    assert counts["pass-rule"] + counts["blocked"] == 2 * sent
    assert "not-global" not in counts, "a mixture of both policies"
    assert "pass-global" not in counts, "a mixture of both policies"


def test_commands_on_a_running_vm(start: Callable[..., Observed]) -> None:
    program = start("--deny", "reject", allow="10.0.0.5:443/tcp", block="1.1.1.1")
    program.exchange(corpus.FROM_VM, [(to(LAN), "pass-rule")])
    program.vm.send(to(LAN, 80))
    (listed,) = program.ask("ps")
    assert (listed["vm"], listed["pid"], listed["lease"]["address"]) == (VM_MAC, program.process.pid, VM)
    assert VM_MAC in program.cli("ps")
    shown = program.cli("stats", "--vm", VM_MAC)
    assert "pass-rule" in shown
    assert f"lease {VM}" in shown
    assert program.ask("policy", "get") == {
        "allow": ["10.0.0.5/32:443/tcp"],
        "block": ["1.1.1.1/32"],
        "desiredRevision": None,
        "ruleCount": 2,
        "bridgeIsolation": True,
    }
    assert program.ask("policy", "allow", "@host:11434/tcp", "10.0.0.7")["ruleCount"] == 4
    assert program.ask("policy", "block", "10.0.0.7")["ruleCount"] == 5
    assert program.ask("explain", "10.0.0.7")["rule"] == "block 10.0.0.7/32"
    assert program.ask("explain", f"{GW}:11434/tcp")["rule"] == "allow @host:11434/tcp"
    assert program.ask("explain", "10.0.0.9")["reason"] == "not-global"
    assert program.ask("policy", "set", "--block", "0.0.0.0/0")["allow"] == []
    program.exchange(corpus.FROM_VM, [(to(LAN), "blocked")])
    assert "1 Softnets" not in program.cli("policy", "get")
    top = program.cli("top", "--count", "1")
    assert "REFUSED BY REASON" in top
    assert f"{VM}:40000 -> {LAN}:443" in top
    assert "by block 0.0.0.0/0" in top
    assert "no such Softnet" in program.cli("stats", "--vm", "02:00:00:00:00:01", code=1)
    assert "Invalid params" in program.cli("policy", "allow", "@host:ssh", code=1)
    assert "would change the isolation" in program.cli("policy", "allow", "0.0.0.0/0", code=1)


def test_the_registry_forgets_the_dead(start: Callable[..., Observed], home: Path) -> None:
    one, two = start(), start()
    eventually(lambda: len(one.ask("ps")) == 2, "two entries")
    assert "choose one with --vm" in one.cli("stats", code=1)
    folder = home / "run"
    assert folder.stat().st_mode & 0o777 == 0o700
    one.process.kill()
    one.process.wait()
    assert len(os.listdir(folder)) == 2
    (left,) = two.ask("ps")
    assert left["pid"] == two.process.pid
    assert os.listdir(folder) == [f"{two.process.pid}.sock"]
    two.end()
    assert two.ask("ps") == [], (
        "root's own sockets outlive the filter, which is nobody by then, until the next look"
    )
    assert os.listdir(folder) == []


def test_the_control_socket_is_the_owners_and_replaced_by_the_next(
    start: Callable[..., Observed], tmp_path: Path
) -> None:
    path = tmp_path / "control.sock"
    program = start("--control", str(path))
    assert path.stat().st_mode & 0o777 == 0o600
    assert program.ask("stats", "--vm", str(path))["vm"] == VM_MAC
    program.end()
    assert program.code == 0
    again = start("--control", str(path))
    assert again.ask("stats", "--vm", str(path))["pid"] == again.process.pid


def test_metrics_of_one_and_of_all(start: Callable[..., Observed], tmp_path: Path) -> None:
    path = tmp_path / "metrics.sock"
    program = start("--metrics", f"unix:{path}")
    program.exchange(corpus.FROM_VM, [(to(GLOBAL), "pass-global")])

    def page(where: str) -> str:
        peer = socket.socket(socket.AF_UNIX)
        peer.settimeout(PATIENCE)
        peer.connect(where)
        peer.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while more := peer.recv(65536):
            answer += more
        peer.close()
        return answer.decode()

    assert 'reason="pass-global",verdict="pass"} 1\n' in page(str(path))
    second = start()
    everybody = tmp_path / "all.sock"
    words = command("exporter", "--listen", f"unix:{everybody}")
    exporter = subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True)
    assert exporter.stderr is not None
    assert "serving metrics" in exporter.stderr.readline()
    text = page(str(everybody))
    for running in (program, second):
        assert f'pid="{running.process.pid}"' in text
    exporter.send_signal(signal.SIGTERM)
    assert exporter.wait(PATIENCE) == 0
    exporter.stderr.close()


def capturing(*words: str, output: Any = None) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(command("capture", *words), env=environment(), stdout=output, cwd="/")


def tshark(path: Path) -> list[list[str]]:
    program = shutil.which("tshark")
    if program is None:
        pytest.skip("tshark is not installed")
    fields = [word for field in ("ip.dst", "tcp.dstport", "frame.comment") for word in ("-e", field)]
    ran = subprocess.run([program, "-r", str(path), "-T", "fields", *fields], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return [line.split("\t") for line in ran.stdout.splitlines()]


def test_captures_that_tshark_reads(start: Callable[..., Observed], tmp_path: Path) -> None:
    program = start(block="10.0.0.0/8")
    everything, refused = tmp_path / "all.pcapng", tmp_path / "refused.pcapng"
    captures = [capturing("-w", str(everything), "--frames", "40")]
    captures.append(capturing("-w", str(refused), "--dropped", "--ring", "3"))
    eventually(
        lambda: all(path.exists() and path.stat().st_size for path in (refused, everything)), "both headers"
    )
    for port in range(1, 21):
        program.vm.send(to(LAN, port))
        program.exchange(corpus.FROM_VM, [(to(GLOBAL, port), "pass-global")])
    assert captures[0].wait(PATIENCE) == 0
    captures[1].send_signal(signal.SIGINT)
    assert captures[1].wait(PATIENCE) == 0
    rows = tshark(everything)
    assert len(rows) == 40
    assert rows[0][:2] == [LAN, "1"]
    assert rows[0][2].startswith("drop blocked: ")
    assert rows[1] == [GLOBAL, "1", "pass pass-global: the destination is a globally reachable address"]
    assert [row[1] for row in tshark(refused)] == ["18", "19", "20"]
    program.exchange(corpus.FROM_VM, [(to(GLOBAL), "pass-global")])


def test_a_capture_keeps_to_its_limit_and_ends_with_the_vm(
    start: Callable[..., Observed], tmp_path: Path
) -> None:
    program = start()
    limited, piped = tmp_path / "limited.pcapng", tmp_path / "piped.pcapng"
    with open(piped, "wb") as output:
        captures = [capturing("-w", str(limited), "--limit", "4000"), capturing(output=output)]
    eventually(lambda: piped.stat().st_size and limited.exists() and limited.stat().st_size, "both headers")
    for port in range(1, 11):
        program.exchange(corpus.FROM_VM, [(to(GLOBAL, port, size=700), "pass-global")])
    assert captures[0].wait(PATIENCE) == 0
    assert 3000 < limited.stat().st_size <= 4000
    assert 0 < len(tshark(limited)) < 10
    program.end()
    assert captures[1].wait(PATIENCE) == 0
    assert len(tshark(piped)) == 20, "each with the marker that followed it"


def test_a_policy_file_is_the_policy(start: Callable[..., Observed], tmp_path: Path) -> None:
    file = tmp_path / "vm.toml"
    file.write_text('version = 1\nallow = ["10.0.0.0/8:443/tcp"]\nblock = ["0.0.0.0/0"]\ndeny = "reject"\n')
    program = start("--policy", str(file), allow="10.0.0.9")
    program.exchange(corpus.FROM_VM, [(to(LAN), "pass-rule"), (to("10.0.0.9", 80), "pass-rule")])
    program.vm.send(to(GLOBAL))
    assert program.vm.receive()[47] == 0x14
    assert program.cli("check", str(file)) == f"{file}: 2 rules (stateless), 0 exposed ports\n"
    file.write_text('version = 1\nallow = ["10.0.0.0/8:443/tpc"]\n')
    assert f"{file}:2:10: allow '10.0.0.0/8:443/tpc': the protocol 'tpc'" in program.cli(
        "check", str(file), code=2
    )
    assert program.ask("explain", "10.3.3.3:443", "--allow", "10.0.0.0/8")["reason"] == "pass-rule"


def test_a_stateful_policy_through_the_program(start: Callable[..., Observed]) -> None:
    program = start(allow="out 10.0.0.5:443", block="0.0.0.0/0")
    back = ethernet(VM_MAC, GW_MAC, IPV4, ipv4(LAN, VM, TCP, tcp(443, 40000, flags=0x12)))
    program.exchange("to-vm", [(back, "blocked")])
    program.exchange(corpus.FROM_VM, [(to(LAN), "pass-rule")])
    program.exchange("to-vm", [(back, "pass-return")])
    assert program.ask("stats")["flows"] == 1
    assert program.ask("explain", f"{LAN}:443", "--in", "--vm", VM_MAC)["reason"] == "blocked"


def test_a_hostile_vm_with_flows_without_end(start: Callable[..., Observed], tmp_path: Path) -> None:
    """FLOWS refused and tracked flows: memory and events stay bounded, traffic goes on."""
    log = tmp_path / "events"
    program = start("--events", str(log), allow="out 10.0.0.5:443", block="in 0.0.0.0/0,10.0.0.0/8")
    program.exchange(corpus.FROM_VM, [(to(LAN), "pass-rule")])

    def resident() -> int:
        status = Path(f"/proc/{program.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])

    sent = 0

    def flood(count: int) -> None:
        nonlocal sent
        for _ in range(count):
            sent += 1
            address = f"10.{sent >> 16 & 255}.{sent >> 8 & 255}.{sent & 255}"
            program.vm.send(to(address, sent % 60000 + 1, sent * 7 % 60000 + 1))

    flood(10_000)
    before = resident()
    flood(FLOWS - sent)
    assert resident() - before < 2000, "kilobytes"
    program.exchange(corpus.FROM_VM, [(to(LAN, source_port=40000), "pass-rule")])
    assert log.stat().st_size < 1 << 20
    assert program.ask("stats")["unreported"] > 0
    assert sys.getsizeof(events(log, "drop")) < 1 << 20
