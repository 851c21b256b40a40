"""A real virtual machine: QEMU under TCG (no KVM needed) with a line-driven shell on its serial console.

States: started by the constructor, which does not wait, so that several boot side by side;
`ready()` waits for the shell; `run()` runs one line and returns its status and output; `close()`
ends it. The constructor is told how to start a command, so the same guest runs on a TAP
(`namespace.popen`), or as the COMMAND of `softnet run`, whose `{fd}` and `{mac}` then go into
`netdev` and `mac`. About 1.4 s to the shell and 130 MB of memory each.

Facts learnt the hard way: without `tsc_early_khz` the microvm now and then hangs in timer
calibration; `reboot -f` leaves QEMU running and growing, so the guest ends by `poweroff -f`.
"""

import os
import re
import select
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import IO, NamedTuple

from lab import netns
from lab.image import Image

MEMORY_MIB = 128
BOOT_SECONDS = 120.0
CONNECT_SECONDS = 60.0
COMMAND_SECONDS = 60.0
CHUNK = 65536

DGRAM = "dgram,id=n0,local.type=fd,local.str={fd}"
STREAM = "stream,id=n0,server=off,addr.type=fd,addr.str={fd}"

Start = Callable[[list[str], IO[bytes]], "subprocess.Popen[bytes]"]


def on_tap(name: str) -> str:
    """A `netdev` for a TAP that is already there, in the namespace QEMU is started in."""
    return f"tap,id=n0,ifname={name},script=no,downscript=no,vnet_hdr=off"


class GuestError(Exception):
    """The VM did not start, ended, or said nothing in time; the message has its last words."""


class Result(NamedTuple):
    status: int
    output: str


def qemu_command(image: Image, console: str, netdev: str, mac: str) -> list[str]:
    """QEMU's command line; `console` is the path of a unix socket that the lab listens on."""
    kernel_line = (
        "console=ttyS0 quiet loglevel=0 panic=-1 mitigations=off nokaslr tsc=reliable no_timer_check "
        f"noreplace-smp random.trust_cpu=on cryptomgr.notests tsc_early_khz={image.tsc_khz}"
    )
    return [
        "qemu-system-x86_64", "-M", "microvm", "-accel", "tcg,thread=single", "-cpu", "qemu64", "-smp", "1",
        "-m", str(MEMORY_MIB), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-kernel", str(image.kernel), "-initrd", str(image.initramfs), "-append", kernel_line,
        "-chardev", f"socket,id=console,path={console}", "-serial", "chardev:console",
        "-netdev", netdev, "-device", f"virtio-net-device,netdev=n0,mac={mac},ctrl_vlan=off",
    ]  # fmt: skip


class Guest:
    """One VM. `start` runs a command with a given standard error and returns the process."""

    def __init__(
        self, name: str, image: Image, start: Start, netdev: str = DGRAM, mac: str = "{mac}"
    ) -> None:
        self.name = name
        self._said = b""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the guest is
        # The socket's path is gone as soon as QEMU has connected: nothing is left after a crash.
        with tempfile.TemporaryDirectory(prefix="softnet-lab-") as folder:
            path = os.path.join(folder, "console")
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path)
                listener.listen(1)
                qemu = netns.tied_to_us(qemu_command(image, path, netdev, mac))
                self.process = start(qemu, self._log)
                self._console = self._accept(listener)

    def _accept(self, listener: socket.socket) -> socket.socket:
        deadline = time.monotonic() + CONNECT_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            if select.select([listener], [], [], 0.05)[0]:
                return listener.accept()[0]
        netns.stop(self.process)
        raise GuestError(f"{self.name} did not start: {self.log.strip() or 'no message'}")

    @property
    def log(self) -> str:
        """What the process (QEMU, or Softnet with QEMU under it) wrote to standard error so far."""
        return os.pread(self._log.fileno(), 1 << 20, 0).decode(errors="replace")

    def ready(self, timeout: float = BOOT_SECONDS) -> "Guest":
        """Waits until the guest's shell takes lines."""
        self._until("VM:READY", timeout)
        return self

    def send(self, line: str) -> None:
        """Hands a line to the shell; `result` waits for what comes of it."""
        self._console.sendall(line.encode() + b"\n")

    def result(self, timeout: float = COMMAND_SECONDS) -> Result:
        output, mark = self._until(r"VM:RC (\d+)", timeout)
        return Result(int(mark[1]), output.strip("\n"))

    def run(self, line: str, timeout: float = COMMAND_SECONDS) -> Result:
        """Runs one line of shell inside the guest."""
        self.send(line)
        return self.result(timeout)

    def must(self, line: str, timeout: float = COMMAND_SECONDS) -> str:
        """The output of a line that has to succeed."""
        result = self.run(line, timeout)
        if result.status:
            raise GuestError(f"{self.name}: {line}: status {result.status}: {result.output}")
        return result.output

    def _until(self, pattern: str, timeout: float) -> tuple[str, re.Match[str]]:
        """Reads up to a whole line that ends in `pattern`; what came before it, and the match."""
        mark = re.compile(f"{pattern}\r?\n")
        deadline = time.monotonic() + timeout
        while True:
            text = self._said.decode(errors="replace")
            if found := mark.search(text):
                self._said = text[found.end() :].encode()
                return text[: found.start()].replace("\r", ""), found
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._console], [], [], left)[0]:
                raise GuestError(f"{self.name} said nothing for {timeout:g} s; last: {text[-300:]!r}")
            chunk = self._console.recv(CHUNK)
            if not chunk:
                raise GuestError(f"{self.name} ended; last: {text[-300:]!r}; log: {self.log[-500:]!r}")
            self._said += chunk

    def close(self) -> int:
        """Ends the VM and whatever runs it; the exit status of the process."""
        status = netns.stop(self.process)
        self._console.close()
        self._log.close()
        return status
