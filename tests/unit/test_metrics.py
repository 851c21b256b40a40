"""The metrics page: read by the official parsers, and served to clients of every manner."""

import json
import re
import select
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from softnet import metrics
from softnet.errors import ConfigError
from softnet.metrics import CLIENTS, FAMILIES, Page, listen_tcp, render

SNAPSHOT: dict[str, Any] = {
    "vm": "52:54:00:12:34:56",
    "pid": 4711,
    "version": "1.0",
    "uplink": 'unix=/tmp/a "quoted"\\path\n',
    "uptime": 12.5,
    "lease": {"seconds": 599.25},
    "rate": {
        "from-vm": {"bits": 20_000_000, "packets": 5000, "burst": 0.1, "pauses": 12, "paused": 1.25},
        "to-vm": None,
    },
    "frames": {"from-vm": {"pass-global": 10, "blocked": 3}, "to-vm": {"pass-inbound": 2**53 + 1}},
    "bytes": {"from-vm": 1000, "to-vm": 2000},
    "flows": 7,
    "flowLimit": 32768,
    "rules": 2,
    "policyChanges": 1,
    "rejects": 5,
    "unreported": 4,
    "events": {"written": 9, "lost": 6},
}
WITHOUT_LEASE = SNAPSHOT | {"vm": "52:54:00:00:00:01", "pid": 1, "lease": None}


def samples(text: str) -> dict[tuple[str, str], float]:
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(
                f"{name}={value}" for name, value in sorted(sample.labels.items()) if name != "pid"
            )
            found[sample.name, labels] = sample.value
    return found


def test_the_official_parser_reads_every_sample() -> None:
    found = samples(render([SNAPSHOT, WITHOUT_LEASE]))
    vm = "vm=52:54:00:12:34:56"
    assert found["softnet_frames_total", f"direction=from-vm,reason=blocked,verdict=drop,{vm}"] == 3
    assert found["softnet_frames_total", f"direction=from-vm,reason=pass-global,verdict=pass,{vm}"] == 10
    assert found["softnet_rate_limit", f"direction=from-vm,unit=bits,{vm}"] == 20_000_000
    assert found["softnet_rate_limit", f"direction=from-vm,unit=packets,{vm}"] == 5000
    assert found["softnet_rate_pauses_total", f"direction=from-vm,{vm}"] == 12
    assert found["softnet_rate_paused_seconds_total", f"direction=from-vm,{vm}"] == 1.25
    assert ("softnet_rate_pauses_total", f"direction=to-vm,{vm}") not in found
    assert found["softnet_lease", vm] == 1
    assert found["softnet_lease_seconds", vm] == 599.25
    assert found["softnet_lease", "vm=52:54:00:00:00:01"] == 0
    assert ("softnet_lease_seconds", "vm=52:54:00:00:00:01") not in found
    assert found["softnet_info", f'uplink=unix=/tmp/a "quoted"\\path\n,version=1.0,{vm}'] == 1
    assert {name for name, _labels in found} == {name for name, _kind, _text in FAMILIES}


def test_only_the_limits_that_there_are() -> None:
    packets_alone = SNAPSHOT["rate"]["from-vm"] | {"bits": 0}
    for rate, units in ((packets_alone, ["packets"]), (None, [])):
        found = samples(render([SNAPSHOT | {"rate": {"from-vm": rate, "to-vm": None}}]))
        limits = [labels for name, labels in found if name == "softnet_rate_limit"]
        assert [labels.split("unit=")[1].split(",")[0] for labels in limits] == units
        assert any(name.startswith("softnet_rate") for name, _labels in found) == bool(units)


def test_promtool_finds_nothing_to_say() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    text = render([SNAPSHOT, WITHOUT_LEASE])
    ran = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_no_softnet_is_an_empty_page() -> None:
    assert render([]) == ""


class Loop:
    def __init__(self) -> None:
        self.watched: dict[int, Callable[[float], None]] = {}
        self.poll = select.poll()

    def watch(self, descriptor: int, react: Callable[[float], None], events: int = select.POLLIN) -> None:
        self.watched[descriptor] = react
        self.poll.register(descriptor, events)

    def unwatch(self, descriptor: int) -> None:
        del self.watched[descriptor]
        self.poll.unregister(descriptor)

    def turn(self) -> None:
        for _ in range(1000):
            ready = self.poll.poll(5)
            if not ready:
                return
            for descriptor, _events in ready:
                if descriptor in self.watched:
                    self.watched[descriptor](0.0)
        raise AssertionError("busy for ever")


class Server:
    def __init__(self) -> None:
        self.loop = Loop()
        listener = listen_tcp("--metrics", "127.0.0.1:0")
        self.address = listener.getsockname()
        self.page = Page(listener, self.loop, lambda: "softnet_info 1\n")

    def connect(self) -> socket.socket:
        peer = socket.create_connection(self.address, timeout=5)
        self.loop.turn()
        return peer

    def ask(self, *parts: bytes) -> bytes:
        with self.connect() as peer:
            for part in parts:
                peer.sendall(part)
                self.loop.turn()
            answer = b""
            while more := peer.recv(65536):
                answer += more
            return answer


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.page.close()
    assert made.loop.watched == {}


def test_a_page(server: Server) -> None:
    head, body = server.ask(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4")
    assert b"Content-Length: 15" in head
    assert body == b"softnet_info 1\n"


def test_a_page_asked_for_in_pieces(server: Server) -> None:
    assert b"200 OK" in server.ask(b"GET /met", b"rics?x=1 HTTP/1.1\r\n", b"Host: x\r\n", b"\r\n")


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"\r\n\r\n", b"405"),
        (b"\xff\xfe\r\n\r\n", b"405"),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", b"200"),
    ],
)
def test_other_requests(server: Server, request_head: bytes, status: bytes) -> None:
    answer = server.ask(request_head)
    assert answer.split()[1] == status
    if request_head.startswith(b"HEAD"):
        assert answer.endswith(b"\r\n\r\n")


def test_an_endless_request_is_cut_off(server: Server) -> None:
    with server.connect() as peer:
        for _ in range(4):
            try:
                peer.sendall(b"x" * 4096)
            except OSError:
                break
            server.loop.turn()
        assert server.page.clients == []


def test_clients_that_never_ask_are_put_out_by_the_next(server: Server) -> None:
    idle = [server.connect() for _ in range(CLIENTS + 2)]
    assert len(server.page.clients) == CLIENTS
    assert idle[0].recv(1) == b""
    assert b"200 OK" in server.ask(b"GET /metrics HTTP/1.1\r\n\r\n")
    for peer in idle:
        peer.close()
    server.loop.turn()
    assert server.page.clients == []


@pytest.mark.parametrize(
    "text", ["", "9100", ":9100", "localhost:9100", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:65536"]
)
def test_bad_addresses(text: str) -> None:
    with pytest.raises(ConfigError, match="is not ADDRESS:PORT; write for example"):
        listen_tcp("--metrics", text)


def test_a_port_in_use_is_said(server: Server) -> None:
    with pytest.raises(
        ConfigError, match=r"--metrics 127.0.0.1:\d+: cannot listen there: Address already in use"
    ):
        metrics.listen_tcp("--metrics", f"127.0.0.1:{server.address[1]}")


DASHBOARD = Path(__file__).parents[2] / "packaging" / "grafana" / "softnet.json"


def expressions() -> list[str]:
    dashboard = json.loads(DASHBOARD.read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_the_dashboard_asks_for_metrics_and_labels_that_there_are() -> None:
    known = {name for name, _kind, _text in FAMILIES}
    labels = {
        label
        for family in text_string_to_metric_families(render([SNAPSHOT]))
        for sample in family.samples
        for label in sample.labels
    }
    asked = set(re.findall(r"softnet_\w+", " ".join(expressions())))
    assert asked <= known
    assert len(asked) >= 9
    used = {name for text in expressions() for name in re.findall(r"[{,](\w+)=", text)}
    used |= {
        name
        for text in expressions()
        for group in re.findall(r"by \(([^)]*)\)", text)
        for name in group.split(", ")
    }
    assert used <= labels


def test_the_dashboard_has_what_grafana_needs() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time"} <= set(dashboard)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, f"{panel['title']} lies on another panel"
        taken |= cells
        assert panel["targets"]
        assert panel["description"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == ["datasource", "vm"]


def test_promtool_reads_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    lines = ["groups:", "- name: dashboard", "  rules:"]
    for at, text in enumerate(expressions()):
        concrete = text.replace("$__rate_interval", "5m").replace("$__range", "1h").replace("$vm", ".*")
        lines += [f"  - record: softnet:panel{at}", f"    expr: {json.dumps(concrete)}"]
    rules = tmp_path / "rules.yml"
    rules.write_text("\n".join(lines) + "\n")
    ran = subprocess.run([promtool, "check", "rules", str(rules)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_every_metric_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    assert [name for name, _kind, _text in FAMILIES if f"`{name}`" not in page] == []
