"""A day of ephemeral VMs on one /24, by real DHCP clients and a real server whose clock is driven.

    python -m bench.day                 all three cases, 5,000 VMs; writes docs/day.json and docs/day.svg
    python -m bench.day --vms 300 --case hostile --out /tmp      the other cases in /tmp/day.json stay
    python -m bench.day --plot          only draws the picture again from docs/day.json

dnsmasq serves 10.77.0.2 to 10.77.0.254 on a bridge in a network namespace. Its clock is libfaketime's,
set from a file: it moves on by 86,400 s / VMS with each VM that starts, so a day passes in as long as
the machine takes to start that many VMs. A VM is a namespace whose network card has a new MAC
address each time; busybox udhcpc asks for the address, and the VM lives for LIFE_SECONDS of that day.

    plain     one-day leases; VMs come and go without a word, as killed ones do
    softnet   every VM is behind Softnet on the bridge (600 s leases, given back at the end)
    hostile   the same, while one VM more, root and patient, tries to use the pool up all day long:
              DISCOVER and REQUEST by other MAC addresses, by ever new client identifiers, and
              DECLINE of whatever it is offered

Recorded are the addresses that are free after each VM, from the server's own lease file, and how many
VMs got none. `plain` ends at the first VM that gets none.
"""

import argparse
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from softnet.core import dhcp
from softnet.core.address import format_mac
from softnet.core.packet import BROADCAST_MAC, udp_frame
from tests.system.netlab import Lab, Namespace, wait_until

DAY = 86_400
ADDRESSES = 253
VMS = 5_000
LIFE_SECONDS = 600
SLOTS = 36
MACS = 0x0253_0000_0000
HOSTILE_MAC = 0x0253_6E66_6666
HOSTILE_PERIOD = 0.05  # real seconds between its attempts
CASES = ("plain", "softnet", "hostile")
DOCS = Path(__file__).parents[1] / "docs"

LIBRARIES = ("/usr/lib/x86_64-linux-gnu/faketime", "/usr/lib/aarch64-linux-gnu/faketime")
TUNSETIFF, IFF_TAP_NO_PI, SIOCSIFHWADDR = 0x400454CA, 0x1002, 0x8924


class Server:
    """dnsmasq on a bridge, and the clock that it believes in."""

    def __init__(self, host: Namespace, folder: Path, lease_seconds: int) -> None:
        self._clock, self._leases = folder / "clock", folder / "leases"
        self._start = time.time()
        self.seconds = 0.0
        self.set(0.0)
        host.ip("link add br0 type bridge\naddress add 10.77.0.1/24 dev br0\nlink set br0 up")
        library = next(path for path in LIBRARIES if os.path.isdir(path)) + "/libfaketime.so.1"
        self._log = (folder / "log").open("w")
        self._process = host.start(
            *(
                "env",
                f"LD_PRELOAD={library}",
                f"FAKETIME_TIMESTAMP_FILE={self._clock}",
                "FAKETIME_NO_CACHE=1",
            ),
            *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=br0"),
            *("--bind-interfaces", "--user=root", "--no-ping", "--dhcp-authoritative", "--log-facility=-"),
            f"--dhcp-range=10.77.0.2,10.77.0.254,255.255.255.0,{lease_seconds}",
            f"--dhcp-leasefile={self._leases}",
            stdout=self._log,
            stderr=self._log,
        )
        wait_until(lambda: ":67 " in host.run("ss", "-Hlun").stdout, what="dnsmasq to listen")

    def set(self, seconds: float) -> None:
        """What time it is in the server's day. Replaced whole: it reads the file at any moment."""
        self.seconds = seconds
        fresh = self._clock.with_suffix(".new")
        fresh.write_text(time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self._start + seconds)))
        fresh.replace(self._clock)

    def free(self) -> int:
        """Addresses that are not leased at this moment of its day."""
        now = self._start + self.seconds
        rows = self._leases.read_text().splitlines() if self._leases.exists() else []
        return ADDRESSES - sum(1 for row in rows if int(row.split()[0]) > now)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()


class Slot:
    """A namespace that is one VM after another: its card is a TAP, carried to whatever it is plugged in."""

    def __init__(self, namespace: Namespace, script: str) -> None:
        self.namespace = namespace
        self._script = script
        self._tap = namespace.enter(self._open_tap)
        namespace.ip("link set eth0 up")

    @staticmethod
    def _open_tap() -> int:
        tap = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", b"eth0", IFF_TAP_NO_PI))
        return tap

    def plug(self, mac: int, card: socket.socket) -> None:
        """A new VM: its MAC address, and the socket that its frames go to until it is closed."""
        request = struct.pack("16sH6s8x", b"eth0", socket.AF_UNIX, mac.to_bytes(6, "big"))
        fcntl.ioctl(self._tap, SIOCSIFHWADDR, request)
        self._card = card
        threading.Thread(target=self._outward, args=(card,), daemon=True).start()
        threading.Thread(target=self._inward, args=(card,), daemon=True).start()

    def _outward(self, card: socket.socket) -> None:
        while self._card is card:
            frame = os.read(self._tap, 65536)
            try:
                self._card.send(frame)  # whichever card is plugged in by now
            except OSError:
                continue

    def _inward(self, card: socket.socket) -> None:
        try:
            while frame := card.recv(65536):
                os.write(self._tap, frame)
        except OSError:
            return

    def get_address(self) -> str | None:
        """What udhcpc obtains within five tries."""
        client = (
            "busybox",
            "udhcpc",
            "-i",
            "eth0",
            "-f",
            "-n",
            "-q",
            "-t",
            "5",
            "-T",
            "1",
            "-s",
            self._script,
        )
        told = self.namespace.run(*client, check=False).stdout
        return next((line[3:] for line in told.splitlines() if line.startswith("ip=")), None)


def card_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)


class Bare:
    """A card plugged straight into the bridge: one end of the pair is carried to a TAP that is a port."""

    def __init__(self, host: Namespace, name: str, card: socket.socket) -> None:
        self._card = card

        def open_port() -> int:
            tap = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
            fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP_NO_PI))
            return tap

        self._tap = host.enter(open_port)
        host.ip(f"link set {name} master br0\nlink set {name} up")
        for source, sink in ((self._from_tap, card.send), (self._from_card, self._to_tap)):
            threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _from_tap(self) -> bytes:
        return os.read(self._tap, 65536)

    def _from_card(self) -> bytes:
        return self._card.recv(65536)

    def _to_tap(self, frame: bytes) -> int:
        return os.write(self._tap, frame)

    @staticmethod
    def _carry(source: Any, sink: Any) -> None:
        try:
            while frame := source():
                sink(frame)
        except OSError:
            return

    def end(self) -> None:
        """As when its VM is killed: nobody is told. (The port stays: it has no more to say.)"""


class Behind:
    """A card behind Softnet on the bridge."""

    def __init__(self, host: Namespace, mac: int, card: socket.socket) -> None:
        ours, theirs = socket.socketpair()
        fds = (card.fileno(), theirs.fileno())
        words = ("--vm-fd", str(fds[0]), "--supervisor-fd", str(fds[1]), "--vm-mac-address", format_mac(mac))
        program = (sys.executable, "-m", "softnet", *words, "--uplink", "bridge=br0")
        self._process = host.start(*program, pass_fds=fds)
        theirs.close()
        card.close()
        assert ours.recv(1), "softnet did not start"
        self._supervisor = ours

    def end(self) -> None:
        """As when its VM ends: Softnet gives the address back."""
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(10) == 0
        self._supervisor.close()


class Hostile:
    """Root in a VM of its own, behind Softnet, trying to use the pool up; `attempts` counts its messages."""

    def __init__(self, host: Namespace) -> None:
        self._card, far = card_pair()
        self._softnet = Behind(host, HOSTILE_MAC, far)
        self._card.settimeout(HOSTILE_PERIOD)
        self.attempts = 0
        self._going = True
        self._thread = threading.Thread(target=self._attack)
        self._thread.start()

    def _attack(self) -> None:
        for number in range(1 << 62):
            if not self._going:
                return
            other = HOSTILE_MAC if number % 2 else int.from_bytes(os.urandom(6), "big") & ~(1 << 40)
            self._starve(other, os.urandom(8))

    def _starve(self, chaddr: int, identifier: bytes) -> None:
        """One address for one identity: taken, or declined."""
        offer = self._ask(chaddr, dhcp.DISCOVER, identifier)
        if offer is None or offer.server_id is None:
            return
        kind = dhcp.DECLINE if os.urandom(1)[0] & 1 else dhcp.REQUEST
        address, server = offer.yiaddr.to_bytes(4, "big"), offer.server_id.to_bytes(4, "big")
        options = [(dhcp.OPTION_REQUESTED_ADDRESS, address), (dhcp.OPTION_SERVER_ID, server)]
        self._ask(chaddr, kind, identifier, options)

    def _ask(
        self, chaddr: int, kind: int, identifier: bytes, options: list[tuple[int, bytes]] | None = None
    ) -> dhcp.Message | None:
        xid = int.from_bytes(os.urandom(4), "big")
        wanted = [(dhcp.OPTION_CLIENT_ID, identifier), *(options or [])]
        payload = dhcp.build(dhcp.BOOTREQUEST, kind, xid, chaddr, flags=dhcp.FLAG_BROADCAST, options=wanted)
        frame = udp_frame(BROADCAST_MAC, HOSTILE_MAC, 0, 0xFFFFFFFF, 68, 67, payload)
        try:
            self._card.send(frame)
            self.attempts += 1
            while True:
                answer = dhcp.parse(self._card.recv(65536)[42:])
                if answer is not None and answer.xid == xid:
                    return answer
        except OSError:
            return None

    def end(self) -> None:
        self._going = False
        self._thread.join()
        self._softnet.end()
        self._card.close()


def live(case: str, count: int, lab: Lab, folder: Path) -> Iterator[tuple[bool, int]]:
    """One VM after another: whether it got an address, and how many are free after that."""
    host = lab.namespace("host")
    server = Server(host, folder, DAY if case == "plain" else LIFE_SECONDS)
    script = folder / "script"
    script.write_text('#!/bin/sh\n[ "$1" != bound ] || echo "ip=$ip"\n')
    script.chmod(0o755)
    step = DAY / count
    living = max(1, min(SLOTS, int(LIFE_SECONDS / step)))
    idle = deque(Slot(lab.namespace(f"vm{number}"), str(script)) for number in range(living + 1))
    running: deque[tuple[Slot, socket.socket, Bare | Behind]] = deque()
    hostile = Hostile(host) if case == "hostile" else None

    def make(number: int) -> tuple[int, socket.socket, Bare | Behind]:
        """A VM's card and what is behind it; it says nothing until it is plugged in."""
        near, far = card_pair()
        mac = MACS + number
        bare = case == "plain"
        return mac, near, Bare(host, f"port{number}", far) if bare else Behind(host, mac, far)

    try:
        with ThreadPoolExecutor(1) as ahead:
            upcoming = ahead.submit(make, 0)
            for number in range(count):
                server.set(number * step)
                if len(running) == living:
                    slot, near, wire = running.popleft()
                    wire.end()
                    near.close()
                    idle.append(slot)
                mac, near, wire = upcoming.result()
                if number + 1 < count:
                    upcoming = ahead.submit(make, number + 1)
                slot = idle.popleft()
                slot.plug(mac, near)
                running.append((slot, near, wire))
                yield slot.get_address() is not None, server.free()
    finally:
        for _slot, _near, wire in running:
            wire.end()
        if hostile is not None:
            hostile.end()
            print(f"  the hostile VM sent {hostile.attempts} messages", file=sys.stderr)
        server.close()


def run(case: str, count: int) -> dict[str, Any]:
    """One case: hour of the day and free addresses after each VM, and how many VMs got an address."""
    served, free = 0, []
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="day-") as folder, Lab() as lab:
        os.chmod(folder, 0o755)
        for got_one, left in live(case, count, lab, Path(folder)):
            served += got_one
            free.append(left)
            if case == "plain" and not got_one:
                break
            if len(free) % 250 == 0:
                print(f"  {case}: {len(free)} VMs, {left} addresses free", file=sys.stderr)
    return {
        "case": case,
        "vms": len(free),
        "served": served,
        "free": free,
        "hours_per_vm": 24 / count,
        "seconds": round(time.monotonic() - started),
    }


def plot(results: list[dict[str, Any]], target: Path) -> None:
    """Free addresses over the day, one line a case."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "softnet"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4))
    labels = {
        "plain": "one-day leases, no Softnet",
        "softnet": "Softnet: 600 s leases, released at the end",
        "hostile": "the same, with a hostile VM",
    }
    for result in results:
        hours = [number * result["hours_per_vm"] for number in range(result["vms"])]
        text = f"{labels[result['case']]}: {result['served']} of {result['vms']} VMs served"
        axes.plot(hours, result["free"], label=text, linewidth=1.2)
    axes.set(xlabel="hour of the day", ylabel="free addresses of 253", xlim=(0, 24), ylim=(0, 260))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--vms", type=int, default=VMS)
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--out", type=Path, default=DOCS)
    parser.add_argument("--plot", action="store_true", help="draw only")
    chosen = parser.parse_args()
    record = chosen.out / "day.json"
    if not chosen.plot:
        known = json.loads(record.read_text()) if record.exists() else []
        cases = {result["case"]: result for result in known}
        cases |= {case: run(case, chosen.vms) for case in chosen.case or CASES}
        results = [cases[case] for case in CASES if case in cases]
        record.write_text(json.dumps(results) + "\n")
    results = json.loads(record.read_text())
    for result in results:
        summary = f"{result['served']} of {result['vms']} VMs got an address"
        print(f"{result['case']:<8} {summary}; at least {min(result['free'])} addresses were free")
    if chosen.out == DOCS or chosen.plot:
        plot(results, chosen.out / "day.svg")
    return 0


if __name__ == "__main__":
    subprocess.run(["busybox", "true"], check=True)
    sys.exit(main())
