"""A connected AF_UNIX datagram socket: one frame a datagram, no header.

This is what Tart, QEMU's `-netdev dgram`, vfkit and krunkit put behind `--vm-fd`. Datagrams have no
end of file: an empty one is a frame of length 0, and when the other side closes, nothing happens
here until the next send. `alive()` asks the kernel meanwhile (`peer_linux.py`, `peer_darwin.py`).
"""

import sys
from socket import socket

from softnet.core.frames import Batch
from softnet.links.base import BaseLink, closed_or
from softnet.links.burst import Progress
from softnet.links.calls import calls
from softnet.links.socket_file import SocketFile

if sys.platform == "darwin":
    from softnet.links.peer_darwin import PeerWatch
else:
    from softnet.links.peer_linux import PeerWatch


class DatagramLink(BaseLink):
    """Owns the socket, and the name in the file system that it was bound to, if there is one."""

    def __init__(self, sock: socket | int, name: SocketFile | None = None) -> None:
        super().__init__()
        self._socket = socket(fileno=sock) if isinstance(sock, int) else sock
        self._name = name
        self._watch = PeerWatch(self._socket)
        self.needs_alive_check = self._watch.works

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self, batch: Batch) -> int:
        try:
            return calls.receive_datagrams(self._socket, batch)
        except OSError as error:
            raise closed_or(error) from None

    def _put(self, batch: Batch, at: int) -> Progress:
        return calls.send_datagrams(self._socket, batch, at)

    def alive(self) -> bool:
        return not self._watch.gone()

    def close(self) -> None:
        self._watch.close()
        self._socket.close()
        if self._name is not None:
            self._name.remove()
