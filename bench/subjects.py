"""What is measured, ready to move frames: Softnet, and the bare pump that stands for the least one can do.

Every subject sits between the same two socket pairs, alone on its core; the load has the other one.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lab.netns import stop, tied_to_us
from softnet.core import dhcp, packet
from softnet.core.address import format_ipv4, format_mac
from softnet.links.calls import COMPILED

HERE = Path(__file__).parent
BUILT = HERE.parent / ".cache" / "bench"
CORE, LOAD_CORE = 0, 1
BUFFER = 4 << 20
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33

VM_MAC, GATEWAY_MAC = 0x020000000001, 0x020000000002
VM, GATEWAY = 0x0A000002, 0x0A000001
FIRST_TARGET, LAST_TARGET = 0x0B000000, 0x3B000000  # 11.0.0.0 to 58.255.255.255: global, all of it


def check_machine() -> None:
    """SystemExit unless what is measured here would mean something."""
    if not COMPILED:
        raise SystemExit("bench: this Softnet is not compiled: pip install . with a C compiler and Cython")
    if os.geteuid() != 0 or not sys.platform.startswith("linux"):
        raise SystemExit("bench: needs root on Linux, for namespaces, TAPs and socket buffers")
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("bench: needs two cores, one for what is measured and one for the load")


def build_tools() -> None:
    BUILT.mkdir(parents=True, exist_ok=True)
    for name in ("pump", "load"):
        source, target = HERE / f"{name}.c", BUILT / name
        if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
            subprocess.run(["gcc", "-O2", "-Wall", "-o", target, source], check=True)


def on_core(core: int, *argv: str) -> list[str]:
    return ["taskset", "--cpu-list", str(core), *argv]


def cpu_seconds(pid: int) -> float:
    """What all threads of a process have spent on a core so far, kernel time included."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total * 1e-9


def memory(pid: int) -> dict[str, int]:
    """Kilobytes: Rss, Pss and what no other process shares."""
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, amount = line.split(":")
        fields[name] = int(amount.split()[0])
    return {
        "rss": fields["Rss"],
        "pss": fields["Pss"],
        "private": fields["Private_Clean"] + fields["Private_Dirty"],
    }


class Wires:
    """Two pairs of datagram sockets: `vm` and `uplink` for the load, the other ends for the subject."""

    def __init__(self) -> None:
        self.vm, self.vm_far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.uplink, self.uplink_far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for end in self.ends:
            end.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, BUFFER)
            end.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
            end.set_inheritable(True)
            end.settimeout(10)

    @property
    def ends(self) -> tuple[socket.socket, ...]:
        return self.vm, self.vm_far, self.uplink, self.uplink_far

    def drain(self) -> None:
        for end in (self.vm, self.uplink):
            end.setblocking(False)
            try:
                while end.recv(65536):
                    pass
            except BlockingIOError:
                end.settimeout(10)

    def close(self) -> None:
        for end in self.ends:
            end.close()


def start(argv: Sequence[str], wires: Wires, core: int = CORE) -> subprocess.Popen[bytes]:
    """The subject, with its ends of the wires; killed when this process ends."""
    far = [wires.vm_far.fileno(), wires.uplink_far.fileno()]
    for end in (wires.vm_far, wires.uplink_far):
        end.setblocking(True)
    return subprocess.Popen(tied_to_us(on_core(core, *argv)), pass_fds=far, cwd="/")


def pump_argv(wires: Wires) -> list[str]:
    return [str(BUILT / "pump"), f"d:{wires.vm_far.fileno()}", f"d:{wires.uplink_far.fileno()}"]


def softnet_argv(wires: Wires, *options: str) -> list[str]:
    words = ["--vm-fd", str(wires.vm_far.fileno()), "--vm-mac-address", format_mac(VM_MAC)]
    words += ["--uplink", f"fd={wires.uplink_far.fileno()}", "--gateway", format_ipv4(GATEWAY)]
    return [sys.executable, "-m", "softnet", *words, "--user", "nobody", *options]


@contextmanager
def pump() -> Iterator[tuple[Wires, int]]:
    wires = Wires()
    process = start(pump_argv(wires), wires)
    try:
        yield wires, process.pid
    finally:
        stop(process)
        wires.close()


@contextmanager
def softnet(*options: str) -> Iterator[tuple[Wires, int]]:
    """Softnet between the wires, its VM holding a lease."""
    wires = Wires()
    process = start(softnet_argv(wires, *options), wires)
    try:
        lease(wires)
        yield wires, process.pid
    finally:
        stop(process)
        wires.close()


def client_message(kind: int, *options: tuple[int, bytes]) -> bytes:
    body = dhcp.build(dhcp.BOOTREQUEST, kind, 1, VM_MAC, options=options)
    return packet.udp_frame(0xFFFFFFFFFFFF, VM_MAC, 0, 0xFFFFFFFF, 68, 67, body)


def lease_frames() -> tuple[bytes, bytes]:
    """A REQUEST from the VM, and its ACK."""
    request = client_message(dhcp.REQUEST, (dhcp.OPTION_SERVER_ID, dhcp.address_option(GATEWAY)))
    options = [
        (dhcp.OPTION_SERVER_ID, dhcp.address_option(GATEWAY)),
        (dhcp.OPTION_LEASE_TIME, (86400).to_bytes(4, "big")),
        (dhcp.OPTION_SUBNET_MASK, dhcp.address_option(0xFFFFFF00)),
        (dhcp.OPTION_ROUTER, dhcp.address_option(GATEWAY)),
    ]
    reply = dhcp.build(dhcp.BOOTREPLY, dhcp.ACK, 1, VM_MAC, yiaddr=VM, options=options)
    return request, packet.udp_frame(VM_MAC, GATEWAY_MAC, GATEWAY, VM, 67, 68, reply)


def lease(wires: Wires) -> float:
    """A REQUEST and its ACK through the subject; the seconds until the REQUEST came out."""
    request, answer = lease_frames()
    started = time.monotonic()
    wires.vm.send(request)
    wires.uplink.recv(65536)
    passed = time.monotonic() - started
    wires.uplink.send(answer)
    wires.vm.recv(65536)
    return passed


def frame(size: int, to_vm: bool, target: int = FIRST_TARGET) -> bytes:
    """A UDP frame of `size` bytes, without the checksum that Ethernet adds on the wire."""
    payload = bytes(size - 42)
    if to_vm:
        return packet.udp_frame(VM_MAC, GATEWAY_MAC, target, VM, 2000, 1000, payload)
    return packet.udp_frame(GATEWAY_MAC, VM_MAC, VM, target, 1000, 2000, payload)
