"""`--mtu`: a packet of that size is one frame all the way, on every uplink of Linux, and nothing larger is.

The topology: `host` has a cable to `internet` (9.9.9.9) and a bridge; `network` is a machine at the other end
of a socket, which is 9.9.9.9 for whoever is behind it. The DHCP servers of both say the MTU, as `nat` and
passt do by themselves, and the VM sets what it is told. Where frames matter and networks do not, the
program stands between two sockets.
"""

import hashlib
import random
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator

import pytest

from harness import corpus
from harness.frames import IPV4, UDP, ethernet, ipv4, udp
from harness.program import TO_VM, Program
from system.netlab import Lab, Namespace, Sniffer, Softnet, wait_until
from vectors.world import GLOBAL, GW_MAC, VM, VM_MAC

FROM_VM = corpus.FROM_VM
BOUND = corpus.states()["bound"]
LEAST, JUMBO, MOST = 576, 9000, 65520
LONGEST = 65550  # that a stream may announce
ETHERNET, HEADERS = 14, 28  # of a frame; of IPv4 and UDP
MAC, NETWORK_MAC = "02:00:00:00:00:0a", "02:00:00:00:00:0c"
INTERNET, BRIDGE, CABLE = "9.9.9.9", "10.50.0.1", "10.70.0.1"
DNSMASQ = ("dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--no-ping", "--dhcp-authoritative")
AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all")
WAYS = ("nat", "nat without offload", "bridge", "bridge without offload", "user", "fd")
PORT = 7
OURS, THEIRS = (VM_MAC, VM), (GW_MAC, GLOBAL)
DATA = random.Random(5).randbytes(3_000_000)
DIGEST = hashlib.sha256(DATA).hexdigest()


class Stage(Lab):
    def __init__(self) -> None:
        super().__init__()
        self._servers: list[subprocess.Popen[str]] = []
        self.host = self.namespace("host")
        self.internet = self.namespace("internet")
        self.cable(self.host, "eth0", "192.0.2.2/24", self.internet, "eth0", "192.0.2.1/24")
        self.internet.ip(f"address add {INTERNET}/32 dev lo\nroute add 10.50.0.0/24 via 192.0.2.2")
        self.host.sysctl("ipv4/ip_forward", 1)
        self.host.ip(
            f"""route add default via 192.0.2.1
            link add br0 type bridge
            address add {BRIDGE}/24 dev br0
            link set br0 up"""
        )
        self.network = self.vm("network", NETWORK_MAC, MOST)
        self.network.ip(f"address add {CABLE}/24 dev eth0\naddress add {INTERNET}/32 dev lo")
        self.machine = self.vm("vm", MAC)
        self.set_cable(MOST)

    def set_cable(self, mtu: int) -> None:
        self.host.ip(f"link set eth0 mtu {mtu}")
        self.internet.ip(f"link set eth0 mtu {mtu}")

    def start(self, way: str, mtu: int, told: int | None = None) -> Softnet:
        """Softnet on an uplink, with a bridge and DHCP servers whose MTU is `told`."""
        kind = way.split()[0]
        uplink = {"bridge": "bridge=br0", "fd": f"fd={self.network.fd}"}.get(kind, kind)
        options = ["--uplink", uplink, "--mtu", str(mtu)]
        options += ["--no-offload"] if "without" in way else []
        options += ["--gateway", CABLE] if kind == "fd" else []
        if kind == "bridge":
            self.host.ip(f"link set br0 mtu {told or mtu}")
            self._serve(self.host, "br0", "10.50.0", told or mtu)
        if kind == "fd":
            self._serve(self.network, "eth0", "10.70.0", told or mtu)
        wrapper = AS_NOBODY if kind == "user" else ()
        return self.softnet(self.host, self.machine, *options, wrapper=wrapper, fds=(self.network.fd,))

    def _serve(self, place: Namespace, device: str, network: str, mtu: int) -> None:
        reach = (f"--dhcp-range={network}.100,{network}.199,10m", f"--dhcp-option=option:mtu,{mtu}")
        where = (f"--interface={device}", "--dhcp-leasefile=/dev/null")
        self._servers.append(place.start(*DNSMASQ, *reach, *where, stderr=subprocess.DEVNULL))
        wait_until(lambda: place.run("ss", "-Hlun", "sport = 67").stdout, 5, "the DHCP server")

    def obey(self) -> int:
        """The MTU that the VM is told, which it has from now on."""
        mtu = int(self.machine.lease()["mtu"])
        self.machine.ip(f"link set eth0 mtu {mtu}")
        return mtu

    def far(self, way: str) -> Namespace:
        """Who is 9.9.9.9."""
        return self.network if way == "fd" else self.internet

    def taps(self) -> list[str]:
        return [name for name in self.host.devices() if name[:2] in ("sn", "sb")]

    def tidy(self) -> None:
        while self._programs:
            self._programs.pop().close()
        while self._servers:
            server = self._servers.pop()
            server.kill()
            server.wait()
        self.machine.ip("link set eth0 mtu 1500")
        self.set_cable(MOST)
        for place in (self.host, self.internet, self.network, self.machine):
            place.ip("route flush cache")  # what the last test taught about its way


@pytest.fixture(scope="module")
def one_stage() -> Iterator[Stage]:
    with Stage() as stage:
        yield stage


@pytest.fixture
def stage(one_stage: Stage) -> Iterator[Stage]:
    yield one_stage
    one_stage.tidy()


def echo(near: Namespace, far: Namespace, data: bytes) -> bytes:
    """Sends one datagram, which comes back reversed; the answer."""
    with far.udp(INTERNET, PORT) as server, near.udp() as client:
        client.sendto(data, (INTERNET, PORT))
        question, asker = server.recvfrom(1 << 16)
        assert question == data
        server.sendto(data[::-1], asker)
        return client.recv(1 << 16)


def lengths(sniffer: Sniffer) -> list[int]:
    """Of the frames with UDP in IPv4, to or from PORT."""
    frames = [frame for frame in sniffer.frames(0.05) if frame[12:14] == b"\x08\x00" and frame[23] == UDP]
    return [len(frame) for frame in frames if PORT.to_bytes(2, "big") in (frame[34:36], frame[36:38])]


def carried(near: Namespace, far: Namespace, to_vm: bool) -> str:
    """The digest of what arrives when DATA goes through one TCP connection from or to the VM."""
    with far.listener(INTERNET, 80) as listener:
        vm = near.connect(INTERNET, 80, timeout=10)
        world, _peer = listener.accept()
    world.settimeout(10)
    sender, receiver = (world, vm) if to_vm else (vm, world)

    def send() -> None:
        sender.sendall(DATA)
        sender.shutdown(socket.SHUT_WR)

    digest = hashlib.sha256()
    with vm, world:
        thread = threading.Thread(target=send)
        thread.start()
        while part := receiver.recv(1 << 16):
            digest.update(part)
        thread.join()
    return digest.hexdigest()


@pytest.mark.root
@pytest.mark.parametrize("mtu", [JUMBO, MOST])
@pytest.mark.parametrize("way", WAYS)
def test_packets_of_that_size(stage: Stage, way: str, mtu: int) -> None:
    stage.start(way, mtu)
    assert stage.obey() == mtu
    sniffers = [stage.machine.sniff("eth0"), *(stage.host.sniff(tap) for tap in stage.taps())]
    data = random.Random(mtu).randbytes(mtu - HEADERS)
    assert echo(stage.machine, stage.far(way), data) == data[::-1]
    for sniffer in sniffers:
        assert lengths(sniffer) == [mtu + ETHERNET] * 2  # there and back, one frame each
        sniffer.close()
    for to_vm in (False, True):
        assert carried(stage.machine, stage.far(way), to_vm) == DIGEST


@pytest.mark.root
def test_a_smaller_mtu_beyond_the_host_costs_fragments_and_nothing_else(stage: Stage) -> None:
    stage.set_cable(1500)
    stage.start("nat", MOST)
    stage.obey()
    data = DATA[: MOST - HEADERS]
    with pytest.raises(TimeoutError):  # the first has DF, and the host tells the MTU of its way (RFC 1191)
        echo(stage.machine, stage.internet, data)
    assert echo(stage.machine, stage.internet, data) == data[::-1]
    for to_vm in (False, True):
        assert carried(stage.machine, stage.internet, to_vm) == DIGEST


def datagram(near: tuple[str, str], far: tuple[str, str], size: int) -> bytes:
    """A frame around an IPv4 packet of `size` bytes; of each side its MAC and its IPv4 address."""
    packet = ipv4(near[1], far[1], UDP, udp(PORT, PORT, bytes(size - HEADERS)))
    return ethernet(far[0], near[0], IPV4, packet)


def mac_of(place: Namespace, device: str) -> str:
    return place.ip(f"-o link show {device}").partition("link/ether ")[2].split()[0]


def oversize(running: Softnet) -> list[int]:
    """How many frames were too long, from the VM and to it."""
    running.process.send_signal(signal.SIGUSR1)
    wait_until(lambda: "to-vm" in running.errors(), 2)
    lines = [line for line in running.errors().splitlines() if "-vm " in line]
    return [int("0" + line.partition("oversize=")[2].partition(" ")[0]) for line in lines]


@pytest.mark.root
@pytest.mark.parametrize(("mtu", "of_bridge", "to_vm"), [(MOST, 1500, 0), (1500, JUMBO, 2)])
def test_the_smaller_one_of_option_and_bridge_holds(
    stage: Stage, mtu: int, of_bridge: int, to_vm: int
) -> None:
    running = stage.start("bridge", mtu, of_bridge)
    assert stage.obey() == of_bridge
    stage.machine.ip(f"link set eth0 mtu {MOST}")  # a VM that does not care what it was told
    vm, host = (MAC, stage.machine.lease()["ip"]), (mac_of(stage.host, "br0"), BRIDGE)
    at_vm, at_bridge = stage.machine.sniff("eth0"), stage.host.sniff("br0")
    for size in (1501, MOST, 1500):
        at_vm.send(datagram(vm, host, size))
    assert lengths(at_bridge) == [1514]
    lengths(at_vm)
    for size in (1501, of_bridge, 1500)[-1 - to_vm :]:  # the others are no frames on this bridge
        at_bridge.send(datagram(host, vm, size))
    assert lengths(at_vm) == [1514]
    assert oversize(running) == [2, to_vm]


# Between two sockets.


@pytest.mark.parametrize("mtu", [LEAST, MOST])
@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_the_longest_frame_and_one_byte_more(kind: socket.SocketKind, mtu: int) -> None:
    with Program(BOUND | {"mtu": mtu}, vm=kind, uplink=kind) as program:
        program.reach(BOUND)
        for direction, frame in (
            (FROM_VM, datagram(OURS, THEIRS, mtu)),
            (TO_VM, datagram(THEIRS, OURS, mtu)),
        ):
            passes = "pass-global" if direction == FROM_VM else "pass-inbound"
            program.exchange(direction, [(frame, passes), (frame + b"!", "oversize"), (frame, passes)])
            program.exchange(direction, [(frame.ljust(LONGEST), "oversize"), (frame, passes)])
        program.end()
        assert program.counted() == program.sent


@pytest.mark.root
def test_without_frames_a_large_mtu_costs_no_memory() -> None:
    """Each direction has 8 MiB of room for a batch of the longest frames, the kernel's until they come."""
    resident = []
    for mtu in (1500, MOST):
        with Program(BOUND | {"mtu": mtu}) as program:
            program.reach(BOUND)
            with open(f"/proc/{program.process.pid}/status", encoding="ascii") as file:
                resident.append(next(int(line.split()[1]) for line in file if line.startswith("VmRSS")))
    assert resident[1] - resident[0] < 1024, "KiB"
