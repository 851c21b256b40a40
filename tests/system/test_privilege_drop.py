"""The drop, done for real and asked back from the kernel: identity, capabilities, and every way back."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

THROWAWAY = Path(__file__).with_name("throwaway.sh")
SOURCE = Path(tempfile.gettempdir()) / f"softnet-privilege-{os.getpid()}"
NOBODY = 65534

# Runs in a process of its own. `before` is code that sets the scene, `after` code whose value is reported.
PROGRAM = """
import json, os, resource, socket, sys, threading
sys.path.insert(0, {source!r})
from softnet import privilege
from softnet.privilege import linux
def attempt(function, *arguments):
    try:
        return repr(function(*arguments))
    except OSError as error:
        return type(error).__name__
{before}
try:
    who = privilege.identity({user!r}, {group!r})
    privilege.drop(who)
except privilege.PrivilegeError as error:
    sys.exit(f"refused: {{error}}")
status = dict(line.rstrip('\\n').split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
print(json.dumps({{"status": status, "result": {after}}}))
"""


@pytest.fixture(scope="module", autouse=True)
def source() -> Iterator[None]:
    """The package where every user can read it, wherever the checkout is."""
    package = Path(__file__).parents[2] / "src" / "softnet"
    SOURCE.mkdir(mode=0o755)
    (SOURCE / "softnet").mkdir()
    shutil.copytree(package / "privilege", SOURCE / "softnet" / "privilege")
    for name in ("__init__.py", "errors.py"):
        shutil.copy(package / name, SOURCE / "softnet")
    yield
    shutil.rmtree(SOURCE)


def run(
    *,
    before: str = "",
    after: str = "None",
    user: str | None = None,
    group: str | None = None,
    by: tuple[str, ...] = (),
) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(source=str(SOURCE), before=before, after=after, user=user, group=group)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("SUDO_", "PYTHON"))}
    command = [*by, "/usr/bin/python3", "-I", "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, env=environment)


def dropped(**options: Any) -> dict[str, Any]:
    done = run(**options)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def assert_nothing_kept(status: dict[str, str], uid: int, gid: int) -> None:
    assert status["Uid"].split() == [str(uid)] * 4
    assert status["Gid"].split() == [str(gid)] * 4
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert status["Umask"] == "0077"


def test_a_root_login_ends_as_nobody_with_nothing_kept() -> None:
    answer = dropped(before="os.umask(0)")
    assert_nothing_kept(answer["status"], NOBODY, NOBODY)
    assert answer["status"]["Groups"].split() == [str(NOBODY)]


def test_a_named_user_brings_its_groups_and_a_named_group_replaces_them() -> None:
    groups = set(os.getgrouplist("mail", 8))
    answer = dropped(user="mail")
    assert_nothing_kept(answer["status"], 8, 8)
    assert {int(group) for group in answer["status"]["Groups"].split()} == groups
    answer = dropped(user="4242", group="4343", before="os.setgroups([0, 4, 8])")
    assert_nothing_kept(answer["status"], 4242, 4343)
    assert answer["status"]["Groups"].split() == ["4343"]


def test_a_set_user_id_start_returns_to_its_user() -> None:
    scene = "os.setgroups([7, 8]); os.setresgid(4343, 0, 0); os.setresuid(4242, 0, 0)"
    answer = dropped(before=scene)
    assert_nothing_kept(answer["status"], 4242, 4343)
    assert answer["status"]["Groups"].split() == ["7", "8"]


def test_a_set_user_id_start_is_root_in_full_until_then() -> None:
    """access(2) and the programs that are started to set the network up go by the real uid."""
    scene = "os.setgroups([7]); os.setresgid(4343, 4343, 4343); os.setresuid(4242, 0, 0); "
    scene += "os.environ['SUDO_UID'] = '1'; privilege.acquire([], True); "
    scene += "assert os.getresuid() == os.getresgid() == (0, 0, 0)"
    answer = dropped(before=scene, after="privilege.asker()")
    assert_nothing_kept(answer["status"], 4242, 4343)
    assert answer["result"] == [4242, 4343, [7]]


def test_what_the_caller_named_is_opened_as_the_caller_and_root_is_back_after() -> None:
    scene = """
os.environ.update(SUDO_UID="4242", SUDO_GID="4343")
os.setgroups([0, 7])
with privilege.acting_as(privilege.asker()):
    inside = os.geteuid(), os.getegid(), os.getgroups(), attempt(open, "/etc/shadow")
again = os.getresuid(), os.getresgid(), os.getgroups(), attempt(os.stat, "/etc/shadow") != "PermissionError"
with privilege.acting_as(None):
    root = os.geteuid()
"""
    answer = dropped(before=scene, after="[inside, again, root]")
    inside, again, root = answer["result"]
    assert inside == [4242, 4343, [4343], "PermissionError"]
    assert again == [[0, 0, 0], [0, 0, 0], [0, 7], True]
    assert root == 0
    assert_nothing_kept(answer["status"], 4242, 4343)


def test_every_way_back_is_shut() -> None:
    ways = """{way: attempt(*call) for way, call in {
        "setuid": (os.setuid, 0), "seteuid": (os.seteuid, 0), "setreuid": (os.setreuid, 0, 0),
        "setresuid": (os.setresuid, 0, 0, 0), "setgid": (os.setgid, 0), "setresgid": (os.setresgid, 0, 0, 0),
        "setgroups": (os.setgroups, [0]), "shadow": (open, "/etc/shadow"), "raw socket": (
        socket.socket, socket.AF_INET, socket.SOCK_RAW, 1), "chroot": (os.chroot, "/")}.items()}"""
    assert set(dropped(after=ways)["result"].values()) == {"PermissionError"}


def test_a_set_user_id_program_gives_nothing_back() -> None:
    """In a throw-away copy of the machine: the same program is root's before the drop, and not after."""
    script = """
        install -m 4755 /usr/bin/id /usr/local/bin/suid-id
        setpriv --reuid=4242 --regid=4242 --clear-groups suid-id -u
        exec /usr/bin/python3 -I -c "$PROGRAM"
    """
    call = "__import__('subprocess').run(['suid-id', '-u'], capture_output=True, text=True).stdout"
    program = PROGRAM.format(source=str(SOURCE), before="", after=call, user="4242", group="4242")
    environment = {**os.environ, "PROGRAM": program}
    done = subprocess.run([THROWAWAY, "sh", "-c", script], env=environment, capture_output=True, text=True)
    before, answer = done.stdout.splitlines()
    assert before == "0"
    assert json.loads(answer)["result"].strip() == "4242"


def test_capabilities_given_to_an_ordinary_user_go_too() -> None:
    given = ("setpriv", "--reuid=4242", "--regid=4242", "--clear-groups", "--inh-caps=+net_admin")
    scene = "assert privilege.has_net_admin()"
    status = dropped(by=(*given, "--ambient-caps=+net_admin"), before=scene)["status"]
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"


def test_an_ordinary_user_without_any_is_sealed_as_it_is() -> None:
    by = ("setpriv", "--reuid=4242", "--regid=4343", "--clear-groups")
    status = dropped(by=by, before="assert not privilege.has_net_admin()")["status"]
    assert (status["Uid"].split(), status["Gid"].split()) == (["4242"] * 4, ["4343"] * 4)
    assert (status["CapPrm"], status["NoNewPrivs"], status["Umask"]) == ("0" * 16, "1", "0077")


def test_root_in_a_stripped_container_drops_what_it_has() -> None:
    status = dropped(by=("setpriv", "--bounding-set=-setpcap", "--inh-caps=-setpcap"))["status"]
    assert status["Uid"].split() == [str(NOBODY)] * 4
    assert (status["CapPrm"], status["CapEff"], status["NoNewPrivs"]) == ("0" * 16, "0" * 16, "1")


@pytest.mark.parametrize(
    ("by", "before", "message"),
    [
        (("setpriv", "--bounding-set=-setuid", "--inh-caps=-setuid"), "", "cannot become uid 65534"),
        (("unshare", "--user", "--map-root-user"), "", "cannot become uid 65534"),
        ((), "threading.Thread(target=threading.Event().wait, daemon=True).start()", "2 threads run"),
    ],
    ids=["no CAP_SETUID", "a user namespace with root alone", "another thread"],
)
def test_a_drop_that_cannot_be_complete_is_refused_in_one_line(
    by: tuple[str, ...], before: str, message: str
) -> None:
    done = run(by=by, before=before)
    assert done.returncode == 1
    assert done.stderr.startswith(f"refused: {message}")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("scene", "claim"),
    [
        ("linux.assume = lambda who: os.setresuid(who.uid, who.uid, 0)", "uid, "),
        ("linux.assume = lambda who: (os.setgroups([]), os.setresuid(*[who.uid] * 3))", "gid, groups"),
        ("linux._clear_capabilities = linux.os.getpid; linux.assume = lambda who: None", "capabilities"),
        ("linux._empty_bounding_set = lambda: None", "bounding set"),
        ("linux.PR_SET_NO_NEW_PRIVS = 36", "no_new_privs"),
    ],
    ids=["saved uid", "gid and groups", "capabilities", "bounding set", "no_new_privs"],
)
def test_a_drop_that_left_something_out_is_noticed(scene: str, claim: str) -> None:
    done = run(before=scene)
    assert done.returncode == 1
    assert "privileges were not dropped" in done.stderr
    assert claim in done.stderr


MAC = "from softnet.privilege import darwin; privilege.drop = darwin.drop; "


def test_the_mac_s_drop_on_this_kernel() -> None:
    """It uses nothing that Linux lacks; `pytest -m mac` runs it where it belongs."""
    after = "[darwin.confine(), attempt(os.fork)]"
    answer = dropped(before=MAC + "os.setgroups([0, 7])", user="mail", after=after)
    assert answer["status"]["Uid"].split() == answer["status"]["Gid"].split() == ["8"] * 4
    assert set(answer["status"]["Groups"].split()) == {str(group) for group in os.getgrouplist("mail", 8)}
    assert answer["result"] == [["rlimits"], "BlockingIOError"]


@pytest.mark.parametrize(
    ("scene", "claim"),
    [
        ("darwin.assume = lambda who: os.setresuid(who.uid, who.uid, 0)", "way back to uid 0"),
        ("darwin.assume = lambda who: (os.setgid(who.gid), os.setuid(who.uid))", "groups"),
        ("darwin.assume = lambda who: (os.setgroups(who.groups), os.setuid(who.uid))", "gid"),
    ],
    ids=["saved uid", "groups", "gid"],
)
def test_the_mac_s_drop_notices_what_was_left_out(scene: str, claim: str) -> None:
    done = run(before=f"{MAC}os.setgroups([0, 7]); {scene}")
    assert done.returncode == 1
    assert "privileges were not dropped" in done.stderr
    assert claim in done.stderr


def test_open_descriptors_and_the_own_proc_entry_stay_usable() -> None:
    answer = dropped(
        before="left, right = socket.socketpair()",
        after="[left.send(b'frame'), right.recv(9).decode(), len(os.listdir('/proc/self/fd')) > 3,"
        " os.readlink('/proc/self/exe') != '', resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 0]",
    )
    assert answer["result"] == [5, "frame", True, True, True]


def test_another_process_of_the_same_user_cannot_look_inside() -> None:
    """Its own memory and descriptors are root's to see now: a core file or ptrace would hold packets."""
    look = "setpriv --reuid=4242 --regid=4242 --clear-groups cat"
    program = PROGRAM.format(source=str(SOURCE), before="", after="None", user="4242", group="4242")
    child = subprocess.Popen(
        ["/usr/bin/python3", "-I", "-c", program.rstrip() + "; sys.stdout.flush(); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stdout.readline()
    seen = {}
    for name in ("environ", "maps", "mem", "cmdline"):
        done = subprocess.run([*look.split(), f"/proc/{child.pid}/{name}"], capture_output=True)
        seen[name] = done.returncode == 0
    child.communicate(timeout=5)
    assert seen == {"environ": False, "maps": False, "mem": False, "cmdline": True}
