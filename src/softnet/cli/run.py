"""`softnet run [options] -- COMMAND ...`: a command that gets one end of a network card.

Three processes. This one, the supervisor, keeps its caller's identity and its place at the terminal:
it makes the socket pair, starts the other two, passes signals on, and ends with COMMAND's exit code.
The filter is a child in a session of its own, so that a ^C at the terminal reaches COMMAND first;
it gets root through sudo where it must, and drops it. COMMAND finds its socket and its MAC address
where its arguments say `{fd}` and `{mac}`. With `--tap NAME` it is started in a network namespace in
which NAME, a TAP, is all there is (`links/cell.py`); the other side is the filter's.

The supervisor and the filter hold the ends of one more socket: the filter writes a byte when the
network is up, and ends when the supervisor's end closes, however that came about. When the filter
ends first, COMMAND is terminated: a VM without its filter has no network. On Linux COMMAND is killed
when the supervisor dies.
"""

import argparse
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from softnet import privilege
from softnet.cli import complain, options, serve
from softnet.config import Settings
from softnet.core.address import MAC_GROUP_BIT, MAC_LOCAL_BIT, format_mac
from softnet.errors import SoftnetError
from softnet.links import attach, cell

USAGE = "softnet run [options] -- COMMAND [ARGUMENT ...]"
DESCRIPTION = """Start COMMAND with a network card behind Softnet. {fd} and {mac} in its arguments are
replaced by the number of its socket and by its MAC address, for example:

  softnet run -- qemu-system-x86_64 ... -netdev dgram,id=n,local.type=fd,local.str={fd} \\
      -device virtio-net-pci,netdev=n,mac={mac}"""

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
NOT_FOUND = 127
GRACE_SECONDS = 5.0
FROM_TERMINAL = 0x80  # SI_KERNEL: the terminal sent it to the whole foreground group already
PR_SET_PDEATHSIG = 1


class CommandError(SoftnetError):
    """COMMAND could not be started; the shell's exit code for it."""

    exit_code = NOT_FOUND


def main(argv: Sequence[str]) -> int:
    words, command = _split(list(argv))
    chosen = _parser().parse_args(words)
    if not command:
        raise options.UsageError(f"no command to run; write {USAGE}")
    given = chosen.vm_mac_address
    mac = random_mac() if given is None else options.vm_mac("--vm-mac-address", given)
    settings = options.settings_from(chosen, mac)
    tap = None if chosen.tap is None else cell.check_name("--tap", chosen.tap)
    if tap and chosen.stream:
        raise options.UsageError("--stream and --tap: a card is a socket or a TAP; leave one out")
    program = find_program(command[0])
    signal.pthread_sigmask(signal.SIG_BLOCK, [*PASSED_ON, signal.SIGCHLD])
    pair = None if tap else card_pair(socket.SOCK_STREAM if chosen.stream else socket.SOCK_DGRAM)
    places = {"{mac}": format_mac(mac)} | ({"{fd}": str(pair[1].fileno())} if pair else {})
    prepared = Prepared(program, [_fill(word, places) for word in command], pair, tap, settings.mtu)
    command_pid, door = _prepare_command(prepared)
    card = _receive_card(door) if pair is None else pair[0].detach()
    if card is None:
        return _exit_code(os.waitpid(command_pid, 0)[1])  # it has said why
    supervisor, filter_pid = _start_filter(words, settings, chosen.summary, card, door)
    os.close(card)
    if not supervisor.recv(1):
        door.close()
        os.waitpid(command_pid, 0)
        return _exit_code(os.waitpid(filter_pid, 0)[1])  # it has said why
    door.send(b"\n")
    return _supervise(command_pid, filter_pid, supervisor)


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """The options before `--`, and the command after it."""
    if "--" not in argv:
        return argv, []
    at = argv.index("--")
    return argv[:at], argv[at + 1 :]


def _parser() -> argparse.ArgumentParser:
    parser = options.new_parser("softnet run", USAGE, DESCRIPTION)
    parser.add_argument("--vm-mac-address", metavar="MAC", help="(default: random, locally administered)")
    parser.add_argument(
        "--stream", action="store_true", help="a stream socket with QEMU's length framing (-netdev stream)"
    )
    parser.add_argument("--tap", metavar="NAME", help="for a COMMAND that opens a TAP, and no socket (Linux)")
    options.add_network_options(parser)
    return parser


def random_mac() -> int:
    """46 random bits of a locally administered unicast address."""
    return int.from_bytes(os.urandom(6), "big") & ~MAC_GROUP_BIT | MAC_LOCAL_BIT


def find_program(name: str) -> str:
    """The file that `name` runs, as the shell would find it."""
    folders = [""] if "/" in name else os.get_exec_path()
    for folder in folders:
        path = os.path.join(folder, name)
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
    raise CommandError(f"{name}: command not found; install it or give its path")


def card_pair(kind: int) -> tuple[socket.socket, socket.socket]:
    """Both ends of a network card: the buffers are Tart's, as far as the kernel grants them."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    for end in (ours, theirs):
        attach.raise_buffer(end, socket.SO_SNDBUF, attach.SEND_BUFFER)
        attach.raise_buffer(end, socket.SO_RCVBUF, attach.RECEIVE_BUFFER)
    return ours, theirs


def _start_filter(
    words: list[str], settings: Settings, summary: bool, card: int, door: socket.socket
) -> tuple[socket.socket, int]:
    """The filter as a child process, and the supervisor's end of the socket between them."""
    supervisor, end = socket.socketpair()
    pid = os.fork()
    if pid:
        end.close()
        return supervisor, pid
    code = 70  # EX_SOFTWARE, should anything but the expected happen below
    try:
        supervisor.close()
        door.close()
        os.setsid()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [*PASSED_ON, signal.SIGCHLD])
        code = _filter_process(words, settings, summary, card, end)
    except SoftnetError as error:
        complain(str(error))
        code = error.exit_code
    finally:
        if sys.exc_info()[1] is not None:
            sys.excepthook(*sys.exc_info())
        os._exit(code)


def _filter_process(
    words: list[str], settings: Settings, summary: bool, card: int, end: socket.socket
) -> int:
    privilege.check_installation()
    replaced = ("--vm-mac-address", format_mac(settings.vm_mac), "--vm-fd", str(card))
    argv = [*_without_own(words), *replaced, "--supervisor-fd", str(end.fileno())]
    serve.acquire_for_uplink(argv, settings)
    return serve.serve(settings, lambda: attach.open_fd("--vm-fd", card), end, summary)


def _without_own(words: list[str]) -> list[str]:
    """The options that the filter has too."""
    own = [
        word
        for before, word in zip([None, *words], words, strict=False)
        if word not in ("--stream", "--tap") and before != "--tap"
    ]
    return [word for word in own if not word.startswith("--tap=")]


def _fill(word: str, places: dict[str, str]) -> str:
    for place, value in places.items():
        word = word.replace(place, value)
    return word


class Prepared(NamedTuple):
    """COMMAND, and its card: a socket pair (ours, its), or the name of a TAP."""

    program: str
    words: list[str]
    pair: tuple[socket.socket, socket.socket] | None
    tap: str | None
    mtu: int


def _prepare_command(command: Prepared) -> tuple[int, socket.socket]:
    """COMMAND's process, which becomes COMMAND when a byte comes through the door, and ends if it closes."""
    parent = os.getpid()
    door, within = socket.socketpair()
    pid = os.fork()
    if pid:
        within.close()
        if command.pair is not None:
            command.pair[1].close()
        return pid, door
    code = NOT_FOUND
    try:
        door.close()
        _become_command(command, within, parent)
    except SoftnetError as error:
        complain(str(error))
        code = error.exit_code
    except OSError as error:
        complain(f"{command.program}: {error.strerror}; check that it is a program for this machine")
    finally:
        os._exit(code)


def _become_command(command: Prepared, door: socket.socket, parent: int) -> None:
    """With the card's socket as the only extra descriptor, or in the cell. Returns if there is to be none."""
    # A rule in sudoers lets its users run Softnet as root, not COMMAND.
    who = privilege.asker() if os.geteuid() == 0 else None
    if command.tap is not None:
        card = cell.enter(command.tap, command.mtu, os.geteuid() if who is None else who.uid)
        socket.send_fds(door, [b"\n"], [card])
        os.close(card)
    if not door.recv(1):
        return
    if who is not None:
        privilege.assume(who)
    _die_with(parent)
    if command.pair is not None:
        command.pair[1].set_inheritable(True)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [*PASSED_ON, signal.SIGCHLD])
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it; COMMAND should not inherit that
    os.execv(command.program, command.words)


def _receive_card(door: socket.socket) -> int | None:
    """Softnet's TAP in the cell; None when there is no cell."""
    descriptors = socket.recv_fds(door, 1, 1)[1]
    return descriptors[0] if descriptors else None


def _die_with(parent: int) -> None:
    """Linux: no VM outlives a supervisor that was killed."""
    if sys.platform.startswith("linux"):
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(NOT_FOUND)


def _supervise(command_pid: int, filter_pid: int, supervisor: socket.socket) -> int:
    """Waits for COMMAND, passing signals on; ends the filter after it, or COMMAND with the filter."""
    waited = {signal.SIGCHLD, *PASSED_ON}
    while True:
        number = _next_signal(waited)
        if number == signal.SIGCHLD:
            done, status = os.waitpid(command_pid, os.WNOHANG)
            if done:
                supervisor.close()
                os.waitpid(filter_pid, 0)
                return _exit_code(status)
            if os.waitpid(filter_pid, os.WNOHANG)[0]:
                return _end_without_filter(command_pid)
        elif number is not None:
            with suppress(ProcessLookupError):
                os.kill(command_pid, number)


def _next_signal(waited: set[signal.Signals]) -> int | None:
    """The next signal to act on; None for one that the terminal has given COMMAND itself."""
    if sys.platform == "darwin":
        return signal.sigwait(waited)
    info = signal.sigwaitinfo(waited)
    from_terminal = info.si_code == FROM_TERMINAL and info.si_signo != signal.SIGCHLD
    return None if from_terminal else info.si_signo


def _end_without_filter(command_pid: int) -> int:
    """The filter ended by itself, and has said why: COMMAND must not go on without a network."""
    os.kill(command_pid, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while not os.waitpid(command_pid, os.WNOHANG)[0]:
        if time.monotonic() > deadline:
            os.kill(command_pid, signal.SIGKILL)
            os.waitpid(command_pid, 0)
            break
        time.sleep(0.02)
    complain("the filter ended before the command did; the command was terminated")
    return 1


def _exit_code(status: int) -> int:
    """As a shell reports it: 128 and the signal's number where one ended the process."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
