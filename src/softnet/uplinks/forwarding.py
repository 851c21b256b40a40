"""Lets packets for VMs in through the host's devices, and has that undone when the last VM is gone.

Linux forwards a packet only when the device it came in by has `forwarding` set, so on a host that is no
router the answers from the internet would end at its network card. Where net.ipv4.ip_forward is 0,
`Forwarding` sets net.ipv4.conf.DEVICE.forwarding for just the devices that VMs' packets leave by.

Softnet has no privilege left when it ends, and none of its code runs after `kill -9`. So a janitor is
left behind while the VM runs: a shell that does nothing but wait for the end of a pipe that only
Softnet holds, and then restores the value. It is started only where a value had to be changed.

Several Softnets share a device. Two locks (flock on the sysctl files themselves, so that nothing is
left on disk and a dead process holds nothing) keep them from undoing each other's work:

- `forwarding` is the mutex: who changes the value holds it alone, for as long as that takes;
- `tag` is the count: each janitor holds it shared, for as long as its Softnet lives.

A device that forwards although nobody holds `tag` was set by somebody else, and is left alone. The
janitor that can take `tag` for itself is the last one, and restores 0, unless ip_forward is 1 by
then: somebody else has made the host a router and relies on it. Limit: a janitor that is killed
itself leaves the device forwarding.
"""

import fcntl
import os
import signal
from collections.abc import Callable, Iterable

from softnet.errors import UplinkError
from softnet.uplinks.host import DIRECTORIES, find_program

_IPV4 = "/proc/sys/net/ipv4"
_PIPE, _MUTEX, _COUNT = 7, 8, 9  # a POSIX shell's redirections know one digit

# A background job's standard input is /dev/null, hence the pipe's number. `read` also ends on a signal
# that is not ignored, hence the trap. $1 is the device.
_JANITOR = f"""
trap '' HUP INT QUIT TERM PIPE ALRM USR1 USR2 TSTP TTIN TTOU
cd /
(
  read -r _ <&{_PIPE}
  flock {_MUTEX} && flock -n {_COUNT} || exit 0
  read -r router < {_IPV4}/ip_forward
  [ "$router" = 0 ] && echo 0 > "{_IPV4}/conf/$1/forwarding"
) &
"""


def is_router() -> bool:
    """Whether this network namespace forwards IPv4 on all devices already."""
    return _read(f"{_IPV4}/ip_forward") == "1"


class Forwarding:
    """Devices that forward for as long as this object's descriptors are open. `close` is idempotent.

    `guard` is called with each device that is ours to open, before it is opened.
    """

    def __init__(self, devices: Iterable[str], guard: Callable[[str], object]) -> None:
        self._pipes: list[int] = []
        self._guard = guard
        try:
            for device in devices:
                self._open(device)
        except OSError as error:
            self.close()
            raise UplinkError(f"--uplink nat: cannot have a device forward packets: {error}") from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        while self._pipes:
            os.close(self._pipes.pop())

    def _open(self, device: str) -> None:
        """Sets the device forwarding, unless somebody else has, and leaves a janitor behind."""
        path = f"{_IPV4}/conf/{device}/forwarding"
        mutex = os.open(path, os.O_RDONLY)
        count = os.open(f"{_IPV4}/conf/{device}/tag", os.O_RDONLY)
        try:
            fcntl.flock(mutex, fcntl.LOCK_EX)
            forwards = _read(path) == "1"
            if forwards and _lock(count, fcntl.LOCK_EX):
                return
            fcntl.flock(count, fcntl.LOCK_SH)
            self._pipes.append(_start_janitor(device, path, count))
            self._guard(device)
            if not forwards:
                _write(path, "1")
        finally:
            os.close(mutex)
            os.close(count)


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _start_janitor(device: str, path: str, count: int) -> int:
    """Returns the descriptor whose closing, by whatever cause, sets the janitor to work.

    The janitor opens the mutex's file anew: a lock belongs to the open file, and this one's is held.
    """
    shell = find_program("sh")
    if shell is None or find_program("flock") is None:
        problem = "--uplink nat needs `sh` and `flock` where net.ipv4.ip_forward is 0"
        raise UplinkError(f"{problem}: apt-get install util-linux")
    argv = ["softnet-janitor", "-c", _JANITOR, "softnet-janitor", device]
    if os.getuid() != os.geteuid():
        argv.insert(1, "-p")  # or the shell drops what a set-user-ID program has
    wait_end, our_end = os.pipe()
    mutex = os.open(path, os.O_RDONLY)
    try:
        _spawn_detached(shell, argv, {_PIPE: wait_end, _MUTEX: mutex, _COUNT: count})
    except BaseException:
        os.close(our_end)
        raise
    finally:
        os.close(wait_end)
        os.close(mutex)
    return our_end


def _spawn_detached(shell: str, argv: list[str], wanted: dict[int, int]) -> None:
    """Runs a script that goes into the background, with nothing open but `wanted` (number: source).

    Above all no VM's socket: its other end could not be seen to close. The sources are copied out
    of the way first, as their numbers may be among those wanted.
    """
    copies = {number: fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, 64) for number, source in wanted.items()}
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_CLOSE, descriptor) for descriptor in _inheritable() if descriptor > 2
    ]
    actions += [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1, 2)]
    actions += [(os.POSIX_SPAWN_DUP2, copy, number) for number, copy in copies.items()]
    try:
        child = os.posix_spawn(
            shell,
            argv,
            {"PATH": ":".join(DIRECTORIES)},
            file_actions=actions,
            setsid=True,
            setsigmask=signal.valid_signals() - {signal.SIGCHLD},
        )
        os.waitpid(child, 0)  # the janitor itself is a grandchild: nobody has to reap it
    finally:
        for copy in copies.values():
            os.close(copy)


def _inheritable() -> list[int]:
    """The open descriptors that an exec would not close."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.get_inheritable(int(name)):
                found.append(int(name))
        except OSError:
            continue  # the descriptor of the listing itself
    return found


def _read(path: str) -> str:
    with open(path, encoding="ascii") as stream:
        return stream.read().strip()


def _write(path: str, value: str) -> None:
    with open(path, "w", encoding="ascii") as stream:
        stream.write(value)
