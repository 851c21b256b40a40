"""Real VMs by every way that QEMU attaches, on every uplink of Linux: a lease, names, a download, a port.

    socket           dgram and stream (`softnet run`), and a path that QEMU connects to (`--vm-socket`)
                     a TAP, and no socket (`--tap`), as for Firecracker and Cloud Hypervisor
    uplink           nat, bridge (with dnsmasq), user (all of it, QEMU included, as an ordinary user)

All of them boot side by side, on one host, before the first test.
"""

import hashlib
import os
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import IO

import pytest

from lab import guest, image, netns
from lab.guest import Guest
from lab.stage import DOMAIN, HOST, INTERNET, ROUTER, Stage, content
from lab.worlds import SOFTNET

pytestmark = [pytest.mark.root, pytest.mark.vm]

DHCP = "udhcpc -i eth0 -f -q -n -t 5 -T 1"
DOWNLOAD_BYTES = 1_000_000
BRIDGE, BRIDGE_ADDRESS, BRIDGE_NETWORK = "br0", "10.60.0.1", "10.60.0.0/24"
MAC = "52:54:00:5a:00:31"
AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all")
UPLINKS = {"nat": "nat", "bridge": f"bridge={BRIDGE}", "user": "user"}
WAYS = [f"{socket}-{uplink}" for uplink in UPLINKS for socket in ("dgram", "stream")]
WAYS += ["path-nat", "tap-nat", "tap-user"]
TAP = "tap,id=n0,ifname=vmtap0,script=no,downscript=no,vnet_hdr=on"
# This machine may keep /dev/net/tun to root; most do not.
OPEN_TUN = (
    "mount -t tmpfs lab /mnt && mknod -m 666 /mnt/tun c 10 200 && mount --bind /mnt/tun /dev/net/tun"
    ' && exec "$@"'
)
PORTS = {way: 8001 + number for number, way in enumerate(WAYS)}


class Machines:
    """The stage, a bridge beside it, and one VM for each of WAYS."""

    def __init__(self, undo: ExitStack) -> None:
        self.stage = undo.enter_context(closing(Stage(b"softnet-matrix-")))
        self._undo = undo
        self._image = image.build()
        self._make_bridge()
        self.guests = {way: undo.enter_context(closing(self._boot(way))) for way in WAYS}
        for each in self.guests.values():
            each.ready()

    def _make_bridge(self) -> None:
        host = self.stage.host
        host.ip(
            f"link add {BRIDGE} type bridge",
            f"addr add {BRIDGE_ADDRESS}/24 dev {BRIDGE}",
            f"link set {BRIDGE} up",
        )
        rule = f"ip saddr {BRIDGE_NETWORK} oifname != {BRIDGE} masquerade"
        chain = f"chain leave {{ type nat hook postrouting priority srcnat; {rule}; }}"
        host.run("nft", "-f", "-", stdin=f"table ip lab {{ {chain}; }}")
        words = ("--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--no-ping")
        reach = (f"--interface={BRIDGE}", "--bind-interfaces", "--dhcp-range=10.60.0.100,10.60.0.199,10m")
        files = ("--dhcp-leasefile=/dev/null", f"--server={ROUTER}", "--dhcp-authoritative")
        server = host.popen(["dnsmasq", *words, *reach, *files])
        self._undo.callback(netns.stop, server)

    def _boot(self, way: str) -> Guest:
        kind, uplink = way.split("-")
        options = ["--uplink", UPLINKS[uplink], "--expose", f"{PORTS[way]}:80", "--dns", ROUTER]
        if kind == "path":
            return self._boot_by_path(options)
        wrapper = ("unshare", "--mount", "sh", "-c", OPEN_TUN, "sh", *AS_NOBODY) if uplink == "user" else ()
        how = {"dgram": [], "stream": ["--stream"], "tap": ["--tap", "vmtap0"]}[kind]
        netdev = {"dgram": guest.DGRAM, "stream": guest.STREAM, "tap": TAP}[kind]

        def start(qemu: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
            open_console(qemu)
            return self.stage.host.popen([*wrapper, *SOFTNET, "run", *how, *options, "--", *qemu], log)

        return Guest(way, self._image, start, netdev)

    def _boot_by_path(self, options: list[str]) -> Guest:
        folder = self._undo.enter_context(tempfile.TemporaryDirectory(prefix="softnet-lab-"))
        path = os.path.join(folder, "vm")
        words = ["--vm-socket", path, "--vm-mac-address", MAC, *options]
        self._undo.callback(netns.stop, self.stage.host.popen([*SOFTNET, *words]))
        wait_for(path)
        netdev = f"stream,id=n0,server=off,addr.type=unix,addr.path={path}"
        return Guest("path-nat", self._image, self.stage.host.popen, netdev, MAC)


def open_console(qemu: list[str]) -> None:
    """Lets a QEMU that is not root's connect to the lab's console."""
    path = Path(next(word for word in qemu if "path=" in word).partition("path=")[2])
    path.parent.chmod(0o711)
    path.chmod(0o777)


def wait_for(path: str) -> None:
    deadline = time.monotonic() + 10
    while not os.path.exists(path):
        assert time.monotonic() < deadline, f"{path} is not there"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    with ExitStack() as undo:
        yield Machines(undo)


@pytest.mark.parametrize("way", WAYS)
def test_a_lease_names_and_a_download(machines: Machines, way: str) -> None:
    vm = machines.guests[way]
    vm.must(DHCP)
    assert f"Address: {INTERNET}" in vm.must(f"nslookup -type=a www.{DOMAIN}")
    received = vm.must(f"wget -qO- http://www.{DOMAIN}/bytes/{DOWNLOAD_BYTES} | md5sum", timeout=60)
    assert received.split()[0] == hashlib.md5(content(DOWNLOAD_BYTES)).hexdigest()


@pytest.mark.parametrize("way", WAYS)
def test_an_exposed_port_from_the_host_and_from_elsewhere(machines: Machines, way: str) -> None:
    vm = machines.guests[way]
    vm.must(f"{DHCP}; mkdir -p /tmp/www; echo {way} > /tmp/www/index.html; httpd -p 80 -h /tmp/www")
    for place, address in ((machines.stage.host, "127.0.0.1"), (machines.stage.lan, HOST)):
        with place.entered(), urllib.request.urlopen(f"http://{address}:{PORTS[way]}/", timeout=10) as page:
            assert page.read() == f"{way}\n".encode()


@pytest.mark.parametrize("way", ["dgram-user", "stream-user", "tap-user"])
def test_on_the_user_uplink_nothing_is_roots(machines: Machines, way: str) -> None:
    def all_of(pid: int) -> list[int]:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *(each for child in children for each in all_of(int(child)))]

    processes = all_of(machines.guests[way].process.pid)
    names = {Path(f"/proc/{pid}/comm").read_text().strip() for pid in processes}
    assert any(name.startswith("passt") for name in names)
    assert any(name.startswith("qemu") for name in names)
    for pid in processes:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        assert next(line.split()[1:] for line in lines if line.startswith("Uid:")) == ["65534"] * 4
