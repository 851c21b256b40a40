"""What every uplink owes, tried on each by the same tests, with the real thing behind it.

    nat     Softnet's own DHCP answers
    bridge  dnsmasq on a bridge of the host
    user    passt, started by Softnet
    fd      a cable (datagrams) to a machine that serves DHCP and routes
    unix    a passt that somebody else has started, which listens at a path (a stream)

Everywhere `internet` (9.9.9.9) is behind it. What is particular to an uplink has tests of its own.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from system.netlab import Lab, Namespace, Softnet, Vm, program, wait_until

pytestmark = pytest.mark.root

MAC, NETWORK_MAC = "02:00:00:00:00:0a", "02:00:00:00:00:0c"
HOST, LAN, INTERNET = "192.0.2.2", "192.0.2.1", "9.9.9.9"
CABLE, BRIDGE = "10.70.0.1", "10.71.0.1"
DNSMASQ = ("dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--no-ping", "--dhcp-authoritative")
AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all")

# Opens the uplink, says what it found out, and keeps it until its input ends.
FACTS = """
import json, sys
from softnet.config import Settings
from softnet.core.address import parse_ipv4, parse_mac
from softnet.policy import parse
from softnet.uplinks.select import open_uplink, parse_choice
choice, gateway, mac = sys.argv[1:4]
settings = Settings(parse_mac(mac), parse_choice(choice), gateway=parse_ipv4(gateway) if gateway else None)
uplink = open_uplink(settings, parse())
print(json.dumps([*uplink.facts[:3], uplink.mtu, uplink.link.fileno()]), flush=True)
sys.stdin.read()
uplink.close()
uplink.close()
"""


class Kind:
    """One uplink on a host of its own. `options` select it, `gateway` is what its VM is told."""

    gateway = ""
    options: tuple[str, ...] = ()
    fds: tuple[int, ...] = ()
    wrapper: tuple[str, ...] = ()
    needs_root = False
    knows_gateway_mac = True

    def __init__(self, stage: "Stage") -> None:
        self.stage = stage

    @property
    def choice(self) -> str:
        return self.options[1]

    def places(self) -> dict[str, Namespace]:
        """The addresses that `@host` means here, and where they are."""
        return {HOST: self.stage.host, self.gateway: self.stage.host}

    def close(self) -> None:
        """Ends what was started for it."""


class Nat(Kind):
    options, gateway, needs_root = ("--uplink", "nat"), "10.231.0.1", True


class Bridge(Kind):
    options, gateway, needs_root = ("--uplink", "bridge=br0"), BRIDGE, True

    def __init__(self, stage: "Stage") -> None:
        super().__init__(stage)
        stage.host.ip(f"link add br0 type bridge\naddress add {BRIDGE}/24 dev br0\nlink set br0 up")
        stage.host.sysctl("ipv4/ip_forward", 1)
        reach = ("--interface=br0", "--dhcp-range=10.71.0.100,10.71.0.199,10m", "--dhcp-leasefile=/dev/null")
        self._server = start_server(stage.host, *DNSMASQ, *reach)

    def close(self) -> None:
        stop(self._server)
        self.stage.host.ip("link del br0")
        self.stage.host.sysctl("ipv4/ip_forward", 0)


class User(Kind):
    options, gateway, wrapper = ("--uplink", "user"), "10.231.0.1", AS_NOBODY


class Fd(Kind):
    gateway, knows_gateway_mac = CABLE, False

    def __init__(self, stage: "Stage") -> None:
        super().__init__(stage)
        self._network = stage.network
        reach = ("--interface=eth0", "--dhcp-range=10.70.0.100,10.70.0.199,10m", "--dhcp-leasefile=/dev/null")
        self._server = start_server(self._network, *DNSMASQ, *reach)
        self.fds = (self._network.fd,)
        self.options = ("--uplink", f"fd={self._network.fd}", "--gateway", CABLE)

    def places(self) -> dict[str, Namespace]:
        return {CABLE: self._network}

    def close(self) -> None:
        stop(self._server)


class Unix(Kind):
    gateway, knows_gateway_mac = "10.99.0.1", False

    def __init__(self, stage: "Stage") -> None:
        super().__init__(stage)
        self._folder = tempfile.mkdtemp(prefix="snt-")
        os.chmod(self._folder, 0o777)
        self.options = ("--uplink", f"unix={self._folder}/passt", "--gateway", self.gateway)
        self._start()

    def _start(self) -> None:
        addresses = ("--address", "10.99.0.2", "--netmask", "24", "--gateway", self.gateway)
        words = ("passt", "--foreground", "--quiet", "--ipv4-only", "--mtu", "1500", *addresses)
        path = f"{self._folder}/passt"
        self._server = self.stage.lan_side.start(*words, "--socket", path, stderr=subprocess.DEVNULL)
        wait_until(lambda: os.path.exists(path) and not os.chmod(path, 0o777))

    def places(self) -> dict[str, Namespace]:
        return {self.gateway: self.stage.lan_side}

    def close(self) -> None:
        stop(self._server)
        shutil.rmtree(self._folder)


KINDS: dict[str, type[Kind]] = {"nat": Nat, "bridge": Bridge, "user": User, "fd": Fd, "unix": Unix}


class Stage(Lab):
    def __init__(self) -> None:
        super().__init__()
        self.host = self.namespace("host")
        self.internet = self.namespace("internet")
        self.cable(self.host, "eth0", f"{HOST}/24", self.internet, "eth0", f"{LAN}/24")
        self.host.ip(f"route add default via {LAN}")
        self.internet.ip(f"address add {INTERNET}/32 dev lo\nroute add 10.71.0.0/24 via {HOST}")
        # Where the server of the unix uplink runs: beside the host, so that it is no business of its.
        self.lan_side = self.namespace("lan")
        self.cable(self.lan_side, "eth0", "198.51.100.2/24", self.internet, "eth1", "198.51.100.1/24")
        self.lan_side.ip("route add default via 198.51.100.1")
        # And the machine at the other end of the fd uplink's cable, which is the internet itself.
        self.network = self.vm("network", NETWORK_MAC)
        self.network.ip(f"address add {CABLE}/24 dev eth0\naddress add {INTERNET}/32 dev lo")
        self.machine = self.vm("vm", MAC)

    def start(self, kind: Kind, *options: str, wrapper: Sequence[str] | None = None) -> Softnet:
        chosen = kind.wrapper if wrapper is None else wrapper
        return self.softnet(self.host, self.machine, *kind.options, *options, wrapper=chosen, fds=kind.fds)

    def tidy(self) -> None:
        while self._programs:
            self._programs.pop().close()


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Stage() as stage:
        yield stage


@pytest.fixture(scope="module", params=KINDS)
def one_kind(request: pytest.FixtureRequest, stage: Stage) -> Iterator[Kind]:
    kind = KINDS[request.param](stage)
    yield kind
    stage.tidy()
    kind.close()


@pytest.fixture
def kind(one_kind: Kind, stage: Stage) -> Iterator[Kind]:
    yield one_kind
    stage.tidy()


def start_server(place: Namespace, *argv: str) -> subprocess.Popen[str]:
    server = place.start(*argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: place.run("ss", "-Hlun", "sport = 67").stdout, 5, argv[0])
    return server


def stop(server: subprocess.Popen[str]) -> None:
    server.kill()
    server.wait()


def traces(stage: Stage) -> dict[str, object]:
    """All that an uplink could leave behind on its host."""
    host = stage.host
    return {
        "devices": host.devices(),
        "rules": host.ruleset(),
        # A bridge without a port has no carrier; the kernel notes that at its routes.
        "routes": host.ip("-4 route show table all").replace(" linkdown", ""),
        "neighbours": [line for line in host.ip("neigh").splitlines() if "PERMANENT" in line],
        "forwarding": host.sysctl("ipv4/conf/eth0/forwarding"),
        "softnet": [pid for pid in host.processes() if is_softnets(pid)],
    }


def is_softnets(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return False
    return b"softnet" in words or words.startswith(b"passt")


def reaches_internet(stage: Stage, kind: Kind) -> bool:
    server = stage.network if isinstance(kind, Fd) else stage.internet
    with server.listener(INTERNET, 80) as listener:
        try:
            client = stage.machine.connect(INTERNET, 80, timeout=1)
        except (TimeoutError, OSError):
            return False
        with client, listener.accept()[0] as far:
            far.sendall(b"welcome")
            return client.recv(10) == b"welcome"


def test_a_lease_and_traffic_through_the_filter(stage: Stage, kind: Kind) -> None:
    running = stage.start(kind)
    assert not reaches_internet(stage, kind)  # not without a lease
    lease = stage.machine.lease()
    assert lease["router"] == kind.gateway
    assert lease["serverid"] == kind.gateway
    assert reaches_internet(stage, kind)
    assert running.stop() == 0


def test_the_facts_are_true(stage: Stage, kind: Kind) -> None:
    gateway = kind.gateway if "--gateway" in kind.options else ""
    words = program("-c", FACTS, kind.choice, gateway, MAC)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    opened = stage.host.start(*kind.wrapper, *words, pass_fds=kind.fds, **pipes)
    assert opened.stdout
    assert opened.stdin
    facts_gateway, gateway_mac, own, mtu, fileno = json.loads(opened.stdout.readline())
    try:
        assert socket.inet_ntoa(facts_gateway.to_bytes(4, "big")) == kind.gateway
        assert mtu == 1500
        assert fileno > 2
        assert (gateway_mac is not None) == kind.knows_gateway_mac
        if not isinstance(kind, Fd | Unix):  # whose networks are not the host's
            known = {socket.inet_ntoa(address.to_bytes(4, "big")) for address in own}
            assert known - {kind.gateway} == {HOST}
    finally:
        opened.stdin.close()
        assert opened.wait(5) == 0
        opened.stdout.close()


def test_the_gateway_has_the_mac_address_that_the_facts_say(stage: Stage, kind: Kind) -> None:
    """Else the filter would take the gateway's own ARP for a forgery, and the VM would get nowhere."""
    running = stage.start(kind)
    stage.machine.lease()
    for _ in range(2):
        stage.machine.run("ip", "neigh", "flush", "dev", "eth0")
        assert reaches_internet(stage, kind)
    running.process.send_signal(signal.SIGUSR1)
    wait_until(lambda: "to-vm" in running.errors(), 2)
    assert "arp-gateway" not in running.errors()
    assert "dst-mac" not in running.errors()


def test_a_host_that_is_closed_and_a_host_that_is_open(stage: Stage, kind: Kind) -> None:
    """Whether `--block` and `--allow` decide, on each address that the uplink knows as its host's."""
    for options, opened in ((("--block", "@host"), False), (("--allow", "@host"), True)):
        running = stage.start(kind, *options)
        stage.machine.lease()
        for address, place in kind.places().items():
            with place.listener("0.0.0.0", 8000):
                assert is_open(stage.machine, address, 8000) == opened, (address, options)
        running.stop()


def is_open(machine: Vm, address: str, port: int) -> bool:
    try:
        machine.connect(address, port, timeout=0.3).close()
    except (TimeoutError, OSError):
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left(stage: Stage, kind: Kind, number: int) -> None:
    before = traces(stage)
    running = stage.start(kind)
    stage.machine.lease()
    code = running.stop(number)
    assert code == (0 if number != signal.SIGKILL else -signal.SIGKILL)
    wait_until(lambda: traces(stage) == before, 5)


def test_a_refusal_afterwards_leaves_nothing_either(stage: Stage, kind: Kind) -> None:
    """The port is taken: found out after, or while, the uplink is opened."""
    before = traces(stage)
    with stage.host.listener("0.0.0.0", 8080), pytest.raises(AssertionError) as failed:
        stage.start(kind, "--expose", "8080:80")
    (line,) = str(failed.value).splitlines()
    assert "--expose 8080:80/tcp: cannot be bound" in line
    wait_until(lambda: traces(stage) == before, 5)


def test_what_it_needs_root_for_it_says_in_one_line(stage: Stage, kind: Kind) -> None:
    if not kind.needs_root:
        assert stage.start(kind, wrapper=AS_NOBODY)
        return
    bare = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")
    with pytest.raises(AssertionError) as failed:
        stage.start(kind, wrapper=bare)
    (line,) = str(failed.value).splitlines()
    assert f"--uplink {kind.choice} needs root (CAP_NET_ADMIN): run with sudo, or use --uplink user" in line


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ("nat=1", "has the wrong form; write nat"),
        ("bridge=none0", "there is no such interface; name one"),
        ("user=1", "has the wrong form; write user"),
        ("fd=99", "is not an open file descriptor; pass the number of"),
        ("unix=/none", "does not exist; start the server first"),
        ("tunnel", "is not an uplink; choose one of"),
    ],
)
def test_what_is_not_there_is_named(stage: Stage, choice: str, said: str) -> None:
    with pytest.raises(AssertionError) as failed:
        stage.softnet(stage.host, stage.machine, "--uplink", choice)
    (line,) = str(failed.value).splitlines()
    assert f"--uplink {choice}: {said}" in line
