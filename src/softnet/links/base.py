"""What links have in common: the bounded retry toward a side that is full, and who counts as gone.

A link fills in `_put`, which sends what goes now and says where and why it stopped (`burst.py`).
`send` turns that into the contract of `links/__init__.py`:

    errno                       what it means                what happens
    EAGAIN, ENOBUFS, ENOMEM     full (macOS says ENOBUFS)    ask again after 50 us, 10 times a batch
    EMSGSIZE, EIO               not this frame               this frame is busy, on with the next
    ECONNREFUSED, EPIPE, ...    the other side is gone       LinkClosed
    anything else               a bug, or a broken host      OSError

With the bound used up, the rest of the batch is busy without another call, and the link is
`stalled`: until a frame goes through again, one call a batch finds out, and nobody waits.
"""

import errno
import os
import time

from softnet.core.frames import Batch
from softnet.errors import LinkClosed
from softnet.links import RETRIES, RETRY_SECONDS
from softnet.links.burst import Progress
from softnet.links.calls import calls

FULL = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM})
NOT_THIS_FRAME = frozenset({errno.EMSGSIZE, errno.EIO})
GONE = frozenset(
    {
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.ENOTCONN,
        errno.EPIPE,
        errno.EDESTADDRREQ,  # macOS, from the second send on after the peer closed
        errno.EPERM,  # Linux, when the peer has connected itself to somebody else
    }
)


class BaseLink:
    """The parts of `Link` that do not depend on the descriptor."""

    def __init__(self) -> None:
        self.pending = False
        self.needs_alive_check = False
        self._stalled = False

    @property
    def unsent(self) -> bool:
        return False

    def _put(self, batch: Batch, at: int) -> Progress:
        raise NotImplementedError

    def _refuse(self, batch: Batch, at: int, busy: int) -> int:
        """Makes what stands at `at` busy; how many frames that is."""
        batch.verdict[at] = busy
        return 1

    def _refuse_rest(self, batch: Batch, at: int, busy: int) -> int:
        """Makes everything from `at` on busy; how many frames that is."""
        return calls.mark_busy(batch, at, busy)

    def send(self, batch: Batch, busy: int) -> int:
        at = refused = retries = 0
        while True:
            at, sent, error = self._put(batch, at)
            if sent:
                self._stalled = False
            if not error:
                return refused
            if error in FULL:
                if self._stalled or retries == RETRIES:
                    self._stalled = True
                    return refused + self._refuse_rest(batch, at, busy)
                retries += 1
                time.sleep(RETRY_SECONDS)
            elif error in NOT_THIS_FRAME:
                refused += self._refuse(batch, at, busy)
                at += 1
            else:
                raise closed_or(OSError(error, os.strerror(error)))

    def alive(self) -> bool:
        return True


def closed_or(error: OSError) -> Exception:
    """The exception to raise for `error`: LinkClosed when it says that the other side is gone."""
    if error.errno in GONE:
        return LinkClosed(f"the other side is gone ({error.strerror})")
    return error
