"""Runs the real program between two socket pairs, as Tart or QEMU would, and watches what it says.

Frames go in lock-step: a few in, then what must come out is awaited. So neither a queue of ten
datagrams (Linux's least net.unix.max_dgram_qlen) nor a slow machine makes a frame `busy`.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Self

import softnet
from harness.corpus import FROM_VM, Entry
from harness.frames import ARP, BROADCAST_MAC, arp, ethernet
from vectors.world import NOBODY, OTHER_MAC, VM_MAC

PATIENCE = 5.0
AT_ONCE = 8
TO_VM = "to-vm"
PACKAGE = str(Path(softnet.__file__).parents[1])


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "softnet", *arguments]


ROOTED = """
mount -t tmpfs -o mode=755 softnet-test /mnt && mkdir /mnt/prefix /mnt/package &&
mount --bind "$1" /mnt/prefix && mount --bind "$2" /mnt/package && shift 2 &&
PYTHONPATH=/mnt/package exec /mnt/prefix/bin/python -P -m softnet "$@"
"""


def rooted(*arguments: str) -> list[str]:
    """The same from a path that root alone can write, wherever this checkout lies.

    As root for somebody else, Softnet refuses to run from anywhere else. Needs root.
    """
    return ["unshare", "--mount", "sh", "-c", ROOTED, "sh", sys.prefix, PACKAGE, *arguments]


def command_for(start: Sequence[str], *arguments: str) -> list[str]:
    """`start`, words that make the caller somebody else, and what follows: `rooted` after SUDO_UID=..."""
    by_sudo = any(word.startswith("SUDO_UID=") for word in start)
    return [*start, *(rooted if by_sudo else command)(*arguments)]


def environment() -> dict[str, str]:
    """The tests' own, but so that a child finds the same softnet."""
    return os.environ | {"PYTHONPATH": PACKAGE}


def ask(*arguments: str, before: tuple[str, ...] = (), **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs what must end by itself; as root in a network of its own, for what if it does not refuse?"""
    alone = ("unshare", "--net") if os.geteuid() == 0 and sys.platform == "linux" else ()
    return subprocess.run(
        [*alone, *before, *command(*arguments)],
        capture_output=True,
        text=True,
        timeout=10,
        env=environment(),
        cwd="/",
        **options,
    )


class Wire:
    """One end of a pair whose other end the program has: frames as datagrams or with their length."""

    def __init__(self, kind: socket.SocketKind) -> None:
        self.mine, self.theirs = socket.socketpair(socket.AF_UNIX, kind)
        self.mine.settimeout(PATIENCE)
        self.stream = kind == socket.SOCK_STREAM

    def send(self, frame: bytes) -> None:
        if self.stream:
            self.mine.sendall(len(frame).to_bytes(4, "big") + frame)
        else:
            self.mine.send(frame)

    def receive(self) -> bytes:
        if not self.stream:
            return self.mine.recv(65536)
        return self._exactly(int.from_bytes(self._exactly(4), "big"))

    def waiting(self) -> list[bytes]:
        """What has arrived and nobody has read."""
        found = []
        self.mine.settimeout(0.05)
        try:
            while frame := self.receive():
                found.append(frame)
        except TimeoutError:
            pass
        finally:
            self.mine.settimeout(PATIENCE)
        return found

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self.mine.recv(count - len(data))
            if not part:
                return b""
            data += part
        return data

    def close(self) -> None:
        self.mine.close()
        self.theirs.close()


class Program:
    """`softnet` with the settings of one state of the corpus (host addresses and MACs it cannot be told)."""

    def __init__(
        self,
        state: Entry,
        *extra: str,
        vm: socket.SocketKind = socket.SOCK_DGRAM,
        uplink: Any = socket.SOCK_DGRAM,
        fds: tuple[int, ...] = (),
    ) -> None:
        self.vm, self.uplink = Wire(vm), Wire(uplink)
        self.sent: dict[str, Counter[str]] = {FROM_VM: Counter(), TO_VM: Counter()}
        self.errors = TemporaryFile("w+")  # noqa: SIM115
        self.output, output = socket.socketpair()
        self.process = subprocess.Popen(
            command(*self._arguments(state), *extra),
            stdin=self.vm.theirs,
            stdout=output,
            stderr=self.errors,
            pass_fds=(self.uplink.theirs.fileno(), *fds),
            env=environment(),
            cwd="/",
        )
        output.close()
        self.vm.theirs.close()
        self.uplink.theirs.close()
        self.code: int | None = None

    def _arguments(self, state: Entry) -> list[str]:
        words = ["--vm-fd", "0", "--vm-mac-address", state["mac"], "--mtu", str(state["mtu"]), "--summary"]
        words += ["--uplink", f"fd={self.uplink.theirs.fileno()}"]
        words += [] if state["gateway"] is None else ["--gateway", state["gateway"]]
        for option in ("allow", "block"):
            for text in state[option]:
                words += [f"--{option}", text]
        return words

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.vm.close()
        self.uplink.close()
        self.output.close()
        self.errors.close()

    def exchange(self, direction: str, frames: list[tuple[bytes, str]]) -> None:
        """Sends frames with their reasons; what passes comes out the other side, the same and in order."""
        source, sink = (self.vm, self.uplink) if direction == FROM_VM else (self.uplink, self.vm)
        marker = (self.marker(direction), "pass-arp" if direction == FROM_VM else "pass-inbound")
        for at in range(0, len(frames), AT_ONCE):
            some = [*frames[at : at + AT_ONCE], marker]
            for frame, reason in some:
                source.send(frame)
                self.sent[direction][reason] += 1
            for frame, reason in some:
                if reason.startswith("pass-"):
                    arrived = sink.receive()
                    assert arrived == frame, f"{reason}: {arrived.hex()} arrived, not {frame.hex()}"

    @staticmethod
    def marker(direction: str) -> bytes:
        """A frame that passes in every state, and that no other frame is equal to."""
        source = VM_MAC if direction == FROM_VM else OTHER_MAC
        return ethernet(BROADCAST_MAC, source, ARP, arp(1, source, NOBODY, "192.0.2.254"))

    def play(self, steps: list[Entry]) -> None:
        """A sequence, in real time."""
        began = time.monotonic()
        for step in steps:
            time.sleep(max(0.0, began + step["now"] - time.monotonic()))
            frame = bytes.fromhex(step["frame"])
            self.exchange(step["direction"], [(frame, step["reason"])] * step.get("repeat", 1))

    def reach(self, state: Entry) -> None:
        self.play(state["steps"])
        time.sleep(state["now"])

    def end(self, number: int = signal.SIGTERM) -> float:
        """Ends the program with a signal; returns the seconds that it took."""
        began = time.monotonic()
        self.process.send_signal(number)
        self.wait(PATIENCE)
        return time.monotonic() - began

    def wait(self, seconds: float) -> int:
        self.code = self.process.wait(seconds)
        return self.code

    def silent(self) -> bool:
        """Whether nothing was ever written to standard output (after the end)."""
        self.output.settimeout(PATIENCE)
        return self.output.recv(1) == b""

    def said(self) -> list[str]:
        """The lines of standard error."""
        self.errors.seek(0)
        return self.errors.read().splitlines()

    def counted(self) -> dict[str, Counter[str]]:
        """The summary that the program printed last, by direction and reason."""
        found: dict[str, Counter[str]] = {FROM_VM: Counter(), TO_VM: Counter()}
        for line in self.said():
            words = line.removeprefix("softnet: ").split()
            if words and words[0] in found:
                pairs = (word.split("=") for word in words[1:] if "=" in word)
                found[words[0]] = Counter({reason: int(count) for reason, count in pairs})
        return found
