"""The user uplink: an ordinary user's VM on passt, what it reaches, its ports, and how passt ends.

The topology of every test: a VM behind Softnet on `host`, whose eth0 leads to `lan`, which is 192.0.2.1
on the cable, and also plays the internet (9.9.9.9) and a cloud's metadata service (169.254.169.254).
"""

import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from system.netlab import Lab, Namespace, Softnet, Vm, wait_until

pytestmark = pytest.mark.root

MAC = "02:00:00:00:00:0a"
NOBODY = 65534
HOST, LAN, INTERNET, METADATA = "192.0.2.2", "192.0.2.1", "9.9.9.9", "169.254.169.254"
GATEWAY, ADDRESS = "10.231.0.1", "10.231.0.2"
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all")


class Stage(Lab):
    def __init__(self) -> None:
        super().__init__()
        self.host = self.namespace("host")
        self.lan = self.namespace("lan")
        self.cable(self.host, "eth0", f"{HOST}/24", self.lan, "eth0", f"{LAN}/24")
        self.host.ip(f"route add default via {LAN}")
        for address in (INTERNET, METADATA, GATEWAY):
            self.lan.ip(f"address add {address}/32 dev lo")
        self.machine = self.vm("vm", MAC)

    def start(self, *options: str, wrapper: Sequence[str] = AS_NOBODY) -> Softnet:
        return self.softnet(self.host, self.machine, "--uplink", "user", *options, wrapper=wrapper)

    def tidy(self) -> None:
        """Back to how it was made, for the next test."""
        while self._programs:
            self._programs.pop().close()
        wait_until(lambda: not self.host.processes(), 3)
        self.host.ip(f"route replace default via {LAN}")
        self.host.sysctl("ipv4/ping_group_range", "1 0")

    def passts(self) -> list[int]:
        return [pid for pid in self.host.processes() if name_of(pid).startswith("passt")]


@pytest.fixture(scope="module")
def one_stage() -> Iterator[Stage]:
    with Stage() as stage:
        yield stage


@pytest.fixture
def stage(one_stage: Stage) -> Iterator[Stage]:
    yield one_stage
    one_stage.tidy()


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except FileNotFoundError:
        return ""


def field(pid: int, name: str) -> list[str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1:] for line in lines if line.startswith(f"{name}:"))


def reaches(machine: Vm, server: Namespace, address: str, port: int = 80) -> bool:
    """Whether a connection from the VM to `address` arrives at a listener in `server`."""
    with server.listener("0.0.0.0", port) as listener:
        listener.settimeout(0.2)
        try:
            machine.connect(address, port, timeout=0.3).close()
            listener.accept()[0].close()
        except (TimeoutError, ConnectionError):
            return False
        return True


def test_an_ordinary_user_from_start_to_end(stage: Stage) -> None:
    running = stage.start()
    lease = stage.machine.lease()
    assert (lease["ip"], lease["mask"], lease["router"], lease["mtu"]) == (ADDRESS, "20", GATEWAY, "1500")
    assert reaches(stage.machine, stage.lan, INTERNET)
    processes = stage.host.processes()
    assert len(processes) == 2
    for pid in processes:
        assert field(pid, "Uid") == [str(NOBODY)] * 4
        assert field(pid, "NoNewPrivs") == ["1"]
    assert field(running.process.pid, "CapEff") == ["0" * 16]
    assert running.stop(signal.SIGINT) == 0
    wait_until(lambda: not stage.host.processes())
    assert running.errors() == ""


def test_from_root_passt_runs_as_whoever_softnet_becomes(stage: Stage) -> None:
    running = stage.start(wrapper=())
    (passt,) = stage.passts()
    assert field(passt, "Uid") == [str(NOBODY)] * 4
    assert field(running.process.pid, "Uid") == [str(NOBODY)] * 4
    assert stage.machine.lease()["ip"] == ADDRESS


@pytest.mark.parametrize(
    ("options", "reachable"),
    [
        ((), set()),
        (("--allow", "@host"), {GATEWAY, HOST}),
        (("--allow", "@host:80"), {GATEWAY, HOST}),
        (("--allow", "@host:81"), set()),
        (("--allow", "192.0.2.0/24"), {HOST, LAN}),
        (("--allow", "10.0.0.0/8"), set()),  # not the lan's machine that has the gateway's address either
        (("--allow", "0.0.0.0/0"), {HOST, LAN, METADATA}),
        (("--expose", "5353:53/udp", "--allow", "10.0.0.0/8"), set()),
    ],
)
def test_what_is_out_of_reach_and_what_opens_it(
    stage: Stage, options: tuple[str, ...], reachable: set[str]
) -> None:
    stage.start(*options)
    stage.machine.lease()
    for address in (GATEWAY, HOST):
        assert reaches(stage.machine, stage.host, address) == (address in reachable), address
    for address in (LAN, METADATA, GATEWAY):
        at_lan = address in reachable and address != GATEWAY
        assert reaches(stage.machine, stage.lan, address) == at_lan, address
    assert reaches(stage.machine, stage.lan, INTERNET)


def test_the_gateway_stands_for_the_loopback_of_the_host(stage: Stage) -> None:
    stage.start("--allow", "@host")
    stage.machine.lease()
    with stage.host.listener("127.0.0.1", 8000) as listener:
        client = stage.machine.connect(GATEWAY, 8000)
        connection, peer = listener.accept()
        connection.sendall(b"local")
        assert (peer[0], client.recv(10)) == ("127.0.0.1", b"local")
        connection.close()
        client.close()


def test_echo_needs_the_ping_group_range(stage: Stage) -> None:
    stage.host.sysctl("ipv4/ping_group_range", f"{NOBODY} {NOBODY}")
    stage.start()
    stage.machine.lease()
    assert stage.machine.pings(INTERNET)
    stage.host.sysctl("ipv4/ping_group_range", "1 0")
    assert not stage.machine.pings(INTERNET)


# DNS servers.


def resolv_conf(text: str) -> tuple[str, ...]:
    """A wrapper that gives one program this /etc/resolv.conf, and an empty /run."""
    script = (
        "mount -t tmpfs softnet-test /mnt && mkdir /mnt/run && "
        'printf "$1" > /mnt/resolv.conf && '
        'mount --bind /mnt/resolv.conf "$(readlink -f /etc/resolv.conf)" && '
        'mount --bind /mnt/run /run && shift && exec "$@"'
    )
    return ("unshare", "--mount", "sh", "-c", script, "sh", text, *AS_NOBODY)


def test_dns_servers_of_the_host_answer_though_the_lan_is_closed(stage: Stage) -> None:
    running = stage.start(wrapper=resolv_conf(f"nameserver {LAN}\\n"))
    assert stage.machine.lease()["dns"] == LAN
    assert reaches(stage.machine, stage.lan, LAN, 53)
    with stage.lan.udp("0.0.0.0", 53) as server, stage.machine.udp() as client:
        client.sendto(b"who?", (LAN, 53))
        question, asker = server.recvfrom(100)
        server.sendto(question + b" me", asker)
        assert client.recvfrom(100) == (b"who? me", (LAN, 53))
    assert running.errors() == ""


def test_a_resolver_on_the_loopback_is_not_announced_but_noticed(stage: Stage) -> None:
    running = stage.start(wrapper=resolv_conf(r"nameserver 127.0.0.53\n"))
    assert "dns" not in stage.machine.lease()
    (line,) = running.errors().splitlines()
    assert "no DNS server" in line
    assert "--dns ADDRESS" in line


def test_dns_option(stage: Stage) -> None:
    stage.start("--dns", f"{INTERNET},8.8.8.8")
    assert stage.machine.lease()["dns"] == f"{INTERNET} 8.8.8.8"


# Exposed ports.


FROM = {"another machine": HOST, "the loopback": "127.0.0.1", "the host": HOST}


@pytest.mark.parametrize("place", FROM)
def test_an_exposed_port(stage: Stage, place: str) -> None:
    stage.start("--expose", "8080:80,5353:53/udp")
    stage.machine.lease()
    client = stage.lan if place == "another machine" else stage.host
    with stage.machine.listener("0.0.0.0", 80) as listener:
        for server_first in (False, True):
            near = client.connect(FROM[place], 8080)
            if not server_first:
                near.sendall(b"hello")
            far, _peer = listener.accept()
            if not server_first:
                assert far.recv(10) == b"hello"
            far.sendall(b"welcome")
            assert near.recv(10) == b"welcome"
            far.close()
            assert near.recv(10) == b""
            near.close()
    with stage.machine.udp("0.0.0.0", 53) as server, client.udp() as asker:
        asker.sendto(b"who?", (FROM[place], 5353))
        question, peer = server.recvfrom(100)
        server.sendto(question + b" me", peer)
        assert asker.recvfrom(100) == (b"who? me", (FROM[place], 5353))


def test_clients_keep_their_addresses_and_loopback_looks_like_the_gateway(stage: Stage) -> None:
    stage.start("--expose", "8080:80")
    stage.machine.lease()
    with stage.machine.listener("0.0.0.0", 80) as listener:
        for client, address, seen in ((stage.lan, HOST, LAN), (stage.host, "127.0.0.1", GATEWAY)):
            with client.connect(address, 8080) as near:
                near.sendall(b"hello")
                far, peer = listener.accept()
                far.close()
                assert peer[0] == seen


def test_blocking_the_host_does_not_cut_exposed_ports_off(stage: Stage) -> None:
    stage.start("--expose", "8080:80,5353:53/udp", "--block", "@host")
    stage.machine.lease()
    with stage.machine.listener("0.0.0.0", 80) as listener:
        for client, address in ((stage.lan, HOST), (stage.host, "127.0.0.1")):
            with client.connect(address, 8080) as near:
                near.sendall(b"hello")
                far, _peer = listener.accept()
                far.sendall(b"welcome")
                assert near.recv(10) == b"welcome"
                far.close()
    assert not reaches(stage.machine, stage.host, GATEWAY)
    assert not reaches(stage.machine, stage.host, HOST)


def test_a_bind_address(stage: Stage) -> None:
    stage.start("--expose", "127.0.0.1:8080:80")
    with pytest.raises(ConnectionRefusedError):
        stage.lan.connect(HOST, 8080)
    stage.host.connect("127.0.0.1", 8080).close()


# How it ends.


def test_killed_it_takes_passt_along_even_one_that_does_not_listen(stage: Stage) -> None:
    running = stage.start()
    (passt,) = stage.passts()
    os.kill(passt, signal.SIGSTOP)
    running.stop(signal.SIGKILL)
    wait_until(lambda: not stage.host.processes(), 3)


def test_at_its_end_it_kills_a_passt_that_does_not_listen(stage: Stage) -> None:
    running = stage.start()
    os.kill(stage.passts()[0], signal.SIGSTOP)
    assert running.stop(signal.SIGTERM) == 0
    wait_until(lambda: not stage.host.processes(), 3)


def test_without_passt_there_is_nothing_to_go_on_with(stage: Stage) -> None:
    running = stage.start()
    os.kill(stage.passts()[0], signal.SIGKILL)
    assert running.process.wait(5) == 1
    (line,) = running.errors().splitlines()
    assert "the other side of the uplink is gone" in line


# What is refused, in one line each.


def refusal(stage: Stage, *options: str, wrapper: Sequence[str] = AS_NOBODY) -> str:
    with pytest.raises(AssertionError) as failed:
        stage.start(*options, wrapper=wrapper)
    (line,) = str(failed.value).splitlines()
    wait_until(lambda: not stage.host.processes(), 3)
    return line


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory for PATH, which an ordinary user can look into."""
    with tempfile.TemporaryDirectory(prefix="snt-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


def test_no_passt(stage: Stage, folder: Path) -> None:
    (folder / "passt").mkdir()
    assert "needs passt, which is not installed: apt-get install passt" in refusal(
        stage, wrapper=only(folder)
    )


def only(folder: Path) -> tuple[str, ...]:
    """A wrapper by which Softnet finds no programs but those in `folder`, `env` apart."""
    (folder / "env").symlink_to("/usr/bin/env")
    return ("/usr/bin/setpriv", *AS_NOBODY[1:], "/usr/bin/env", f"PATH={folder}")


def fake(folder: Path, script: str) -> tuple[str, ...]:
    program = folder / "passt"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return only(folder)


HELP = 'case "$*" in *--help*) echo "--fd --no-map-gw --ipv4-only"; exit;; esac\n'


def test_an_old_passt(stage: Stage, folder: Path) -> None:
    said = refusal(stage, wrapper=fake(folder, 'echo "--fd --ipv4-only"'))
    assert f"needs a newer passt: {folder}/passt has no --no-map-gw; apt-get install passt" in said


def test_a_passt_that_says_why_it_does_not_start(stage: Stage, folder: Path) -> None:
    said = refusal(stage, wrapper=fake(folder, f"{HELP}echo it is too late today >&2; exit 1"))
    assert said.endswith("passt did not start: it is too late today")


def test_a_passt_that_says_nothing(stage: Stage, folder: Path) -> None:
    said = refusal(stage, wrapper=fake(folder, f"{HELP}exit 1"))
    assert "passt did not start: apt-get install passt" in said


def test_no_way_out_of_the_host(stage: Stage) -> None:
    stage.host.ip("route del default")
    assert "passt did not start: " in refusal(stage)


def test_a_network_without_a_way_out_cannot_be_had(stage: Stage) -> None:
    said = refusal(stage, "--vm-net-type", "host")
    assert "--vm-net-type host: is not possible with --uplink user; leave it out" in said


@pytest.mark.parametrize(("port", "kind"), [("8080:80", "tcp"), ("8080:80/udp", "udp")])
def test_a_port_in_use(stage: Stage, port: str, kind: str) -> None:
    taken = stage.host.listener("0.0.0.0", 8080) if kind == "tcp" else stage.host.udp("0.0.0.0", 8080)
    with taken:
        said = refusal(stage, "--expose", port)
    assert f"--expose 8080:80/{kind}: cannot be bound: Address already in use; choose another" in said


def test_a_port_that_needs_privileges(stage: Stage) -> None:
    stage.host.sysctl("ipv4/ip_unprivileged_port_start", 1024)
    assert "--expose 80:80/tcp: cannot be bound: Permission denied" in refusal(stage, "--expose", "80:80")
