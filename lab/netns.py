"""Network namespaces that have no name: a descriptor of this process holds each, and nothing else does.

They, and whatever was started inside, end with this process however it ends: the kernel closes the
descriptors, and `setpriv --pdeathsig` has it kill the programs. So nothing can be left over and
nothing has to be found and removed by name. To look inside while it runs:
`nsenter --net=/proc/PID/fd/N`.
"""

import ctypes
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO

CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}; the lab needs root and network namespaces")


def tied_to_us(argv: Sequence[str]) -> list[str]:
    """The command, killed when the thread that starts it ends, even by SIGKILL."""
    return ["setpriv", "--pdeathsig", "KILL", *argv]


def stop(process: subprocess.Popen[bytes], patience: float = 3.0) -> int:
    """SIGTERM, and SIGKILL for whoever does not end by it; the exit status."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


class Namespace:
    """One network namespace; `name` is only for people."""

    def __init__(self, name: str) -> None:
        self.name = name
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            _checked(_libc.unshare(CLONE_NEWNET), "unshare")
            self._fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        finally:
            _checked(_libc.setns(home, CLONE_NEWNET), "setns")
            os.close(home)
        self.ip("link set lo up")

    @property
    def path(self) -> str:
        """What `ip link ... netns PATH` and nsenter take."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Sockets that this thread opens meanwhile belong to the namespace for good."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        _checked(_libc.setns(self._fd, CLONE_NEWNET), "setns")
        try:
            yield
        finally:
            _checked(_libc.setns(home, CLONE_NEWNET), "setns")
            os.close(home)

    def popen(
        self, argv: Sequence[str], stderr: int | IO[bytes] = subprocess.DEVNULL, pass_fds: Sequence[int] = ()
    ) -> subprocess.Popen[bytes]:
        """A program inside, in a process group of its own (^C is for the lab, which then ends it)."""
        return subprocess.Popen(
            tied_to_us(["nsenter", f"--net={self.path}", *argv]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            pass_fds=pass_fds,
            process_group=0,
        )

    def run(self, *argv: str, stdin: str = "", timeout: float = 20) -> str:
        """The output of a program that has to succeed."""
        command = ["nsenter", f"--net={self.path}", *argv]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout)
        if done.returncode:
            raise RuntimeError(f"in {self.name}: {' '.join(argv)}: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def ip(self, *lines: str) -> None:
        """Several `ip` commands in one process."""
        self.run("ip", "-batch", "-", stdin="\n".join(lines))

    def sysctl(self, name: str, value: int) -> None:
        self.run("sh", "-c", f"echo {value} > /proc/sys/{name.replace('.', '/')}")

    def link_to(self, interface: str, other: "Namespace", other_interface: str) -> None:
        """A cable (veth pair) between two namespaces, up at both ends."""
        self.ip(
            f"link add {interface} type veth peer name {other_interface} netns {other.path}",
            f"link set {interface} up",
        )
        other.ip(f"link set {other_interface} up")

    def close(self) -> None:
        os.close(self._fd)
