"""Exposed ports on the nat uplink: from other machines, from the host, over TCP and UDP, with the lease.

The VM serves on its own ports; `lan` is another machine on the host's network, with a private address.
"""

import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from system.netlab import Lab, Namespace, Softnet, wait_until

pytestmark = pytest.mark.root

MAC = "02:00:00:00:00:0e"
HOST, LAN = "192.0.2.2", "192.0.2.1"


class Stage(Lab):
    def __init__(self) -> None:
        super().__init__()
        self.host = self.namespace("host")
        self.lan = self.namespace("lan")
        self.cable(self.host, "eth0", f"{HOST}/24", self.lan, "eth0", f"{LAN}/24")
        self.host.ip("route add default via 192.0.2.1")
        self.machine = self.vm("vm", MAC)

    def start(self, *options: str) -> Softnet:
        return self.softnet(self.host, self.machine, "--uplink", "nat", *options)


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage() as stage:
        yield stage


def serve_tcp(machine: Namespace, port: int) -> threading.Thread:
    """Every connection gets back what it sends, upper-cased; one that says "bye" is the last."""
    listener = machine.listener("0.0.0.0", port)
    listener.settimeout(30)

    def answer() -> None:
        with listener:
            while _answer(listener) != b"bye":
                pass

    thread = threading.Thread(target=answer)
    thread.start()
    return thread


def _answer(listener: socket.socket) -> bytes:
    """Serves one connection and returns what it said."""
    connection, _peer = listener.accept()
    with connection:
        said = b"".join(iter(lambda: connection.recv(65536), b""))
        connection.sendall(said.upper())
    return said


def ask(machine: Namespace, address: str, port: int, text: bytes) -> bytes:
    """What the server answers to `text`, once this side has said that it is done."""
    with machine.connect(address, port) as connection:
        threading.Thread(target=_say, args=(connection, text)).start()
        return b"".join(iter(lambda: connection.recv(65536), b""))


def _say(connection: socket.socket, text: bytes) -> None:
    connection.sendall(text)
    connection.shutdown(socket.SHUT_WR)


def is_refused(machine: Namespace, address: str, port: int) -> bool:
    try:
        machine.connect(address, port).close()
    except ConnectionRefusedError:
        return True
    return False


def test_from_another_machine_and_from_the_host_itself(stage: Stage) -> None:
    stage.start("--expose", "8080:80")
    assert is_refused(stage.lan, HOST, 8080)  # no lease yet
    assert stage.machine.lease()
    server = serve_tcp(stage.machine, 80)
    wait_until(lambda: not is_refused(stage.lan, HOST, 8080))
    assert ask(stage.lan, HOST, 8080, b"from the lan") == b"FROM THE LAN"
    assert ask(stage.host, "127.0.0.1", 8080, b"from the host") == b"FROM THE HOST"
    assert ask(stage.host, HOST, 8080, b"bye") == b"BYE"
    server.join()


def test_a_long_answer_arrives_whole(stage: Stage) -> None:
    stage.start("--expose", "8080:80")
    assert stage.machine.lease()
    server = serve_tcp(stage.machine, 80)
    text = bytes(range(97, 123)) * 100_000
    assert ask(stage.lan, HOST, 8080, text) == text.upper()
    assert ask(stage.lan, HOST, 8080, b"bye") == b"BYE"
    server.join()


def test_blocking_the_host_does_not_cut_exposed_ports_off(stage: Stage) -> None:
    stage.start("--expose", "8080:80", "--block", "@host")
    assert stage.machine.lease()
    server = serve_tcp(stage.machine, 80)
    assert ask(stage.lan, HOST, 8080, b"bye") == b"BYE"
    server.join()
    with pytest.raises(TimeoutError):  # the VM itself still may not open a connection to the host
        stage.machine.connect("10.231.0.1", 22, timeout=1)


def test_a_bind_address(stage: Stage) -> None:
    stage.start("--expose", "127.0.0.1:8080:80")
    assert stage.machine.lease()
    server = serve_tcp(stage.machine, 80)
    assert is_refused(stage.lan, HOST, 8080)
    assert ask(stage.host, "127.0.0.1", 8080, b"bye") == b"BYE"
    server.join()


def test_udp_answers_come_from_the_address_that_was_asked(stage: Stage) -> None:
    stage.host.ip("address add 192.0.2.3/24 dev eth0")
    stage.start("--expose", "5353:53/udp")
    assert stage.machine.lease()
    with stage.machine.udp("0.0.0.0", 53) as server:
        for address in (HOST, "192.0.2.3"):
            with stage.lan.udp() as client:
                client.settimeout(5)
                client.sendto(b"who?", (address, 5353))
                question, asker = server.recvfrom(100)
                server.sendto(question + b" me", asker)
                assert client.recvfrom(100) == (b"who? me", (address, 5353))


def test_gone_with_the_lease_and_back_with_it(stage: Stage) -> None:
    softnet = stage.start("--expose", "8080:80", "--bootpd-lease-time", "2")
    assert stage.machine.lease()
    wait_until(lambda: not is_refused(stage.lan, HOST, 8080))
    wait_until(lambda: is_refused(stage.lan, HOST, 8080), 6, "the port to close with the lease")
    assert stage.machine.lease()
    wait_until(lambda: not is_refused(stage.lan, HOST, 8080))
    assert softnet.stop() == 0
    assert is_refused(stage.lan, HOST, 8080)


def test_a_port_in_use_is_said_at_the_start_and_changes_nothing(stage: Stage) -> None:
    taken = stage.host.listener("0.0.0.0", 8080)
    said = r"--expose 8080:80/tcp: cannot be bound: Address already in use; choose another port"
    with taken, pytest.raises(AssertionError, match=said):
        stage.start("--expose", "8080:80")
    wait_until(lambda: not [name for name in stage.host.devices() if name.startswith("sn")])
    assert "softnet" not in stage.host.ruleset()


def test_more_connections_than_the_bound_cost_the_newest(stage: Stage) -> None:
    stage.start("--expose", "8080:80")
    assert stage.machine.lease()
    holder = stage.machine.listener("0.0.0.0", 80)
    held: list[socket.socket] = []
    with holder:
        for _ in range(256):
            held.append(stage.host.connect("127.0.0.1", 8080))
        assert not _stays_open(stage.host)
        reset = held.pop()
        reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        reset.close()
        wait_until(lambda: _stays_open(stage.host))
    for connection in held:
        connection.close()


def _stays_open(machine: Namespace) -> bool:
    """Whether a new connection is kept for a moment."""
    try:
        with machine.connect("127.0.0.1", 8080) as connection:
            connection.settimeout(0.2)
            return connection.recv(1) != b""
    except TimeoutError:
        return True
    except ConnectionResetError:
        return False


def test_nobody_serving_in_the_vm_ends_the_connection(stage: Stage) -> None:
    stage.start("--expose", "8080:80")
    assert stage.machine.lease()
    with stage.lan.connect(HOST, 8080) as connection:
        connection.settimeout(5)
        assert connection.recv(1) == b""
