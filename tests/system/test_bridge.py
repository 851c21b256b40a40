"""The bridge uplink beside other people's DHCP servers, other ports, other VMs, and libvirt's network.

The topology of every test: `host` has a bridge, `br0`, with 10.50.0.1 on it, and routes to `internet`
(9.9.9.9). `port` is a machine on a port of the bridge like any other.
"""

import json
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from system.netlab import Lab, Namespace, Softnet, Vm, wait_until

pytestmark = pytest.mark.root

MAC, OTHER_MAC = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
BRIDGE, GATEWAY, INTERNET = "br0", "10.50.0.1", "9.9.9.9"
PORT = "10.50.0.9"
CLIENT_IDS = ("ff0000000a0001", "ff0000000a0002")

Server = Callable[["Stage", str, Path], Sequence[str]]


def dnsmasq(*options: str) -> list[str]:
    """As a debugger would start it: it stays in the foreground and who it is."""
    alone = ("--no-daemon", "--conf-file=/dev/null", "--port=0", "--no-ping", "--dhcp-authoritative")
    return ["dnsmasq", *alone, *options]


def use_dnsmasq(stage: "Stage", ignoring: str, folder: Path) -> Sequence[str]:
    leases = f"--dhcp-leasefile={folder}/leases"
    return dnsmasq(
        f"--interface={BRIDGE}", "--dhcp-range=10.50.0.100,10.50.0.199,10m", leases, *filter(None, [ignoring])
    )


def use_isc(stage: "Stage", ignoring: str, folder: Path) -> Sequence[str]:
    (folder / "leases").touch()
    (folder / "conf").write_text(
        f"authoritative; default-lease-time 600; ping-check false; option routers {GATEWAY}; {ignoring}\n"
        "subnet 10.50.0.0 netmask 255.255.255.0 { range 10.50.0.100 10.50.0.199; }\n"
    )
    files = ("-cf", f"{folder}/conf", "-lf", f"{folder}/leases", "-pf", f"{folder}/pid")
    return ["dhcpd", "-4", "-f", "-d", *files, BRIDGE]


def use_kea(stage: "Stage", ignoring: str, folder: Path) -> Sequence[str]:
    subnet = {
        "subnet": "10.50.0.0/24",
        "pools": [{"pool": "10.50.0.100 - 10.50.0.199"}],
        "option-data": [{"name": "routers", "data": GATEWAY}],
    }
    configuration = {
        "interfaces-config": {"interfaces": [BRIDGE]},
        "lease-database": {"type": "memfile", "persist": False},
        "valid-lifetime": 600,
        "subnet4": [subnet],
        **(json.loads(ignoring) if ignoring else {}),
    }
    (folder / "conf").write_text(json.dumps({"Dhcp4": configuration}))
    places = (f"KEA_PIDFILE_DIR={folder}", f"KEA_LOCKFILE_DIR={folder}")
    return ["env", *places, "kea-dhcp4", "-c", f"{folder}/conf"]


SERVERS: dict[str, Server] = {"dnsmasq": use_dnsmasq, "isc": use_isc, "kea": use_kea}
# The recipes of docs/uplinks.md.
IGNORING = {
    "dnsmasq": "--dhcp-ignore-clid",
    "isc": "ignore-client-uids true;",
    "kea": '{"match-client-id": false}',
}


class Stage(Lab):
    def __init__(self) -> None:
        super().__init__()
        self._servers: list[subprocess.Popen[str]] = []
        self._folder = tempfile.TemporaryDirectory(prefix="snt-")
        self.folder = Path(self._folder.name)
        self.host = self.namespace("host")
        self.internet = self.namespace("internet")
        self.cable(self.host, "eth0", "192.0.2.2/24", self.internet, "eth0", "192.0.2.1/24")
        self.internet.ip(f"address add {INTERNET}/32 dev lo\nroute add 10.50.0.0/24 via 192.0.2.2")
        self.host.sysctl("ipv4/ip_forward", 1)
        self.host.ip(
            f"""route add default via 192.0.2.1
            link add {BRIDGE} type bridge
            address add {GATEWAY}/24 dev {BRIDGE}
            link set {BRIDGE} up"""
        )
        self.port = self.namespace("port")
        self.cable(self.host, "port0", "", self.port, "eth0", f"{PORT}/24")
        # The greatest there is: any other port's MAC address would become the bridge's.
        self.host.ip(f"link set port0 address fe:ff:ff:ff:ff:ff\nlink set port0 master {BRIDGE}")
        self.machine, self.other = self.vm("vm", MAC), self.vm("other", OTHER_MAC)

    def start(self, *options: str, vm: Vm | None = None, wrapper: Sequence[str] = ()) -> Softnet:
        chosen = () if "--uplink" in options else ("--uplink", f"bridge={BRIDGE}")
        return self.softnet(self.host, vm or self.machine, *chosen, *options, wrapper=wrapper)

    def serve(self, name: str = "dnsmasq", ignoring: str = "") -> None:
        """Starts a DHCP server on the bridge itself."""
        self.run_server(self.host, *SERVERS[name](self, ignoring, self.folder))

    def run_server(self, place: Namespace, *argv: str) -> None:
        log = (self.folder / "log").open("w")
        self._servers.append(place.start(*argv, stdout=log, stderr=log))
        wait_until(lambda: listens(place, 67), 5, "the DHCP server")

    def taps(self) -> list[str]:
        return [name for name in self.host.devices() if name.startswith("sb")]

    def leases(self) -> list[str]:
        return (self.folder / "leases").read_text().splitlines()

    def tidy(self) -> None:
        """Back to how it was made, for the next test."""
        while self._programs:
            self._programs.pop().close()
        while self._servers:
            server = self._servers.pop()
            server.kill()
            server.wait()
        for path in self.folder.iterdir():
            path.unlink()

    def close_folder(self) -> None:
        self._folder.cleanup()


@pytest.fixture(scope="module")
def one_stage() -> Iterator[Stage]:
    with Stage() as stage:
        yield stage
    stage.close_folder()


@pytest.fixture
def stage(one_stage: Stage) -> Iterator[Stage]:
    yield one_stage
    one_stage.tidy()


def listens(place: Namespace, port: int) -> bool:
    """Whether a UDP socket (or, as ISC's and Kea's, a packet socket) waits for clients."""
    return bool(place.run("ss", "-Hlun", f"sport = {port}").stdout or place.run("ss", "-H0n").stdout)


def lease_as(vm: Vm, client_id: str) -> str:
    """The address that a client with this identifier is given."""
    client = ("busybox", "udhcpc", "-i", "eth0", "-f", "-n", "-q", "-t", "5", "-T", "1")
    with tempfile.NamedTemporaryFile("w", prefix="snt-", delete=False) as script:
        script.write('#!/bin/sh\n[ "$1" != bound ] || echo "$ip"\n')
    path = Path(script.name)
    path.chmod(0o700)
    try:
        return vm.run(*client, "-x", f"0x3d:{client_id}", "-s", str(path)).stdout.split()[-1]
    finally:
        path.unlink()


def link_of(stage: Stage, device: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads(stage.host.run("ip", "-j", "link", "show", device).stdout)
    return found[0]


def mac_of(stage: Stage, device: str) -> str:
    return str(link_of(stage, device)["address"])


def fdb(stage: Stage, mac: str) -> str:
    lines = stage.host.run("bridge", "fdb", "show", "br", BRIDGE).stdout.splitlines()
    return "".join(line for line in lines if line.startswith(mac))


# Other people's servers.


@pytest.mark.parametrize("server", SERVERS)
def test_a_lease_and_what_it_opens(stage: Stage, server: str) -> None:
    stage.serve(server)
    running = stage.start()
    lease = stage.machine.lease()
    assert lease["ip"].startswith("10.50.0.1")
    assert (lease["router"], lease["serverid"]) == (GATEWAY, GATEWAY)
    with stage.internet.listener(INTERNET, 80) as listener:
        stage.machine.connect(INTERNET, 80).close()
        assert listener.accept()[1][0] == lease["ip"]
    assert not stage.machine.pings(PORT, seconds=0.3)  # a neighbour of the bridge, and not its gateway
    assert running.stop() == 0


@pytest.mark.parametrize("server", SERVERS)
def test_recipes_that_key_leases_by_mac_address(stage: Stage, server: str) -> None:
    stage.serve(server, IGNORING[server])
    stage.start()
    assert len({lease_as(stage.machine, each) for each in CLIENT_IDS}) == 1


@pytest.mark.parametrize("server", SERVERS)
def test_without_the_recipe_each_client_identifier_costs_an_address(stage: Stage, server: str) -> None:
    stage.serve(server)
    stage.start()
    assert len({lease_as(stage.machine, each) for each in CLIENT_IDS}) == 2


def test_the_lease_is_given_back_at_the_end(stage: Stage) -> None:
    stage.serve()
    running = stage.start()
    address = stage.machine.lease()["ip"]
    assert [line.split()[1:3] for line in stage.leases()] == [[MAC, address]]
    running.stop()
    wait_until(lambda: not stage.leases(), 2, "the lease to be released")


def test_a_server_on_another_port_of_a_bridge_without_an_address(stage: Stage) -> None:
    stage.host.ip(f"address del {GATEWAY}/24 dev {BRIDGE}")
    try:
        reach = ("--interface=eth0", "--dhcp-range=10.50.0.100,10.50.0.199,10m", f"--dhcp-option=3,{PORT}")
        stage.run_server(stage.port, *dnsmasq(*reach, f"--dhcp-leasefile={stage.folder}/leases"))
        stage.start("--allow", PORT)
        lease = stage.machine.lease()
        assert (lease["router"], lease["serverid"]) == (PORT, PORT)
        assert stage.machine.pings(PORT)
    finally:
        stage.host.ip(f"address add {GATEWAY}/24 dev {BRIDGE}\nroute replace default via 192.0.2.1")


def test_a_rogue_server_on_another_port_teaches_nothing(stage: Stage) -> None:
    reach = ("--interface=eth0", "--dhcp-range=10.50.0.200,10.50.0.250,10m", f"--dhcp-option=3,{PORT}")
    stage.run_server(stage.port, *dnsmasq(*reach, f"--dhcp-leasefile={stage.folder}/leases"))
    running = stage.start()
    assert stage.machine.lease()["serverid"] == PORT  # the VM believes it, and Softnet does not
    with stage.internet.listener(INTERNET, 80), pytest.raises((TimeoutError, OSError)):
        stage.machine.connect(INTERNET, 80, timeout=0.5)
    assert not stage.machine.pings(GATEWAY, seconds=0.3)
    running.process.send_signal(signal.SIGUSR1)
    wait_until(lambda: "arp-spa" in running.errors(), 2)
    assert "pass-global" not in running.errors()


def use_address(vm: Vm, client_id: str) -> str:
    """Asks as this client, and configures the answer."""
    address = lease_as(vm, client_id)
    vm.ip(f"address flush dev eth0\naddress add {address}/24 dev eth0")
    return address


def test_an_exposed_port_follows_the_address_also_under_load(stage: Stage) -> None:
    stage.serve()
    stage.start("--expose", "8080:80")
    for client_id in CLIENT_IDS:
        address = use_address(stage.machine, client_id)
        load = stage.machine.start("ping", "-f", "-q", GATEWAY, stdout=subprocess.DEVNULL)
        try:
            with stage.machine.listener(address, 80) as listener:
                for place, through in ((stage.host, "127.0.0.1"), (stage.internet, "192.0.2.2")):
                    with place.connect(through, 8080) as client, listener.accept()[0] as server:
                        server.sendall(address.encode())
                        assert client.recv(100) == address.encode()
        finally:
            load.kill()
            load.wait()


# Other ports and other VMs.


@pytest.mark.parametrize(("opened", "together"), [("10.50.0.0/24", False), ("0.0.0.0/0", True)])
def test_two_vms(stage: Stage, opened: str, together: bool) -> None:
    """Both filters let everything through here that is tried: what keeps the VMs apart is the bridge."""
    stage.serve()
    stage.start("--allow", opened)
    stage.start("--allow", opened, vm=stage.other)
    stage.machine.lease()
    address = stage.other.lease()["ip"]
    assert stage.machine.pings(address, seconds=0.5) == together
    assert stage.machine.pings(PORT)
    assert stage.machine.pings(GATEWAY)
    with stage.other.udp("0.0.0.0", 9) as other, stage.port.udp("0.0.0.0", 9) as port:
        with stage.machine.udp() as sender:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sender.sendto(b"hello", ("10.50.0.255", 9))
        assert port.recv(10) == b"hello"
        other.settimeout(0.3)
        assert receives(other, b"hello") == together


def receives(sock: socket.socket, expected: bytes) -> bool:
    try:
        return sock.recv(100) == expected
    except TimeoutError:
        return False


def test_the_vms_address_cannot_be_taken_away_by_another_port(stage: Stage) -> None:
    stage.serve()
    stage.start()
    address = stage.machine.lease()["ip"]
    entry = fdb(stage, MAC)
    assert stage.taps()[0] in entry
    thief = stage.port.sniff("eth0")
    for _ in range(3):
        thief.send(b"\xff" * 6 + bytes.fromhex(MAC.replace(":", "")) + b"\x08\x06" + bytes(46))
    assert fdb(stage, MAC) == entry
    thief.frames(0.1)
    assert stage.host.pings(address)
    assert not [frame for frame in thief.frames() if frame[:6].hex(":") == MAC and frame[12:14] == b"\x08\0"]
    thief.close()


def test_what_is_for_nobody_known_is_not_flooded_to_the_vm(stage: Stage) -> None:
    stage.serve()
    stage.start()
    stage.machine.lease()
    running = stage._programs[-1]
    stranger = stage.port.sniff("eth0")
    for _ in range(3):
        stranger.send(bytes.fromhex("02dddddddddd020000000077") + b"\x08\x00" + bytes(60))
    time.sleep(0.1)
    stranger.close()
    running.process.send_signal(signal.SIGUSR1)
    wait_until(lambda: "to-vm" in running.errors(), 2)
    assert "other-mac" not in running.errors()


# The bridge itself.


def test_its_mac_address_is_not_touched(stage: Stage) -> None:
    """Another Softnet's VM knows it, and so does whoever else is on the bridge."""
    stage.serve()
    before = mac_of(stage, BRIDGE)
    running = stage.start()
    assert mac_of(stage, BRIDGE) == before
    running.stop()
    wait_until(lambda: not stage.taps(), 3)
    assert mac_of(stage, BRIDGE) == before


def test_a_bridge_without_other_ports_that_vms_come_to_and_leave(stage: Stage) -> None:
    stage.host.ip("link add br1 type bridge\naddress add 10.51.0.1/24 dev br1\nlink set br1 up")
    try:
        for _ in range(2):  # the second time, the bridge has lost its address with its last port
            first = stage.start("--uplink", "bridge=br1")
            mac = mac_of(stage, "br1")
            second = stage.start("--uplink", "bridge=br1", vm=stage.other)
            first.stop()
            wait_until(lambda: len(stage.taps()) == 1, 3)
            assert mac_of(stage, "br1") == mac
            second.stop()
            wait_until(lambda: not stage.taps(), 3)
    finally:
        stage.tidy()
        stage.host.ip("link del br1")


@pytest.mark.parametrize("mtu", [1400, 9000])
def test_the_mtu_of_the_bridge_is_not_touched(stage: Stage, mtu: int) -> None:
    stage.host.ip(f"link set port0 mtu {mtu}\nlink set {BRIDGE} mtu {mtu}")
    stage.port.ip(f"link set eth0 mtu {mtu}")
    try:
        stage.serve()
        running = stage.start()
        lengths = [link_of(stage, BRIDGE)["mtu"]]
        assert stage.machine.lease()
        running.stop()
        lengths += [link_of(stage, BRIDGE)["mtu"]]
        assert lengths == [mtu, mtu]
    finally:
        stage.host.ip(f"link set port0 mtu 1500\nlink set {BRIDGE} mtu 1500")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left(stage: Stage, number: int) -> None:
    stage.serve()
    devices, entries = stage.host.devices(), stage.host.run("bridge", "fdb", "show").stdout
    running = stage.start()
    stage.machine.lease()
    running.stop(number)
    wait_until(lambda: stage.host.devices() == devices, 3)
    assert stage.host.run("bridge", "fdb", "show").stdout == entries
    assert stage.start()  # and the next one starts
    assert stage.machine.lease()


# Refusals.


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--uplink", "bridge=br9"), "--uplink bridge=br9: there is no such interface; name one that"),
        (("--uplink", "bridge=../br0"), "--uplink bridge=../br0: there is no such interface; name one"),
        (("--uplink", "bridge=eth0"), "--uplink bridge=eth0: is an interface, but not a bridge; name one"),
        (("--uplink", "bridge=port0"), "--uplink bridge=port0: is an interface, but not a bridge; name one"),
        (("--uplink", "bridge=lo"), "--uplink bridge=lo: is an interface, but not a bridge; name one"),
        (("--vm-net-type", "host"), "--vm-net-type host: is not a bridge's to keep; leave it out"),
    ],
)
def test_refusals(stage: Stage, options: tuple[str, ...], said: str) -> None:
    devices = stage.host.devices()
    with pytest.raises(AssertionError) as failed:
        stage.start(*options)
    assert said in str(failed.value)
    assert len(str(failed.value).splitlines()) == 1
    assert stage.host.devices() == devices


def test_without_privileges(stage: Stage) -> None:
    with pytest.raises(AssertionError, match=r"needs root \(CAP_NET_ADMIN\).*--uplink user"):
        stage.start(wrapper=("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"))


def test_a_bridge_that_is_called_bridge_is_no_reason_to_take_its_ports_for_one(stage: Stage) -> None:
    stage.host.ip(
        "link add bridge type bridge\nlink add sleeve type veth peer name cuff\nlink set sleeve master bridge"
    )
    try:
        with pytest.raises(AssertionError, match="bridge=sleeve: is an interface, but not a bridge"):
            stage.start("--uplink", "bridge=sleeve")
        assert stage.start("--uplink", "bridge=bridge")
    finally:
        stage.tidy()
        stage.host.ip("link del bridge\nlink del sleeve")


# libvirt.


def port_states(stage: Stage, bridge: str) -> list[str]:
    ports = json.loads(stage.host.run("bridge", "-j", "link", "show").stdout)
    return [port["state"] for port in ports if port.get("master") == bridge]


LIBVIRT = """
mount -t tmpfs softnet-test /run && mount -t tmpfs softnet-test /var/lib/libvirt &&
mount -t tmpfs softnet-test /var/cache/libvirt && mount -t tmpfs softnet-test /var/log &&
cp -r /etc/libvirt /run/etc && mount --bind /run/etc /etc/libvirt || exit
libvirtd 2>/dev/null &
until virsh -q -c network:///system net-start default 2>/dev/null; do sleep 0.2; done
wait
"""


def test_the_default_network_of_libvirt(stage: Stage) -> None:
    """A libvirtd of its own: with the machine's packages, and nothing of the machine's state."""
    apart = ("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")
    libvirt = stage.host.start(*apart, "sh", "-c", LIBVIRT)
    try:
        wait_until(lambda: listens(stage.host, 67), 20, "libvirt's dnsmasq")
        stage.start("--uplink", "bridge=virbr0")
        wait_until(lambda: "forwarding" in port_states(stage, "virbr0"), 10, "spanning tree")
        lease = stage.machine.lease()
        assert lease["ip"].startswith("192.168.122.")
        assert (lease["router"], lease["dns"]) == ("192.168.122.1", "192.168.122.1")
        with stage.internet.listener(INTERNET, 80) as listener:
            stage.machine.connect(INTERNET, 80).close()
            assert listener.accept()[1][0] == "192.0.2.2"  # libvirt's masquerading
    finally:
        libvirt.kill()
        libvirt.wait()
        stage.host.run("ip", "link", "del", "virbr0", check=False)
        stage.host.run("nft", "flush", "ruleset")
