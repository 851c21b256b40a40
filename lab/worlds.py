"""The same two virtual machines on the same stage, twice: on a plain bridge, and behind Softnet.

A `World` has an attacker and another VM of the same host. `PlainBridge` is what people have today:
both on one bridge, with dnsmasq and masquerading, and nothing filtered. `BehindSoftnet` starts each
VM as the command of `softnet run --uplink nat`. Both answer the same questions, so that an attempt
is written once.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, NamedTuple

import softnet
from lab import guest, netns
from lab.guest import Guest
from lab.image import Image
from lab.stage import ROUTER, Stage

ATTACKER_MAC, OTHER_MAC = "52:54:00:5a:00:01", "52:54:00:5a:00:02"
OTHER_VM = "other VM"
POOL_SIZE = 24
POLL_SECONDS = 0.05
DHCP_CLIENT = "udhcpc -i eth0 -f -q -n -t 4 -T 1"
# The program under test is the `softnet` that this Python imports, built or not. Root asks for it, even
# though the lab was started through sudo: COMMAND stays root's, and may connect to the lab's console.
PYTHONPATH = Path(softnet.__file__).resolve().parent.parent
SOFTNET = (
    "env",
    "-u",
    "SUDO_UID",
    "-u",
    "SUDO_GID",
    f"PYTHONPATH={PYTHONPATH}",
    sys.executable,
    "-m",
    "softnet",
)


class Station(NamedTuple):
    """One VM's place in the network, as its lease and its ARP cache say."""

    mac: str
    address: str
    gateway: str
    gateway_mac: str
    server: str


class World:
    """Stage and VMs, booted by the constructor's end; `close` ends all of it."""

    title = ""

    def __init__(self, image: Image, token_prefix: bytes) -> None:
        self._undo = ExitStack()
        self._prefix = token_prefix
        self._stations: dict[str, Station] = {}
        try:
            self.stage = Stage(token_prefix)
            self._undo.callback(self.stage.close)
            self.prepare()
            self.attacker = self._guest("attacker", image, ATTACKER_MAC)
            self.other = self._guest(OTHER_VM, image, OTHER_MAC)
        except BaseException:
            self.close()
            raise

    def prepare(self) -> None:
        """Whatever the host needs before VMs are attached."""

    def attach(self, name: str, image: Image, mac: str) -> Guest:
        """Starts a VM in this world."""
        raise NotImplementedError

    def _guest(self, name: str, image: Image, mac: str) -> Guest:
        vm = self.attach(name, image, mac)
        self._undo.callback(vm.close)
        return vm

    def ready(self) -> None:
        """Waits for both VMs; the other one has its lease and keeps its ears open from here on."""
        self.attacker.ready()
        self.other.ready()
        self.other.must(f"frames watch eth0 {self._prefix.hex()} > /tmp/seen & :")
        self.lease(self.other)

    def lease(self, vm: Guest) -> Station:
        """Has the VM ask for an address; GuestError when it gets none."""
        vm.must(DHCP_CLIENT)
        facts = dict(word.split("=", 1) for word in vm.must("cat /tmp/lease").split())
        vm.run(f"ping -c 1 -W 2 {facts['router']}")
        cache = vm.must(f"ip neigh show {facts['router']}")
        found = re.search(r"lladdr (\S+)", cache)
        if not found:
            raise guest.GuestError(f"{vm.name} has no MAC address of its gateway: {cache}")
        mac = vm.must("cat /sys/class/net/eth0/address").strip()
        station = Station(mac, facts["ip"], facts["router"], found[1], facts["server"])
        self._stations[vm.name] = station
        return station

    def release(self, vm: Guest) -> None:
        """Has the VM ask for an address once more, and give it back."""
        vm.must("rm -f /tmp/lease; udhcpc -i eth0 -f -R -t 3 -T 1 & :")
        vm.must("while [ ! -s /tmp/lease ]; do usleep 20000; done; kill $!; wait $!; :")

    def station(self, vm: Guest) -> Station:
        """What the VM's last lease said."""
        return self._stations[vm.name]

    def verdicts(self) -> Counter[str]:
        """How many of the attacker's frames ended in which reason; empty where nobody judges."""
        return Counter()

    def arrivals(self, token: bytes) -> list[str]:
        """Where frames with `token` were received: the host only when it was the end of the way."""
        seen = self.other.must("cat /tmp/seen")
        places = [OTHER_VM] * (token.hex() in seen) + sorted(self.stage.arrivals(token))
        return [place for place in places if place != "host"] or places

    def heal(self) -> None:
        """The other VM says a word, so that bridge and ARP caches know it again after an attempt."""
        gateway = self.station(self.other).gateway
        self.other.run(f"ip neigh flush dev eth0; ping -c 1 -W 1 {gateway}")

    def refill(self) -> None:
        """Gives all addresses back, between two attempts to take them."""

    def close(self) -> None:
        self._undo.close()


class PlainBridge(World):
    """A bridge, dnsmasq with a small pool, masquerading, and no filter anywhere."""

    title = "without Softnet"
    network, gateway = "10.99.0.0/24", "10.99.0.1"

    def prepare(self) -> None:
        host = self.stage.host
        host.ip("link add br0 type bridge", "link set br0 up", f"addr add {self.gateway}/24 dev br0")
        host.sysctl("net.ipv4.conf.br0.accept_source_route", 1)
        rule = f"ip saddr {self.network} oifname != br0 masquerade"
        chain = f"chain leave {{ type nat hook postrouting priority srcnat; {rule}; }}"
        host.run("nft", "-f", "-", stdin=f"table ip lab {{ {chain}; }}")
        self._start_dnsmasq()
        self._undo.callback(lambda: netns.stop(self._dnsmasq))

    def _start_dnsmasq(self) -> None:
        """As a debugger would: a dnsmasq that changes its identity would outlive a lab that was killed."""
        last = 100 + POOL_SIZE - 1
        self._dnsmasq = self.stage.host.popen([
            "dnsmasq", "--no-daemon", "--conf-file=/dev/null",
            "--interface=br0", "--bind-interfaces", "--no-resolv", "--no-hosts", f"--server={ROUTER}",
            f"--dhcp-range=10.99.0.100,10.99.0.{last},1h", "--dhcp-authoritative", "--no-ping",
            "--dhcp-leasefile=/dev/null",
        ])  # fmt: skip

    def refill(self) -> None:
        netns.stop(self._dnsmasq)
        self._start_dnsmasq()

    def attach(self, name: str, image: Image, mac: str) -> Guest:
        port = f"port{mac[-1]}"
        self.stage.host.ip(f"tuntap add {port} mode tap", f"link set {port} up master br0")
        self.stage.ignore_on_host(port)
        return Guest(name, image, self.stage.host.popen, guest.on_tap(port), mac)


class BehindSoftnet(World):
    """Each VM is the command of a `softnet run` of its own."""

    title = "with Softnet"
    options: Sequence[str] = ()

    def attach(self, name: str, image: Image, mac: str) -> Guest:
        return softnet_guest(
            self.stage, name, image, "--uplink", "nat", "--vm-mac-address", mac, *self.options
        )

    def verdicts(self) -> Counter[str]:
        """What Softnet says it did with the attacker's frames: its answer to SIGUSR1."""
        return verdicts_of(self.attacker)


def softnet_guest(stage: Stage, name: str, image: Image, *options: str) -> Guest:
    """A VM as the command of `softnet run` on the stage's host; `--stream` picks QEMU's other socket."""

    def start(qemu: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        return stage.host.popen([*SOFTNET, "run", "--dns", ROUTER, *options, "--", *qemu], log)

    return Guest(name, image, start, guest.STREAM if "--stream" in options else guest.DGRAM)


def filter_process(vm: Guest) -> int:
    """The filter under `softnet run`: the child that leads a session of its own."""
    supervisor = vm.process.pid
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    return next(child for child in map(int, children) if os.getsid(child) == child)


def verdicts_of(vm: Guest, timeout: float = 2.0) -> Counter[str]:
    """The counters that the VM's Softnet writes on SIGUSR1, of the frames from the VM."""
    before = len(vm.log)
    os.kill(filter_process(vm), signal.SIGUSR1)
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        found = re.search(r"^softnet: from-vm\b(.*)\n", vm.log[before:], re.MULTILINE)
        if found:
            return Counter({name: int(n) for name, n in re.findall(r"([\w-]+)=(\d+)", found[1])})
        time.sleep(POLL_SECONDS / 5)
    raise guest.GuestError(f"Softnet did not answer SIGUSR1 within {timeout:g} s: {vm.log[-300:]!r}")
