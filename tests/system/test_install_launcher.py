"""The launcher as a real set-user-ID program, in a throw-away copy of the machine."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
BUILD = CHECKOUT / "launcher" / "build.sh"
PREFIX = "/opt/softnet-test"
ALICE = 4242

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler: apt-get install gcc")

PROGRAM = """#!/usr/bin/python3
import json, os, sys
print(json.dumps({
    "arguments": sys.argv[1:], "ids": os.getresuid(), "environment": dict(os.environ),
    "isolated": sys.flags.isolated, "no bytecode": sys.flags.dont_write_bytecode, "path": sys.path,
    "descriptors": [n for n in range(1000) if os.path.lexists(f"/proc/self/fd/{n}")],
    "umask": os.umask(0), "input": os.readlink("/proc/self/fd/0")}))
"""

SETUP = f"""
set -eu
mkdir -p {PREFIX}/bin {PREFIX}/lib/package
ln -s /usr/bin/python3 {PREFIX}/bin/python3
printf '%s' "$PROGRAM" > {PREFIX}/bin/softnet
touch {PREFIX}/lib/package/module.py
chmod -R go-w {PREFIX}
mkdir /home/alice
chown {ALICE} /home/alice
install -m 4755 "$LAUNCHER" /usr/local/bin/softnet
unset PROGRAM LAUNCHER SETUP
"""

AS_ALICE = f"setpriv --reuid={ALICE} --regid={ALICE} --clear-groups "


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("launcher") / "softnet"
    subprocess.run([BUILD, PREFIX, output], check=True, timeout=60)
    return output


def throwaway(launcher: Path, script: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "PROGRAM": PROGRAM, "LAUNCHER": str(launcher), "SETUP": SETUP}
    return subprocess.run(
        [HERE / "throwaway.sh", "bash", "-c", 'eval "$SETUP"\n' + script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
    )


def answer(launcher: Path, script: str) -> dict[str, Any]:
    done = throwaway(launcher, script)
    assert done.returncode == 0, done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    return value


@pytest.mark.root
def test_what_the_caller_prepared_is_replaced(launcher: Path) -> None:
    evil = "PYTHONPATH=/home/alice PYTHONHOME=/home/alice PYTHONSTARTUP=/x LD_PRELOAD=/home/alice/x.so"
    wanted = "SENTRY_DSN=http://key@localhost/1 CIRRUS_SENTRY_TAGS=a=b,c=d"
    found = answer(
        launcher,
        f"cd /home/alice; umask 0; exec {AS_ALICE} env {evil} PATH=/home/alice {wanted} IFS=x"
        " /usr/local/bin/softnet --vm-fd 0 '' 'a b'",
    )
    assert found["ids"] == [ALICE, 0, 0]
    assert found["arguments"] == ["--vm-fd", "0", "", "a b"]
    environment = {name: value for name, value in found["environment"].items() if name != "LC_CTYPE"}
    assert environment == {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "SENTRY_DSN": "http://key@localhost/1",
        "CIRRUS_SENTRY_TAGS": "a=b,c=d",
    }
    assert (found["isolated"], found["no bytecode"], found["umask"]) == (1, 1, 0o022)
    assert not any(path.startswith("/home") or path == "" for path in found["path"])


@pytest.mark.root
def test_descriptors_from_3_up_are_closed_and_the_first_three_exist(launcher: Path) -> None:
    opened = "exec 7</dev/zero 500</dev/zero; ulimit -n 100;"
    found = answer(launcher, f"{opened} exec {AS_ALICE} /usr/local/bin/softnet 0<&-")
    assert max(found["descriptors"]) <= 3, "the listing itself holds one"
    assert found["input"] in ("/dev/null", "/dev/full"), "ours, or what libc gives a set-user-ID program"


@pytest.mark.root
def test_a_variable_that_is_too_long_is_left_out_not_cut(launcher: Path) -> None:
    found = answer(launcher, f"SENTRY_DSN=$(printf '%05000d' 1) exec {AS_ALICE} /usr/local/bin/softnet")
    assert "SENTRY_DSN" not in found["environment"]


@pytest.mark.root
def test_without_the_bit_it_is_a_plain_command(launcher: Path) -> None:
    prepared = "chmod 755 /usr/local/bin/softnet; exec 7</dev/zero; export KEPT=1"
    found = answer(launcher, f"{prepared}; exec {AS_ALICE} /usr/local/bin/softnet")
    assert found["ids"] == [ALICE] * 3
    assert found["environment"]["KEPT"] == "1"
    assert 7 in found["descriptors"]
    assert found["isolated"] == 1


@pytest.mark.root
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (f"chown {ALICE} {PREFIX}/bin/softnet", f"{PREFIX}/bin/softnet"),
        (f"chmod g+w {PREFIX}/bin/softnet", f"{PREFIX}/bin/softnet"),
        (f"chmod o+w {PREFIX}/lib/package/module.py", f"{PREFIX}/./lib/package/module.py"),
        (f"chmod o+w {PREFIX}/lib", f"{PREFIX}/./lib"),
        ("chmod g+w /opt", "/opt"),
        ("chmod 1777 /opt", "/opt"),
        (f"chown -h {ALICE} {PREFIX}/bin/python3", f"{PREFIX}/bin/python3"),
        (
            f"cp /usr/bin/python3 /home/alice/python3; ln -sf /home/alice/python3 {PREFIX}/bin/python3",
            "/home/alice",
        ),
        (f"ln -s /usr/bin/python3 /home/alice/p; ln -sf /home/alice/p {PREFIX}/bin/python3", "/home/alice"),
        (f"ln -s ../../../home/alice {PREFIX}/lib/elsewhere", "/home/alice"),
    ],
)
def test_what_others_could_change_is_not_started(launcher: Path, change: str, named: str) -> None:
    done = throwaway(launcher, f"{change}; exec {AS_ALICE} /usr/local/bin/softnet --help")
    expected = f"softnet: {named}: can be changed by others than root: refusing to run as root\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", expected)


@pytest.mark.root
def test_odd_paths_and_calls_end_in_one_line(launcher: Path) -> None:
    loop = throwaway(launcher, f"ln -sf python3 {PREFIX}/bin/python3; exec {AS_ALICE} /usr/local/bin/softnet")
    assert "Too many levels of symbolic links" in loop.stderr
    many = throwaway(launcher, f"exec {AS_ALICE} /usr/local/bin/softnet $(seq 1100)")
    assert (many.returncode, many.stderr.count("\n")) == (1, 1)
    gone = throwaway(launcher, f"rm {PREFIX}/bin/python3; exec {AS_ALICE} /usr/local/bin/softnet")
    assert gone.stderr == f"softnet: {PREFIX}/bin/python3: No such file or directory\n"


def test_a_relative_prefix_is_not_built(tmp_path: Path) -> None:
    done = subprocess.run([BUILD, "opt", tmp_path / "x"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "must be an absolute path" in done.stderr


@pytest.fixture(scope="module")
def zig() -> list[str]:
    """A cross compiler that a Python package brings; about 90 MB, kept in .cache."""
    folder = CHECKOUT / ".cache" / "ziglang"
    if not folder.exists():
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--target", folder, "ziglang==0.15.2"]
        if subprocess.run(install, capture_output=True, timeout=300).returncode != 0:
            shutil.rmtree(folder, ignore_errors=True)
            pytest.skip("ziglang==0.15.2, the cross compiler, cannot be fetched")
    caches = [f"{name}={folder.parent}/zig" for name in ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")]
    return ["env", f"PYTHONPATH={folder}", *caches, sys.executable, "-m", "ziglang"]


@pytest.mark.parametrize(("machine", "cpu"), [("aarch64", 0x0100000C), ("x86_64", 0x01000007)])
def test_it_compiles_for_both_macs(zig: list[str], machine: str, cpu: int, tmp_path: Path) -> None:
    environment = {**os.environ, "CC": " ".join([*zig, "cc", "-target", f"{machine}-macos"])}
    output = tmp_path / "softnet"
    command = [BUILD, "/opt/softnet", output]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    header = output.read_bytes()[:16]
    assert header[:4] == b"\xcf\xfa\xed\xfe", "Mach-O, 64 bits"
    assert int.from_bytes(header[4:8], "little") == cpu
    assert int.from_bytes(header[12:16], "little") == 2, "an executable"
