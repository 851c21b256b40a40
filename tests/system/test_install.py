"""Installing and removing, from the checkout and as a Debian package, in throw-away copies of the machine.

What is installed is the real program; `test_an_ordinary_user_*` run it as an ordinary user who becomes
root through the rule that the installation wrote. The plain build is installed here, which takes a
second; a wheel that was built before is what `SOFTNET_WHEEL` puts in its place.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
INSTALL = CHECKOUT / "scripts" / "install.sh"

needs_sudo = pytest.mark.skipif(shutil.which("visudo") is None, reason="needs sudo: apt-get install sudo")
needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs Debian's dpkg")

SETUP = """
set -eu
hostname localhost
ip link set lo up
useradd --uid 4242 --user-group alice
groupadd --force --system vmusers
usermod --append --groups vmusers alice
rm -f /etc/sudoers.d/*
install() { scripts/install.sh --users %vmusers "$@"; }
state() { find /opt /usr/local /etc /usr/bin -xdev -printf '%p %y %m %U:%G %l\\n' | sort; }
alice() { setpriv --reuid=alice --regid=alice --init-groups "$@"; }
"""

AS_ALICE = "setpriv --reuid=alice --regid=alice --init-groups"


def throwaway(script: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """The script runs in the checkout, as root, with no network but a loopback of its own."""
    inside = f"cd {CHECKOUT}\n{SETUP}\n{script}"
    return subprocess.run(
        ["unshare", "--net", HERE / "throwaway.sh", "bash", "-c", inside],
        env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "SOFTNET_COMPILE": "0"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def output(script: str) -> list[str]:
    done = throwaway(script)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_the_scripts_are_plain_shell() -> None:
    for script in [*CHECKOUT.glob("scripts/*.sh"), *CHECKOUT.glob("packaging/debian/*")]:
        if script.read_text().startswith("#!/bin/sh"):
            subprocess.run(["sh", "-n", script], check=True)


@pytest.mark.skipif(shutil.which("ruby") is None, reason="needs ruby: apt-get install ruby")
def test_the_formula_is_ruby() -> None:
    formula = CHECKOUT / "packaging" / "homebrew" / "softnet.rb"
    subprocess.run(["ruby", "-c", formula], check=True, capture_output=True)


@pytest.mark.root
@needs_sudo
def test_installed_and_removed_without_a_trace() -> None:
    lines = output(
        """
        state > /tmp/before
        install
        find /opt/softnet /usr/local/bin/softnet /etc/sudoers.d/softnet ! -user root -o ! -type l -perm /022
        stat -c '%a %F %U' /opt/softnet/bin/softnet /etc/sudoers.d/softnet
        readlink /usr/local/bin/softnet
        alice env PYTHONPATH=/nowhere softnet --version
        ls /opt/softnet
        install
        scripts/uninstall.sh
        state | diff /tmp/before -
        """
    )
    assert lines[:4] == [
        "installed in /opt/softnet; the command is /usr/local/bin/softnet",
        "755 regular file root",
        "440 regular file root",
        "/opt/softnet/bin/softnet",
    ]
    assert lines[4].startswith("softnet ")
    assert lines[5:] == [
        "bin",
        "installed",
        "lib",
        "pyvenv.cfg",
        "installed in /opt/softnet; the command is /usr/local/bin/softnet",
        "removed /opt/softnet",
    ]


@pytest.mark.root
@needs_sudo
def test_installing_elsewhere_moves_the_command_and_the_rule() -> None:
    lines = output(
        """
        install
        mkdir -p /srv/bin
        install --bin /srv/bin --users none
        ls /usr/local/bin/softnet /etc/sudoers.d/softnet 2>&1 | grep -c 'No such file'
        /srv/bin/softnet --version >/dev/null
        scripts/uninstall.sh >/dev/null
        ls /srv/bin
        """
    )
    assert lines[-1] == "2"


@pytest.mark.root
@needs_sudo
def test_the_rule_gives_this_program_to_this_group_and_nothing_more() -> None:
    lines = output(
        """
        install >/dev/null
        alice sudo -n softnet --help | head -1
        alice sudo -n /opt/softnet/bin/softnet --help | head -1
        for command in 'softnet2' '/opt/softnet/bin/python3 -c 1' 'LD_PRELOAD=/x softnet --help' 'id'; do
          alice sudo -n $command >/dev/null 2>&1 || echo "refused $command"
        done
        useradd --uid 4343 bob
        bob="setpriv --reuid=bob --regid=bob --init-groups"
        $bob sudo -n softnet --help >/dev/null 2>&1 || echo "refused bob"
        """
    )
    assert [line.split()[0] for line in lines[:2]] == ["usage:", "usage:"]
    assert lines[2:] == [
        "refused softnet2",
        "refused /opt/softnet/bin/python3 -c 1",
        "refused LD_PRELOAD=/x softnet --help",
        "refused id",
        "refused bob",
    ]


@pytest.mark.root
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("--prefix opt", 2, "opt: must be an absolute path"),
        ("--prefix '/opt/a b'", 2, "/opt/a b: only plain absolute paths"),
        ("--prefix /opt/../etc", 2, "/opt/../etc: only plain absolute paths"),
        ("--prefix", 2, "--prefix needs a value"),
        ("--wrong", 2, "--wrong: unknown option"),
        ("--users 'ALL=(ALL) ALL, alice'", 2, "one user, or a group as %name"),
        ("--python /bin/true2", 1, "--python /bin/true2: is not Python 3.11 or later"),
        ("--prefix /etc", 1, "--prefix /etc: exists and is not Softnet's"),
        ("--bin /srv", 1, "/srv/softnet: exists and is not this one's"),
    ],
)
def test_a_wrong_option_changes_nothing(arguments: str, code: int, message: str) -> None:
    done = throwaway(
        f"""
        touch /srv/softnet
        state > /tmp/before
        code=0; scripts/install.sh {arguments} || code=$?
        state | diff /tmp/before -
        exit $code
        """
    )
    assert done.returncode == code
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.root
@needs_sudo
def test_an_ordinary_user_cannot_install_but_can_stage() -> None:
    done = throwaway(
        """
        alice scripts/install.sh || echo "refused"
        DESTDIR=/tmp/stage alice scripts/install.sh --users alice
        cat /tmp/stage/etc/sudoers.d/softnet | tail -1
        head -1 /tmp/stage/opt/softnet/bin/softnet
        DESTDIR=/tmp/stage alice scripts/uninstall.sh
        find /tmp/stage -type f
        """
    )
    assert done.stdout.splitlines() == [
        "refused",
        "installed in /opt/softnet; the command is /usr/local/bin/softnet",
        "alice ALL=(root) NOPASSWD:NOSETENV: /opt/softnet/bin/softnet",
        "#!/opt/softnet/bin/python3 -IB",
        "removed /opt/softnet",
    ]


@pytest.mark.root
@needs_sudo
def test_a_python_that_others_can_change_is_refused_or_copied() -> None:
    """The lot of every Mac: its Pythons belong to a user (Homebrew) or a group (python.org)."""
    done = throwaway(
        """
        mkdir -p /home/alice/python/bin /home/alice/python/lib
        cp /usr/bin/python3.11 /home/alice/python/bin/
        cp -r /usr/lib/python3.11 /home/alice/python/lib/
        chown -R alice /home/alice
        state > /tmp/before
        install --python /home/alice/python/bin/python3.11 && exit 9
        state | diff /tmp/before - && echo "nothing left"
        install --python /home/alice/python/bin/python3.11 --copy-python
        rm -r /home/alice
        /opt/softnet/bin/python3 -IB -c 'import os, ssl, sys; print(sys.base_prefix, os.__file__)'
        alice softnet --version
        """
        if Path("/usr/bin/python3.11").exists()
        else "echo unsupported"
    )
    if done.stdout == "unsupported\n":
        pytest.skip("written for a system whose own Python is 3.11")
    assert done.returncode == 0, done.stderr
    assert "install.sh: /home/alice can be changed by others than root" in done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "nothing left"
    assert lines[2] == "/opt/softnet/python /opt/softnet/python/lib/python3.11/os.py"


@pytest.mark.root
@needs_sudo
@pytest.mark.parametrize("how", ["sudo", "setuid"])
def test_an_ordinary_user_filters_a_vm_and_nothing_of_root_is_left(how: str) -> None:
    """Tart's start to the letter, but for the network: the VM's socket on 0, SIGINT ends with 0."""
    options = "--setuid --users none" if how == "setuid" else ""
    lines = output(
        f"""
        install {options} >/dev/null
        cat > /tmp/tart.py <<'END'
import os, signal, socket, subprocess, time
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
command = ["softnet", "--vm-fd", "0", "--vm-mac-address", "02:00:00:00:00:01", "--uplink", "nat"]
child = subprocess.Popen(command, stdin=theirs, stdout=subprocess.DEVNULL, process_group=0)
theirs.close()
def fields(pid):
    with open(f"/proc/{{pid}}/status") as status:
        return dict(line.rstrip("\\n").split(":\\t", 1) for line in status if ":\\t" in line)
def filters():
    found = [int(pid) for pid in os.listdir("/proc") if pid.isdigit()]
    return [pid for pid in found if fields(pid).get("NoNewPrivs") == "1"]
deadline = time.monotonic() + 10
while not (found := filters()) and time.monotonic() < deadline and child.poll() is None:
    time.sleep(0.05)
status = fields(found[0])
print(status["Uid"], status["Gid"], *[status["Cap" + name] for name in ("Prm", "Eff", "Bnd", "Inh", "Amb")])
child.send_signal(signal.SIGINT)
print(child.wait(timeout=5))
END
        alice /usr/bin/python3 -I /tmp/tart.py
        ip -br link | cut -d' ' -f1
        """
    )
    assert lines[0].split() == ["4242"] * 8 + ["0" * 16] * 5
    assert lines[1:] == ["0", "lo"]


@pytest.mark.root
@needs_sudo
def test_a_command_of_run_is_the_caller_s_and_never_root_s() -> None:
    """The rule lets its users start Softnet as root, not a program of their choice."""
    lines = output(
        """
        install --setuid >/dev/null
        alice sudo -n /opt/softnet/bin/softnet run --uplink nat -- /usr/bin/id -u
        alice softnet run --uplink nat -- /usr/bin/id -u
        """
    )
    assert lines == ["4242", "4242"]


@pytest.mark.root
@needs_sudo
@pytest.mark.parametrize("how", ["sudo", "setuid"])
def test_a_path_that_the_caller_names_is_the_caller_s_and_never_root_s(how: str) -> None:
    """No socket where only root may make one, no stale one of root's removed, none of root's connected to."""
    program = "softnet" if how == "setuid" else "sudo -n /opt/softnet/bin/softnet"
    softnet = f"timeout 5 {AS_ALICE} {program}"
    common = "--vm-mac-address 02:00:00:00:00:01"
    lines = output(
        f"""
        install --setuid >/dev/null
        mkdir -m 777 /srv/own
        mkdir -m 700 /srv/closed
        /usr/bin/python3 - <<'END'
import socket
for path in ("/srv/stale", "/srv/closed/listening"):
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(path)
    made.listen()
END
        refusals="-e denied -e in.use"
        attempt() {{ "$@" 2>&1 </dev/null | grep -o $refusals || echo "let through"; }}
        attempt {softnet} --vm-socket stream:/etc/nologin {common} --uplink nat
        attempt {softnet} --vm-socket stream:/srv/stale {common} --uplink nat
        attempt {softnet} --vm-socket stream:/srv/own/vm {common} --uplink unix=/srv/closed/listening
        ls /etc/nologin 2>&1 | grep -c 'No such file'
        stat -c %U /srv/stale
        """
    )
    assert lines == ["denied", "in use", "denied", "1", "root"]


@pytest.mark.root
@needs_sudo
@needs_dpkg
def test_the_debian_package_installs_works_and_purges() -> None:
    lines = output(
        """
        packaging/debian/build.sh /tmp/deb >/dev/null
        state > /tmp/before
        dpkg --install /tmp/deb/softnet_*.deb >/dev/null
        visudo -c >/dev/null && echo "sudoers parsed"
        find /usr/lib/softnet /usr/bin/softnet /etc/sudoers.d/softnet ! -user root -o -perm /022
        ls /usr/lib/softnet/softnet/__pycache__ | grep -c '^__init__'
        usermod --append --groups softnet alice
        alice sudo -n softnet --help | head -1 | cut -c1-14
        alice sh -c 'sudo -n LD_PRELOAD=/x softnet --help' 2>&1 | grep -c 'not allowed'
        alice softnet --vm-fd 0 --vm-mac-address 02:00:00:00:00:01 --uplink nat </dev/null 2>&1 | cut -c1-19
        dpkg --purge softnet >/dev/null
        ls /usr/lib/softnet 2>&1 | grep -c 'No such file'
        state | diff /tmp/before - && echo "no trace"
        """
    )
    assert lines == ["sudoers parsed", "1", "usage: softnet", "1", "softnet: --vm-fd 0:", "1", "no trace"]
