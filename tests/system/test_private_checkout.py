"""A checkout that only root can read, as in root's home: nothing is imported after the drop to nobody."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import softnet
from system import netlab
from system.netlab import Lab, Vm

pytestmark = pytest.mark.root


class Stage(Lab):
    def __init__(self) -> None:
        super().__init__()
        self.host = self.namespace("host")
        self.internet = self.namespace("internet")
        self.cable(self.host, "eth0", "192.0.2.2/24", self.internet, "eth0", "192.0.2.1/24")
        self.host.ip("route add default via 192.0.2.1")
        self.host.ip("link add br0 type bridge\nlink set br0 up")
        self.machine: Vm = self.vm("vm", "02:00:00:00:00:1f")


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage() as stage:
        yield stage


@pytest.mark.parametrize("uplink", ["nat", "bridge=br0", "user"])
def test_softnet_runs_from_where_nobody_can_look(
    stage: Stage, uplink: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = tmp_path / "private"
    shutil.copytree(Path(softnet.__file__).parent, private / "softnet")
    private.chmod(0o700)
    monkeypatch.setattr(netlab, "SOURCE", str(private))
    running = stage.softnet(stage.host, stage.machine, "--uplink", uplink, "--deny", "reject")
    if not uplink.startswith("bridge"):
        assert stage.machine.lease()
    stage.host.ip("address add 198.51.100.9/32 dev eth0")
    assert not stage.machine.pings("203.0.113.1", seconds=0.3)
    assert running.process.poll() is None, running.errors()
    assert running.stop() == 0
    assert running.errors() == ""
