"""A Mac of namespaces for system tests: bridge100, a real DHCP server on it, and Softnet over the twin.

    with Stage() as stage:
        vm = stage.vm("vm", "02:00:00:00:00:0a")
        softnet = stage.softnet(vm, "--expose", "8080:80")
        vm.lease()

Needs root. Softnet becomes nobody as soon as its interface is up.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from system.netlab import Lab, Namespace, Vm, wait_until
from twin import support

GATEWAY = "192.168.64.1"
PROGRAM = Path(__file__).with_name("mac.py")


class Softnet:
    """A running Softnet for `vm`; ready when made."""

    def __init__(self, host: Namespace, vm: Vm, directory: Path, *options: str) -> None:
        self.log_path = directory / f"{vm.name}.log"
        self._errors = (directory / f"{vm.name}.err").open("w+")
        ours, theirs = socket.socketpair()
        twin = {"VMNET_TWIN": str(support.folder()), "TWIN_NFT": "1", "TWIN_LOG": str(self.log_path)}
        identity = ("--vm-fd", str(vm.fd), "--vm-mac-address", vm.mac_address, "--user", "nobody")
        supervised = ("--supervisor-fd", str(theirs.fileno()))
        self.process = host.start(
            *(sys.executable, "-P", str(PROGRAM), *identity, *supervised, *options),
            env=os.environ | twin,
            pass_fds=[vm.fd, theirs.fileno()],
            stderr=self._errors,
            stdout=subprocess.PIPE,
        )
        theirs.close()
        self._supervisor = ours
        ours.settimeout(20)
        assert ours.recv(1), f"softnet ended with {self.process.wait(10)}: {self.errors()}"

    def errors(self) -> str:
        self._errors.flush()
        return Path(self._errors.name).read_text()

    def log(self) -> list[str]:
        return self.log_path.read_text().splitlines()

    def status(self, field: str) -> list[str]:
        """A line of /proc/PID/status, without its name."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(line.split()[1:] for line in lines if line.startswith(field + ":"))

    def stop(self, number: int = signal.SIGINT) -> tuple[int, float]:
        """The exit code, and how many seconds the end took."""
        begun = time.monotonic()
        self.process.send_signal(number)
        return self.process.wait(20), time.monotonic() - begun

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._supervisor.close()
        self._errors.close()


class Stage(Lab):
    """The host namespace forwards, has bridge100 with the gateway's address, and dnsmasq serves leases."""

    def __init__(self) -> None:
        super().__init__()
        if shutil.which("dnsmasq") is None or shutil.which("nft") is None:
            pytest.skip("needs a DHCP server and nft: apt-get install dnsmasq-base nftables")
        self.directory = Path(tempfile.mkdtemp(prefix="snt-stage-"))
        self.directory.chmod(0o755)
        self._softnets: list[Softnet] = []

    def __enter__(self) -> Self:
        support.folder()
        self.host = self.namespace("mac")
        self.host.sysctl("ipv4/ip_forward", 1)
        self.host.sysctl("ipv4/conf/all/route_localnet", 1)
        self.host.ip(
            f"link add bridge100 type bridge\naddress add {GATEWAY}/24 dev bridge100\nlink set bridge100 up"
        )
        self.leases_path = self.directory / "leases"
        self._dnsmasq = self.host.start(
            *("dnsmasq", "--keep-in-foreground", "--port=0", "--interface=bridge100", "--bind-interfaces"),
            *("--dhcp-range=192.168.64.2,192.168.64.254,600", "--dhcp-authoritative", "--no-ping"),
            *(
                f"--dhcp-leasefile={self.leases_path}",
                "--conf-file=/dev/null",
                "--log-facility=-",
                "--user=root",
            ),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: self._listens("67"), what="dnsmasq")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for softnet in self._softnets:
            softnet.close()
        self._dnsmasq.kill()
        self._dnsmasq.wait()
        super().__exit__(kind, value, trace)
        shutil.rmtree(self.directory)

    def _listens(self, port: str) -> bool:
        return f":{port} " in self.host.run("ss", "-Hnlu").stdout

    def softnet(self, vm: Vm, *options: str) -> Softnet:  # type: ignore[override]
        running = Softnet(self.host, vm, self.directory, *options)
        self._softnets.append(running)
        return running

    def leases(self) -> list[str]:
        """The addresses that the DHCP server has given out."""
        return [line.split()[2] for line in self.leases_path.read_text().splitlines()]
