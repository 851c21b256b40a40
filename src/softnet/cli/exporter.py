"""`softnet exporter`: Prometheus metrics of every running Softnet of this user or host, on one port."""

import select
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import closing
from types import FrameType

from softnet import metrics
from softnet.cli import complain, options, running
from softnet.control.sockets import listen_at

USAGE = "softnet exporter [--listen ADDRESS:PORT|unix:PATH]"
DESCRIPTION = "Serve the metrics of all running Softnets, for root those of the host, until ^C."
DEFAULT = "127.0.0.1:9476"


class _Loop:
    """A poll loop of its own, with the forwarder's `watch` and `unwatch`, until a signal ends it."""

    def __init__(self) -> None:
        self._wanted = True
        self._watched: dict[int, Callable[[float], None]] = {}
        self._poll = select.poll()
        self._woken, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        self._poll.register(self._woken.fileno(), select.POLLIN)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._end)

    def watch(self, descriptor: int, react: Callable[[float], None], events: int = select.POLLIN) -> None:
        self._watched[descriptor] = react
        self._poll.register(descriptor, events)

    def unwatch(self, descriptor: int) -> None:
        del self._watched[descriptor]
        self._poll.unregister(descriptor)

    def run(self) -> None:
        while self._wanted:
            for descriptor, _events in self._poll.poll():
                react = self._watched.get(descriptor)
                if react is not None:
                    react(0.0)

    def _end(self, _number: int, _frame: FrameType | None) -> None:
        self._wanted = False


def main(argv: Sequence[str]) -> int:
    parser = options.new_parser("softnet exporter", USAGE, DESCRIPTION)
    parser.add_argument("--listen", metavar="WHERE", default=DEFAULT, help="(%(default)s)")
    chosen = parser.parse_args(list(argv))
    loop = _Loop()
    listener = metrics.listen("--listen", chosen.listen, listen_at)
    page = metrics.Page(listener, loop, lambda: metrics.render(seen for _entry, seen in running.snapshots()))
    complain(f"serving metrics at {chosen.listen}/metrics")
    with closing(page):
        loop.run()
    return 0
