"""The whole program over the twin, as an ordinary user after the drop: DHCP, ports, isolation, and ends.

Real are the DHCP client and server, the bridge and its port isolation, the forwarding by DNAT, the
connections, and Softnet; only vmnet.framework is the twin.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import softnet
from system.netlab import Namespace, Vm, wait_until
from twin import support
from twin.stage import GATEWAY, Stage

pytestmark = pytest.mark.root

NOBODY = "65534"
ONE, TWO = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
SOURCE = Path(softnet.__file__).parents[1]


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage() as made:
        yield made


def answer(vm: Vm, address: str, port: int, text: bytes) -> socket.socket:
    """A TCP server in the VM that says `text` to everybody."""
    listener = vm.listener(address, port)
    listener.settimeout(None)

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _from = listener.accept()
                client.sendall(text)
                client.close()

    threading.Thread(target=serve, daemon=True).start()
    return listener


def heard(namespace: Namespace, address: str, port: int) -> bytes:
    try:
        with namespace.connect(address, port) as connection:
            return connection.recv(64)
    except OSError:
        return b""


def test_a_lease_after_the_drop_and_its_release_at_the_end(stage: Stage) -> None:
    vm = stage.vm("vm", ONE)
    softnet = stage.softnet(vm)
    assert softnet.status("Uid") == [NOBODY] * 4
    assert softnet.status("Gid") == [NOBODY] * 4
    assert int(softnet.status("CapEff")[0], 16) == 0
    lease = vm.lease()
    assert lease["serverid"] == GATEWAY
    assert stage.leases() == [lease["ip"]]
    assert vm.pings(GATEWAY, count=3)
    status, seconds = softnet.stop()
    assert (status, softnet.errors()) == (0, "")
    assert seconds < 1
    wait_until(lambda: stage.leases() == [], what="the lease given back")
    assert softnet.process.stdout is not None
    assert softnet.process.stdout.read() == ""
    assert stage.host.devices().count("bridge100") == 1
    assert not [name for name in stage.host.devices() if name.startswith("vmenet")]
    log = softnet.log()
    assert log[0] == "start mode=1001 isolation=1"
    assert "set_event_callback mask=1 callback=0" in log
    assert log[-1].startswith("stopped")


def test_exposed_ports_by_real_connections(stage: Stage) -> None:
    outside = stage.namespace("outside")
    stage.cable(stage.host, "en0", "10.1.0.1/24", outside, "eth0", "10.1.0.2/24")
    outside.ip("route add default via 10.1.0.1")
    vm = stage.vm("vm", ONE)
    softnet = stage.softnet(vm, "--expose", "8080:80,5353:53/udp")
    assert heard(outside, "10.1.0.1", 8080) == b""
    address = vm.lease()["ip"]
    with answer(vm, address, 80, b"hello"):
        wait_until(lambda: heard(outside, "10.1.0.1", 8080) == b"hello", what="the port to open")
        assert heard(stage.host, GATEWAY, 8080) == b"hello"
        with vm.udp(address, 53) as server, outside.udp() as client:
            client.sendto(b"question", ("10.1.0.1", 5353))
            question, asker = server.recvfrom(64)
            server.sendto(b"answer to " + question, asker)
            assert client.recv(64) == b"answer to question"
        assert softnet.stop() == (0, pytest.approx(0, abs=1))
        assert heard(outside, "10.1.0.1", 8080) == b""
    assert "twin" not in stage.host.ruleset()
    assert softnet.errors() == ""


@pytest.mark.parametrize(
    ("options", "reachable"),
    [((), False), (("--allow", "192.168.64.0/24"), False), (("--allow", "0.0.0.0/0"), True)],
    ids=["filtered", "isolated", "open"],
)
def test_two_vms_on_one_network(stage: Stage, options: tuple[str, ...], reachable: bool) -> None:
    """The second case is the uplink's own isolation: the filter would let these frames pass."""
    vms = [stage.vm("one", ONE), stage.vm("two", TWO)]
    for vm in vms:
        stage.softnet(vm, *options)
    addresses = [vm.lease()["ip"] for vm in vms]
    assert len(set(addresses)) == 2
    assert all(vm.pings(GATEWAY) for vm in vms)
    assert vms[0].pings(addresses[1]) is reachable
    assert vms[1].pings(addresses[0]) is reachable


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_end_under_a_storm_from_both_sides(stage: Stage, number: int) -> None:
    vm = stage.vm("vm", ONE)
    softnet = stage.softnet(vm)
    address = vm.lease()["ip"]
    going = True

    def flood(source: Namespace, target: str) -> None:
        with source.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            while going:
                with suppress(OSError):
                    sender.sendto(bytes(1400), (target, 9))

    floods = [threading.Thread(target=flood, args=each) for each in ((vm, GATEWAY), (stage.host, address))]
    for thread in floods:
        thread.start()
    time.sleep(1)
    status, seconds = softnet.stop(number)
    going = False
    for thread in floods:
        thread.join()
    assert (status, softnet.errors()) == (0, "")
    assert seconds < 1
    assert softnet.log()[-1].startswith("stopped")


def test_a_kill_leaves_nothing_behind(stage: Stage) -> None:
    vm = stage.vm("vm", ONE)
    softnet = stage.softnet(vm, "--expose", "8080:80")
    vm.lease()
    wait_until(lambda: "dport 8080" in stage.host.ruleset(), what="the forwarding rule")
    assert softnet.stop(signal.SIGKILL)[0] == -signal.SIGKILL
    wait_until(lambda: "twin" not in stage.host.ruleset(), what="the rule gone")
    assert not [name for name in stage.host.devices() if name.startswith("vmenet")]


def test_fifty_starts_and_stops_on_a_tap(stage: Stage) -> None:
    """As root for the starts; every other life has a callback held back when it is stopped."""
    program = """
import os, select, subprocess
from softnet.uplinks.vmnet import api
from softnet.uplinks.vmnet.interface import Interface
for life in range(50):
    interface = Interface(api.SHARED_MODE, True)
    if life % 2:
        subprocess.run(["ping", "-c1", "-W0.01", "192.168.64.77"], stdout=subprocess.DEVNULL)
        assert select.select([interface], [], [], 5)[0], life
    interface.stop()
print("fifty")
"""
    environment = os.environ | {"VMNET_TWIN": str(support.folder()), "PYTHONPATH": str(SOURCE)}
    done = stage.host.run(sys.executable, "-c", program, env=environment, timeout=120)
    assert done.stdout == "fifty\n"
    assert not [name for name in stage.host.devices() if name.startswith("vmenet")]


def test_an_ordinary_user_is_told_that_vmnet_needs_root(stage: Stage) -> None:
    program = """
import os
os.setgroups([]); os.setgid(65534); os.setuid(65534)
from softnet import policy
from softnet.config import Settings, UplinkChoice
from softnet.errors import UplinkError
from softnet.uplinks.vmnet import open_uplink
try:
    open_uplink(Settings(2, UplinkChoice("vmnet")), policy.parse())
except UplinkError as error:
    print(error)
"""
    environment = os.environ | {"VMNET_TWIN": str(support.folder()), "PYTHONPATH": str(SOURCE)}
    done = stage.host.run(sys.executable, "-c", program, env=environment)
    expected = "vmnet_start_interface: VMNET_FAILURE (1001); vmnet needs root: run softnet with sudo\n"
    assert done.stdout == expected


def test_the_tests_for_a_mac_on_the_twin(stage: Stage) -> None:
    """`pytest -m mac`, unchanged, with the twin where a Mac has vmnet."""
    tests = Path(__file__).parents[1] / "mac"
    environment = os.environ | {"VMNET_TWIN": str(support.folder())}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-o",
        "addopts=--import-mode=importlib",
        "-p",
        "no:cacheprovider",
    ]
    done = stage.host.run(
        *command, "-m", "mac", str(tests / "test_vmnet_mac.py"), env=environment, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
