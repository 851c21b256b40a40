"""The nat uplink as a whole: NAT, forwarding and its undoing, pools, notices, DNS and refusals.

The topology of every test: a VM behind Softnet on `host`, whose eth0 leads to `internet`, which is
192.0.2.1 on the cable and 9.9.9.9 to the world, and knows no way back to the pool.
"""

import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from system.netlab import Lab, Namespace, Softnet, Vm, wait_until

pytestmark = pytest.mark.root

MAC = "02:00:00:00:00:0a"
OTHER_MAC = "02:00:00:00:00:0b"
INTERNET = "9.9.9.9"
GATEWAY = "10.231.0.1"
FORWARDING = "ipv4/conf/eth0/forwarding"


class Stage(Lab):
    def __init__(self) -> None:
        super().__init__()
        self.host = self.namespace("host")
        self.internet = self.namespace("internet")
        self.cable(self.host, "eth0", "192.0.2.2/24", self.internet, "eth0", "192.0.2.1/24")
        self.host.ip("route add default via 192.0.2.1")
        self.internet.ip(f"address add {INTERNET}/32 dev lo")

    def start(self, vm: Vm, *options: str, wrapper: Sequence[str] = ()) -> Softnet:
        return self.softnet(self.host, vm, "--uplink", "nat", *options, wrapper=wrapper)

    def taps(self) -> list[str]:
        return [name for name in self.host.devices() if name.startswith("sn")]

    def is_clean(self) -> bool:
        """Nothing of any Softnet is left in the host's namespace."""
        return (
            not self.taps()
            and "softnet" not in self.host.ruleset()
            and "10.231." not in self.host.ip("-4 route show table all")
            and not self.host.processes()
        )


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage() as stage:
        yield stage


def address_of(frame: bytes, at: int) -> str:
    return socket.inet_ntoa(frame[at : at + 4])


def echo_server(namespace: Namespace, address: str, port: int) -> threading.Thread:
    """Answers one TCP connection with the address it sees, then ends."""
    listener = namespace.listener(address, port)

    def serve() -> None:
        with listener:
            connection, peer = listener.accept()
            with connection:
                connection.sendall(peer[0].encode())

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def seen_as(vm: Vm, namespace: Namespace, address: str, port: int = 8080) -> str:
    """The address that a TCP server at `address` sees when the VM connects."""
    server = echo_server(namespace, address, port)
    with vm.connect(address, port) as connection:
        seen = connection.recv(64).decode()
    server.join()
    return seen


# A network.


def test_the_internet_sees_the_host_and_never_the_pool(stage: Stage) -> None:
    sniffer = stage.internet.sniff("eth0")
    vm = stage.vm("vm", MAC)
    stage.start(vm)
    lease = vm.lease()
    assert lease["router"] == lease["serverid"] == GATEWAY
    assert lease["mask"] == "20"
    assert lease["lease"] == "600"
    assert lease["mtu"] == "1500"
    assert lease["broadcast"] == "10.231.15.255"
    assert vm.pings(INTERNET, count=3)
    assert vm.pings(GATEWAY)
    assert seen_as(vm, stage.internet, INTERNET) == "192.0.2.2"
    packets = [frame for frame in sniffer.frames() if frame[12:14] == b"\x08\x00"]
    assert len(packets) > 8
    assert {address_of(frame, 26) for frame in packets} == {"192.0.2.2", INTERNET}


def test_the_host_reaches_the_vm(stage: Stage) -> None:
    vm = stage.vm("vm", MAC)
    stage.start(vm)
    address = vm.lease()["ip"]
    assert stage.host.pings(address)
    assert seen_as_by_host(stage, vm, address) == GATEWAY


def seen_as_by_host(stage: Stage, vm: Vm, address: str) -> str:
    server = echo_server(vm, address, 8080)
    with stage.host.connect(address, 8080) as connection:
        seen = connection.recv(64).decode()
    server.join()
    return seen


def test_full_size_packets_and_a_small_mtu(stage: Stage) -> None:
    vm = stage.vm("vm", MAC)
    stage.start(vm, "--mtu", "1400")
    assert vm.lease()["mtu"] == "1400"
    vm.ip("link set eth0 mtu 1400")
    assert vm.run("ping", "-n", "-c1", "-W2", "-M", "do", "-s", "1372", INTERNET, check=False).returncode == 0
    assert "mtu 1400" in stage.host.ip(f"link show {stage.taps()[0]}")


def test_the_same_vm_gets_the_same_address_again(stage: Stage) -> None:
    addresses = set()
    for _ in range(3):
        with Lab() as once:
            vm = once.vm("vm", MAC)
            running = once.softnet(stage.host, vm, "--uplink", "nat")
            addresses.add(vm.lease()["ip"])
            assert running.stop() == 0
        wait_until(stage.is_clean)
    assert len(addresses) == 1


def test_another_vm_keeps_its_routes_when_one_ends(stage: Stage) -> None:
    first, second = stage.vm("first", MAC), stage.vm("second", OTHER_MAC)
    ending = stage.start(first)
    stage.start(second)
    first.lease()
    address = second.lease()["ip"]
    assert second.pings(INTERNET)
    ending.stop()
    wait_until(lambda: len(stage.taps()) == 1)
    assert second.pings(GATEWAY)
    assert second.pings(INTERNET)
    assert stage.host.pings(address)


# Forwarding.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["exit", "kill -9"])
def test_a_host_that_is_no_router_is_none_again_afterwards(stage: Stage, number: int) -> None:
    assert stage.host.sysctl("ipv4/ip_forward") == stage.host.sysctl(FORWARDING) == "0"
    vm = stage.vm("vm", MAC)
    running = stage.start(vm)
    assert stage.host.sysctl(FORWARDING) == "1"
    assert stage.host.sysctl("ipv4/ip_forward") == "0"
    running.stop(number)
    wait_until(stage.is_clean)
    assert stage.host.sysctl(FORWARDING) == "0"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["exit", "kill -9"])
def test_the_last_vm_turns_forwarding_off(stage: Stage, number: int) -> None:
    first, second = stage.vm("first", MAC), stage.vm("second", OTHER_MAC)
    one = stage.start(first)
    two = stage.start(second)
    second.lease()
    one.stop(number)
    wait_until(lambda: len(stage.host.processes()) == 2)  # the second Softnet and its janitor
    assert stage.host.sysctl(FORWARDING) == "1"
    assert second.pings(INTERNET)
    two.stop(number)
    wait_until(stage.is_clean)
    assert stage.host.sysctl(FORWARDING) == "0"


def test_what_somebody_else_set_stays(stage: Stage) -> None:
    stage.host.sysctl(FORWARDING, 1)
    vm = stage.vm("vm", MAC)
    running = stage.start(vm)
    assert len(stage.host.processes()) == 1, "no janitor where nothing was changed"
    vm.lease()
    assert vm.pings(INTERNET)
    running.stop()
    wait_until(stage.is_clean)
    assert stage.host.sysctl(FORWARDING) == "1"


def test_a_host_that_became_a_router_meanwhile_stays_one(stage: Stage) -> None:
    running = stage.start(stage.vm("vm", MAC))
    stage.host.sysctl("ipv4/ip_forward", 1)
    running.stop()
    wait_until(stage.is_clean)
    assert stage.host.sysctl(FORWARDING) == stage.host.sysctl("ipv4/ip_forward") == "1"


def test_no_janitor_on_a_router(stage: Stage) -> None:
    stage.host.sysctl("ipv4/ip_forward", 1)
    vm = stage.vm("vm", MAC)
    stage.start(vm)
    assert len(stage.host.processes()) == 1
    vm.lease()
    assert vm.pings(INTERNET)


def test_the_janitor_shrugs_signals_off_and_holds_no_socket(stage: Stage) -> None:
    vm = stage.vm("vm", MAC)
    running = stage.start(vm)
    (janitor,) = set(stage.host.processes()) - {running.process.pid}
    for number in ("HUP", "INT", "QUIT", "TERM", "PIPE", "USR1", "USR2", "ALRM", "TSTP"):
        subprocess.run(["kill", f"-{number}", str(janitor)], check=True)
    links = [str(link.readlink()) for link in Path(f"/proc/{janitor}/fd").iterdir()]
    assert not [link for link in links if link.startswith("socket:") or "tun" in link]
    running.stop(signal.SIGKILL)
    wait_until(stage.is_clean)
    assert stage.host.sysctl(FORWARDING) == "0"


def test_the_opened_device_forwards_for_vms_only(stage: Stage) -> None:
    """A host that is no router must not become one for its neighbours because a VM runs."""
    inner = stage.namespace("inner")
    stage.cable(stage.host, "eth1", "198.51.100.1/24", inner, "eth0", "198.51.100.2/24")
    inner.ip("route add default via 198.51.100.1")
    stage.internet.ip("route add 198.51.100.0/24 via 192.0.2.2")
    sniffer = inner.sniff("eth0")
    vm = stage.vm("vm", MAC)
    stage.start(vm)
    vm.lease()
    assert vm.pings(INTERNET)
    assert not stage.internet.pings("198.51.100.2")
    assert not [frame for frame in sniffer.frames() if address_of(frame, 26) == "192.0.2.1"]
    # What the host itself redirects inward is not ours to stop.
    stage.host.nft(
        "table ip published {\nchain pre {\ntype nat hook prerouting priority dstnat\n"
        'iifname "eth0" tcp dport 8080 dnat to 198.51.100.2\n}\n}'
    )
    stage.host.sysctl("ipv4/conf/eth1/forwarding", 1)
    server = echo_server(inner, "198.51.100.2", 8080)
    with stage.internet.connect("192.0.2.2", 8080) as connection:
        assert connection.recv(64) == b"192.0.2.1"
    server.join()


def test_devices_to_allowed_networks_and_dns_forward_too(stage: Stage) -> None:
    for number, subnet in ((1, "172.20.1"), (2, "172.20.2"), (3, "172.20.3")):
        site = stage.namespace(f"site{number}")
        stage.cable(stage.host, f"eth{number}", f"{subnet}.1/24", site, "eth0", f"{subnet}.2/24")
    vm = stage.vm("vm", MAC)
    running = stage.start(vm, "--allow", "172.20.1.0/24", "--dns", "172.20.2.2")
    vm.lease()
    values = [stage.host.sysctl(f"ipv4/conf/eth{number}/forwarding") for number in range(4)]
    assert values == ["1", "1", "1", "0"]
    assert vm.pings("172.20.1.2")
    assert not vm.pings("172.20.3.2")
    running.stop()
    wait_until(stage.is_clean)
    assert [stage.host.sysctl(f"ipv4/conf/eth{number}/forwarding") for number in range(4)] == ["0"] * 4


# --vm-net-type host.


def test_the_host_network_has_no_way_out_and_none_in(stage: Stage) -> None:
    stage.host.sysctl("ipv4/ip_forward", 1)
    stage.internet.ip("route add 10.231.0.0/20 via 192.0.2.2")
    sniffer = stage.internet.sniff("eth0")
    vm = stage.vm("vm", MAC)
    stage.start(vm, "--vm-net-type", "host", "--allow", "0.0.0.0/0")
    lease = vm.lease()
    assert "router" not in lease
    assert "dns" not in lease
    assert vm.pings(GATEWAY)
    vm.ip(f"route add default via {GATEWAY}")
    sniffer.frames()
    assert not vm.pings(INTERNET)
    assert not vm.pings("192.0.2.1")
    assert [frame for frame in sniffer.frames() if frame[12:14] == b"\x08\x00"] == []
    assert not stage.internet.pings(lease["ip"])


def test_the_host_network_changes_no_other_device(stage: Stage) -> None:
    vm = stage.vm("vm", MAC)
    stage.start(vm, "--vm-net-type", "host")
    assert stage.host.sysctl(FORWARDING) == "0"
    assert stage.host.sysctl(f"ipv4/conf/{stage.taps()[0]}/forwarding") == "0"
    assert len(stage.host.processes()) == 1


# The pool.


def refused(stage: Stage, *options: str, wrapper: Sequence[str] = ()) -> str:
    """The one line that a start with `options` is refused with; and nothing was changed."""

    def network() -> tuple[str, ...]:
        host = stage.host
        return (
            host.ruleset(),
            host.ip("-4 address"),
            host.ip("-4 route show table all"),
            host.ip("-4 neighbour"),
        )

    before = network()
    with Lab() as once, pytest.raises(AssertionError, match="softnet ended with") as failure:
        once.softnet(
            stage.host, once.vm("vm", "02:00:00:00:00:ff"), "--uplink", "nat", *options, wrapper=wrapper
        )
    assert network() == before
    status, line = str(failure.value).removeprefix("softnet ended with ").split(": ", 1)
    assert status in ("1", "2")
    assert line.count("\n") == 1
    assert line.startswith("softnet: ")
    return line


@pytest.mark.parametrize(
    "command",
    [
        "route add 10.231.4.0/24 via 192.0.2.1",
        "route add 10.0.0.0/8 via 192.0.2.1",
        "address add 10.231.15.254/32 dev eth0",
        "route add unreachable 10.231.8.0/24",
        "route add 10.231.1.0/24 via 192.0.2.1 table 77",
    ],
)
def test_a_pool_that_overlaps_the_hosts_network(stage: Stage, command: str) -> None:
    stage.host.ip(command)
    line = refused(stage)
    assert "--pool 10.231.0.0/20" in line
    assert next(word for word in command.split() if word.startswith("10.")).removesuffix("/32") in line
    stage.start(stage.vm("vm", MAC), "--pool", "172.30.0.0/24")


@pytest.mark.parametrize(
    "pool", ["10.231.0.0/31", "10.0.0.0/7", "127.1.0.0/24", "224.1.0.0/24", "0.1.0.0/24"]
)
def test_a_prefix_that_cannot_serve_as_a_pool(stage: Stage, pool: str) -> None:
    assert "--pool" in refused(stage, "--pool", pool)


def test_default_routes_do_not_overlap(stage: Stage) -> None:
    stage.host.ip("route add 0.0.0.0/1 via 192.0.2.1\nroute add 128.0.0.0/1 via 192.0.2.1")
    vm = stage.vm("vm", MAC)
    stage.start(vm)
    vm.lease()
    assert vm.pings(INTERNET)


def test_a_full_pool(stage: Stage) -> None:
    vm = stage.vm("vm", MAC)
    running = stage.start(vm, "--pool", "172.30.0.0/30")
    assert vm.lease()["ip"] == "172.30.0.2"  # neither network, gateway nor broadcast
    assert "--pool" in refused(stage, "--pool", "172.30.0.0/30")
    assert vm.pings(INTERNET)
    running.stop()
    wait_until(stage.is_clean)
    stage.start(stage.vm("next", OTHER_MAC), "--pool", "172.30.0.0/30")


# A host whose firewall drops what is forwarded.

DROPPING = "table inet firewall {\nchain routed {\ntype filter hook forward priority 0; policy drop;\n}\n}"
DOCKER = ("-N DOCKER-USER", "-A DOCKER-USER -j RETURN", "-A FORWARD -j DOCKER-USER", "-P FORWARD DROP")


def drop_by_nft(host: Namespace) -> None:
    host.nft(DROPPING)


def drop_by_docker(host: Namespace) -> None:
    for command in DOCKER:
        host.run("iptables-nft", *command.split())


def drop_by_iptables(host: Namespace) -> None:
    host.run("iptables-nft", "-P", "FORWARD", "DROP")


def drop_by_legacy(host: Namespace) -> None:
    host.run("iptables-legacy", "-P", "FORWARD", "DROP")


@pytest.mark.parametrize("drop", [drop_by_nft, drop_by_docker, drop_by_iptables, drop_by_legacy])
def test_a_forward_drop_is_told_and_its_remedy_works(stage: Stage, drop: Callable[[Namespace], None]) -> None:
    drop(stage.host)
    with Lab() as once:
        vm = once.vm("vm", MAC)
        running = once.softnet(stage.host, vm, "--uplink", "nat", "--dns", INTERNET)
        vm.lease()
        assert not vm.pings(INTERNET)
        (line,) = running.errors().splitlines()
        remedy = line.partition("; run: ")[2]
        assert remedy, line
        stage.host.run("sh", "-c", remedy)
        assert vm.pings(INTERNET)
    again = stage.start(stage.vm("vm", MAC), "--dns", INTERNET)
    assert again.errors() == ""


def test_no_notice_on_an_open_host(stage: Stage) -> None:
    stage.host.nft(DROPPING.replace("drop", "accept"))
    assert stage.start(stage.vm("vm", MAC), "--dns", INTERNET).errors() == ""


# DNS servers.


def resolv_conf(text: str, upstream: str = "") -> tuple[str, ...]:
    """A wrapper that gives one program this /etc/resolv.conf, and this one of systemd-resolved's."""
    script = (
        "mount -t tmpfs softnet-test /mnt && mkdir -p /mnt/run/systemd/resolve && "
        'printf "$1" > /mnt/resolv.conf && '
        'mount --bind /mnt/resolv.conf "$(readlink -f /etc/resolv.conf)" && '
        'if [ -n "$2" ]; then printf "$2" > /mnt/run/systemd/resolve/resolv.conf; fi && '
        'mount --bind /mnt/run /run && shift 2 && exec "$@"'
    )
    return ("unshare", "--mount", "sh", "-c", script, "sh", text, upstream)


@pytest.mark.parametrize(
    ("text", "upstream", "servers"),
    [
        (r"nameserver 192.0.2.53\nnameserver 9.9.9.9\n", "", "192.0.2.53 9.9.9.9"),
        (r"nameserver 127.0.0.53\n", r"nameserver 192.0.2.54\nnameserver 2001:db8::1\n", "192.0.2.54"),
        (r"nameserver ::1\nnameserver 127.0.0.1\nnameserver 192.0.2.55\n", "", "192.0.2.55"),
    ],
)
def test_dns_servers_are_the_hosts_real_ones(stage: Stage, text: str, upstream: str, servers: str) -> None:
    vm = stage.vm("vm", MAC)
    running = stage.start(vm, wrapper=resolv_conf(text, upstream))
    assert vm.lease()["dns"] == servers
    assert running.errors() == ""


def test_dns_option_wins(stage: Stage) -> None:
    vm = stage.vm("vm", MAC)
    stage.start(vm, "--dns", "1.1.1.1,8.8.8.8", wrapper=resolv_conf(r"nameserver 192.0.2.53\n"))
    assert vm.lease()["dns"] == "1.1.1.1 8.8.8.8"


def test_no_dns_server_is_told(stage: Stage) -> None:
    vm = stage.vm("vm", MAC)
    running = stage.start(vm, wrapper=resolv_conf(r"nameserver 127.0.0.53\n"))
    assert "dns" not in vm.lease()
    (line,) = running.errors().splitlines()
    assert "--dns" in line


def test_dns_server_on_the_lan_answers_though_the_lan_is_closed(stage: Stage) -> None:
    vm = stage.vm("vm", MAC)
    stage.start(vm, "--dns", "192.0.2.1")
    vm.lease()
    server = stage.internet.udp("192.0.2.1", 53)
    client = vm.udp()
    client.sendto(b"question", ("192.0.2.1", 53))
    question, peer = server.recvfrom(64)
    server.sendto(b"answer", peer)
    assert (question, peer[0]) == (b"question", "192.0.2.2")
    assert client.recv(64) == b"answer"
    assert not vm.pings("192.0.2.1")


# Refusals, before anything is changed.


def without_tun() -> tuple[str, ...]:
    return ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs softnet-test /dev/net && exec "$@"', "sh")


def without_library() -> tuple[str, ...]:
    script = (
        "for file in $(ldconfig -p | sed -n 's/.*libnftables.so.1 .*=> //p'); do"
        ' mount --bind /dev/null "$(readlink -f "$file")" || exit; done; exec "$@"'
    )
    return ("unshare", "--mount", "sh", "-c", script, "sh")


def test_no_tun_device(stage: Stage) -> None:
    line = refused(stage, wrapper=without_tun())
    assert "/dev/net/tun" in line
    assert "--uplink user" in line


def test_no_libnftables(stage: Stage) -> None:
    assert "libnftables1" in refused(stage, wrapper=without_library())


def test_no_capability(stage: Stage) -> None:
    line = refused(stage, wrapper=("setpriv", "--bounding-set", "-net_admin"))
    assert "--uplink nat" in line
    assert "--uplink user" in line


# What the kernel sees.


def test_the_tables_survive_a_flush_and_nobody_else_may_change_them(stage: Stage) -> None:
    vm = stage.vm("vm", MAC)
    stage.start(vm)
    vm.lease()
    before = stage.host.ruleset()
    stage.host.run("nft", "flush", "ruleset")
    assert stage.host.ruleset() == before
    tap = stage.taps()[0]
    assert stage.host.run("nft", "delete", "table", "ip", f"softnet_{tap}", check=False).returncode != 0
    assert vm.pings(INTERNET)


def test_the_tap_speaks_no_ipv6_and_no_multicast(stage: Stage) -> None:
    vm = stage.vm("vm", MAC)
    sniffer = vm.sniff("eth0")
    stage.start(vm)
    tap = stage.taps()[0]
    assert "inet6" not in stage.host.ip(f"address show {tap}")
    assert "MULTICAST" not in stage.host.ip(f"link show {tap}")
    own = struct.pack("!6B", *(int(part, 16) for part in MAC.split(":")))
    assert [frame for frame in sniffer.frames(1) if frame[6:12] != own] == []
