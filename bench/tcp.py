"""TCP from and to a VM: throughput, and CPU a byte of whoever carries it.

Every subject has the same VM (`bench.vm`), host and internet (`bench.stage`); they run one after the
other, round by round. slirp4netns and vde are given a TAP in the VM's namespace instead of a socket,
because that is how they work: they save themselves a copy.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from bench import statistics
from bench.stage import GATEWAY, POOL_LENGTH, SERVER, VM_ADDRESS, Stage, await_true
from bench.subjects import BUILT, VM_MAC, cpu_seconds
from softnet.core.address import format_mac

Pids = list[int]
Run = dict[str, float]
STALLED = 20  # seconds more than asked for
NAT = ("--uplink", "nat", "--dns", SERVER, "--bootpd-lease-time", "86400")  # never renewed
OWN_SYSFS = ("unshare", "--mount", "sh", "-c", 'mount -t sysfs sysfs /sys && exec "$@"', "sh")


def pump(stage: Stage) -> Pids:
    """The bare pump between the socket and a TAP."""
    tap = stage.host_tap("pump")
    stage.route_tap("pump")
    far = stage.boot_vm()
    pid = stage.start(
        stage.host, str(BUILT / "pump"), f"d:{far.fileno()}", f"t:{tap}", pass_fds=(far.fileno(), tap)
    )
    stage.address_vm()
    return [pid]


def _softnet(stage: Stage, *options: str, kind: str = "datagram", wrapper: tuple[str, ...] = ()) -> Pids:
    far = stage.boot_vm(kind)
    words = ("-m", "softnet", "--vm-fd", str(far.fileno()), "--vm-mac-address", format_mac(VM_MAC))
    argv = (*wrapper, sys.executable, *words, "--user", "nobody", *options)
    pid = stage.start(stage.host, *argv, pass_fds=(far.fileno(),))
    stage.lease_vm()
    return [pid]


def nat(stage: Stage) -> Pids:
    return _softnet(stage, *NAT)


def nat_stream(stage: Stage) -> Pids:
    """Over what passt is given: a stream socket, as QEMU's `-netdev stream` has it."""
    return _softnet(stage, *NAT, kind="stream")


def nat_no_offload(stage: Stage) -> Pids:
    return _softnet(stage, *NAT, "--no-offload")


def user(stage: Stage) -> Pids:
    pids = _softnet(stage, "--uplink", "user", "--dns", SERVER)
    return pids + _children(pids[0])


def user_stream(stage: Stage) -> Pids:
    pids = _softnet(stage, "--uplink", "user", "--dns", SERVER, kind="stream")
    return pids + _children(pids[0])


def bridge(stage: Stage) -> Pids:
    """A DHCP server on the bridge gives the address."""
    words = ("--no-daemon", "--conf-file=/dev/null", "--port=0", "--interface=br0", "--bind-interfaces")
    leases = f"--dhcp-leasefile={BUILT / 'dnsmasq.leases'}"
    stage.start(stage.host, "dnsmasq", *words, "--dhcp-range=10.231.0.2,10.231.0.99,1h", leases)
    return _softnet(stage, "--uplink", "bridge=br0", wrapper=OWN_SYSFS)


def pump_bridge(stage: Stage) -> Pids:
    tap = stage.host_tap("pump")
    stage.host.ip("link set pump mtu 1500 master br0", "link set pump up")
    far = stage.boot_vm()
    pid = stage.start(
        stage.host, str(BUILT / "pump"), f"d:{far.fileno()}", f"t:{tap}", pass_fds=(far.fileno(), tap)
    )
    stage.address_vm()
    return [pid]


def passt(stage: Stage) -> Pids:
    far = stage.boot_vm("stream")
    words = ["--foreground", "--quiet", "--ipv4-only", "--fd", str(far.fileno()), "--address", VM_ADDRESS]
    words += ["--netmask", str(POOL_LENGTH), "--gateway", GATEWAY, "--mtu", "1500"]
    pid = stage.start(stage.host, "passt", *words, pass_fds=(far.fileno(),))
    stage.address_vm()
    return [pid]


def slirp4netns(stage: Stage) -> Pids:
    words = ("--configure", "--mtu=1500", "--netns-type=path", stage.vm.path, "eth0")
    return [stage.start(stage.host, "slirp4netns", *words)]


def qemu(stage: Stage) -> Pids:
    """QEMU's user network behind its datagram back end, without a machine in between."""
    far = stage.boot_vm()
    words = ["-machine", "none", "-nodefaults", "-display", "none"]
    words += ["-netdev", "user,id=user", "-netdev", "hubport,id=h0,hubid=0,netdev=user"]
    words += ["-netdev", f"dgram,id=vm,local.type=fd,local.str={far.fileno()}"]
    words += ["-netdev", "hubport,id=h1,hubid=0,netdev=vm"]
    pid = stage.start(stage.host, "qemu-system-x86_64", *words, pass_fds=(far.fileno(),))
    stage.address_vm("10.0.2.15", 24, "10.0.2.2")
    return [pid]


def vde(stage: Stage) -> Pids:
    """A switch with a TAP on the host's side, and a plug into the VM's TAP."""
    control = BUILT / "vde"
    shutil.rmtree(control, ignore_errors=True)
    stdin = stage.open_pipe()  # it ends when that does
    words = ("bash", "-c", f"exec vde_switch --sock {control} --tap vde <&{stdin}")
    switch = stage.start(stage.host, *words, pass_fds=(stdin,))
    await_true(lambda: (control / "ctl").exists(), "vde_switch")
    stage.route_tap("vde")
    plug = stage.start(stage.vm, "vde_plug2tap", "-s", str(control), "eth0")
    await_true(lambda: "eth0" in stage.vm.run("ip", "-brief", "link"), "vde_plug2tap")
    stage.vm.ip(f"link set eth0 address {format_mac(VM_MAC)} mtu 1500 up")
    stage.address_vm()
    return [switch, plug]


def _children(pid: int) -> Pids:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# Name, how it is opened, the programs it needs, whether it wants a bridge, and the baseline of its ratios.
SUBJECTS: dict[str, tuple[Callable[[Stage], Pids], tuple[str, ...], bool, str]] = {
    "pump": (pump, (), False, "pump"),
    "softnet nat": (nat, (), False, "pump"),
    "softnet nat, stream": (nat_stream, ("passt",), False, "passt"),
    "softnet nat --no-offload": (nat_no_offload, (), False, "pump"),
    "pump, bridge": (pump_bridge, (), True, "pump, bridge"),
    "softnet bridge": (bridge, ("dnsmasq",), True, "pump, bridge"),
    "passt": (passt, ("passt",), False, "pump"),
    "softnet user": (user, ("passt",), False, "passt"),
    "softnet user, stream": (user_stream, ("passt",), False, "passt"),
    "slirp4netns": (slirp4netns, ("slirp4netns",), False, "pump"),
    "QEMU user": (qemu, ("qemu-system-x86_64",), False, "pump"),
    "vde": (vde, ("vde_switch", "vde_plug2tap"), False, "pump"),
}


def attempt(name: str, stage: Stage, pids: Pids, to_vm: bool, seconds: float) -> Run | None:
    """One run; None for one that stalled, which is said, counted, and no reason to measure nothing else."""
    try:
        return push(stage, pids, to_vm, seconds)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        print(f"bench: {name} {'to' if to_vm else 'from'} the VM stalled: {error}", file=sys.stderr)
        with suppress(RuntimeError, subprocess.TimeoutExpired):
            stage.await_server()
        return None


def push(stage: Stage, pids: Pids, to_vm: bool, seconds: float) -> Run:
    """Bits a second at the receiver, and the subject's CPU a byte."""
    before = sum(cpu_seconds(pid) for pid in pids)
    words = ["iperf3", "-c", SERVER, "-t", str(seconds), "-J", *(["-R"] if to_vm else [])]
    report = json.loads(stage.vm.run(*words, timeout=seconds + STALLED))
    if "sum_received" not in report["end"]:
        raise RuntimeError(f"iperf3: {report.get('error', 'no reason given')}")
    spent = sum(cpu_seconds(pid) for pid in pids) - before
    received = report["end"]["sum_received"]
    return {
        "bits_per_second": received["bits_per_second"],
        "ns_per_byte": spent / max(received["bytes"], 1) * 1e9,
        "retransmits": report["end"]["sum_sent"].get("retransmits", 0),
    }


def measure(names: list[str], rounds: int, seconds: float) -> list[dict[str, Any]]:
    found: dict[tuple[str, bool], list[Run | None]] = {}
    with ExitStack() as stages:
        opened = {name: _open(stages, name) for name in names}
        for _ in range(rounds):
            for to_vm in (False, True):
                for name, (stage, pids) in opened.items():
                    found.setdefault((name, to_vm), []).append(attempt(name, stage, pids, to_vm, seconds))
    return [_row(name, to_vm, runs, found) for (name, to_vm), runs in found.items() if any(runs)]


def _open(stages: ExitStack, name: str) -> tuple[Stage, Pids]:
    start, _programs, bridged, _baseline = SUBJECTS[name]
    stage = stages.enter_context(Stage(bridged))
    stage.start(stage.internet, "iperf3", "-s")
    pids = start(stage)
    stage.await_server()
    return stage, pids


def _row(
    name: str,
    to_vm: bool,
    runs: list[Run | None],
    found: dict[tuple[str, bool], list[Run | None]],
) -> dict[str, Any]:
    """Of the rounds that did not stall; ratios of those in which neither did."""
    baseline = SUBJECTS[name][3]
    against = found.get((baseline, to_vm), runs)
    row: dict[str, Any] = {
        "subject": name,
        "direction": "to VM" if to_vm else "from VM",
        "baseline": baseline,
    }
    pairs = [(run, other) for run, other in zip(runs, against, strict=True) if run and other]
    for field in ("bits_per_second", "ns_per_byte"):
        row[field] = statistics.summary([run[field] for run in runs if run])
        if pairs:
            ours, theirs = zip(*((run[field], other[field]) for run, other in pairs), strict=True)
            row[f"{field}_ratio"] = statistics.ratio(ours, theirs)
    row["retransmits"] = sum(run["retransmits"] for run in runs if run)
    row["stalled"] = runs.count(None)
    return row


def missing() -> dict[str, str]:
    """Subjects that cannot run here, and the program each lacks."""
    lacks = {
        name: [program for program in row[1] if shutil.which(program) is None]
        for name, row in SUBJECTS.items()
    }
    return {name: programs[0] for name, programs in lacks.items() if programs}


def tcp(quick: bool) -> list[dict[str, Any]]:
    names = [name for name in SUBJECTS if name not in missing()]
    return measure(names, 2 if quick else 5, 1 if quick else 3)
