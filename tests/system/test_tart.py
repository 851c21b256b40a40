"""Tart's part, played to the letter against the whole program, over the twin.

What Tart does: a datagram socket pair with 4 MiB to receive and 1 MiB to send on both ends; its end as
standard input of `softnet`, found in PATH; with the newer contract a connected stream socket as
standard output, `--control-fd 1`; the arguments as below; SIGINT to stop, and then it waits. Before
that, in a terminal, `softnet --help` has to end with 0. If Softnet ends by itself, the VM is ended.
"""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from harness.frames import DHCP_OPTIONS_AT, DISCOVER, END, OFFER, Bootp, ethernet, ipv4, mac, option, udp
from twin import support
from twin.stage import PROGRAM, Stage

pytestmark = pytest.mark.root

MAC = "7a:65:e4:3f:b2:01"
RECEIVE_BYTES, SEND_BYTES = 4 << 20, 1 << 20
PATIENCE = 10.0


class Tart:
    """The VM's side (`vm`), the control channel (`control`), and the process."""

    def __init__(self, stage: Stage, path: Path, *arguments: str, control: bool = False) -> None:
        self.vm, packets = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM, 0)
        for end in (self.vm, packets):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
        self.control, output = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM, 0)
        self.control.settimeout(PATIENCE)
        words = ["softnet", "--vm-fd", "0", "--vm-mac-address", MAC, *arguments]
        if control:
            words += ["--control-fd", "1"]
        self.process = stage.host.start(
            *words, stdin=packets, stdout=output, stderr=subprocess.PIPE, env=found_in(path)
        )
        packets.close()
        output.close()
        self.vm.settimeout(0.3)

    def offered(self, xid: int = 7) -> bool:
        """Whether a DHCPDISCOVER of the VM is answered, while Softnet runs."""
        message = Bootp(xid=xid, chaddr=mac(MAC), options=option(53, bytes([DISCOVER])) + END).pack()
        packet = ipv4("0.0.0.0", "255.255.255.255", 17, udp(68, 67, message))
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.process.poll() is None:
            with suppress(OSError):
                self.vm.send(ethernet("ff:ff:ff:ff:ff:ff", MAC, 0x0800, packet))
                while frame := self.vm.recv(65536):
                    if option(53, bytes([OFFER])) in frame[DHCP_OPTIONS_AT:]:
                        return True
        return False

    def interrupt(self) -> tuple[int, str]:
        """What `Process.interrupt` and waiting for the end give: the exit code and the complaints."""
        self.process.send_signal(signal.SIGINT)
        return self.ended()

    def ended(self) -> tuple[int, str]:
        complaints = self.process.communicate(timeout=PATIENCE)[1]
        return self.process.returncode, complaints

    def written(self) -> bytes:
        """All that was ever written to the socket on standard output."""
        with suppress(ConnectionResetError):
            return self.control.recv(65536)
        return b""

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        self.vm.close()
        self.control.close()


def found_in(path: Path) -> dict[str, str]:
    return {"PATH": f"{path}:/usr/bin:/bin:/usr/sbin:/sbin", "VMNET_TWIN": str(support.folder())}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A folder for PATH, with `softnet` in it."""
    program = tmp_path / "softnet"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -P {PROGRAM} "$@"\n')
    program.chmod(0o755)
    return tmp_path


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage() as made:
        yield made


ARGUMENTS = [
    (),
    ("--vm-net-type", "host"),
    ("--allow", "192.168.0.0/24"),
    ("--allow", "10.0.0.0/8,192.168.64.0/24", "--block", "0.0.0.0/0"),
    ("--block", "66.66.0.0/16", "--expose", "2222:22,8080:80"),
]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=" ".join)
def test_a_run_from_the_first_frame_to_sigint(stage: Stage, path: Path, arguments: tuple[str, ...]) -> None:
    tart = Tart(stage, path, *arguments)
    try:
        assert tart.offered()
        assert tart.interrupt() == (0, "")
        assert tart.written() == b""
    finally:
        tart.close()


def test_help_as_the_probe_asks_for_it(path: Path) -> None:
    """`sudo --non-interactive softnet --help` runs it without a VM, and looks at the exit code alone."""
    done = subprocess.run(
        ["softnet", "--help"], env=found_in(path), capture_output=True, text=True, timeout=20
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_control_socket_on_standard_output_hears_only_answers(stage: Stage, path: Path) -> None:
    tart = Tart(stage, path, "--block", "0.0.0.0/0", control=True)
    try:
        assert tart.offered()
        assert tart.interrupt() == (0, "")
        assert tart.written() == b""
    finally:
        tart.close()


def test_the_policy_is_read_and_replaced_over_standard_output(stage: Stage, path: Path) -> None:
    tart = Tart(stage, path, "--block", "0.0.0.0/0", control=True)

    def ask(text: str) -> dict[str, Any]:
        tart.control.sendall(text.encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            answer += tart.control.recv(65536)
        result: dict[str, Any] = json.loads(answer)
        return result

    try:
        assert tart.offered()
        held = ask('{"jsonrpc":"2.0","id":1,"method":"softnet.policy.get"}')
        assert (held["id"], held["result"]["block"], held["result"]["allow"]) == (1, ["0.0.0.0/0"], [])
        params = '{"allow":["@host","10.0.0.0/8"],"block":["0.0.0.0/0"],"desiredRevision":"vm:2"}'
        answer = ask(f'{{"jsonrpc":"2.0","id":"42","method":"softnet.policy.set","params":{params}}}')
        assert answer["result"]["allow"] == ["10.0.0.0/8", "@host"]
        assert (answer["result"]["desiredRevision"], answer["result"]["ruleCount"]) == ("vm:2", 3)
        assert ask('{"jsonrpc":"2.0","id":3,"method":"softnet.policy.none"}')["error"]["code"] == -32601
        assert tart.interrupt() == (0, "")
        assert tart.written() == b""
    finally:
        tart.close()


def test_sigint_under_load(stage: Stage, path: Path) -> None:
    tart = Tart(stage, path)
    try:
        assert tart.offered()
        tart.vm.setblocking(False)
        flood = ethernet(
            "ff:ff:ff:ff:ff:ff", MAC, 0x0800, ipv4("0.0.0.0", "192.0.2.1", 17, udp(9, 9, bytes(1400)))
        )
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            with suppress(BlockingIOError):
                tart.vm.send(flood)
        begun = time.monotonic()
        assert tart.interrupt() == (0, "")
        assert time.monotonic() - begun < 1
    finally:
        tart.close()


def test_a_vm_that_goes_away(stage: Stage, path: Path) -> None:
    """Tart closes its end when the VM has stopped; an inherited datagram pair says so within ten seconds."""
    tart = Tart(stage, path)
    try:
        assert tart.offered()
        tart.vm.close()
        assert tart.process.wait(12) == 0
        assert tart.written() == b""
    finally:
        tart.close()


@pytest.mark.parametrize(
    ("arguments", "status", "named"),
    [
        (("--allow", "10.0.0.0/33"), 2, "--allow"),
        (("--vm-net-type", "bridged"), 2, "--vm-net-type"),
        (("--expose", "127.0.0.1:8080:80"), 2, "--expose"),
        (("--bootpd-lease-time", "0"), 2, "--bootpd-lease-time"),
    ],
)
def test_a_wrong_argument_is_one_line_on_standard_error(
    stage: Stage, path: Path, arguments: tuple[str, ...], status: int, named: str
) -> None:
    """Tart shows it: standard error is the user's terminal."""
    tart = Tart(stage, path, *arguments)
    try:
        code, complaints = tart.ended()
        assert code == status
        assert named in complaints
        assert complaints.startswith("softnet: ")
        assert complaints.count("\n") == 1
        assert tart.written() == b""
    finally:
        tart.close()


def test_a_failed_start_is_one_line_too(stage: Stage, path: Path) -> None:
    script = path / "softnet"
    script.write_text(script.read_text().replace("exec ", "export TWIN_START=null; exec "))
    tart = Tart(stage, path)
    try:
        assert tart.ended() == (1, "softnet: vmnet_start_interface: VMNET_FAILURE (1001)\n")
        assert tart.written() == b""
    finally:
        tart.close()
