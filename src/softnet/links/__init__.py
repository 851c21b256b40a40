"""Frames in, frames out: one pollable descriptor each, and no policy.

The contract every link keeps (`tests/unit/test_links_conformance.py` runs over all of them):

- `fileno()` is what to poll for reading. `pending` is true when `receive` has frames although the
  descriptor may stay silent (a partly parsed stream, an answer made by the link itself).
- `receive(batch)` forgets what the batch held, fills it with what is waiting, up to its capacity,
  sets every verdict to UNJUDGED, never blocks, and returns the number of frames; 0 means that
  nothing is waiting. A frame longer than the batch's slot keeps its true length (`Batch`).
- `send(batch, busy)` writes, in order, the frames whose verdict passes (below PASS_LIMIT). A frame
  that the other side cannot take now is retried within a bound shared by the whole batch
  (10 x 50 us), then its verdict becomes `busy`. It returns how many frames became `busy`, and never
  blocks longer than that bound; after a batch that used its bound up, the next one gets no retry
  until a frame goes through again, so that a stalled peer cannot slow the other direction.
- `unsent` is true while the rest of a frame that `send` counted as sent waits for the other side to
  make room: poll the descriptor for writing too, and call `receive`.
- Both raise `LinkClosed` when the other side is gone (end of file on a stream, ECONNREFUSED,
  ECONNRESET, ENOTCONN, EPIPE), and OSError for anything else that is not about one frame.
- `alive()` asks whether the other side still exists, for links whose descriptor would not tell;
  it is cheap, and `needs_alive_check` says whether anybody has to ask at all.
- `close()` is idempotent.
"""

from typing import Protocol

from softnet.core.frames import Batch

RETRIES = 10
RETRY_SECONDS = 50e-6


class Link(Protocol):
    """See the module's text: that is the contract."""

    @property
    def pending(self) -> bool: ...

    @property
    def unsent(self) -> bool: ...

    @property
    def needs_alive_check(self) -> bool: ...

    def fileno(self) -> int: ...

    def receive(self, batch: Batch) -> int: ...

    def send(self, batch: Batch, busy: int) -> int: ...

    def alive(self) -> bool: ...

    def close(self) -> None: ...
