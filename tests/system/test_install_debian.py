"""The Debian package on a Debian 12 that has nothing but what the package depends on.

Making that system takes two minutes, so it is made when asked for, and kept in .cache:

    SOFTNET_DEBOOTSTRAP=1 pytest tests/system/test_install_debian.py
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
SYSTEM = CHECKOUT / ".cache" / "debian-12"

pytestmark = pytest.mark.root

INSTALLED = """
set -eu
cat > /tmp/softnet.deb
dpkg --install /tmp/softnet.deb >/dev/null
ip link set lo up
useradd --uid 4242 --user-group --groups softnet alice
cd /
cat > /tmp/start.py <<'END'
import os, signal, socket, subprocess, time
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
command = ["softnet", "--vm-fd", "0", "--vm-mac-address", "02:00:00:00:00:01", "--uplink", "nat"]
child = subprocess.Popen(command, stdin=theirs, process_group=0)
deadline = time.monotonic() + 10
while not (links := [n for _, n in socket.if_nameindex() if n != "lo"]) and time.monotonic() < deadline:
    time.sleep(0.05)
time.sleep(0.5)
child.send_signal(signal.SIGINT)
print(len(links), child.wait(timeout=5), [n for _, n in socket.if_nameindex()])
END
setpriv --reuid=alice --regid=alice --init-groups softnet --version
setpriv --reuid=alice --regid=alice --init-groups python3 -I /tmp/start.py
dpkg --purge softnet >/dev/null
find / -xdev -name '*softnet*' ! -path '/tmp/*' ! -path '/var/lib/dpkg/*' ! -path '/var/log/*'
"""


@pytest.fixture(scope="module")
def system() -> Path:
    """A minimal Debian 12, from the mirror that this machine's apt uses."""
    if (SYSTEM / "usr/bin/sudo").exists():
        return SYSTEM
    if not os.environ.get("SOFTNET_DEBOOTSTRAP") or shutil.which("debootstrap") is None:
        pytest.skip("takes two minutes, and debootstrap: SOFTNET_DEBOOTSTRAP=1 asks for it")
    shutil.rmtree(SYSTEM, ignore_errors=True)
    targets = ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages"]
    mirror = subprocess.run(targets, capture_output=True, text=True, check=True).stdout.split()[0]
    packages = "--include=python3,iproute2,nftables,sudo"
    make = ["debootstrap", "--variant=minbase", packages, "bookworm", SYSTEM, mirror]
    subprocess.run(make, check=True, capture_output=True, timeout=900)
    return SYSTEM


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs Debian's dpkg")
def test_it_installs_filters_and_purges_on_a_fresh_debian(system: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "SOFTNET_COMPILE": "0"}
    build = [CHECKOUT / "packaging" / "debian" / "build.sh", tmp_path]
    subprocess.run(build, env=environment, check=True, capture_output=True, timeout=120)
    [package] = tmp_path.glob("softnet_*.deb")
    with package.open("rb") as content:
        done = subprocess.run(
            ["unshare", "--net", HERE / "throwaway.sh", "bash", "-c", INSTALLED],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SOFTNET_BASE": str(system)},
            stdin=content,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    version, ran = done.stdout.splitlines()
    assert version.startswith("softnet ")
    assert ran == "1 0 ['lo']"
