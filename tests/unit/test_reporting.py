"""Error reports, sent to an endpoint on loopback that keeps what arrives."""

import gzip
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from softnet import __version__, reporting

SOURCE = Path(__file__).parents[2] / "src"
SECRET = "PACKET-CONTENTS"

Arrived = list[dict[str, Any]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("a=b", {"a": "b"}),
        ("a=b,c=d=e, f = g ,", {"a": "b", "c": "d=e", "f": "g"}),
        ("a,=b,c=", {"c": ""}),
    ],
)
def test_tags_are_pairs(text: str, expected: dict[str, str]) -> None:
    assert reporting.tags(text) == expected


class Endpoint(http.server.BaseHTTPRequestHandler):
    """Sentry's envelope endpoint: lines of JSON, maybe compressed."""

    arrived: Arrived

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.arrived.append({"path": self.path, "headers": headers, "body": body.decode()})
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """The test's output is no access log."""


@pytest.fixture
def endpoint() -> Iterator[tuple[str, Arrived]]:
    arrived: Arrived = []
    handler = type("Handler", (Endpoint,), {"arrived": arrived})
    server = http.server.HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://key@127.0.0.1:{server.server_port}/42", arrived
    server.shutdown()
    thread.join()
    server.server_close()


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    foreign = ("SENTRY", "CIRRUS", "HTTP", "http")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(SOURCE)!r})\n{program}"],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=30,
    )


FAIL = f"""
def parse(frame):
    note = frame
    return int(frame)
def fail():
    try:
        parse(b"{SECRET}")
    except ValueError as error:
        reporting.report(error)
"""


def event_of(arrived: Arrived) -> dict[str, Any]:
    """An envelope is a header, then for each item a header and a payload."""
    assert len(arrived) == 1
    lines = [json.loads(line) for line in arrived[0]["body"].splitlines()]
    assert [line["type"] for line in lines[1::2]] == ["event"]
    event: dict[str, Any] = lines[2]
    return event


def test_off_it_costs_nothing() -> None:
    program = """
before = set(sys.modules)
from softnet import reporting
assert not reporting.start()
reporting.report(ValueError("x"))
assert reporting.readable() == ()
print(sorted(set(sys.modules) - before - {"softnet"}))
"""
    imported = run(program).stdout
    assert "sentry" not in imported
    assert "threading" not in imported
    assert "urllib3" not in imported


def test_without_the_package_it_stays_off() -> None:
    program = """
sys.modules["sentry_sdk"] = None
from softnet import reporting
print(reporting.start())
"""
    done = run(program, SENTRY_DSN="http://key@127.0.0.1:1/1")
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_with_a_package_that_is_too_old_it_stays_off() -> None:
    program = """
import types
old = types.ModuleType("sentry_sdk")
def init(dsn, release):
    raise SystemExit("reached")
old.init = init
sys.modules["sentry_sdk"] = old
from softnet import reporting
print(reporting.start())
"""
    done = run(program, SENTRY_DSN="http://key@127.0.0.1:1/1")
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_a_dsn_that_is_none_is_refused() -> None:
    pytest.importorskip("sentry_sdk", reason="needs softnet[sentry]")
    program = """
from softnet import errors, reporting
try:
    reporting.start()
except errors.ConfigError as error:
    print(error)
"""
    for dsn in ("nonsense", "http://127.0.0.1/1", "http://key@127.0.0.1/"):
        done = run(program, SENTRY_DSN=dsn)
        assert done.stdout.startswith(f"SENTRY_DSN {dsn}: is not a Sentry DSN"), done.stderr
        assert done.stdout.count("\n") == 1


def test_an_error_arrives_without_what_the_packet_held(endpoint: tuple[str, Arrived]) -> None:
    pytest.importorskip("sentry_sdk", reason="needs softnet[sentry]")
    dsn, arrived = endpoint
    program = f"from softnet import reporting\nassert reporting.start()\n{FAIL}\nfail()"
    done = run(program, SENTRY_DSN=dsn, CIRRUS_SENTRY_TAGS="task=7,os=linux")
    assert (done.returncode, done.stderr) == (0, "")
    event = event_of(arrived)
    assert arrived[0]["path"] == "/api/42/envelope/"
    assert event["release"] == f"softnet@{__version__}"
    assert event["tags"] == {"task": "7", "os": "linux"}
    [error] = event["exception"]["values"]
    assert error["type"] == "ValueError"
    assert [frame["function"] for frame in error["stacktrace"]["frames"]] == ["fail", "parse"]
    assert SECRET not in arrived[0]["body"]
    assert "vars" not in arrived[0]["body"]
    assert set(event) <= {*reporting.EVENT_KEYS, "exception"}


def test_the_messages_of_softnet_and_of_the_system_are_kept(endpoint: tuple[str, Arrived]) -> None:
    pytest.importorskip("sentry_sdk", reason="needs softnet[sentry]")
    dsn, arrived = endpoint
    program = """
from softnet import errors, reporting
reporting.start()
try:
    try:
        open("/no/such/file")
    except OSError as missing:
        raise errors.UplinkError("the network is not there") from missing
except errors.UplinkError as error:
    reporting.report(error)
"""
    assert run(program, SENTRY_DSN=dsn).stderr == ""
    values = {error["type"]: error["value"] for error in event_of(arrived)["exception"]["values"]}
    assert values == {
        "FileNotFoundError": "[Errno 2] No such file or directory: '/no/such/file'",
        "UplinkError": "the network is not there",
    }


def test_nobody_listening_holds_nothing_up() -> None:
    pytest.importorskip("sentry_sdk", reason="needs softnet[sentry]")
    program = f"""
import time
from softnet import reporting
reporting.start()
{FAIL}
start = time.monotonic()
fail()
print(time.monotonic() - start < reporting.SEND_SECONDS + 1)
"""
    assert run(program, SENTRY_DSN="http://key@127.0.0.1:9/1").stdout == "True\n"


@pytest.mark.root
def test_a_report_is_sent_after_privileges_are_gone(endpoint: tuple[str, Arrived]) -> None:
    """Set up as root with one thread still, so that the drop is complete; sent by what is left."""
    pytest.importorskip("sentry_sdk", reason="needs softnet[sentry]")
    dsn, arrived = endpoint
    program = f"""
import os
from softnet import privilege, reporting
assert reporting.start()
privilege.drop(privilege.identity("nobody", None))
print(privilege.confine(readable=reporting.readable()))
{FAIL}
fail()
"""
    done = run(program, SENTRY_DSN=dsn)
    assert done.returncode == 0, done.stderr
    assert event_of(arrived)["exception"]["values"][0]["type"] == "ValueError"


def test_softnet_reports_the_uplink_that_went_away(endpoint: tuple[str, Arrived]) -> None:
    """The whole program: the operator gets a line and the exit code, the endpoint the same error."""
    pytest.importorskip("sentry_sdk", reason="needs softnet[sentry]")
    dsn, arrived = endpoint
    program = """
import socket
from softnet.cli import main
near, vm = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
far, uplink = socket.socketpair()
far.close()
words = ["--vm-fd", str(vm.detach()), "--vm-mac-address", "02:00:00:00:00:01"]
sys.exit(main([*words, "--uplink", f"fd={uplink.detach()}"]))
"""
    done = run(program, SENTRY_DSN=dsn, CIRRUS_SENTRY_TAGS="task=7")
    assert done.returncode == 1
    assert done.stderr.startswith("softnet: the other side of the uplink is gone")
    event = event_of(arrived)
    assert event["exception"]["values"][0]["type"] == "UplinkError"
    assert event["tags"]["task"] == "7"
