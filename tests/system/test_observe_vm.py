"""A real VM whose connections are refused: at once, and by a rule that everybody names alike."""

import json
import os
import statistics
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from harness.program import command, environment
from lab import image
from lab.guest import Guest
from lab.stage import INTERNET, Stage
from lab.worlds import softnet_guest

pytestmark = [pytest.mark.root, pytest.mark.vm]

REFUSED = "10.99.0.1"


class Observed:
    """A VM behind `--deny reject`, its control socket and its events."""

    def __init__(self, guest: Guest, home: Path) -> None:
        self.guest, self.home = guest, home

    def ask(self, *words: str) -> Any:
        words = (*words, "--vm", str(self.home / "control"), "--json")
        ran = subprocess.run(command(*words), capture_output=True, text=True, env=environment(), timeout=60)
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    def drops(self) -> list[dict[str, Any]]:
        lines = map(json.loads, (self.home / "events").read_text().splitlines())
        return [line for line in lines if line["event"] == "drop"]

    def milliseconds(self, line: str) -> float:
        """How long a command that fails takes inside the VM, by its own clock (10 ms steps)."""
        clock = "cut -d' ' -f1 /proc/uptime"
        output = self.guest.must(f"{clock}; {line} && echo SUCCESS; {clock}")
        assert "SUCCESS" not in output
        times = [float(word) for word in output.split() if word.replace(".", "", 1).isdigit()]
        return (times[-1] - times[0]) * 1000


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    home = tmp_path_factory.mktemp("observed")
    options = ["--deny", "reject", "--block", "10.0.0.0/8:80/tcp,10.0.0.0/8:53/udp"]
    options += ["--events", str(home / "events"), "--control", str(home / "control")]
    with closing(Stage(b"softnet-observe-")) as stage:
        guest = softnet_guest(stage, "observed", image.build(), "--uplink", "nat", *options)
        with closing(guest):
            guest.ready()
            guest.must("udhcpc -i eth0 -f -q -n -t 3 -T 1")
            yield Observed(guest, home)


def test_a_blocked_connection_fails_within_a_tenth_of_a_second(observed: Observed) -> None:
    observed.guest.must(f"wget -qO /dev/null http://{INTERNET}/ || ping -c 1 -W 2 {INTERNET}")
    seen = [observed.milliseconds(f"nc -w 5 {REFUSED} 80 < /dev/null") for _ in range(5)]
    print("refused after (ms):", seen)
    assert statistics.median(seen) <= 100
    (event,) = [drop for drop in observed.drops() if drop["destination"] == REFUSED]
    assert event["rule"] == "block 10.0.0.0/8:80/tcp"
    assert observed.ask("explain", f"{REFUSED}:80/tcp")["rule"] == event["rule"]


def test_a_blocked_datagram_and_a_closed_network_are_told_to_the_program(observed: Observed) -> None:
    before = observed.ask("stats")["rejects"]
    assert observed.guest.run(f"ping -c 1 -W 3 {REFUSED}").status != 0
    assert observed.ask("stats")["rejects"] == before + 1
    assert observed.ask("explain", f"{REFUSED}/icmp")["reason"] == "not-global"
    assert any(drop["protocol"] == "icmp" and drop["reason"] == "not-global" for drop in observed.drops())


def test_the_policy_of_the_running_vm_can_be_replaced(observed: Observed) -> None:
    observed.guest.must(f"ping -c 1 -W 2 {INTERNET}")
    observed.ask("policy", "block", INTERNET)
    assert observed.guest.run(f"ping -c 1 -W 1 {INTERNET}").status != 0
    observed.ask("policy", "set", "--block", "10.0.0.0/8:80/tcp")
    observed.guest.must(f"ping -c 1 -W 2 {INTERNET}")
    stats = observed.ask("stats")
    assert stats["policyChanges"] == 2
    assert stats["rejects"] > 0
    assert os.stat(observed.home / "control").st_mode & 0o777 == 0o600
