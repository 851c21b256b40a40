"""`softnet run --tap NAME`: a hypervisor that opens a TAP, in a namespace where that is all there is.

COMMAND plays the hypervisor here: it opens the TAP as Firecracker does, with a virtio header, sends
the frames of its arguments and prints what it receives. QEMU on such a TAP: `test_qemu_matrix.py`.
"""

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing

import pytest

from harness.frames import ARP, BROADCAST_MAC, IPV6, arp, ethernet
from harness.program import Wire, command, command_for, environment
from vectors.world import NOBODY, OTHER_MAC, VM_MAC

pytestmark = pytest.mark.root

PROBE = ethernet(BROADCAST_MAC, VM_MAC, ARP, arp(1, VM_MAC, NOBODY, "10.0.0.1"))
FORGED = ethernet(BROADCAST_MAC, OTHER_MAC, ARP, arp(1, OTHER_MAC, NOBODY, "10.0.0.1"))
ANSWER = ethernet(VM_MAC, OTHER_MAC, ARP, arp(2, OTHER_MAC, "10.0.0.1", NOBODY)) + bytes(18)
HYPERVISOR = r"""
import fcntl, os, select, struct, sys
tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", b"vmtap0", 0x5002))  # TAP, NO_PI, VNET_HDR
while not select.select([tap], [], [], 0.3)[0]:  # a port that has just got its carrier loses some
    for frame in sys.argv[1:]:
        os.write(tap, bytes(10) + bytes.fromhex(frame))
while True:
    print(os.read(tap, 65536)[10:].hex(), flush=True)
"""
# This machine may keep /dev/net/tun to root; most do not.
OPEN_TUN = (
    "mount -t tmpfs softnet-test /mnt && mknod -m 666 /mnt/tun c 10 200 &&"
    ' mount --bind /mnt/tun /dev/net/tun && exec "$@"'
)
AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all")
WITH_TUN = ("unshare", "--mount", "sh", "-c", OPEN_TUN, "sh")
WHO = {
    "root": (),
    "sudo": (*WITH_TUN, "env", "SUDO_UID=65534", "SUDO_GID=65534"),
    "user": (*WITH_TUN, *AS_NOBODY),
}


class Run:
    """`softnet run --tap vmtap0` with a socket pair as uplink."""

    def __init__(self, start: Sequence[str], *words: str) -> None:
        self.uplink = Wire(socket.SOCK_DGRAM)
        fd = self.uplink.theirs.fileno()
        options = ("--tap", "vmtap0", "--vm-mac-address", VM_MAC, "--uplink", f"fd={fd}", "--summary")
        self.process = subprocess.Popen(
            command_for(start, "run", *options, "--", *words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[fd],
            env=environment(),
            cwd="/",
            text=True,
        )
        self.uplink.theirs.close()

    def output(self) -> str:
        """All that COMMAND wrote, once it has ended by itself."""
        said, errors = self.process.communicate(timeout=10)
        assert self.process.returncode == 0, errors
        return said

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.uplink.close()


@pytest.fixture(params=WHO)
def start(request: pytest.FixtureRequest) -> Sequence[str]:
    return WHO[request.param]


@pytest.fixture
def running(start: Sequence[str]) -> Iterator[Run]:
    frames = [each.hex() for each in (FORGED, ethernet(BROADCAST_MAC, VM_MAC, IPV6, bytes(46)), PROBE)]
    with closing(Run(start, sys.executable, "-c", HYPERVISOR, *frames)) as run:
        yield run


def test_frames_go_through_the_filter_and_no_other_way(running: Run) -> None:
    assert running.uplink.receive() == PROBE  # and what came before it did not come
    assert running.process.stdout
    for _ in range(30):
        running.uplink.send(ANSWER)
        if select.select([running.process.stdout], [], [], 0.3)[0]:
            break
    assert running.process.stdout.readline().strip() == ANSWER.hex()
    assert set(running.uplink.waiting()) <= {PROBE}
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(5) == 128 + signal.SIGTERM
    assert running.process.stderr
    counted = running.process.stderr.read()
    assert re.search(r"from-vm .*pass-arp=\d+ src-mac=\d+ ipv6=\d+", counted), counted


def test_in_the_cell_there_is_nothing_else(start: Sequence[str]) -> None:
    with closing(Run(start, "ip", "-j", "-d", "address")) as run:
        devices = {device["ifname"]: device for device in json.loads(run.output())}
    assert set(devices) == {"lo", "card", "vmtap0", "bridge"}
    assert not any(device["addr_info"] for device in devices.values())
    assert "UP" not in devices["lo"]["flags"]
    assert {devices[port].get("master") for port in ("card", "vmtap0")} == {"bridge"}
    with closing(Run(start, "ip", "route", "show", "table", "all")) as run:
        assert run.output() == ""


def test_the_cell_goes_with_the_command(start: Sequence[str]) -> None:
    with closing(Run(start, "readlink", "/proc/self/ns/net")) as run:
        cell = run.output().strip().strip("net:[]")
    listed = subprocess.check_output(["lsns", "-t", "net", "-n", "-o", "NS"], text=True)
    assert cell.isdigit()
    assert cell not in listed.split()


def test_the_command_has_no_privilege_but_its_callers(start: Sequence[str]) -> None:
    script = "id -u; grep CapEff /proc/self/status"
    with closing(Run(start, "sh", "-c", script)) as run:
        uid, capabilities = run.output().split("\n", 1)
    if start:
        assert (uid, capabilities.split()[1]) == ("65534", "0" * 16)
    else:
        assert uid == "0"


def test_the_command_ends_with_its_filter(running: Run) -> None:
    running.uplink.receive()
    supervisor = running.process.pid
    with open(f"/proc/{supervisor}/task/{supervisor}/children", encoding="ascii") as file:
        children = [int(word) for word in file.read().split()]
    os.kill(next(child for child in children if os.getsid(child) == child), signal.SIGKILL)
    assert running.process.wait(5) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--tap", "card"), "--tap card: is taken; give another name"),
        (("--tap", "a/b"), "--tap a/b: is no name for an interface; give at most 15 letters"),
        (("--tap", "sixteen-letters-"), "is no name for an interface; give at most 15 letters"),
        (("--tap", "vmtap0", "--stream"), "--stream and --tap: a card is a socket or a TAP"),
        (("--tap", "vmtap0", "--uplink", "unix=/none"), "--uplink unix=/none: does not exist"),
    ],
)
def test_refusals(options: tuple[str, ...], said: str) -> None:
    words = command("run", "--uplink", "unix=/none", *options, "--", "echo", "started")
    done = subprocess.run(words, capture_output=True, text=True, timeout=10, env=environment(), check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert said in line


def test_without_a_device_to_make_it_with() -> None:
    hide = 'mount --bind /dev/null /dev/net/tun && exec "$@"'
    words = ("unshare", "--mount", "sh", "-c", hide, "sh", *AS_NOBODY, *command("run", "--tap", "vmtap0"))
    done = subprocess.run(
        [*words, "--uplink", "user", "--", "echo", "started"],
        capture_output=True,
        text=True,
        timeout=10,
        env=environment(),
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "--tap vmtap0: cannot make a network namespace with a TAP in it" in line
    assert "run as root, or allow user namespaces and /dev/net/tun to ordinary users" in line


ATTACH = """
import sys
from softnet.errors import ConfigError
from softnet.links import attach, tap
fd = tap.create_tap("snt-attach", offload=bool(int(sys.argv[1])))
try:
    print(type(attach.open_fd("--vm-fd", fd)).__name__)
except ConfigError as error:
    print(error)
"""


@pytest.mark.parametrize(("offload", "said"), [("0", "TapLink"), ("1", "is a device, not a socket")])
def test_a_descriptor_may_be_a_taps_if_it_is_a_plain_one(offload: str, said: str) -> None:
    words = ("unshare", "--net", sys.executable, "-c", ATTACH, offload)
    assert said in subprocess.check_output(words, text=True, env=environment())
