"""Offload on real TAPs with real TCP: the same bytes arrive with it and without it, both ways.

The VM is a namespace whose frames pass one by one; the host's kernel, on the other side of Softnet,
sees TCP segments of up to 64 KiB or, with --no-offload, what the VM sees.
"""

import hashlib
import json
import random
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from softnet.core import packet
from softnet.core.address import parse_mac
from system.netlab import Lab

pytestmark = pytest.mark.root

MAC = "02:00:00:00:00:0a"
SIZE = 3_000_000
PORT = 8080


class Stage(Lab):
    """A VM that reaches 9.9.9.9 through Softnet on `host`."""

    def __init__(self) -> None:
        super().__init__()
        self.host = self.namespace("host")
        self.internet = self.namespace("internet")
        self.cable(self.host, "eth0", "192.0.2.2/24", self.internet, "eth0", "192.0.2.1/24")
        self.host.ip("route add default via 192.0.2.1")
        self.internet.ip("address add 9.9.9.9/32 dev lo")
        self.guest = self.vm("vm", MAC)

    def start(self, *options: str) -> None:
        self.filter = self.softnet(self.host, self.guest, "--uplink", "nat", *options)
        self.address = self.guest.lease()["ip"]

    @property
    def gateway_mac(self) -> str:
        shown = self.host.run("ip", "-json", "link", "show", self.tap).stdout
        return str(json.loads(shown)[0]["address"])

    @contextmanager
    def held(self) -> Iterator[None]:
        """Softnet stands still; what the VM sends meanwhile is one batch afterwards."""
        self.filter.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            time.sleep(0.3)
            self.filter.process.send_signal(signal.SIGCONT)

    @property
    def tap(self) -> str:
        return next(name for name in self.host.devices() if name.startswith("sn"))


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage() as stage:
        yield stage


def digest_of(connection: socket.socket) -> str:
    """Reads to the end of file."""
    digest = hashlib.sha256()
    while data := connection.recv(1 << 16):
        digest.update(data)
    return digest.hexdigest()


def send(connection: socket.socket, data: bytes) -> None:
    connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)


def carry(stage: Stage, data: bytes, to_vm: bool) -> str:
    """Sends `data` over one TCP connection from or to the VM; the digest of what arrived."""
    with stage.internet.listener("9.9.9.9", PORT) as listener:
        vm = stage.guest.connect("9.9.9.9", PORT, timeout=20)
        world, _peer = listener.accept()
    with vm, world:
        sender, receiver = (world, vm) if to_vm else (vm, world)
        with stage.held():
            thread = threading.Thread(target=send, args=(sender, data))
            thread.start()
        digest = digest_of(receiver)
        thread.join()
    return digest


@pytest.mark.parametrize("to_vm", [False, True], ids=["from-vm", "to-vm"])
@pytest.mark.parametrize("offload", [True, False], ids=["offload", "no-offload"])
def test_the_same_bytes_arrive(stage: Stage, offload: bool, to_vm: bool) -> None:
    stage.start(*([] if offload else ["--no-offload"]))
    at_tap, at_vm = stage.host.sniff(stage.tap), stage.guest.sniff("eth0")
    data = random.Random(5).randbytes(SIZE)
    assert carry(stage, data, to_vm) == hashlib.sha256(data).hexdigest()
    longest = max(len(frame) for frame in at_tap.frames())
    assert longest > 4 * 1514 if offload else longest <= 1514
    if offload or to_vm:
        assert max(len(frame) for frame in at_vm.frames()) <= 1514


def segment(stage: Stage, number: int) -> bytes:
    """One of several segments of one connection, which join."""
    source, target = (int.from_bytes(socket.inet_aton(text), "big") for text in (stage.address, "9.9.9.9"))
    tcp = struct.pack("!HHIIHHHH", 1000, 80, 1000 * number, 1, 5 << 12 | 0x10, 500, 0, 0) + b"x" * 1000
    check = packet.transport_checksum(source, target, packet.PROTOCOL_TCP, tcp)
    tcp = tcp[:16] + check.to_bytes(2, "big") + tcp[18:]
    payload = packet.ipv4(source, target, packet.PROTOCOL_TCP, tcp, identification=number)
    return packet.ethernet(parse_mac(stage.gateway_mac), parse_mac(MAC), 0x0800, payload)


def test_what_does_not_verify_is_not_vouched_for(stage: Stage) -> None:
    """A segment that would join but for its checksum reaches the host alone and as it was sent."""
    stage.start()
    stage.guest.pings("9.9.9.9")
    at_tap, wire = stage.host.sniff(stage.tap), stage.guest.sniff("eth0")
    frames = [segment(stage, number) for number in range(5)]
    frames[2] = frames[2][:-1] + b"!"
    with stage.held():
        for frame in frames:
            wire.send(frame)
    seen = [frame for frame in at_tap.frames() if frame[23] == packet.PROTOCOL_TCP and frame[30] == 9]
    assert [len(frame) for frame in seen] == [2054, 1054, 2054]
    assert seen[1] == frames[2]
