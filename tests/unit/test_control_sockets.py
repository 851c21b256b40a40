"""Control channels over real sockets, in a loop that polls as the forwarder does."""

import json
import os
import select
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from softnet.control.methods import PolicyMethods
from softnet.control.protocol import Upgrade
from softnet.control.sockets import CLIENTS, Hub, listen_at, open_control_fd
from softnet.errors import ConfigError
from softnet.policy import Policy, parse

GET = b'{"jsonrpc":"2.0","id":1,"method":"softnet.policy.get"}\n'


class Loop:
    """The forwarder's part: one poll over what is watched."""

    def __init__(self) -> None:
        self.watched: dict[int, Callable[[float], None]] = {}
        self.poll = select.poll()

    def watch(self, descriptor: int, react: Callable[[float], None], events: int = select.POLLIN) -> None:
        self.watched[descriptor] = react
        self.poll.register(descriptor, events)

    def unwatch(self, descriptor: int) -> None:
        del self.watched[descriptor]
        self.poll.unregister(descriptor)

    def once(self, hub: Hub) -> bool:
        """A wakeup, if there is a reason for one."""
        ready = self.poll.poll(0)
        for descriptor, _events in ready:
            if descriptor in self.watched:
                self.watched[descriptor](0.0)
        due = hub.deadline is not None
        hub.expire(0.0)
        return due or bool(ready)

    def turn(self, hub: Hub) -> None:
        """Wakeups until nothing is ready; a loop that is always ready is a bug."""
        assert any(not self.once(hub) for _ in range(1000)), "busy for ever"


class Enforcer:
    def __init__(self) -> None:
        self.policy = parse(["@host"])

    def apply(self, policy: Policy) -> None:
        self.policy = policy


class Bytes:
    """A stream of a kind."""

    def __init__(self) -> None:
        self.unsent = bytearray(b"first")
        self.wake: Callable[[], None] = lambda: None
        self.closed = False

    def close(self) -> None:
        self.closed = True


class World:
    def __init__(self) -> None:
        self.loop, self.enforcer, self.stream = Loop(), Enforcer(), Bytes()
        methods = PolicyMethods(self.enforcer).table()
        methods["stream"] = lambda params: Upgrade("now", self.stream)
        self.methods = methods
        self.hub = Hub(self.loop)
        theirs, self.peer = socket.socketpair()
        self.hub.adopt(theirs, lambda: methods)

    def read(self) -> list[dict[str, Any]]:
        self.loop.turn(self.hub)
        data = b""
        try:
            while more := self.peer.recv(1 << 20, socket.MSG_DONTWAIT):
                data += more
                self.loop.turn(self.hub)
        except BlockingIOError:
            pass
        return [json.loads(line) for line in data.splitlines()]


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.hub.close()
    made.peer.close()


def test_two_requests_in_one_write_and_one_in_two(world: World) -> None:
    world.peer.send(GET + GET + GET[:10])
    assert len(world.read()) == 2
    world.peer.send(GET[10:])
    assert len(world.read()) == 1


def test_more_requests_than_a_turn_answers(world: World) -> None:
    world.peer.send(GET * 100)
    assert len(world.read()) == 100


def test_half_close_answers_what_was_asked_and_keeps_the_policy(world: World) -> None:
    params = {"allow": [], "block": ["@host"]}
    request = {"jsonrpc": "2.0", "id": 1, "method": "softnet.policy.set", "params": params}
    world.peer.send(GET * 50 + json.dumps(request).encode() + b"\n" + GET[:20])
    world.peer.shutdown(socket.SHUT_WR)
    responses = world.read()
    assert len(responses) == 51
    assert responses[-1]["result"]["block"] == ["@host"]
    assert world.enforcer.policy == parse(block=["@host"])
    assert world.hub.connections == []
    assert world.loop.watched == {}


def test_a_peer_that_is_gone_ends_its_channel_only(world: World) -> None:
    world.peer.send(GET)
    world.peer.close()
    world.loop.turn(world.hub)
    assert world.hub.connections == []
    assert world.enforcer.policy == parse(["@host"])


def test_a_peer_that_never_reads_is_given_up(world: World) -> None:
    world.enforcer.policy = parse([",".join(f"10.{at >> 8}.{at & 255}.0/24" for at in range(4000))])
    for _ in range(200):
        if not world.hub.connections:
            break
        with suppress(BlockingIOError, BrokenPipeError):
            world.peer.send(GET * 20, socket.MSG_DONTWAIT)
        world.loop.once(world.hub)
    assert world.hub.connections == []
    assert world.loop.watched == {}


def test_a_stream_follows_its_answer(world: World) -> None:
    world.peer.send(b'{"jsonrpc":"2.0","id":1,"method":"stream"}\n' + GET)
    world.loop.turn(world.hub)
    assert world.peer.recv(1 << 16) == b'{"jsonrpc":"2.0","id":1,"result":"now"}\nfirst'
    world.stream.unsent += b"second"
    world.stream.wake()
    assert world.peer.recv(1 << 16) == b"second"
    world.peer.close()
    world.loop.turn(world.hub)
    assert world.stream.closed


def test_a_listener_is_its_owners_and_bounded(tmp_path: Path) -> None:
    world, path = World(), str(tmp_path / "control.sock")
    world.hub.listen(listen_at(path, "--control"), path, lambda: world.methods)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    peers = []
    for _ in range(CLIENTS + 3):
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(path)
        world.loop.turn(world.hub)
        peers.append(peer)
    assert len(world.hub.connections) == CLIENTS
    peers[0].send(GET)
    world.loop.turn(world.hub)
    assert b'"allow":["@host"]' in peers[0].recv(65536)
    assert peers[-1].recv(1) == b""
    with pytest.raises(ConfigError, match="cannot listen there"):
        listen_at(path, "--control")
    world.hub.close()
    assert not os.path.exists(path)
    for peer in [*peers, world.peer]:
        peer.close()


def test_a_socket_left_behind_is_replaced_and_anything_else_is_not(tmp_path: Path) -> None:
    path = str(tmp_path / "control.sock")
    listen_at(path, "--control").close()
    listen_at(path, "--control").close()
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ConfigError, match="cannot listen there"):
        listen_at(str(tmp_path / "file"), "--control")
    assert (tmp_path / "file").read_text() == "precious"
    with pytest.raises(ConfigError, match=r"--control .*: cannot listen there: .*; name a new path"):
        listen_at("/nonexistent/softnet.sock", "--control")
    with pytest.raises(ConfigError, match="cannot listen there"):
        listen_at(str(tmp_path / ("x" * 200)), "--control")


def test_control_fd_is_checked_before_anything_is_served(tmp_path: Path) -> None:
    def refused(number: int, why: str, vm_fd: int | None = None) -> None:
        with pytest.raises(ConfigError, match=f"--control-fd {number}: {why}; pass one end"):
            open_control_fd(number, vm_fd)

    ours, theirs = socket.socketpair()
    packets, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    internet, lonely = socket.socket(socket.AF_INET), socket.socket(socket.AF_UNIX)
    with ours, theirs, packets, other, internet, lonely, open(tmp_path / "file", "w") as file:
        refused(9999, "is not an open file descriptor")
        refused(file.fileno(), "is not a socket")
        refused(packets.fileno(), "is not an AF_UNIX stream socket")
        refused(internet.fileno(), "is not an AF_UNIX stream socket")
        refused(lonely.fileno(), "is not connected")
        refused(ours.fileno(), r"is the VM's socket \(--vm-fd\)", ours.fileno())
        with open_control_fd(ours.fileno(), 0) as duplicate:
            assert duplicate.fileno() != ours.fileno()
            assert not os.get_inheritable(duplicate.fileno())
            theirs.send(b"x")
            assert duplicate.recv(1) == b"x"
        assert os.get_blocking(ours.fileno()), "the description is shared with whoever passed it"


def test_a_client_whose_code_cannot_be_loaded_any_more_is_turned_away(world: World, tmp_path: Path) -> None:
    path = str(tmp_path / "control.sock")

    def unreadable() -> Any:
        raise ModuleNotFoundError("No module named 'json'")

    world.hub.listen(listen_at(path, "--control"), path, unreadable)
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(path)
        world.loop.turn(world.hub)
        assert peer.recv(1) == b""
    world.peer.send(GET)
    assert len(world.read()) == 1
