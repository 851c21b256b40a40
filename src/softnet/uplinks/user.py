"""The `user` uplink: no privileges at all. passt turns the VM's packets into ordinary sockets.

Softnet starts one passt (https://passt.top) on the other end of a stream socket, with QEMU's length
framing, and passt confines itself. The VM gets the second address of `--pool` in a network that
exists nowhere but on that socket, so it cannot overlap the host's; its gateway is passt, which by
default leads nowhere. Only when the rules allow `@host` does the gateway stand for the host's
loopback. IPv6 is off. Exposed ports are passt's own listening sockets.

passt ends when its socket closes, however Softnet came to its end; when passt ends first, the link
says so. It is ready when it answers an ARP request for the gateway, which also tells its MAC address.
"""

import os
import select
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress

from softnet.config import HOST_ONLY, UDP, Expose, Settings
from softnet.core.address import format_ipv4
from softnet.core.packet import BROADCAST_MAC, ETHERTYPE_ARP, View, ethernet
from softnet.errors import ConfigError, UplinkError
from softnet.links.stream import StreamLink
from softnet.policy import Facts, Policy
from softnet.rules import ALLOW
from softnet.uplinks import host

INSTALL = "apt-get install passt (or see https://passt.top), or run as root with --uplink nat"
NEEDED = ("--fd", "--no-map-gw", "--ipv4-only")  # what passt has learnt last of what is used here
READY_SECONDS = 5.0
ENDING_SECONDS = 0.5
COMPLAINT_BYTES = 4096


class PasstPorts:
    """passt listens on the exposed ports as long as it runs, and refuses while the VM does not answer."""

    def publish(self, address: int) -> None:
        """Nothing to do: the address is the one that passt gave."""

    def withdraw(self) -> None:
        """Nothing to do: without its address the VM does not answer, and passt ends the connection."""


class UserUplink:
    """See `softnet.uplinks.Uplink`. Owns the passt process."""

    publisher = PasstPorts()

    def __init__(self, settings: Settings, policy: Policy) -> None:
        if settings.net_type == HOST_ONLY:
            remedy = "leave it out, or run as root with --uplink nat"
            raise ConfigError("--vm-net-type", HOST_ONLY, "is not possible with --uplink user", remedy)
        program = find_passt()
        for port in settings.expose:
            check_free(port)
        ours, theirs = socket.socketpair()
        self._complaints, writer = os.pipe2(os.O_NONBLOCK)
        try:
            theirs.set_inheritable(True)
            argv = arguments(settings, policy, theirs.fileno())
            self._child = _spawn(program, argv, writer)
        finally:
            theirs.close()
            os.close(writer)
        self._socket = ours
        self.link = StreamLink(ours)
        self.mtu = settings.mtu
        gateway = settings.pool[0] + 1
        try:
            gateway_mac = self._await_gateway(settings.vm_mac, gateway)
        except BaseException:
            self.close()
            raise
        self.facts = Facts(gateway, gateway_mac, host.addresses(host.routes()))

    def close(self) -> None:
        """Closes passt's socket, which ends it; one that does not end is killed."""
        self.link.close()
        deadline = time.monotonic() + ENDING_SECONDS
        while self._child and not self._has_ended():
            if time.monotonic() > deadline:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(self._child, signal.SIGKILL)
                break
            time.sleep(0.005)
        if self._complaints >= 0:
            os.close(self._complaints)
            self._complaints = -1

    def _has_ended(self) -> bool:
        if self._child and os.waitpid(self._child, os.WNOHANG)[0]:
            self._child = 0
        return not self._child

    def _await_gateway(self, vm_mac: int, gateway: int) -> int:
        """The gateway's MAC address, from passt's answer to an RFC 5227 probe for its address."""
        probe = _arp_probe(vm_mac, gateway)
        self._socket.sendall(len(probe).to_bytes(4, "big") + probe)
        deadline = time.monotonic() + READY_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            frame = self._next_frame(left)
            if len(frame) >= 42 and View(frame).u16(12) == ETHERTYPE_ARP and View(frame).u32(28) == gateway:
                return View(frame).u48(22)
        raise UplinkError(f"passt did not answer within {READY_SECONDS:.0f} s; {INSTALL}")

    def _next_frame(self, seconds: float) -> bytes:
        self._socket.settimeout(seconds)
        try:
            length = int.from_bytes(_exactly(self._socket, 4), "big")
            return _exactly(self._socket, length)
        except (EOFError, ConnectionError):
            raise UplinkError(f"passt did not start: {self._last_words()}") from None
        except TimeoutError:
            return b""
        finally:
            self._socket.setblocking(False)

    def _last_words(self) -> str:
        """The last line that passt wrote to its standard error."""
        select.select([self._complaints], [], [], ENDING_SECONDS)
        with suppress(BlockingIOError):
            lines = os.read(self._complaints, COMPLAINT_BYTES).decode(errors="replace").split("\n")
            return [INSTALL, *filter(None, lines)][-1]
        return f"it gave no reason; {INSTALL}"


def find_passt() -> str:
    """The path of a passt that has every option used here; UplinkError names the package."""
    for folder in os.get_exec_path():
        program = os.path.join(folder, "passt")
        if os.access(program, os.X_OK):
            break
    else:
        raise UplinkError(f"--uplink user needs passt, which is not installed: {INSTALL}")
    help_text = _output_of(program, ["passt", "--help"])
    missing = [option for option in NEEDED if option not in help_text]
    if missing:
        raise UplinkError(f"--uplink user needs a newer passt: {program} has no {missing[0]}; {INSTALL}")
    return program


def arguments(settings: Settings, policy: Policy, fd: int) -> list[str]:
    """passt's command line."""
    first, length = settings.pool
    leads_to_host = any(
        rule.action == ALLOW and rule.target.address is None and not rule.target.dns for rule in policy.rules
    )
    argv = ["passt", "--foreground", "--quiet", "--stderr", "--ipv4-only", "--no-dhcp-search"]
    argv += [] if leads_to_host else ["--no-map-gw"]
    argv += ["--fd", str(fd), "--mtu", str(settings.mtu)]
    argv += [
        "--address",
        format_ipv4(first + 2),
        "--netmask",
        str(length),
        "--gateway",
        format_ipv4(first + 1),
    ]
    servers = settings.dns or host.dns_servers()
    for server in servers:
        argv += ["--dns", format_ipv4(server)]
    argv += [] if servers else ["--no-dhcp-dns"]
    for port in settings.expose:
        argv += ["--udp-ports" if port.protocol == UDP else "--tcp-ports", port_specification(port)]
    return argv


def port_specification(port: Expose) -> str:
    """passt's spelling of an exposed port: `[ADDRESS/]EXTERNAL:INTERNAL`."""
    bind = "" if port.bind is None else f"{format_ipv4(port.bind)}/"
    return f"{bind}{port.external}:{port.internal}"


def check_free(port: Expose) -> None:
    """ConfigError when somebody else has the port: passt itself would only say so and go on."""
    kind = socket.SOCK_DGRAM if port.protocol == UDP else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as trial:
        if kind == socket.SOCK_STREAM:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("" if port.bind is None else format_ipv4(port.bind), port.external))
        except OSError as error:
            problem = f"cannot be bound: {error.strerror}"
            raise ConfigError("--expose", port, problem, "choose another port or address") from None


def _spawn(program: str, argv: Sequence[str], complaints: int) -> int:
    """passt as a child with nothing of ours but its socket and a pipe for what it has to say."""
    null = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1)]
    actions = [*null, (os.POSIX_SPAWN_DUP2, complaints, 2)]
    environment = {"PATH": os.environ.get("PATH", os.defpath)}
    return os.posix_spawn(program, list(argv), environment, file_actions=actions)


def _output_of(program: str, argv: Sequence[str]) -> str:
    """What a short-lived program wrote to its standard output and error."""
    with os.fdopen(os.memfd_create("output"), "w+b") as output:
        actions = [(os.POSIX_SPAWN_DUP2, output.fileno(), number) for number in (1, 2)]
        os.waitpid(os.posix_spawn(program, list(argv), {}, file_actions=actions), 0)
        output.seek(0)
        return output.read().decode(errors="replace")


def _arp_probe(mac: int, target: int) -> bytes:
    body = bytes.fromhex("0001080006040001") + mac.to_bytes(6, "big") + bytes(10) + target.to_bytes(4, "big")
    return ethernet(BROADCAST_MAC, mac, ETHERTYPE_ARP, body)


def _exactly(sock: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        part = sock.recv(length - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def open_uplink(settings: Settings, policy: Policy) -> UserUplink:
    return UserUplink(settings, policy)
