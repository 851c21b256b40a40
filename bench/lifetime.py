"""What one Softnet costs before, between and after frames: start, stop, memory, wakeups, 200 at once."""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from bench import statistics
from bench.frames import rules
from bench.subjects import (
    GATEWAY,
    GATEWAY_MAC,
    VM,
    VM_MAC,
    Wires,
    client_message,
    cpu_seconds,
    frame,
    lease,
    memory,
    softnet,
    softnet_argv,
)
from lab.netns import stop, tied_to_us
from softnet.core import dhcp
from softnet.dhcp_server import DhcpServer, Offer

MANY = 200


def first_frame(*options: str) -> float:
    """Seconds from exec to the first frame on the other side: it waits in the socket from the start."""
    wires = Wires()
    wires.vm.send(client_message(dhcp.DISCOVER))
    started = time.monotonic()
    process = _start(wires, *options)
    wires.uplink.recv(65536)
    took = time.monotonic() - started
    stop(process)
    wires.close()
    return took


def _start(wires: Wires, *options: str) -> subprocess.Popen[bytes]:
    far = [wires.vm_far.fileno(), wires.uplink_far.fileno()]
    return subprocess.Popen(tied_to_us(softnet_argv(wires, *options)), pass_fds=far, cwd="/")


def python_alone() -> float:
    """The interpreter's own start and end, without anything of ours."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", ""], check=True)
    return time.monotonic() - started


def startup(quick: bool) -> list[dict[str, Any]]:
    rounds = 3 if quick else 15
    rows = []
    for name, options in (("0 rules", []), ("1000 rules", rules(1000)), ("100000 rules", rules(100_000))):
        times = [first_frame(*options) * 1e3 for _ in range(rounds)]
        rows.append({"what": f"exec to first frame, {name}", "ms": statistics.summary(times)})
    rows.append(
        {
            "what": "python -c '' alone",
            "ms": statistics.summary([python_alone() * 1e3 for _ in range(rounds)]),
        }
    )
    stops = [_stop_under_flood() * 1e3 for _ in range(rounds)]
    rows.append({"what": "SIGINT to exit, under a flood from the VM", "ms": statistics.summary(stops)})
    return rows


def _stop_under_flood() -> float:
    """The flood is the socket, full, and kept full."""
    with softnet() as (wires, pid):
        wires.vm.setblocking(False)
        flood = frame(100, False)
        deadline = time.monotonic() + 0.3
        while time.monotonic() < deadline:
            _fill(wires, flood)
        started = time.monotonic()
        os.kill(pid, signal.SIGINT)
        while Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
            _fill(wires, flood)
        return time.monotonic() - started


def _fill(wires: Wires, flood: bytes) -> None:
    try:
        for _ in range(64):
            wires.vm.send(flood)
    except OSError:
        wires.drain()
        wires.vm.setblocking(False)  # draining had set a limit of ten seconds


def idle(quick: bool) -> list[dict[str, Any]]:
    """A VM that is silent: wakeups and CPU."""
    seconds = 10 if quick else 60
    with softnet() as (_wires, pid):
        time.sleep(1)
        wakeups, spent = _switches(pid), cpu_seconds(pid)
        time.sleep(seconds)
        wakeups, spent = _switches(pid) - wakeups, cpu_seconds(pid) - spent
    return [
        {"seconds": seconds, "wakeups_in_5_s": wakeups / seconds * 5, "cpu_percent": spent / seconds * 100}
    ]


def _switches(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)


def many(quick: bool) -> list[dict[str, Any]]:
    """Idle VMs side by side: what each adds to the shared pages."""
    rows = []
    for count in (1, 20 if quick else MANY):
        with ExitStack() as running:
            pids = []
            for _ in range(count):
                wires = Wires()
                running.callback(wires.close)
                process = _start(wires)
                running.callback(stop, process)
                pids.append((process.pid, wires))
            for _pid, wires in pids:
                wires.vm.settimeout(60)
                wires.uplink.settimeout(60)
                lease(wires)
            used = [memory(pid) for pid, _wires in pids]
        rows.append({"vms": count} | {f"{kind}_kb": median(each[kind] for each in used) for kind in used[0]})
    return rows


def dhcp_answers(quick: bool) -> list[dict[str, Any]]:
    """The nat uplink's server, DISCOVER by DISCOVER, without the filter's limit of one a second."""
    offer = Offer(
        mac=VM_MAC,
        address=VM,
        mask=0xFFFFFF00,
        server=GATEWAY,
        server_mac=GATEWAY_MAC,
        lease_time=600,
        mtu=1500,
        router=GATEWAY,
        dns=(GATEWAY,),
    )
    server = DhcpServer(offer)
    message = dhcp.build(dhcp.BOOTREQUEST, dhcp.DISCOVER, 1, VM_MAC)
    rates = []
    for _ in range(3 if quick else 9):
        count, started = 2000, time.perf_counter()
        for _ in range(count):
            assert server.answer(message) is not None
        rates.append(count / (time.perf_counter() - started))
    return [{"answers_per_second": statistics.summary(rates)}]
