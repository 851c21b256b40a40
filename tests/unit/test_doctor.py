"""What `softnet doctor` finds, on this machine and in what a Mac would show it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from softnet.cli import main
from softnet.doctor import NOTE, OK, PROBLEM, darwin, linux

LEASES = """{
\tname=runner
\tip_address=192.168.64.5
\thw_address=1,2:0:0:0:0:1
\tidentifier=1,2:0:0:0:0:1
\tlease=0x65000000
}
{
\tip_address=192.168.64.6
\thw_address=ff,f1:f5:dd:7f:0:2
\tlease=0x66000000
}
{
\tname=broken
}
"""


def test_every_finding_has_a_state_and_every_problem_a_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    states = {finding["name"]: finding["state"] for finding in report["findings"]}
    assert set(states.values()) <= {OK, NOTE, PROBLEM}
    assert all(finding["remedy"] for finding in report["findings"] if finding["state"] == PROBLEM)
    assert code == int(PROBLEM in states.values())


def test_the_text_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    main(["doctor"])
    text = capsys.readouterr().out
    assert all(finding["text"] in text and finding["remedy"] in text for finding in report["findings"])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's routes")
def test_a_pool_that_overlaps_the_host(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--json", "--pool", "127.0.0.0/8"])
    findings = {each["name"]: each for each in json.loads(capsys.readouterr().out)["findings"]}
    assert code == 1
    assert findings["pool"]["state"] == PROBLEM
    assert "--pool" in findings["pool"]["remedy"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's settings")
@pytest.mark.parametrize(
    ("granted", "may_force", "state"), [(212992, False, NOTE), (212992, True, OK), (4 << 20, False, OK)]
)
def test_send_buffers_that_hold_too_little_for_uplink_user(
    granted: int, may_force: bool, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wmem_max").write_text(f"{granted}\n")
    monkeypatch.setattr("softnet.doctor.linux.SEND_BUFFERS", str(tmp_path / "wmem_max"))
    monkeypatch.setattr("softnet.privilege.has_net_admin", lambda: may_force)
    findings = {each.name: each for each in linux.examine((0x0AE70000, 20))}
    assert findings["send-buffers"].state == state
    assert ("net.core.wmem_max" in findings["send-buffers"].remedy) == (state == NOTE)


def test_a_bad_pool_is_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "softnet", "doctor", "--pool", "10.0.0.0/33"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("softnet: --pool '10.0.0.0/33': ")
    assert done.stderr.count("\n") == 1


def test_bootpds_leases() -> None:
    leases = darwin.parse_leases(LEASES.splitlines())
    assert leases == [("192.168.64.5", 0x65000000), ("192.168.64.6", 0x66000000)]
    assert darwin.judge_leases(leases, 0x65800000).text.startswith("1 of about 253")


def test_a_full_mac_is_told_the_remedy() -> None:
    leases = [darwin.DhcpLease(f"192.168.64.{number}", 100) for number in range(2, 255)]
    full = darwin.judge_leases(leases, 99)
    assert full.state == PROBLEM
    assert "/var/db/dhcpd_leases" in full.remedy
    assert darwin.judge_leases(leases, 101).state == OK
