"""The asking side of a control channel: one request at a time, and waiting for its answer."""

import json
from typing import Any

from softnet.control.sockets import connect_at
from softnet.errors import SoftnetError

TIMEOUT = 5.0


class ControlError(SoftnetError):
    """A running Softnet could not be asked, or refused."""


class Client:
    """A connection to the control socket at `path`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._received = b""
        try:
            self.peer = connect_at(path, TIMEOUT)
        except OSError as error:
            remedy = "see softnet ps for what runs"
            raise ControlError(f"{path}: cannot ask there: {error.strerror or error}; {remedy}") from None

    def call(self, method: str, params: dict[str, Any] | None = None) -> Any:
        """The result; ControlError with what the other side says otherwise."""
        request: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": method}
        if params:
            request["params"] = params
        try:
            self.peer.sendall(json.dumps(request).encode() + b"\n")
            response = json.loads(self._line())
        except (OSError, ValueError) as error:
            raise ControlError(f"{self._path}: no answer: {error or 'it ended'}; see softnet ps") from None
        if "error" in response:
            raise ControlError(f"{self._path}: {response['error']['message']}")
        return response["result"]

    def rest(self) -> bytes:
        """What followed the last answer already."""
        rest, self._received = self._received, b""
        return rest

    def close(self) -> None:
        self.peer.close()

    def _line(self) -> bytes:
        while b"\n" not in self._received:
            data = self.peer.recv(1 << 16)
            if not data:
                raise ValueError("it ended")
            self._received += data
        line, self._received = self._received.split(b"\n", 1)
        return line
