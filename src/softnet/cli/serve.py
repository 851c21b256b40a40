"""`softnet --vm-fd N --vm-mac-address MAC ...`: one VM's filter, until the VM or the caller ends it.

This is the composition root: the one file that knows every room. The order is the argument for its
safety: read the arguments, look at the VM's socket, get privileges, say whom to become, open the
uplink (the only step that changes the system), compile the policy, drop privileges for good, and
only then judge the first frame. Standard output belongs to whoever started Softnet: Tart may have
put a socket there.
"""

import argparse
import gc
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from types import FrameType
from typing import TYPE_CHECKING

from softnet import limits, privilege
from softnet.cli import COMMANDS, complain, options
from softnet.cli.observe import Doors, LivePolicy, Observer
from softnet.config import Settings
from softnet.core.filter import Filter
from softnet.core.lease import LeaseEvent
from softnet.core.reasons import FROM_VM, TO_VM
from softnet.errors import UplinkError
from softnet.expose import Relay, filter_ports
from softnet.forwarder import UPLINK_GONE, Forwarder
from softnet.limits import Rates
from softnet.links import Link, attach
from softnet.links.listen import Listener, listen_path
from softnet.policy import compile_inbound, compile_policy
from softnet.uplinks import Publisher, Uplink
from softnet.uplinks.select import BRIDGE, NAT, PRIVILEGED, USER, open_uplink

USAGE = """softnet --vm-fd N --vm-mac-address MAC [options]
       softnet run [options] -- COMMAND [ARGUMENT ...]
       softnet COMMAND --help"""

DESCRIPTION = "Software networking for a virtual machine that nobody should have to trust."
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SLOT_ALIGNMENT = 64
ETHERNET_HEADER = 14
WITH_HOST = (NAT, BRIDGE, USER)  # uplinks that lead to this host's own addresses

VmSource = Link | Listener

if TYPE_CHECKING:
    from softnet.uplinks.addresses import AddressWatch


def main(argv: Sequence[str]) -> int:
    words = list(argv)
    chosen = _parser().parse_args(words)
    if (chosen.vm_fd is None) == (chosen.vm_socket is None):
        raise options.UsageError("give one of --vm-fd and --vm-socket; see softnet --help")
    settings = options.settings_from(chosen, options.vm_mac("--vm-mac-address", chosen.vm_mac_address))
    if chosen.vm_fd is not None:
        settings = settings._replace(vm_fd=options.number("--vm-fd", chosen.vm_fd, 0, options.MAX_DESCRIPTOR))
    if chosen.sudo_escalation_probing:
        return 0 if os.geteuid() == 0 else 1
    privilege.check_installation()
    source = _vm_source(chosen, settings)
    acquire_for_uplink(words, settings)
    return serve(settings, source, _supervisor(chosen), chosen.summary)


def acquire_for_uplink(argv: list[str], settings: Settings) -> None:
    """Root where the uplink needs it, or one line that names the uplink and what to set up."""
    try:
        privilege.acquire(argv, settings.uplink.kind in PRIVILEGED)
    except privilege.PrivilegeError as error:
        raise UplinkError(f"--uplink {settings.uplink} {error}") from None


def _start_reporting() -> tuple[str, ...]:
    """Error reports, if SENTRY_DSN asks for them; what they will have to read after confinement."""
    if "SENTRY_DSN" not in os.environ:
        return ()
    from softnet import reporting

    reporting.start()
    return reporting.readable()


def _vm_source(chosen: argparse.Namespace, settings: Settings) -> Callable[[], VmSource]:
    """What opens the VM's side; a descriptor is looked at now, before anything is changed."""
    if chosen.vm_fd is not None:
        fd = options.number("--vm-fd", chosen.vm_fd, 0, options.MAX_DESCRIPTOR)
        attach.check_fd("--vm-fd", fd)
        return lambda: attach.open_fd("--vm-fd", fd)
    who = privilege.asker() or privilege.identity(settings.user, settings.group)
    return lambda: listen_path("--vm-socket", chosen.vm_socket, who.uid, who.gid)


def _commands() -> str:
    return "commands:\n" + "\n".join(f"  {name:<10} {what}" for name, what in COMMANDS.items())


def _parser() -> argparse.ArgumentParser:
    parser = options.new_parser("softnet", USAGE, DESCRIPTION)
    parser.epilog = _commands()
    add = parser.add_argument
    add("--vm-fd", metavar="N", help="the VM's frames: a connected AF_UNIX socket")
    add("--vm-socket", metavar="PATH", help="or where it connects: stream:PATH (QEMU), dgram:PATH (vfkit)")
    add("--vm-mac-address", metavar="MAC", required=True, help="the only MAC address the VM may use")
    options.add_network_options(parser)
    return parser


def _supervisor(chosen: argparse.Namespace) -> socket.socket | None:
    """`--supervisor-fd N`, used by `softnet run` across sudo: see `serve`."""
    if chosen.supervisor_fd is None:
        return None
    fd = options.number("--supervisor-fd", chosen.supervisor_fd, 0, options.MAX_DESCRIPTOR)
    attach.check_fd("--supervisor-fd", fd)
    return socket.socket(fileno=fd)


def serve(
    settings: Settings, open_vm: Callable[[], VmSource], supervisor: socket.socket | None, summary: bool
) -> int:
    """Runs one filter and returns the exit code.

    `supervisor` is a connected stream socket: one byte is written to it when the network is up, and
    its end of file ends Softnet as SIGINT does.
    """
    stop = _Stop()
    reports = _start_reporting()
    who = privilege.identity(settings.user, settings.group)
    with ExitStack() as undo:
        with privilege.acting_as(privilege.asker()):  # paths of the caller's, not of root's
            source = undo.enter_context(closing(open_vm()))
            doors = undo.enter_context(closing(Doors(settings)))
        with privilege.acting_as(privilege.asker() if settings.uplink.kind == "unix" else None):
            uplink = undo.enter_context(closing(open_uplink(settings, settings.policy)))
        _fit_queue(settings, uplink)
        relay = undo.enter_context(closing(Relay(settings.expose if uplink.publisher is None else ())))
        addresses = _address_watch(settings)
        if addresses is not None:
            undo.enter_context(closing(addresses))
        privilege.drop(who)
        vm = _await_vm(source, stop) if isinstance(source, Listener) else source
        if vm is None:
            return 0
        undo.enter_context(closing(vm))
        forwarder = _compose(settings, vm, uplink)
        relay.attach(forwarder)
        publisher = relay if uplink.publisher is None else uplink.publisher
        forwarder.listeners.append(lambda event: _follow_lease(publisher, event))
        live = LivePolicy(settings.policy, uplink.facts, forwarder.filter)
        if addresses is not None:
            _follow_addresses(forwarder, live, addresses)
        observer = undo.enter_context(closing(Observer(settings, live, forwarder, doors)))
        folders = doors.own_folders() + (source.own_folders() if isinstance(source, Listener) else [])
        privilege.confine(reports, writable=folders, signals=settings.uplink.kind == USER)
        return _forward(settings, forwarder, observer, stop, supervisor, summary)


def _fit_queue(settings: Settings, uplink: Uplink) -> None:
    """Where frames wait for a reader that has a rate, not seconds of them. Before the drop."""
    if settings.rates.to_vm is not None and settings.uplink.kind in PRIVILEGED and sys.platform == "linux":
        from softnet import txqueue

        txqueue.shorten(uplink.link.fileno(), settings.rates.to_vm, uplink.mtu + ETHERNET_HEADER)


def _compose(settings: Settings, vm: Link, uplink: Uplink) -> Forwarder:
    """The filter between the two links."""
    facts = uplink.facts
    mtu = min(settings.mtu, uplink.mtu)
    table = compile_policy(settings.policy, facts)
    judge = Filter(settings.vm_mac, mtu, table, facts.gateway, facts.gateway_mac)
    judge.set_table(table, compile_inbound(settings.policy, facts))
    judge.expose(filter_ports(settings.expose))
    return Forwarder(judge, vm, uplink.link, _slot(mtu), settings.rates)


def _follow_lease(publisher: Publisher, event: LeaseEvent) -> None:
    """Exposed ports lead to the leased address, and to nobody without a lease."""
    if event.kind == "lost":
        publisher.withdraw()
    else:
        publisher.publish(event.lease.address)


def _address_watch(settings: Settings) -> "AddressWatch | None":
    """What tells of the host's own addresses, for uplinks that lead to them. Opened before the drop:
    afterwards Softnet's own files may be out of reach."""
    if settings.uplink.kind not in WITH_HOST or not sys.platform.startswith("linux"):
        return None
    from softnet.uplinks.addresses import AddressWatch

    return AddressWatch()


def _follow_addresses(forwarder: Forwarder, live: LivePolicy, watch: "AddressWatch") -> None:
    """Keeps the policy's idea of the host's own addresses up to date."""

    def look(_now: float) -> None:
        if watch.changed():
            live.on_addresses(watch.addresses)

    live.on_addresses(watch.addresses)
    forwarder.watch(watch.fileno(), look)


def _slot(mtu: int) -> int:
    """Bytes for the longest frame that may pass, aligned."""
    return -(-(mtu + ETHERNET_HEADER) // SLOT_ALIGNMENT) * SLOT_ALIGNMENT


def _forward(
    settings: Settings,
    forwarder: Forwarder,
    observer: Observer,
    stop: "_Stop",
    supervisor: socket.socket | None,
    summary: bool,
) -> int:
    stop.attach(forwarder)
    signal.signal(signal.SIGUSR1, lambda _number, _frame: _summarize(forwarder, settings.rates))
    if supervisor is not None:
        forwarder.watch(supervisor.fileno(), lambda _now: _end_of_supervisor(supervisor, forwarder))
        supervisor.send(b"\n")
    gc.collect()
    gc.freeze()  # what start-up made stays; a collection later need not look at it
    _give_back()
    ending = forwarder.run()
    forwarder.release()
    observer.ended(ending)
    if summary:
        _summarize(forwarder, settings.rates)
    if ending == UPLINK_GONE:
        raise UplinkError("the other side of the uplink is gone; restart it, then start the VM again")
    return 0


def _give_back() -> None:
    """What start-up has freed goes back to the kernel: of 100,000 rules in a file glibc would keep 5 MB."""
    import ctypes

    with suppress(AttributeError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)


def _end_of_supervisor(supervisor: socket.socket, forwarder: Forwarder) -> None:
    try:
        gone = not supervisor.recv(64, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return
    except OSError:
        gone = True
    if gone:
        forwarder.stop()


def _await_vm(listener: Listener, stop: "_Stop") -> Link | None:
    """The VM's link once it has connected; None when a signal came first."""
    poll = select.poll()
    for descriptor in (listener.fileno(), stop.fileno()):
        poll.register(descriptor, select.POLLIN)
    while not stop.wanted:
        poll.poll()
        link = listener.accept()
        if link is not None:
            return link
    return None


class _Stop:
    """Signals that end Softnet, from before the uplink is opened: nothing is left half undone."""

    def __init__(self) -> None:
        self.wanted = False
        self._forwarder: Forwarder | None = None
        self._reader, self._writer = socket.socketpair()
        for end in (self._reader, self._writer):
            end.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in ENDING_SIGNALS:
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # until there is something to count

    def fileno(self) -> int:
        """Readable when a signal has come."""
        return self._reader.fileno()

    def attach(self, forwarder: Forwarder) -> None:
        """From now on a signal ends this loop; one that came before does so at once."""
        self._forwarder = forwarder
        forwarder.watch(self.fileno(), self._drain)
        if self.wanted:
            forwarder.stop()

    def _drain(self, _now: float) -> None:
        with suppress(BlockingIOError):
            self._reader.recv(4096)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.wanted = True
        if self._forwarder is not None:
            self._forwarder.stop()


def _summarize(forwarder: Forwarder, rates: Rates) -> None:
    """One line a direction: how many frames ended in each reason; one more if it has a rate."""
    directions = ((FROM_VM, limits.FROM_VM), (TO_VM, limits.TO_VM))
    for direction, name in directions:
        counts = forwarder.filter.counts(direction)
        complain(f"{name} " + (" ".join(f"{reason}={count}" for reason, count in counts.items()) or "none"))
    for direction, name in directions:
        bucket = forwarder.buckets[direction]
        if bucket is not None:
            complain(f"rate {name} {rates[direction]}: pauses={bucket.pauses} paused={bucket.paused:.3f}s")
