"""The `user` uplink: no privileges at all. passt turns the VM's packets into ordinary sockets.

Softnet starts one passt (https://passt.top) on the other end of a stream socket, with QEMU's length
framing, and passt confines itself. The VM gets the second address of `--pool` in a network that
exists nowhere but on that socket, so it cannot overlap the host's; its gateway is passt. IPv6 is off.

To the host, all that the VM sends comes from the host itself. So the host is closed to it unless a rule
says `@host`: its own addresses, and the gateway, which then stands for the host's loopback. That is
the filter's doing (`Facts.host_open`); passt does not even know the way, unless it may come to need it:
for rules that say `@host`, for rules that change, and for the answers to UDP clients on the host itself.

Exposed ports are passt's own listening sockets, from its start to its end. Clients keep their
addresses, but for those on the host's loopback, who look like the gateway.

passt ends with Softnet, however that ended: when its socket closes, and should it not look at its
socket, because the kernel kills it with its parent. When passt ends first, the link says so. It is
ready when it answers an ARP request for the gateway, which also tells its MAC address.
"""

import os
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress

from softnet import privilege
from softnet.config import HOST_ONLY, TCP, UDP, Expose, Settings
from softnet.core.address import format_ipv4
from softnet.core.frames import Batch
from softnet.core.handshake import next_syn_ack
from softnet.core.packet import (
    BROADCAST_MAC,
    ETHERTYPE_ARP,
    ETHERTYPE_IPV4,
    PROTOCOL_TCP,
    View,
    ethernet,
    ipv4,
    transport_checksum,
)
from softnet.errors import ConfigError, SoftnetError, UplinkError
from softnet.links import Link
from softnet.links.answering import Answering
from softnet.links.stream import StreamLink
from softnet.policy import Facts, Policy
from softnet.privilege import Identity
from softnet.uplinks import host

INSTALL = "apt-get install passt (or see https://passt.top), or run as root with --uplink nat"
NEEDED = ("--fd", "--no-map-gw", "--ipv4-only")  # what passt has learnt last of what is used here
READY_SECONDS = 5.0
ENDING_SECONDS = 0.5
COMPLAINT_BYTES = 4096
HANDSHAKES = 64
ROOM = 4 << 20  # which the kernel doubles (socket(7)): more than Linux' largest window, 6 MiB
SO_SNDBUFFORCE = 32  # asm-generic/socket.h
LAST_DESCRIPTOR = 1 << 20
PR_SET_PDEATHSIG = 1

ACK = b"\x50\x10"  # a header of 20 bytes, and the flag
FIRST_WINDOW = 57  # 14,592 bytes by the scale that passt offers: what it grants itself at first


class PasstPorts:
    """passt listens on the exposed ports as long as it runs, and refuses while the VM does not answer."""

    def publish(self, address: int) -> None:
        """Nothing to do: the address is the one that passt gave."""

    def withdraw(self) -> None:
        """Nothing to do: without its address the VM does not answer, and passt ends the connection."""


class HandshakeLink(Answering):
    """Completes handshakes with exposed ports that passt leaves open: answers a repeated SYN-ACK.

    passt before 2023_03_21 (Debian 12's) acknowledges a SYN-ACK only together with the client's first
    data, so that a server that speaks first would wait for ever. This way it waits a second. Not at
    once, because that passt loops for ever when it reads a SYN-ACK and what follows it in one go.
    Remembers the last HANDSHAKES connections.
    """

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        self._seen: deque[bytes] = deque(maxlen=HANDSHAKES)

    def _answers(self, batch: Batch) -> Iterator[bytes]:
        at = next_syn_ack(batch, 0)
        while at < batch.count:
            frame = batch.frame(at)
            connection = frame[26:42]  # addresses, ports, and the VM's initial sequence number
            if connection in self._seen:
                yield acknowledgement(frame)
            else:
                self._seen.append(connection)
            at = next_syn_ack(batch, at + 1)


def acknowledgement(syn_ack: bytes) -> bytes:
    """The third frame of a TCP handshake, made of the second (RFC 9293 3.5)."""
    frame = View(syn_ack)
    ports = frame.copy(36, 38) + frame.copy(34, 36)
    numbers = frame.copy(42, 46) + (frame.u32(38) + 1 & 0xFFFFFFFF).to_bytes(4, "big")
    segment = ports + numbers + ACK + FIRST_WINDOW.to_bytes(2, "big")
    source, destination = frame.u32(30), frame.u32(26)
    checksum = transport_checksum(source, destination, PROTOCOL_TCP, segment + bytes(4))
    packet = ipv4(source, destination, PROTOCOL_TCP, segment + checksum.to_bytes(2, "big") + bytes(2))
    return ethernet(frame.u48(6), frame.u48(0), ETHERTYPE_IPV4, packet)


class UserUplink:
    """See `softnet.uplinks.Uplink`. Owns the passt process."""

    publisher = PasstPorts()

    def __init__(self, settings: Settings, policy: Policy) -> None:
        if settings.net_type == HOST_ONLY:
            remedy = "leave it out, or run as root with --uplink nat"
            raise ConfigError("--vm-net-type", HOST_ONLY, "is not possible with --uplink user", remedy)
        who = privilege.identity(settings.user, settings.group)
        program = find_passt(who)
        for port in settings.expose:
            check_free(port)
        servers = settings.dns or host.dns_servers()
        if not servers:
            host.notice(host.NO_DNS_SERVER)
        ours, theirs = _stream()
        self._complaints, writer = os.pipe2(os.O_NONBLOCK)
        try:
            argv = arguments(settings, policy, servers, theirs.fileno())
            self._child = _spawn(program, argv, who, {2: writer, theirs.fileno(): theirs.fileno()})
        finally:
            theirs.close()
            os.close(writer)
        self._socket = ours
        self.link: Link = StreamLink(ours)
        if any(port.protocol == TCP for port in settings.expose):
            self.link = HandshakeLink(self.link)
        self.mtu = settings.mtu
        gateway = settings.pool[0] + 1
        try:
            gateway_mac = self._await_gateway(settings.vm_mac, gateway)
        except BaseException:
            self.close()
            raise
        own = host.addresses(host.routes())
        self.facts = Facts(gateway, gateway_mac, own, host_open=False)

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
        with suppress(BrokenPipeError):  # reading then tells why
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
            return [INSTALL, *(line for line in lines if line and "syslog" not in line)][-1]
        return f"it gave no reason; {INSTALL}"


def find_passt(who: Identity | None = None) -> str:
    """The path of a passt that has every option used here; UplinkError names the package.

    `who` runs it to find out; None is whoever asked for this process.
    """
    for folder in os.get_exec_path():
        program = os.path.join(folder, "passt")
        if os.path.isfile(program) and os.access(program, os.X_OK):
            break
    else:
        raise UplinkError(f"--uplink user needs passt, which is not installed: {INSTALL}")
    help_text = _output_of(program, ["passt", "--help"], who or privilege.identity(None, None))
    missing = [option for option in NEEDED if option not in help_text]
    if missing:
        raise UplinkError(f"--uplink user needs a newer passt: {program} has no {missing[0]}; {INSTALL}")
    return program


def arguments(settings: Settings, policy: Policy, servers: Sequence[int], fd: int) -> list[str]:
    """passt's command line; `servers` are the DNS servers that the VM is told of."""
    first, length = settings.pool
    may_change = settings.control_fd is not None or settings.control is not None
    leads_to_host = policy.opens_host or may_change or any(port.protocol == UDP for port in settings.expose)
    argv = ["passt", "--foreground", "--quiet", "--stderr", "--ipv4-only", "--no-dhcp-search"]
    argv += [] if leads_to_host else ["--no-map-gw"]
    argv += ["--fd", str(fd), "--mtu", str(settings.mtu)]
    argv += ["--address", format_ipv4(first + 2), "--netmask", str(length)]
    argv += ["--gateway", format_ipv4(first + 1)]
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


def _stream() -> tuple[socket.socket, socket.socket]:
    """Our end and passt's, with room for ROOM bytes in each direction, or as much as the system grants.

    passt drops what its socket does not take, and its TCP, which has no congestion control on this side,
    writes as much at once as the guest's window allows.
    """
    ends = socket.socketpair()
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ROOM)  # up to net.core.wmem_max
        with suppress(PermissionError):
            end.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, ROOM)
    return ends


def _spawn(program: str, argv: list[str], who: Identity, files: dict[int, int]) -> int:
    """A child with nothing of ours but `files` (its descriptor: ours, or the same number).

    It has a session of its own, as the ^C at a terminal is for us. It has the identity that this
    process will have, as nobody else's death may kill it, and because where Softnet is set-user-ID,
    which program `passt` is was the caller's choice.
    """
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for number, source in {0: null, 1: null, 2: null, **files}.items():
            os.dup2(source, number)
            os.set_inheritable(number, True)
        _close_others(sorted({0, 1, 2, *files}))
        if os.geteuid() == 0:
            privilege.assume(who)
        _die_with(parent)
        os.execve(program, argv, {"PATH": os.environ.get("PATH", os.defpath)})
    except (OSError, SoftnetError) as error:
        os.write(2, f"{error}\n".encode())
    finally:
        os._exit(1)


def _close_others(kept: Sequence[int]) -> None:
    for number, following in zip(kept, [*kept[1:], LAST_DESCRIPTOR], strict=True):
        os.closerange(number + 1, following)


def _die_with(parent: int) -> None:
    """Asks the kernel; whoever changes its identity has to ask again."""
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _output_of(program: str, argv: list[str], who: Identity) -> str:
    """What a short-lived program wrote to its standard output and error."""
    with os.fdopen(os.memfd_create("output"), "w+b") as output:
        os.waitpid(_spawn(program, argv, who, {1: output.fileno(), 2: output.fileno()}), 0)
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
