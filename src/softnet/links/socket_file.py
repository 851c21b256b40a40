"""The name of an AF_UNIX socket in the file system: made for its owner alone, removed by its maker alone."""

import os
import socket
from contextlib import suppress


class SocketFile:
    """Binds `sock` to `path` with mode 0600, without a moment in which it is more open."""

    def __init__(self, sock: socket.socket, path: str) -> None:
        mask = os.umask(0o177)
        try:
            sock.bind(path)
        finally:
            os.umask(mask)
        self.path = path
        self.folder = os.path.dirname(path) or "."
        self._identity = self._look()

    def _look(self) -> tuple[int, int]:
        info = os.lstat(self.path)
        return info.st_dev, info.st_ino

    def give_to(self, uid: int, gid: int) -> None:
        """A new owner, who then may connect; -1 leaves one as it is."""
        os.chown(self.path, uid, gid, follow_symlinks=False)

    def remove(self) -> None:
        """Unless somebody else has a socket there by now, or privileges have been dropped since."""
        with suppress(OSError):
            if self._look() == self._identity:
                os.unlink(self.path)


def os_message(error: OSError) -> str:
    """What an OSError says, to stand inside a sentence; Python's own have no strerror."""
    text = error.strerror
    return text[:1].lower() + text[1:] if text else str(error)
