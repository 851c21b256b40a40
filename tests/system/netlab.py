"""Networks to try things in: namespaces, cables between them, and VMs that are namespaces too.

    with Lab() as lab:
        host, internet = lab.namespace("host"), lab.namespace("internet")
        lab.cable(host, "eth0", "192.0.2.2/24", internet, "eth0", "192.0.2.1/24")
        host.ip("route add default via 192.0.2.1")
        vm = lab.vm("vm", mac="02:00:00:00:00:0a")   # vm.fd is what `--vm-fd` wants
        softnet = lab.softnet(host, vm, "--uplink", "nat")   # ready when this returns
        assert vm.lease()["ip"] and vm.pings("192.0.2.1")

Everything carries the prefix `snt<pid>-` and disappears with the lab: processes of its namespaces are
killed, namespaces and their devices deleted. Nothing of the machine's own network is touched: even
what needs a socket or a TAP in a namespace is made by a thread that entered it. A VM is a namespace
whose `eth0` is a TAP; a thread carries its frames to and from a datagram socket pair, one frame a
datagram, as a hypervisor does.
"""

import ctypes
import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import softnet

PYTHON = sys.executable
TESTS = str(Path(__file__).parents[1])
SOURCE = str(Path(softnet.__file__).parents[1])  # the build under test: installed, or this checkout's

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
ETH_P_ALL = 3
SOCKET_BUFFER = 1 << 20

Result = TypeVar("Result")
_libc = ctypes.CDLL(None, use_errno=True)


def wait_until(condition: Callable[[], Result], seconds: float = 10.0, what: str = "") -> Result:
    """The first true value of `condition`; AssertionError when none comes in time."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or condition}")
        time.sleep(0.02)


class Namespace:
    """A network namespace. `run` waits for a program in it, `start` leaves one running there."""

    def __init__(self, name: str) -> None:
        self.name = name
        subprocess.run(["ip", "netns", "add", name], check=True)
        self.ip("link set lo up")

    def command(self, *argv: str) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{self.name}", "--", *argv]

    def run(
        self, *argv: str, check: bool = True, timeout: float = 30, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Standard output and error as text; AssertionError with both when it fails and `check` is set."""
        done = subprocess.run(
            self.command(*argv), capture_output=True, text=True, timeout=timeout, check=False, **options
        )
        assert done.returncode == 0 or not check, f"{' '.join(argv)}: {done.stdout}{done.stderr}"
        return done

    def start(self, *argv: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(self.command(*argv), text=True, **options)

    def ip(self, commands: str) -> str:
        """`ip` commands, one a line."""
        lines = [line.strip() for line in commands.strip().splitlines()]
        return "".join(self.run("ip", *line.split()).stdout for line in lines)

    def nft(self, text: str) -> str:
        return self.run("nft", "-f", "-", input=text).stdout

    def ruleset(self) -> str:
        return self.run("nft", "list", "ruleset").stdout

    def devices(self) -> list[str]:
        return self.enter(lambda: [name for _index, name in socket.if_nameindex()])

    def mac(self, device: str) -> str:
        return self.run("cat", f"/sys/class/net/{device}/address").stdout.strip()

    def sysctl(self, name: str, value: object = None) -> str:
        """Reads (or sets) `net.NAME`, with slashes: "ipv4/ip_forward"."""

        def access() -> str:
            path = Path("/proc/sys/net", name)
            if value is not None:
                path.write_text(str(value))
            return path.read_text().strip()

        return self.enter(access)

    def enter(self, function: Callable[[], Result]) -> Result:
        """Calls `function` in this namespace, in a thread of its own (sockets stay where they are made)."""
        results: list[Result] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                descriptor = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
                try:
                    if _libc.setns(descriptor, CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                finally:
                    os.close(descriptor)
                results.append(function())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def open_socket(self, *arguments: int) -> socket.socket:
        return self.enter(lambda: socket.socket(*arguments))

    def udp(self, address: str = "0.0.0.0", port: int = 0) -> socket.socket:
        """A bound UDP socket with a timeout of two seconds."""
        opened = self.open_socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.settimeout(2)
        opened.bind((address, port))
        return opened

    def listener(self, address: str, port: int) -> socket.socket:
        opened = self.open_socket(socket.AF_INET, socket.SOCK_STREAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.settimeout(2)
        opened.bind((address, port))
        opened.listen()
        return opened

    def connect(self, address: str, port: int, timeout: float = 2) -> socket.socket:
        opened = self.open_socket(socket.AF_INET, socket.SOCK_STREAM)
        opened.settimeout(timeout)
        opened.connect((address, port))
        return opened

    def sniff(self, device: str) -> "Sniffer":
        return Sniffer(self, device)

    def pings(self, address: str, count: int = 1, seconds: float = 1) -> bool:
        """Whether `address` answers to ICMP echo."""
        options = ("-n", "-c", str(count), "-i", "0.2", "-W", str(seconds), address)
        return self.run("ping", *options, check=False).returncode == 0

    def processes(self) -> list[int]:
        return [int(pid) for pid in subprocess.check_output(["ip", "netns", "pids", self.name]).split()]

    def close(self) -> None:
        for pid in self.processes():
            if pid != os.getpid():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        subprocess.run(["ip", "netns", "del", self.name], check=True)


class Sniffer:
    """All frames that a device sends or receives from now on."""

    def __init__(self, namespace: Namespace, device: str) -> None:
        self._socket = namespace.open_socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.bind((device, ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)

    def frames(self, quiet: float = 0.3) -> list[bytes]:
        """What came so far, and until nothing comes for `quiet` seconds."""
        found = []
        while select.select([self._socket], [], [], quiet)[0]:
            found.append(self._socket.recv(65536))
        return found

    def send(self, frame: bytes) -> None:
        self._socket.send(frame)

    def close(self) -> None:
        self._socket.close()


class Vm(Namespace):
    """A namespace that plays a VM. `fd` is the hypervisor's side of the socket pair, inheritable.

    Its `eth0` is up and has no address. `unplug` closes the hypervisor's side, as a VM that ends does.
    """

    def __init__(self, name: str, mac: str, mtu: int = 1500) -> None:
        super().__init__(name)
        self.mac_address = mac
        self._tap = self.enter(self._open_tap)
        self.ip(f"link set eth0 address {mac} mtu {mtu}\nlink set eth0 up")
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for end in (near, far):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)
        near.setblocking(False)
        self._near, self.far = near, far
        far.set_inheritable(True)
        self.fd = far.fileno()
        self._stop, self._stopped = os.pipe()
        self._pump = threading.Thread(target=self._carry, daemon=True)
        self._pump.start()

    @staticmethod
    def _open_tap() -> int:
        tap = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", b"eth0", IFF_TAP | IFF_NO_PI))
        return tap

    def _carry(self) -> None:
        """One thread for both directions; a full side loses the frame, as a cable does."""
        sides = {self._tap: self._to_socket, self._near.fileno(): self._to_tap}
        while True:
            ready = select.select([*sides, self._stop], [], [])[0]
            if self._stop in ready:
                return
            for descriptor in ready:
                try:
                    sides[descriptor]()
                except (BlockingIOError, OSError):
                    if self._near.fileno() < 0:
                        return

    def _to_socket(self) -> None:
        self._near.send(os.read(self._tap, 65536))

    def _to_tap(self) -> None:
        os.write(self._tap, self._near.recv(65536))

    def unplug(self) -> None:
        """The VM ends: the pump stops and its side of the socket pair closes."""
        if self._stopped >= 0:
            os.close(self._stopped)
            self._stopped = -1
            self._pump.join()
            self._near.close()
            self.far.close()
            os.close(self._tap)
            os.close(self._stop)

    def lease(self) -> dict[str, str]:
        """Gets a lease with busybox' client, configures `eth0` by it, and returns what the client was told.

        Keys are udhcpc's: ip, mask (a prefix length), router, dns, serverid, lease, mtu, ...
        """
        with tempfile.NamedTemporaryFile("w", prefix="snt-", suffix=".sh", delete=False) as script:
            script.write('#!/bin/sh\n[ "$1" != bound ] || env\n')
        try:
            os.chmod(script.name, 0o700)
            wishes = [word for option in ("mtu", "broadcast", "dns", "router") for word in ("-O", option)]
            client = ("busybox", "udhcpc", "-i", "eth0", "-f", "-n", "-q", "-t", "5", "-T", "1")
            told = self.run(*client, *wishes, "-s", script.name).stdout
        finally:
            os.unlink(script.name)
        lease = dict(line.split("=", 1) for line in told.splitlines() if "=" in line)
        self.ip(f"address flush dev eth0\naddress add {lease['ip']}/{lease['mask']} dev eth0")
        if "router" in lease:
            self.ip(f"route replace default via {lease['router'].split()[0]}")
        return lease

    def close(self) -> None:
        self.unplug()
        super().close()


def program(*arguments: str) -> tuple[str, ...]:
    """Python with the Softnet under test, and the tests, as an argv: `program("-m", "softnet", ...)`."""
    return ("env", f"PYTHONPATH={SOURCE}:{TESTS}", PYTHON, "-P", *arguments)


class Softnet:
    """A running Softnet; ready when made. AssertionError with what it wrote when it does not get so far."""

    def __init__(
        self, host: Namespace, vm: Vm, *options: str, wrapper: Sequence[str] = (), fds: Sequence[int] = ()
    ) -> None:
        ours, theirs = socket.socketpair()
        self._errors = tempfile.TemporaryFile("w+", prefix="snt-")  # noqa: SIM115 - closed by `stop`
        words = ("-m", "softnet", "--vm-fd", str(vm.fd), "--vm-mac-address", vm.mac_address)
        drop = () if "--user" in options else ("--user", "nobody")
        self.process = host.start(
            *wrapper,
            *program(*words, "--supervisor-fd", str(theirs.fileno()), *drop, *options),
            pass_fds=[vm.fd, theirs.fileno(), *fds],
            stderr=self._errors,
        )
        theirs.close()
        self._supervisor = ours
        ours.settimeout(20)
        try:
            is_ready = bool(ours.recv(1))
        except TimeoutError:
            self.process.kill()
            is_ready = False
        if not is_ready:
            raise AssertionError(f"softnet ended with {self.process.wait(10)}: {self.errors()}")

    def errors(self) -> str:
        """What it wrote to standard error so far."""
        self._errors.seek(0)
        return self._errors.read()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ends it with a signal and returns the exit code."""
        self.process.send_signal(number)
        status = self.process.wait(10)
        self._supervisor.close()
        return status

    def close(self) -> None:
        if self.process.poll() is None:
            self.stop(signal.SIGKILL)
        self._supervisor.close()
        self._errors.close()


Kept = TypeVar("Kept", bound=Namespace)


class Lab:
    """Namespaces with unique names that are gone when the `with` block ends."""

    _numbers: Iterator[int] = iter(range(1, 1 << 30))

    def __init__(self) -> None:
        self._prefix = f"snt{os.getpid()}-{next(self._numbers)}-"
        self._namespaces: list[Namespace] = []
        self._programs: list[Softnet] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._programs:
            self._programs.pop().close()
        while self._namespaces:
            self._namespaces.pop().close()

    def namespace(self, name: str) -> Namespace:
        return self._keep(Namespace(self._prefix + name))

    def vm(self, name: str, mac: str, mtu: int = 1500) -> Vm:
        return self._keep(Vm(self._prefix + name, mac, mtu))

    def cable(
        self, left: Namespace, device: str, address: str, right: Namespace, peer: str, other: str
    ) -> None:
        """A veth pair, each end up and with its address ("" for none)."""
        subprocess.run(
            f"ip link add {device} netns {left.name} type veth peer name {peer} netns {right.name}".split(),
            check=True,
        )
        for namespace, name, wanted in ((left, device, address), (right, peer, other)):
            if wanted:
                namespace.ip(f"address add {wanted} dev {name}")
            namespace.ip(f"link set {name} up")

    def softnet(
        self, host: Namespace, vm: Vm, *options: str, wrapper: Sequence[str] = (), fds: Sequence[int] = ()
    ) -> Softnet:
        """Starts the program of this checkout for `vm`; `wrapper` goes before its command line."""
        running = Softnet(host, vm, *options, wrapper=wrapper, fds=fds)
        self._programs.append(running)
        return running

    def _keep(self, namespace: Kept) -> Kept:
        self._namespaces.append(namespace)
        return namespace
