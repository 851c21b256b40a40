"""Whether the other end of a connected datagram socket still exists, on macOS: getpeername tells."""

from socket import socket


class PeerWatch:
    """`works` says whether `gone()` can ever be true."""

    works = True

    def __init__(self, sock: socket) -> None:
        self._socket = sock

    def gone(self) -> bool:
        try:
            self._socket.getpeername()
        except OSError:
            return True
        return False

    def close(self) -> None:
        """Nothing is held."""
