"""JSON-RPC 2.0 over a byte stream, a request and a response a line: bytes in, bytes out, no socket.

A request is an object with `jsonrpc` "2.0", an `id` (a string of at most 256 bytes or a whole number of
64 bits; without one nobody would learn what became of it), a `method` and perhaps an object of
`params`. What is none gets an error with the id, where one could be read:

    -32700  not JSON (RFC 8259) in UTF-8, or a line longer than LINE_LIMIT, which is dropped to its end
    -32600  no request: a key that is unknown, missing, twice there or of the wrong type
    -32601  no such method
    -32602  params that the method does not take

`Channel` states: OPEN; ENDED, when the peer will send no more (what it sent is still answered); DEAD,
when it did not read UNSENT_LIMIT bytes of answers: they are dropped and nothing is read any more.
"""

import json
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

LINE_LIMIT = 1 << 20
UNSENT_LIMIT = 4 << 20
ID_LIMIT = 256
LAST_NUMBER = (1 << 64) - 1

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602

_KEYS = frozenset(("jsonrpc", "id", "method", "params"))
_NO_PARAMS: dict[str, Any] = {}


class RpcError(Exception):
    """What goes back instead of a result."""

    def __init__(self, code: int, message: str) -> None:
        self.code = code
        super().__init__(message)


class _Object(dict[str, Any]):
    """A JSON object that remembers which keys it was given twice."""

    twice: frozenset[str] = frozenset()


class Stream(Protocol):
    """Bytes that follow an answer, for as long as the peer reads; `wake` tells that there are more."""

    unsent: bytearray
    wake: Callable[[], None]

    def close(self) -> None: ...


class Upgrade(NamedTuple):
    """What a method returns to have the connection carry `stream` from its answer on."""

    result: Any
    stream: Stream


Identifier = str | int | None
Method = Callable[[dict[str, Any]], Any]


class Channel:
    """One peer. `unsent` holds the answers that wait to be written; `sent` removes what was.

    Once `stream` is set, nothing is answered any more: the connection belongs to it.
    """

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self.unsent = bytearray()
        self.dead = False
        self.stream: Stream | None = None
        self._methods = methods
        self._received = bytearray()
        self._scanned = 0
        self._skipping = False

    def receive(self, data: bytes) -> None:
        """Takes what the peer sent; `serve` answers it."""
        self._received += data

    def sent(self, count: int) -> None:
        del self.unsent[:count]

    def has_line(self) -> bool:
        """Whether `serve` has something to do."""
        return not self.dead and self._line_end() >= 0

    def serve(self, most: int) -> None:
        """Answers at most `most` of the lines received."""
        for _ in range(most):
            end = self._line_end()
            if end < 0 or self.dead or self.stream is not None:
                return
            line = bytes(self._received[:end])
            del self._received[: end + 1]
            self._scanned = 0
            if self._skipping:
                self._skipping = False
            else:
                self._answer(line)

    def _line_end(self) -> int:
        """Where the first line ends; a line that is too long is answered and dropped here."""
        end = self._received.find(b"\n", self._scanned)
        length = len(self._received) if end < 0 else end
        if length > LINE_LIMIT or (self._skipping and end < 0):
            if not self._skipping:
                message = f"Parse error: a line of more than {LINE_LIMIT} bytes"
                self._respond(None, error=RpcError(PARSE_ERROR, message))
            self._skipping = True
            del self._received[:length]
            end = -1 if end < 0 else 0
        self._scanned = len(self._received) if end < 0 else end
        return end

    def _answer(self, line: bytes) -> None:
        identifier: Identifier = None
        try:
            request = _decode(line)
            identifier = _identifier(request)
            method, params = _call(request)
            handler = self._methods.get(method)
            if handler is None:
                raise RpcError(METHOD_NOT_FOUND, f"Method not found: {method[:ID_LIMIT]}")
            result = handler(params)
            if isinstance(result, Upgrade):
                self.stream, result = result.stream, result.result
            self._respond(identifier, result=result)
        except RpcError as error:
            self._respond(identifier, error=error)

    def _respond(self, identifier: Identifier, result: Any = None, error: RpcError | None = None) -> None:
        response: dict[str, Any] = {"jsonrpc": "2.0", "id": identifier}
        if error is None:
            response["result"] = result
        else:
            response["error"] = {"code": error.code, "message": str(error)}
        self.unsent += json.dumps(response, separators=(",", ":")).encode() + b"\n"
        if len(self.unsent) > UNSENT_LIMIT:
            self.dead = True
            self.unsent.clear()
            self._received.clear()


def _pairs(pairs: list[tuple[str, Any]]) -> _Object:
    decoded = _Object(pairs)
    if len(decoded) < len(pairs):
        keys = sorted(key for key, _value in pairs)
        decoded.twice = frozenset(key for key, following in pairwise(keys) if key == following)
    return decoded


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _decode(line: bytes) -> _Object:
    """The line's object. Depth, size of numbers and lone surrogates are errors of the line."""
    try:
        text = line.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_pairs, parse_constant=_no_constant)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        raise RpcError(PARSE_ERROR, "Parse error") from None
    if not isinstance(value, _Object):
        raise RpcError(INVALID_REQUEST, "Invalid request: not an object")
    return value


def _identifier(request: _Object) -> str | int:
    identifier = request.get("id")
    if "id" in request.twice:
        raise RpcError(INVALID_REQUEST, "Invalid request: id is there twice")
    if isinstance(identifier, str) and len(identifier.encode()) <= ID_LIMIT:
        return identifier
    if type(identifier) is int and 0 <= identifier <= LAST_NUMBER:
        return identifier
    raise RpcError(INVALID_REQUEST, "Invalid request: id must be a string or a whole number")


def _call(request: _Object) -> tuple[str, dict[str, Any]]:
    """Method and params of a request whose id is right."""
    for key in request:
        if key not in _KEYS:
            raise RpcError(INVALID_REQUEST, f"Invalid request: unknown key {key[:ID_LIMIT]!r}")
    for key in sorted(request.twice):
        raise RpcError(INVALID_REQUEST, f"Invalid request: {key} is there twice")
    if request.get("jsonrpc") != "2.0":
        raise RpcError(INVALID_REQUEST, 'Invalid request: jsonrpc must be "2.0"')
    method = request.get("method")
    if not isinstance(method, str):
        raise RpcError(INVALID_REQUEST, "Invalid request: method must be a string")
    params = request.get("params", _NO_PARAMS)
    if not isinstance(params, dict):
        raise RpcError(INVALID_PARAMS, "Invalid params: not an object")
    for key in sorted(getattr(params, "twice", ())):
        raise RpcError(INVALID_PARAMS, f"Invalid params: {key[:ID_LIMIT]!r} is there twice")
    return method, params
