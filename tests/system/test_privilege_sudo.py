"""Root through the real sudo, in a throw-away copy of the machine with users and rules of its own.

The program that becomes root here is as small as can be: it does what Softnet's command line does
with its privileges, in the same order, and reports on what it then finds.
"""

import json
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("sudo") is None, reason="needs sudo: apt-get install sudo"),
]

HERE = Path(__file__).parent
PACKAGE = HERE.parents[1] / "src" / "softnet"
PROGRAM = "/opt/softnet-test/bin/softnet"
RULE = "alice ALL=(root) NOPASSWD: " + PROGRAM
KEEP = f'Defaults!{PROGRAM} env_keep += "SENTRY_DSN CIRRUS_SENTRY_TAGS"'

CLIENT = """#!/usr/bin/python3 -IB
import json, os, sys
sys.path.insert(0, "/opt/softnet-test/lib")
from softnet import privilege
from softnet.errors import SoftnetError
arguments = sys.argv[1:]
try:
    if "--sudo-escalation-probing" in arguments and os.geteuid() == 0:
        sys.exit(0)
    privilege.acquire(arguments, needs_root=True)
    privilege.check_installation()
    def option(name):
        return arguments[arguments.index(name) + 1] if name in arguments else None
    who = privilege.identity(option("--user"), option("--group"))
    asker = privilege.asker()
    before = os.getresuid()
    privilege.drop(who)
except SoftnetError as error:
    sys.exit(f"softnet: {error}")
answer = dict(arguments=arguments, before=before, after=os.getresuid(), groups=os.getgroups(), asker=asker,
    environment={k: v for k, v in os.environ.items() if k[:3] in ("SEN", "CIR", "PYT", "LD_")},
    descriptors=[n for n in range(32) if os.path.exists(f"/proc/self/fd/{n}")])
if option("--vm-fd"):
    os.write(int(option("--vm-fd")), json.dumps(answer).encode())
else:
    print(json.dumps(answer))
"""

SETUP = f"""
set -eu
hostname localhost
useradd --uid 4242 --user-group --groups mail alice
rm -f /etc/sudoers.d/*
[ -z "$RULES" ] || printf '%s\\n' "$RULES" > /etc/sudoers.d/softnet
chmod 440 /etc/sudoers.d/*  2>/dev/null || true
mkdir -p /opt/softnet-test/bin /opt/softnet-test/lib/softnet
cp -r "$PACKAGE/privilege" "$PACKAGE/__init__.py" "$PACKAGE/errors.py" /opt/softnet-test/lib/softnet/
printf '%s' "$CLIENT" > {PROGRAM}
chown -R root:root /opt/softnet-test
chmod -R go-w,a+rX /opt/softnet-test
chmod 755 {PROGRAM}
unset CLIENT RULES PACKAGE SETUP
"""

AS_ALICE = "setpriv --reuid=alice --regid=alice --init-groups "


def throwaway(
    script: str, *, rules: str = f"{KEEP}\n{RULE}", **options: Any
) -> subprocess.CompletedProcess[str]:
    setup = {"SETUP": SETUP, "CLIENT": CLIENT, "RULES": rules, "PACKAGE": str(PACKAGE)}
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **setup}
    return subprocess.run(
        [HERE / "throwaway.sh", "bash", "-c", 'eval "$SETUP"\n' + script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        **options,
    )


def test_an_ordinary_user_becomes_root_and_then_itself_again() -> None:
    secrets = "SENTRY_DSN=http://key@localhost/1 CIRRUS_SENTRY_TAGS=a=b PYTHONPATH=/evil LD_DEBUG=unused"
    done = throwaway(f"exec env {secrets} {AS_ALICE} {PROGRAM} --allow 10.0.0.0/8")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    escalated = ["--allow", "10.0.0.0/8", "--sudo-escalation-done", "--user", "alice", "--group", "alice"]
    assert answer["arguments"] == escalated
    assert answer["before"] == [0, 0, 0]
    assert answer["after"] == [4242] * 3
    assert answer["groups"] == [4242]
    assert answer["asker"][:2] == [4242, 4242]
    kept = {"SENTRY_DSN": "http://key@localhost/1", "CIRRUS_SENTRY_TAGS": "a=b"}
    assert answer["environment"] == kept


@pytest.mark.parametrize("number", [0, 7])
def test_the_vm_s_socket_survives_sudo(number: int) -> None:
    """As Tart passes it, on descriptor 0, and as anybody else might. What comes back came through it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        redirect = f"{number}<&{theirs.fileno()}"
        done = throwaway(
            f"exec {AS_ALICE} {PROGRAM} --vm-fd {number} {redirect}",
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""
        ours.settimeout(5)
        answer = json.loads(ours.recv(65536))
    finally:
        ours.close()
        theirs.close()
    assert answer["arguments"][:2] == ["--vm-fd", "0"]
    assert answer["after"] == [4242] * 3
    assert max(answer["descriptors"]) < 4, "sudo closed the rest, and the listing itself holds one"


def test_root_asked_by_sudo_itself_returns_to_the_caller() -> None:
    done = throwaway(f"exec {AS_ALICE} sudo -n {PROGRAM}")
    answer = json.loads(done.stdout)
    assert (answer["after"], set(answer["groups"])) == ([4242] * 3, {8, 4242})


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ("", "(sudo: a password is required)"),
        ("alice ALL=(mail) NOPASSWD: " + PROGRAM, "(sudo: a password is required)"),
    ],
    ids=["no rule", "a rule for another user"],
)
def test_without_a_fitting_rule_one_line_says_what_to_set_up(rules: str, said: str) -> None:
    done = throwaway(f"exec {AS_ALICE} {PROGRAM} --vm-fd 0", rules=rules)
    assert done.returncode == 1
    assert done.stderr.startswith("softnet: needs root, and sudo does not give it without a password")
    assert said in done.stderr
    assert "alice ALL=(root) NOPASSWD: " + PROGRAM in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_rule_that_does_not_keep_sentry_s_variables_works_without_them_and_says_so_with_them() -> None:
    assert throwaway(f"exec {AS_ALICE} {PROGRAM}", rules=RULE).returncode == 0
    done = throwaway(f"SENTRY_DSN=x exec {AS_ALICE} {PROGRAM}", rules=RULE)
    refusal = "sudo: sorry, you are not allowed to set the following environment variables: SENTRY_DSN\n"
    assert (done.returncode, done.stderr) == (1, refusal)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (f"chown alice {PROGRAM}", PROGRAM),
        ("chmod g+w /opt/softnet-test/lib/softnet", "/opt/softnet-test/lib/softnet"),
        ("chmod 777 /opt", "/opt"),
        (
            "chown alice /opt/softnet-test/lib/softnet/privilege/linux.py",
            "/opt/softnet-test/lib/softnet/privilege/linux.py",
        ),
        (
            "mv /opt/softnet-test/lib /srv/lib; ln -s /srv/lib /opt/softnet-test/lib; chmod o+w /srv",
            "/srv",
        ),
        (
            "mkdir -m 1777 /srv/t; mv /opt/softnet-test/lib /srv/t; ln -s /srv/t/lib /opt/softnet-test",
            "/srv/t",
        ),
    ],
    ids=["program", "package folder", "parent folder", "module", "behind a link", "sticky folder"],
)
def test_an_installation_that_others_can_change_is_refused(change: str, named: str) -> None:
    done = throwaway(f"{change}; exec {AS_ALICE} {PROGRAM}")
    assert done.returncode == 1
    assert f"refusing to run as root: {named} can be changed by others than root" in done.stderr
    assert done.stdout == ""


def test_root_himself_may_run_a_checkout_but_not_one_that_everybody_can_write() -> None:
    owned = throwaway(f"chown -R alice /opt/softnet-test; exec {PROGRAM}")
    assert json.loads(owned.stdout)["after"] == [65534] * 3
    everybody = throwaway(f"chmod 777 /opt/softnet-test/lib; exec {PROGRAM}")
    assert everybody.returncode == 1
    assert "/opt/softnet-test/lib can be changed by others" in everybody.stderr


def test_setenv_in_the_rule_would_hand_root_to_its_users() -> None:
    """Why the rule keeps two names instead: with SETENV, LD_PRELOAD is the caller's to choose."""
    chosen = "LD_PRELOAD=/no/such.so PYTHONPATH=/evil"
    ask = f"exec {AS_ALICE} sudo -n {chosen} {PROGRAM} --sudo-escalation-probing"
    assert "/no/such.so" in throwaway(ask, rules=RULE.replace("NOPASSWD:", "NOPASSWD:SETENV:")).stderr
    refused = throwaway(ask)
    assert refused.returncode == 1
    assert "not allowed to set the following environment variables" in refused.stderr


def test_the_machine_itself_was_left_alone() -> None:
    assert not os.path.exists("/opt/softnet-test")
    assert not os.path.exists("/etc/sudoers.d/softnet")
