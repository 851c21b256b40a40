"""Counters for Prometheus: the text format 0.0.4, and a page of it over HTTP.

`render` turns snapshots (what `softnet.stats` answers: one for each running Softnet) into the text; every
name is in `docs/metrics.md`. `Page` serves `GET /metrics` to at most CLIENTS at a time from the
forwarder's own loop; a client that is slow to ask is put out by the next one.
"""

import select
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from softnet.errors import ConfigError

CLIENTS = 8
REQUEST_BYTES = 8192
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = Mapping[str, object]
Sample = tuple[Labels, float]


class Watcher(Protocol):
    """Who polls for us: the forwarder, or the exporter's loop."""

    def watch(self, descriptor: int, react: Callable[[float], None], events: int = ...) -> None: ...

    def unwatch(self, descriptor: int) -> None: ...


def render(snapshots: Iterable[Mapping[str, Any]]) -> str:
    """The page. Every snapshot's samples are labelled with its VM's MAC address and its process."""
    families: dict[str, tuple[str, str, list[Sample]]] = {
        name: (kind, text, []) for name, kind, text in FAMILIES
    }
    for snapshot in snapshots:
        own = {"vm": snapshot["vm"], "pid": snapshot["pid"]}
        for name, labels, value in _samples(snapshot):
            families[name][2].append((own | dict(labels), value))
    lines = []
    for name, (kind, text, samples) in families.items():
        if samples:
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
            lines += [f"{name}{_labels(labels)} {_number(value)}" for labels, value in samples]
    return "".join(f"{line}\n" for line in lines)


FAMILIES = (
    ("softnet_info", "gauge", "A running Softnet: its version and uplink."),
    ("softnet_uptime_seconds", "gauge", "Seconds since the filter started."),
    ("softnet_frames_total", "counter", "Frames by direction, reason and verdict (pass or drop)."),
    ("softnet_bytes_total", "counter", "Bytes of the frames that passed, Ethernet headers included."),
    ("softnet_rate_limit", "gauge", "What --rate allows a second, by unit; absent without such a limit."),
    ("softnet_rate_pauses_total", "counter", "Pauses in reading that --rate made."),
    ("softnet_rate_paused_seconds_total", "counter", "Seconds that those pauses took."),
    ("softnet_lease", "gauge", "1 while the VM holds a DHCP lease, 0 while it does not."),
    ("softnet_lease_seconds", "gauge", "Seconds until the lease ends; absent for an endless one."),
    ("softnet_flows", "gauge", "Connections that stateful rules and exposed ports follow."),
    ("softnet_flows_limit", "gauge", "Connections that can be followed."),
    ("softnet_rules", "gauge", "Rules of the policy."),
    ("softnet_policy_changes_total", "counter", "Policies that replaced another since the start."),
    ("softnet_rejects_total", "counter", "Answers to refused frames (--deny reject)."),
    ("softnet_refused_flows_unreported_total", "counter", "Refused flows too many to report one by one."),
    ("softnet_events_total", "counter", "Event lines written."),
    ("softnet_events_lost_total", "counter", "Event lines that found no room."),
)


def _samples(snapshot: Mapping[str, Any]) -> Iterable[tuple[str, Labels, float]]:
    lease = snapshot["lease"]
    yield "softnet_info", {"version": snapshot["version"], "uplink": snapshot["uplink"]}, 1
    yield "softnet_uptime_seconds", {}, snapshot["uptime"]
    for direction, counts in snapshot["frames"].items():
        for reason, count in counts.items():
            verdict = "pass" if reason.startswith("pass-") else "drop"
            yield (
                "softnet_frames_total",
                {"direction": direction, "reason": reason, "verdict": verdict},
                count,
            )
    for direction, count in snapshot["bytes"].items():
        yield "softnet_bytes_total", {"direction": direction}, count
    for direction, rate in snapshot["rate"].items():
        if rate is not None:
            yield from _rate_samples({"direction": direction}, rate)
    yield "softnet_lease", {}, lease is not None
    if lease is not None and lease["seconds"] is not None:
        yield "softnet_lease_seconds", {}, lease["seconds"]
    yield "softnet_flows", {}, snapshot["flows"]
    yield "softnet_flows_limit", {}, snapshot["flowLimit"]
    yield "softnet_rules", {}, snapshot["rules"]
    yield "softnet_policy_changes_total", {}, snapshot["policyChanges"]
    yield "softnet_rejects_total", {}, snapshot["rejects"]
    yield "softnet_refused_flows_unreported_total", {}, snapshot["unreported"]
    yield "softnet_events_total", {}, snapshot["events"]["written"]
    yield "softnet_events_lost_total", {}, snapshot["events"]["lost"]


def _rate_samples(labels: Labels, rate: Mapping[str, Any]) -> Iterable[tuple[str, Labels, float]]:
    for unit in ("bits", "packets"):
        if rate[unit]:
            yield "softnet_rate_limit", {**labels, "unit": unit}, rate[unit]
    yield "softnet_rate_pauses_total", labels, rate["pauses"]
    yield "softnet_rate_paused_seconds_total", labels, rate["paused"]


def _labels(labels: Labels) -> str:
    pairs = [f'{name}="{_escaped(str(value))}"' for name, value in labels.items()]
    return "{" + ",".join(pairs) + "}" if pairs else ""


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


class _Client:
    """One HTTP exchange: a request head, an answer, the end."""

    def __init__(self, page: "Page", peer: socket.socket) -> None:
        self._page = page
        self._peer = peer
        self._received = b""
        self._unsent = b""
        page.watcher.watch(peer.fileno(), self._read)

    def close(self) -> None:
        self._page.watcher.unwatch(self._peer.fileno())
        self._peer.close()
        self._page.clients.remove(self)

    def _read(self, _now: float) -> None:
        try:
            data = self._peer.recv(4096, socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        self._received += data
        if not data or len(self._received) > REQUEST_BYTES:
            self.close()
        elif b"\r\n\r\n" in self._received or b"\n\n" in self._received:
            self._unsent = self._page.answer(self._received.split(b"\n", 1)[0])
            self._page.watcher.watch(self._peer.fileno(), self._write, select.POLLOUT)

    def _write(self, _now: float) -> None:
        try:
            self._unsent = self._unsent[self._peer.send(self._unsent, socket.MSG_DONTWAIT) :]
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._unsent = b""
        if not self._unsent:
            self.close()


class Page:
    """`GET /metrics` on a listening socket; `content` is asked for each page."""

    def __init__(self, listener: socket.socket, watcher: Watcher, content: Callable[[], str]) -> None:
        self.watcher = watcher
        self.clients: list[_Client] = []
        self._listener = listener
        self._content = content
        watcher.watch(listener.fileno(), self._accept)

    def close(self) -> None:
        for client in list(self.clients):
            client.close()
        self.watcher.unwatch(self._listener.fileno())
        self._listener.close()

    def answer(self, request_line: bytes) -> bytes:
        """The response to a request of which only the first line counts."""
        words = request_line.split()
        method, path = (words[0], words[1].split(b"?")[0]) if len(words) > 1 else (b"", b"")
        if method not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", "only GET\n", False)
        if path != b"/metrics":
            return _response("404 Not Found", "see /metrics\n", method == b"HEAD")
        return _response("200 OK", self._content(), method == b"HEAD")

    def _accept(self, _now: float) -> None:
        try:
            peer, _address = self._listener.accept()
        except OSError:
            return
        if len(self.clients) >= CLIENTS:
            self.clients[0].close()
        self.clients.append(_Client(self, peer))


def _response(status: str, body: str, head_only: bool) -> bytes:
    content = body.encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\n"
        f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (b"" if head_only else content)


def listen(option: str, text: str, listen_at: Callable[[str, str], socket.socket]) -> socket.socket:
    """A listening socket at `ADDRESS:PORT` or `unix:PATH`; `listen_at` opens the latter."""
    return listen_at(text[5:], option) if text.startswith("unix:") else listen_tcp(option, text)


def listen_tcp(option: str, text: str) -> socket.socket:
    """A listening socket at `ADDRESS:PORT`. ConfigError says what is wrong with it."""
    from softnet.core.address import parse_ipv4

    address, _, port = text.rpartition(":")
    try:
        parse_ipv4(address)
        if not (port.isascii() and port.isdigit()) or len(port) > 5 or int(port) > 65535:
            raise ValueError(port)
    except ValueError:
        raise ConfigError(
            option, repr(text), "is not ADDRESS:PORT", "write for example 127.0.0.1:9100 or unix:PATH"
        ) from None
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, int(port)))
        listener.listen(CLIENTS)
    except OSError as error:
        listener.close()
        raise ConfigError(
            option, text, f"cannot listen there: {error.strerror}", "choose another port"
        ) from None
    listener.setblocking(False)
    return listener
