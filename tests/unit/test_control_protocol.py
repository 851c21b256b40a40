"""The control channel's wire and its policy methods, case by case, without a socket."""

import json
from typing import Any

import pytest

from softnet.control.methods import RULES, PolicyMethods
from softnet.control.protocol import LINE_LIMIT, UNSENT_LIMIT, Channel
from softnet.errors import ConfigError
from softnet.policy import Policy, parse


class World:
    """A policy that can be replaced, and a channel to it."""

    def __init__(self, allow: str = "@host", block: str = "") -> None:
        self.policy = parse([allow] if allow else [], [block] if block else [])
        self.applied: list[Policy] = []
        self.refuse = False
        self.methods = PolicyMethods(self)
        self.channel = Channel(self.methods.table())

    def apply(self, policy: Policy) -> None:
        if self.refuse:
            raise ConfigError("--allow", "x", "cannot be enforced")
        self.policy = policy
        self.applied.append(policy)

    def raw(self, data: bytes) -> list[dict[str, Any]]:
        self.channel.receive(data)
        while self.channel.has_line():
            self.channel.serve(1)
        lines = bytes(self.channel.unsent).splitlines()
        self.channel.sent(len(self.channel.unsent))
        return [json.loads(line) for line in lines]

    def one(self, data: bytes) -> dict[str, Any]:
        (response,) = self.raw(data + b"\n")
        assert response["jsonrpc"] == "2.0"
        return response

    def call(self, method: str, params: Any = None, identifier: Any = 1) -> dict[str, Any]:
        request = {"jsonrpc": "2.0", "id": identifier, "method": method}
        if params is not None:
            request["params"] = params
        response = self.one(json.dumps(request).encode())
        assert response["id"] == identifier
        return response

    def set(self, allow: list[str], block: list[str], revision: str | None = None) -> dict[str, Any]:
        params: dict[str, Any] = {"allow": allow, "block": block}
        if revision is not None:
            params["desiredRevision"] = revision
        return self.call("softnet.policy.set", params)


def code(response: dict[str, Any]) -> int:
    assert "result" not in response
    assert response["error"]["message"]
    return int(response["error"]["code"])


def test_the_documented_exchange() -> None:
    request = (
        b'{"jsonrpc":"2.0","id":"42","method":"softnet.policy.set","params":{"allow":["@host","10.0.0.0/8"],'
        b'"block":["0.0.0.0/0"],"desiredRevision":"vm-uid:42"}}'
    )
    assert World().one(request) == {
        "jsonrpc": "2.0",
        "id": "42",
        "result": {
            "allow": ["10.0.0.0/8", "@host"],
            "block": ["0.0.0.0/0"],
            "desiredRevision": "vm-uid:42",
            "ruleCount": 3,
            "bridgeIsolation": True,
        },
    }


def test_get() -> None:
    result = World(allow="10.1.2.3/8,9.0.0.0/8,in @host:22/tcp").call("softnet.policy.get")["result"]
    assert result == {
        "allow": ["9.0.0.0/8", "10.0.0.0/8", "in @host:22/tcp"],
        "block": [],
        "desiredRevision": None,
        "ruleCount": 3,
        "bridgeIsolation": True,
    }


@pytest.mark.parametrize("identifier", ["", "a", "x" * 256, "\u00e9" * 128, 0, 1, 2**64 - 1])
def test_ids(identifier: Any) -> None:
    assert "result" in World().call("softnet.policy.get", identifier=identifier)


@pytest.mark.parametrize(
    "identifier",
    [
        *("null", "-1", "1.5", "1.0", "1e2", "{}", "[]", "true", "18446744073709551616"),
        *('"' + "x" * 257 + '"', '"' + "\\u00e9" * 129 + '"'),
    ],
)
def test_ids_that_are_none(identifier: str) -> None:
    response = World().one(b'{"jsonrpc":"2.0","id":%s,"method":"softnet.policy.get"}' % identifier.encode())
    assert code(response) == -32600
    assert response["id"] is None


@pytest.mark.parametrize(
    ("line", "expected", "identifier"),
    [
        (b"", -32700, None),
        (b"{", -32700, None),
        (b"nonsense", -32700, None),
        (b'{"id":NaN}', -32700, None),
        (b'\xff{"id":1}', -32700, None),
        (b'{"jsonrpc":"2.0","id":"\\ud800","method":"softnet.policy.get"}', -32700, None),
        (b"[" * 100_000, -32700, None),
        (b'{"id":' + b"9" * 5000 + b"}", -32700, None),
        (b"[]", -32600, None),
        (b"1", -32600, None),
        (b'[{"jsonrpc":"2.0","id":1,"method":"softnet.policy.get"}]', -32600, None),
        (b"{}", -32600, None),
        (b'{"jsonrpc":"2.0","method":"softnet.policy.get"}', -32600, None),
        (b'{"id":7,"method":"softnet.policy.get"}', -32600, 7),
        (b'{"jsonrpc":2.0,"id":7,"method":"softnet.policy.get"}', -32600, 7),
        (b'{"jsonrpc":"1.0","id":7,"method":"softnet.policy.get"}', -32600, 7),
        (b'{"jsonrpc":"2.0","id":7}', -32600, 7),
        (b'{"jsonrpc":"2.0","id":7,"method":1}', -32600, 7),
        (b'{"jsonrpc":"2.0","id":7,"method":"softnet.policy.get","more":1}', -32600, 7),
        (b'{"jsonrpc":"2.0","id":7,"method":"a","method":"softnet.policy.get"}', -32600, 7),
        (b'{"jsonrpc":"2.0","id":7,"id":8,"method":"softnet.policy.get"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":7,"method":"softnet.policy.nonsense"}', -32601, 7),
        (b'{"jsonrpc":"2.0","id":7,"method":""}', -32601, 7),
        (b'{"jsonrpc":"2.0","id":7,"method":"softnet.stats"}', -32601, 7),
        (b'{"jsonrpc":"2.0","id":7,"method":"softnet.policy.get","params":{"x":1}}', -32602, 7),
        (b'{"jsonrpc":"2.0","id":7,"method":"softnet.policy.get","params":[]}', -32602, 7),
        (b'{"jsonrpc":"2.0","id":7,"method":"softnet.policy.get","params":null}', -32602, 7),
        (b'{"jsonrpc":"2.0","id":7,"method":"softnet.policy.set"}', -32602, 7),
        (
            b'{"jsonrpc":"2.0","id":7,"method":"softnet.policy.set","params":{"allow":[],"block":[],"allow":[]}}',
            -32602,
            7,
        ),
    ],
)
def test_what_is_no_request(line: bytes, expected: int, identifier: int | None) -> None:
    world = World()
    response = world.one(line)
    assert code(response) == expected
    assert response["id"] == identifier
    assert "result" in world.call("softnet.policy.get"), "the channel goes on"


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"allow": []},
        {"block": []},
        {"allow": "@host", "block": []},
        {"allow": [1], "block": []},
        {"allow": None, "block": []},
        {"allow": [" in @host"], "block": []},
        {"allow": ["@host:ssh"], "block": []},
        {"allow": ["@host,10.0.0.0/8"], "block": []},
        {"allow": [], "block": [""]},
        {"allow": [], "block": [], "desiredRevision": 1},
        {"allow": [], "block": [], "revision": "x"},
        {"allow": ["@host"] * RULES, "block": ["@host"]},
    ],
)
def test_sets_that_change_nothing(params: Any) -> None:
    world = World()
    assert code(world.call("softnet.policy.set", params)) == -32602
    assert not world.applied


def test_a_policy_that_cannot_be_enforced_changes_nothing() -> None:
    world = World()
    world.refuse = True
    assert code(world.set(["10.0.0.0/8"], [], "r1")) == -32602
    world.refuse = False
    result = world.call("softnet.policy.get")["result"]
    assert (result["allow"], result["desiredRevision"]) == (["@host"], None)
    assert "result" in world.set(["10.0.0.0/8"], [], "r1"), "the name was not used up"


def test_the_largest_policy() -> None:
    allow = [f"10.{at >> 8}.{at & 255}.0/24" for at in range(RULES)]
    assert World().set(allow, [])["result"]["ruleCount"] == RULES


def test_lists_come_back_normalised() -> None:
    allow = ["@host", "10.1.2.3/8", "10.0.0.0/8", "192.0.2.1"]
    result = World().set(allow, ["in @host:90-90", "9.9.9.9:1-2/udp"])
    assert result["result"]["allow"] == ["10.0.0.0/8", "192.0.2.1/32", "@host"]
    assert result["result"]["block"] == ["9.9.9.9/32:1-2/udp", "in @host:90"]
    assert result["result"]["ruleCount"] == 5


def test_revisions() -> None:
    world = World()
    assert world.set(["10.0.0.0/8"], [], "r1")["result"]["desiredRevision"] == "r1"
    assert "result" in world.set(["10.9.9.9/8"], [], "r1"), "the same policy, spelt otherwise"
    assert len(world.applied) == 1, "and so its connections go on"
    assert code(world.set(["10.0.0.0/9"], [], "r1")) == -32001
    assert "result" in world.set(["10.0.0.0/9"], [], "r2")
    assert code(world.set(["10.0.0.0/8"], [], "r1")) == -32001, "superseded"
    assert code(world.set(["10.0.0.0/9"], [], "r1")) == -32001, "superseded, even for what holds now"
    assert world.call("softnet.policy.get")["result"]["desiredRevision"] == "r2"
    assert world.set(["10.0.0.0/9"], [])["result"]["desiredRevision"] == "r2", "nothing changed"
    assert world.set(["10.0.0.0/10"], [])["result"]["desiredRevision"] is None
    assert code(world.set(["10.0.0.0/9"], [], "r2")) == -32001
    assert len(world.applied) == 3


def test_revisions_are_the_process_and_not_the_channels() -> None:
    world = World()
    world.set(["10.0.0.0/8"], [], "r1")
    world.channel = Channel(world.methods.table())
    assert code(world.set([], [], "r1")) == -32001


@pytest.mark.parametrize("text", ["0.0.0.0/0", "10.1.2.3/0"])
def test_isolation_is_fixed_at_start(text: str) -> None:
    world = World()
    assert code(world.set([text], [])) == -32002
    assert not world.applied
    opened = World(allow=text)
    assert code(opened.set(["@host"], [])) == -32002
    assert opened.set([text, "@host"], [])["result"]["bridgeIsolation"] is False
    assert "result" in world.set(["out 0.0.0.0/0", "in 0.0.0.0/0", "0.0.0.0/1", "0.0.0.0/0:80"], [])


def test_partial_lines_and_two_in_one_write() -> None:
    world = World()
    line = b'{"jsonrpc":"2.0","id":1,"method":"softnet.policy.get"}\n'
    for at in range(len(line) - 1):
        assert world.raw(line[at : at + 1]) == []
    assert len(world.raw(line[-1:])) == 1
    second = line.replace(b"1,", b"2,", 1)
    assert [response["id"] for response in world.raw(line + second + line[:9])] == [1, 2]
    assert len(world.raw(line[9:])) == 1


def test_a_line_of_the_limit_is_read_and_one_more_byte_is_not() -> None:
    world = World()
    request = b'{"jsonrpc":"2.0","id":1,"method":"softnet.policy.get"}'
    padded = request + b" " * (LINE_LIMIT - len(request))
    assert "result" in world.one(padded)
    assert code(world.one(padded + b" ")) == -32700
    assert "result" in world.one(request)


def test_an_endless_line_is_answered_once_and_takes_no_room() -> None:
    world = World()
    responses = []
    for _ in range(64):
        responses += world.raw(b"x" * 65536)
        assert len(world.channel._received) <= LINE_LIMIT + 65536
    responses += world.raw(b"xx\n")
    assert [code(response) for response in responses] == [-32700]
    assert "result" in world.call("softnet.policy.get")


def test_a_peer_that_never_reads_loses_the_channel() -> None:
    world = World()
    line = b'{"jsonrpc":"2.0","id":1,"method":"softnet.policy.get"}\n'
    for _ in range(UNSENT_LIMIT // 100):
        world.channel.receive(line)
        world.channel.serve(1)
        assert len(world.channel.unsent) <= UNSENT_LIMIT
    assert world.channel.dead
    assert not world.channel.unsent
    world.channel.receive(
        b'{"jsonrpc":"2.0","id":1,"method":"softnet.policy.set","params":{"allow":[],"block":[]}}\n'
    )
    world.channel.serve(9)
    assert not world.applied
