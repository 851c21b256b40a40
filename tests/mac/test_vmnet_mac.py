"""vmnet itself, as root on a Mac: `sudo .venv/bin/python -m pytest -m mac`.

The same tests run on Linux over the twin (tests/system/test_vmnet_stage.py), where dnsmasq plays
bootpd: what differs between the two is the library that VMNET_TWIN names, and nothing here.
"""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.frames import DHCP_OPTIONS_AT, DISCOVER, END, OFFER, Bootp, ethernet, ipv4, mac, option, udp
from softnet import policy
from softnet.config import HOST_ONLY, TCP, UDP, Settings, UplinkChoice
from softnet.core import reasons
from softnet.core.frames import Batch
from softnet.uplinks import vmnet
from softnet.uplinks.vmnet import VmnetUplink, host
from softnet.uplinks.vmnet.api import VmnetError
from softnet.uplinks.vmnet.rules import Forward

pytestmark = pytest.mark.mac

ROOT = Path(__file__).parents[2]
MAC = "02:00:5e:10:00:4d"
SETTINGS = Settings(0x02005E10004D, UplinkChoice("vmnet"))
XID_AT = 46
SLOT = 1536
PATIENCE = 10.0
EVERYBODY = "255.255.255.255"


@pytest.fixture
def uplink() -> Iterator[VmnetUplink]:
    opened = vmnet.open_uplink(SETTINGS, policy.parse())
    yield opened
    opened.close()


def discover(xid: int) -> bytes:
    """A DHCPDISCOVER: it makes an address of the network answer, and takes no lease."""
    message = Bootp(xid=xid, chaddr=mac(MAC), options=option(53, bytes([DISCOVER])) + END).pack()
    return ethernet("ff:ff:ff:ff:ff:ff", MAC, 0x0800, ipv4("0.0.0.0", EVERYBODY, 17, udp(68, 67, message)))


def is_offer(frame: bytes, xid: int) -> bool:
    answers = frame[XID_AT : XID_AT + 4] == xid.to_bytes(4, "big")
    return answers and option(53, bytes([OFFER])) in frame[DHCP_OPTIONS_AT:]


def send(uplink: VmnetUplink, frames: list[bytes]) -> int:
    batch = Batch(len(frames), SLOT)
    for index, frame in enumerate(frames):
        batch.append(frame)
        batch.verdict[index] = reasons.PASS_DHCP
    return uplink.link.send(batch, reasons.UPLINK_BUSY)


def receives(uplink: VmnetUplink, wanted: Callable[[bytes], bool]) -> bool:
    """Reads until a frame is `wanted`; sleeps only when the link says that nothing is pending."""
    batch, deadline = Batch(64, SLOT), time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if uplink.link.pending or select.select([uplink.link], [], [], 0.2)[0]:
            uplink.link.receive(batch)
            if any(wanted(batch.frame(index)) for index in range(batch.count)):
                return True
    return False


def test_the_parameters_make_sense(uplink: VmnetUplink) -> None:
    assert uplink.mtu == 1500
    assert uplink._interface.parameters.max_packet_size >= 1514
    assert 1 <= uplink._interface.parameters.read_max_packets <= 4096
    assert uplink.facts.gateway in host.ipv4_addresses(), "the gateway is the host's own address on bridge100"


def test_host_mode_is_another_network(uplink: VmnetUplink) -> None:
    other = vmnet.open_uplink(SETTINGS._replace(net_type=HOST_ONLY), policy.parse())
    assert other.facts.gateway not in (None, uplink.facts.gateway)
    other.close()


def test_a_frame_goes_out_and_its_answer_comes_in(uplink: VmnetUplink) -> None:
    assert send(uplink, [discover(1)]) == 0
    assert receives(uplink, lambda frame: is_offer(frame, 1))


def test_every_burst_wakes(uplink: VmnetUplink) -> None:
    """A wake-up that was lost would leave the answer unread until the next one."""
    for xid in range(100, 120):
        assert send(uplink, [discover(xid)]) == 0
        assert receives(uplink, lambda frame, xid=xid: is_offer(frame, xid)), xid


def test_batches_of_any_size_are_taken(uplink: VmnetUplink) -> None:
    count = 1
    while count <= 512:
        filler = ethernet(
            "02:00:5e:10:00:4e", MAC, 0x0800, ipv4("0.0.0.0", "192.0.2.1", 17, udp(9, 9, bytes(count)))
        )
        assert send(uplink, [filler] * count) < count
        count *= 2
    assert send(uplink, [discover(2)]) == 0
    assert receives(uplink, lambda frame: is_offer(frame, 2))


def test_a_stop_with_a_callback_held_back(uplink: VmnetUplink) -> None:
    send(uplink, [discover(3)])
    assert select.select([uplink.link], [], [], PATIENCE)[0]
    begun = time.monotonic()
    uplink.close()
    assert time.monotonic() - begun < 5
    assert not uplink.link.alive()


def test_ten_starts_and_stops() -> None:
    for _ in range(10):
        vmnet.open_uplink(SETTINGS, policy.parse()).close()


def test_forwarding_rules(uplink: VmnetUplink) -> None:
    assert uplink.facts.gateway is not None
    web = Forward(TCP, 42080, uplink.facts.gateway + 76, 80)
    name = Forward(UDP, 42053, uplink.facts.gateway + 76, 53)
    assert uplink.forwards.in_force() == []
    with pytest.raises(VmnetError):
        uplink.forwards.remove(TCP, 42080)
    uplink.forwards.add(web)
    uplink.forwards.add(name)
    assert sorted(uplink.forwards.in_force()) == [web, name]
    with pytest.raises(VmnetError):
        uplink.forwards.add(web)
    uplink.forwards.remove(TCP, 42080)
    uplink.forwards.remove(UDP, 42053)
    assert uplink.forwards.in_force() == []


def run(program: str) -> subprocess.CompletedProcess[str]:
    """A program of its own, with this file's helpers."""
    paths = os.pathsep.join(map(str, (ROOT / "src", ROOT / "tests", ROOT / "tests" / "mac")))
    head = "from test_vmnet_mac import *\nfrom test_vmnet_mac import vmnet, policy, os\n"
    command = [sys.executable, "-c", head + program]
    return subprocess.run(
        command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=60
    )


def test_everything_but_the_start_works_as_an_ordinary_user() -> None:
    done = run("""
uplink = vmnet.open_uplink(SETTINGS, policy.parse())
os.setgroups([]); os.setgid(65534); os.setuid(65534)
assert send(uplink, [discover(4)]) == 0
assert receives(uplink, lambda frame: is_offer(frame, 4))
uplink.forwards.add(Forward(TCP, 42081, uplink.facts.gateway + 76, 80))
uplink.forwards.remove(TCP, 42081)
uplink.close()
print("ordinary", os.geteuid())
""")
    assert (done.returncode, done.stdout) == (0, "ordinary 65534\n"), done.stderr


def test_a_start_as_an_ordinary_user_says_that_it_needs_root() -> None:
    done = run("""
from softnet.uplinks.vmnet import api
from softnet.uplinks.vmnet.interface import Interface
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    Interface(api.SHARED_MODE, True)
except VmnetError as error:
    print(error)
""")
    assert done.stdout.startswith("vmnet_start_interface: VMNET_")
    assert done.stdout.endswith("; vmnet needs root: run softnet with sudo\n")


def test_an_interpreter_that_ends_without_a_stop() -> None:
    """Ten of ten such ends crashed over a real libdispatch before the stop came first."""
    for _ in range(5):
        done = run("""
uplink = vmnet.open_uplink(SETTINGS, policy.parse())
for xid in range(50):
    send(uplink, [discover(xid)])
select.select([uplink.link], [], [], PATIENCE)
""")
        assert done.returncode == 0, done.stderr


def test_the_whole_program_as_tart_starts_it() -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    on_a_mac = [sys.executable, "-m", "softnet"]
    program = (
        on_a_mac if sys.platform == "darwin" else [sys.executable, str(ROOT / "tests" / "twin" / "mac.py")]
    )
    words = ["--vm-fd", "0", "--vm-mac-address", MAC, "--user", "nobody"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    with near, far:
        softnet = subprocess.Popen([*program, *words], stdin=far, stderr=subprocess.PIPE, env=environment)
        far.close()
        near.settimeout(0.5)
        deadline, offered = time.monotonic() + 2 * PATIENCE, False
        while not offered and time.monotonic() < deadline and softnet.poll() is None:
            near.send(discover(5))
            try:
                offered = is_offer(near.recv(65536), 5)
            except TimeoutError:
                continue
        softnet.send_signal(signal.SIGINT)
        complaints = softnet.communicate(timeout=PATIENCE)[1]
    assert (offered, softnet.returncode, complaints) == (True, 0, b"")
