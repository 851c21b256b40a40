"""Real VMs as the command of `softnet run`: they get a network, and cannot choke the filter."""

import hashlib
import os
import re
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from lab import image, wire
from lab.guest import Guest
from lab.stage import DOMAIN, INTERNET, Stage, content
from lab.worlds import filter_process, softnet_guest, verdicts_of

pytestmark = [pytest.mark.root, pytest.mark.vm]

PREFIX = b"softnet-test-"
DHCP = "udhcpc -i eth0 -f -q -n -t 3 -T 1"
STRANGER = "10.231.15.1"
MAC = "52:54:00:5a:00:07"
LEASE_SECONDS = 4
DOWNLOAD_BYTES = 4_000_000
DATAGRAMS = 50
FLOOD_SECONDS = 30
PORT = 9


@pytest.fixture(scope="module")
def guest_image() -> image.Image:
    return image.build()


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with closing(Stage(PREFIX)) as stage:
        yield stage


def lease_of(guest: Guest) -> dict[str, str]:
    guest.must(DHCP)
    return dict(word.split("=", 1) for word in guest.must("cat /tmp/lease").split())


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)


@pytest.fixture(scope="module", params=["dgram", "stream"])
def guest(request: pytest.FixtureRequest, stage: Stage, guest_image: image.Image) -> Iterator[Guest]:
    options = ["--stream"] if request.param == "stream" else []
    guest = softnet_guest(stage, request.param, guest_image, "--uplink", "nat", *options)
    with closing(guest):
        yield guest.ready()


def test_lease_names_and_a_download(guest: Guest) -> None:
    lease = lease_of(guest)
    assert lease["ip"].startswith("10.231.")
    assert f"Address: {INTERNET}" in guest.must(f"nslookup -type=a www.{DOMAIN}")
    received = guest.must(f"wget -qO- http://www.{DOMAIN}/bytes/{DOWNLOAD_BYTES} | md5sum", timeout=60)
    assert received.split()[0] == hashlib.md5(content(DOWNLOAD_BYTES)).hexdigest()


def test_an_address_of_its_own_choice_reaches_nothing(guest: Guest) -> None:
    lease = lease_of(guest)
    guest.must(f"ping -c 1 -W 2 {lease['router']}; ip addr add {STRANGER}/32 dev eth0")
    before = verdicts_of(guest)
    assert guest.run(f"ping -c 2 -W 1 -I {STRANGER} {INTERNET}").status != 0
    assert (verdicts_of(guest) - before)["src-ip"] == 2
    guest.must(f"ip addr del {STRANGER}/32 dev eth0")


@pytest.fixture
def flooder(stage: Stage, guest_image: image.Image) -> Iterator[Guest]:
    """A VM that sends 1514-byte frames as fast as it can, to the internet and from its own address."""
    options = ["--uplink", "nat", "--vm-mac-address", MAC, "--bootpd-lease-time", str(LEASE_SECONDS)]
    guest = softnet_guest(stage, "flooder", guest_image, *options)
    with closing(guest):
        guest.ready()
        lease = lease_of(guest)
        guest.must(f"ping -c 1 -W 2 {lease['router']}")
        gateway = guest.must("ip neigh").split("lladdr ")[1].split()[0]
        packet = wire.ipv4(lease["ip"], INTERNET, wire.UDP, wire.udp(PORT, PORT, bytes(1472)))
        frame = wire.ethernet(gateway, MAC, wire.IPV4, packet)
        assert len(frame) == 1514
        guest.must(f"frames watch eth0 {PREFIX.hex()} > /tmp/seen & :")
        guest.must(f"frames flood eth0 {FLOOD_SECONDS} {frame.hex()} > /dev/null & :")
        yield guest


def test_a_flood_stops_neither_the_other_direction_nor_the_lease_clock(flooder: Guest, stage: Stage) -> None:
    address = re.search(r"ip=(\S+)", flooder.must("cat /tmp/lease"))
    assert address
    with stage.host.entered():
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with closing(sender):
        for number in range(DATAGRAMS):
            sender.sendto(PREFIX + number.to_bytes(2), (address[1], PORT))
            time.sleep(0.02)
    wait_until(lambda: verdicts_of(flooder)["no-lease"] > 0, LEASE_SECONDS + 3)
    before = verdicts_of(flooder)
    time.sleep(0.5)
    during = verdicts_of(flooder) - before
    print("flood, in half a second:", dict(during))
    assert during["no-lease"] > 100, "the VM does not flood"
    assert during["pass-global"] == 0
    wait_until(lambda: int(flooder.run("grep -c . /tmp/seen").output) > 0.9 * DATAGRAMS, 10)


def test_a_flood_does_not_delay_the_end(flooder: Guest) -> None:
    wait_until(lambda: verdicts_of(flooder).total() > 500, 10)
    process = filter_process(flooder)
    exited = os.pidfd_open(process)
    try:
        started = time.monotonic()
        os.kill(process, signal.SIGINT)
        ready, _, _ = select.select([exited], [], [], 5)
        seconds = time.monotonic() - started
    finally:
        os.close(exited)
    print(f"SIGINT to exit under flood: {seconds * 1000:.0f} ms")
    assert ready
    assert seconds < 0.2


def test_the_vm_ends_with_its_filter(flooder: Guest) -> None:
    os.kill(filter_process(flooder), signal.SIGKILL)
    assert flooder.process.wait(5) == 1
    assert "the filter ended before the command did" in flooder.log
