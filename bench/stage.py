"""The network of the TCP measurements: a VM, a host, and an internet behind it, each a namespace.

    vm (eth0) --- what is measured --- host (eth0) --- (eth0) internet, 9.9.9.9

A subject is opened on a stage and leaves the VM with an address and a route. What it costs is counted by
the processes that it names. Everything ends with this process.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Self

from bench.subjects import BUFFER, BUILT, HERE, SO_RCVBUFFORCE, SO_SNDBUFFORCE, VM_MAC
from lab.netns import Namespace, stop
from softnet.core.address import format_mac
from softnet.links.tap import create_tap

SERVER = "9.9.9.9"
VM_ADDRESS, GATEWAY, POOL_LENGTH = "10.231.0.2", "10.231.0.1", 20
BRIDGE_MAC = "02:00:00:00:00:fe"  # its own, as libvirt gives one: else it is that of its first port
PATIENCE = 10.0
LOG = BUILT / "programs.log"  # what all programs wrote to standard error
MASQUERADE = """\
table ip bench {
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 10.231.0.0/20 oifname "eth0" masquerade
	}
}
"""


def await_true(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not get ready within {PATIENCE:.0f} s: see {LOG}")
        time.sleep(0.05)


class Stage:
    """Three namespaces, cabled; with `bridged` the host has a bridge br0 for VMs, as libvirt makes one."""

    def __init__(self, bridged: bool = False) -> None:
        self._undo = ExitStack()
        self.vm, self.host, self.internet = (self._namespace(name) for name in ("vm", "host", "internet"))
        self.host.link_to("eth0", self.internet, "eth0")
        self.internet.ip("address add 192.0.2.1/24 dev eth0", f"address add {SERVER}/32 dev lo")
        self.host.ip("address add 192.0.2.2/24 dev eth0", "route add default via 192.0.2.1")
        if bridged:
            self.host.ip(
                f"link add br0 address {BRIDGE_MAC} type bridge",
                "link set br0 up",
                f"address add {GATEWAY}/{POOL_LENGTH} dev br0",
            )
            self._forward()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def _namespace(self, name: str) -> Namespace:
        namespace = Namespace(name)
        self._undo.callback(namespace.close)
        namespace.sysctl("net.ipv6.conf.all.disable_ipv6", 1)
        return namespace

    def start(self, where: Namespace, *argv: str, pass_fds: Sequence[int] = ()) -> int:
        """A program that runs until the stage closes; its process number."""
        log = self._undo.enter_context(LOG.open("ab"))
        process = where.popen(["env", "-C", str(HERE.parent), *argv], stderr=log, pass_fds=pass_fds)
        self._undo.callback(stop, process)
        return process.pid

    def open_pipe(self) -> int:
        """The reading end of a pipe that stays open as long as the stage."""
        reader, writer = os.pipe()
        for end in (reader, writer):
            self._undo.callback(os.close, end)
        return reader

    def boot_vm(self, kind: str = "datagram") -> socket.socket:
        """The socket that the VM's frames come from and go to."""
        style = socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM
        near, far = socket.socketpair(socket.AF_UNIX, style)
        for end in (near, far):
            self._undo.enter_context(end)
            end.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, BUFFER)
            end.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
            end.set_inheritable(True)
        with self.vm.entered():
            tap = create_tap("eth0", offload=True)
        self._undo.callback(os.close, tap)
        self.vm.ip(f"link set eth0 address {format_mac(VM_MAC)} mtu 1500 up")
        argv = (sys.executable, "-m", "bench.vm", kind, str(near.fileno()), str(tap))
        self.start(self.vm, *argv, pass_fds=(near.fileno(), tap))
        return far

    def address_vm(
        self, address: str = VM_ADDRESS, length: int = POOL_LENGTH, gateway: str = GATEWAY
    ) -> None:
        self.vm.ip(f"address add {address}/{length} dev eth0", f"route add default via {gateway}")

    def lease_vm(self) -> None:
        """The VM asks for an address by DHCP, as a guest does."""
        script = BUILT / "lease.sh"
        script.write_text('#!/bin/sh\n[ "$1" != bound ] || echo "$ip $mask $router"\n')
        script.chmod(0o755)
        client = ("busybox", "udhcpc", "-i", "eth0", "-fnq", "-t", "10", "-T", "1", "-s", str(script))
        address, length, gateway = self.vm.run(*client, timeout=30).split()[-3:]
        self.address_vm(address, int(length), gateway)

    def host_tap(self, name: str) -> int:
        """A TAP of the host without offload, inheritable."""
        with self.host.entered():
            tap = create_tap(name)
        os.set_inheritable(tap, True)
        os.set_blocking(tap, False)
        self._undo.callback(os.close, tap)
        return tap

    def route_tap(self, name: str) -> None:
        """Makes a TAP of the host the VM's gateway with NAT: what the nat uplink sets up, less its rules."""
        self.host.ip(
            f"link set {name} mtu 1500 up",
            f"address add {GATEWAY}/32 dev {name}",
            f"route add {VM_ADDRESS}/32 dev {name} scope link",
        )
        self._forward()

    def _forward(self) -> None:
        self.host.sysctl("net.ipv4.ip_forward", 1)
        self.host.run("nft", "-f", "-", stdin=MASQUERADE)

    def await_server(self) -> None:
        """Until the VM has sent a little over TCP."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.vm.run("iperf3", "-c", SERVER, "-n", "1K", "--connect-timeout", "1000", timeout=5)
                return
            except (RuntimeError, subprocess.TimeoutExpired):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
