"""`@host` follows the host's addresses while a VM runs."""

from collections.abc import Iterator

import pytest

from softnet.core.address import format_ipv4
from softnet.uplinks.addresses import AddressWatch
from system.netlab import Lab, Namespace, Vm, wait_until

pytestmark = pytest.mark.root

NEW = "198.51.100.7"  # not globally reachable: open only as an address of the host


class Stage(Lab):
    def __init__(self) -> None:
        super().__init__()
        self.host = self.namespace("host")
        self.internet = self.namespace("internet")
        self.cable(self.host, "eth0", "192.0.2.2/24", self.internet, "eth0", "192.0.2.1/24")
        self.host.ip("route add default via 192.0.2.1")
        self.machine: Vm = self.vm("vm", "02:00:00:00:00:0f")


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage() as stage:
        yield stage


def test_an_address_that_comes_later_is_the_hosts_and_one_that_goes_is_not(stage: Stage) -> None:
    stage.softnet(stage.host, stage.machine, "--uplink", "nat")
    assert stage.machine.lease()
    assert not stage.machine.pings(NEW, seconds=0.5)
    stage.host.ip(f"address add {NEW}/24 dev eth0")
    wait_until(lambda: stage.machine.pings(NEW))
    stage.host.ip(f"address del {NEW}/24 dev eth0")
    stage.internet.ip(f"address add {NEW}/32 dev lo")
    assert not stage.machine.pings(NEW, seconds=0.5)


def test_closing_the_host_closes_a_public_address_that_comes_later(stage: Stage) -> None:
    public = "9.9.9.10"
    stage.softnet(stage.host, stage.machine, "--uplink", "nat", "--block", "@host")
    assert stage.machine.lease()
    stage.internet.ip(f"address add {public}/32 dev lo")
    assert stage.machine.pings(public)
    stage.internet.ip(f"address del {public}/32 dev lo")
    stage.host.ip(f"address add {public}/32 dev eth0")
    assert not stage.machine.pings(public, seconds=0.5)


def test_the_watch_sees_what_ip_says(stage: Stage) -> None:
    host: Namespace = stage.host
    watch = host.enter(AddressWatch)
    try:
        assert [format_ipv4(address) for address in watch.addresses] == ["192.0.2.2"]
        host.ip("link add two type veth peer name three\naddress add 192.0.2.2/32 dev two")
        assert not watch.changed()  # the same address on one more interface
        host.ip("address add 10.1.2.3/32 peer 10.9.9.9 dev two")
        assert watch.changed()
        assert format_ipv4(watch.addresses[0]) == "10.1.2.3"
        host.ip("link del two")
        wait_until(watch.changed)
        assert [format_ipv4(address) for address in watch.addresses] == ["192.0.2.2"]
    finally:
        watch.close()


def test_more_changes_than_the_socket_holds(stage: Stage) -> None:
    host: Namespace = stage.host
    watch = host.enter(AddressWatch)
    try:
        commands = "".join(f"address add 10.7.{n >> 8}.{n & 255}/32 dev eth0\n" for n in range(1200))
        host.run("ip", "-batch", "-", input=commands)
        assert watch.changed()
        assert len(watch.addresses) == 1201
    finally:
        watch.close()
