"""What a filter that was taken over can still do: asked of a real process after drop and confine."""

import json
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from softnet.privilege import landlock, linux, seccomp

pytestmark = pytest.mark.root

SOURCE = Path(__file__).parents[2] / "src"

PROGRAM = """
import ctypes, json, os, signal, socket, sys, threading
sys.path.insert(0, {source!r})
from softnet import privilege
def attempt(function, *arguments):
    try:
        return repr(function(*arguments))
    except OSError as error:
        return type(error).__name__
before = {before}
privilege.drop(privilege.identity(None, None))
measures = privilege.confine({arguments})
print(json.dumps([measures, {after}]))
"""

no_landlock = pytest.mark.skipif(landlock.abi(linux._libc) == 0, reason="this kernel has no Landlock")
no_seccomp = pytest.mark.skipif(platform.machine() not in seccomp.MACHINES, reason="no list for this machine")


def confined(after: str, arguments: str = "", before: str = "None") -> Any:
    program = PROGRAM.format(source=str(SOURCE), after=after, arguments=arguments, before=before)
    command = ["/usr/bin/python3", "-I", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder where the identity after the drop may do anything, so that only Landlock says no."""
    with tempfile.TemporaryDirectory(prefix="softnet-confine-") as name:
        path = Path(name)
        (path / "out").mkdir()
        for each in (path, path / "out"):
            each.chmod(0o777)
        yield path


@no_landlock
def test_files_can_no_longer_be_opened_made_or_removed(folder: Path) -> None:
    (folder / "victim").write_text("x")
    measures, answers = confined(
        f"[attempt(open, '/etc/passwd'), attempt(os.listdir, '/'), attempt(os.mkdir, '{folder}/new'),"
        f" attempt(os.unlink, '{folder}/victim'), attempt(open, '/dev/net/tun', 'rb')]"
    )
    assert "landlock" in measures
    assert answers == ["PermissionError"] * 5


@no_landlock
def test_named_paths_stay_open_to_what_was_named(folder: Path) -> None:
    (folder / "log").write_text("x")
    (folder / "log").chmod(0o666)
    _, answers = confined(
        f"[open('{folder}/log').read(), attempt(open, '{folder}/log', 'w'),"
        f" open('{folder}/out/new', 'w').write('x'), attempt(os.unlink, '{folder}/out/new')]",
        arguments=f"readable=['{folder}/log', '/no/such/path'], writable=['{folder}/out']",
    )
    assert answers == ["x", "PermissionError", 1, "None"]


@no_landlock
def test_a_writable_path_that_is_missing_is_said_at_once() -> None:
    with pytest.raises(AssertionError, match="PrivilegeError: cannot confine file access: /no/such/path"):
        confined("0", arguments="writable=['/no/such/path']")


def test_what_a_filter_does_goes_on_working() -> None:
    """Sockets that were open, late imports, threads, a listener for an exposed port and its connection."""
    _, answers = confined(
        """[before[0].send(b"frame"), __import__("xml.dom.minidom").__name__, __import__("decimal").__name__,
            attempt(lambda: (t := threading.Thread(target=int), t.start(), t.join())) != "PermissionError",
            attempt(lambda: (s := socket.create_server(("127.0.0.1", 0)),
                             socket.create_connection(s.getsockname()).send(b"x"))[1]),
            attempt(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4).fileno() > 0),
            open("/proc/self/statm").read() != "", attempt(open, "/proc/1/stat"),
            attempt(open, "/proc/self/root/etc/passwd")]""",
        before="socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
    )
    assert answers == [5, "xml", "decimal", True, "1", "True", True, "PermissionError", "PermissionError"]


@no_seccomp
def test_no_program_process_or_foreign_socket_can_be_started() -> None:
    measures, answers = confined(
        """{name: attempt(*call) for name, call in {
            "exec": (os.execv, "/bin/true", ["true"]), "fork": (os.fork,),
            "spawn": (os.posix_spawn, "/bin/true", ["true"], {}),
            "packet": (socket.socket, socket.AF_PACKET, socket.SOCK_DGRAM),
            "vsock": (socket.socket, 40, socket.SOCK_STREAM),
            "algorithm": (socket.socket, 38, socket.SOCK_SEQPACKET),
            "nftables": (socket.socket, socket.AF_NETLINK, socket.SOCK_RAW, 12),
            "sctp": (socket.socket, socket.AF_INET, socket.SOCK_STREAM, 132)}.items()}"""
    )
    assert "seccomp" in measures
    assert set(answers.values()) == {"PermissionError"}


@no_seccomp
def test_every_call_on_the_list_is_refused_and_clone3_does_not_exist() -> None:
    machine = seccomp.MACHINES[platform.machine()]
    numbers = [*machine.refused.values(), *seccomp.REFUSED.values(), seccomp.CLONE3]
    _, answers = confined(
        f"[(libc.syscall(number, -1, 0, 0, 0, 0, 0), ctypes.get_errno()) for number in {numbers}"
        " for libc in [ctypes.CDLL(None, use_errno=True)]]"
    )
    assert answers == [[-1, 1]] * (len(numbers) - 1) + [[-1, 38]]


@no_seccomp
@pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86_64 has a second numbering")
def test_the_other_numbering_of_system_calls_kills() -> None:
    program = PROGRAM.format(
        source=str(SOURCE), before="None", arguments="", after="ctypes.CDLL(None).syscall(0x40000000 + 39)"
    )
    done = subprocess.run(["/usr/bin/python3", "-I", "-c", program], capture_output=True, timeout=20)
    assert done.returncode == -31  # SIGSYS


@no_landlock
@pytest.mark.skipif(landlock.abi(linux._libc) < 6, reason="signals are Landlock's business from ABI 6 on")
def test_processes_of_the_same_user_cannot_be_signalled_unless_asked_for() -> None:
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sleep", "20"]
    silent = "[(os.POSIX_SPAWN_OPEN, number, '/dev/null', os.O_RDWR, 0) for number in (1, 2)]"
    start = f"os.posix_spawnp('setpriv', {command}, os.environ, file_actions={silent})"
    scene = f"({start}, __import__('time').sleep(0.3))[0]"
    kill = "(attempt(os.kill, before, signal.SIGTERM), 0)[0]"
    child = confined(f"[{kill}, before]", before=scene)[1]
    assert child[0] == "PermissionError"
    subprocess.run(["kill", str(child[1])], check=True)
    assert confined(kill, before=scene, arguments="signals=True")[1] == "None"


def test_the_numbers_are_those_of_the_kernel_headers(tmp_path: Path) -> None:
    """For both machines: arm64 uses the generic table, which every Debian header package ships."""
    compiler = shutil.which("cc")
    if compiler is None or not Path("/usr/include/asm-generic/unistd.h").exists():
        pytest.skip("needs a C compiler and the kernel's headers (linux-libc-dev)")
    headers = {"aarch64": "asm-generic/unistd.h"}
    if platform.machine() == "x86_64":
        headers["x86_64"] = "asm/unistd_64.h"
    for name, header in headers.items():
        machine = seccomp.MACHINES[name]
        table = {**machine.refused, **seccomp.REFUSED}
        table |= {"clone": machine.clone, "socket": machine.socket, "clone3": seccomp.CLONE3}
        arch = f"AUDIT_ARCH_{name.upper()}"
        checks = [f'_Static_assert(__NR_{call} == {number}, "{call}");' for call, number in table.items()]
        checks += [f'_Static_assert({arch} == {machine.audit_arch}u, "{arch}");']
        includes = ["#define __ARCH_WANT_SYS_CLONE3", f"#include <{header}>", "#include <linux/audit.h>"]
        source = tmp_path / f"{name}.c"
        source.write_text("\n".join([*includes, *checks, ""]))
        done = subprocess.run([compiler, "-fsyntax-only", source], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
