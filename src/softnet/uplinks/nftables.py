"""libnftables, the library behind `nft`: rulesets as text in, text out, one transaction a call.

A table with `flags owner` (Linux 5.12) belongs to the netlink socket that made it: nobody else can change
it, `nft flush ruleset` leaves it alone, and the kernel removes it when that socket closes, which is
also what happens to a process that is killed. So an `Nftables` lives exactly as long as its tables should,
needs no privilege to close, and must not be inherited by a child.

libnftables reads the whole ruleset before it writes, and starts over when somebody wrote meanwhile:
forty Softnets that start at once keep each other busy for most of a minute. So they take turns,
by a lock on a file of the network namespace's own, which ends with its holder.
"""

import ctypes
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from softnet.errors import UplinkError

LIBRARY = "libnftables.so.1"
TURN = "/proc/sys/net/ipv4/ip_forward"
_DEFAULT_FLAGS = 0


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        raise UplinkError(
            f"--uplink nat needs {LIBRARY}: apt-get install libnftables1 (or nftables)"
        ) from None
    context = ctypes.c_void_p
    library.nft_ctx_new.restype = context
    for name in ("nft_ctx_free", "nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(library, name).argtypes = [context]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).argtypes = [context]
        getattr(library, name).restype = ctypes.c_char_p
    library.nft_run_cmd_from_buffer.argtypes = [context, ctypes.c_char_p]
    return library


def _sockets() -> dict[int, str]:
    """This process's sockets by descriptor, each with the name the kernel gives it."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the descriptor of the listing itself
        if target.startswith("socket:"):
            found[int(name)] = target
    return found


@contextmanager
def _turn() -> Iterator[None]:
    """Waits until no other Softnet of this network namespace is at it."""
    descriptor = os.open(TURN, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class Nftables:
    """A libnftables context with a netlink socket of its own. Raises UplinkError, in one line."""

    def __init__(self) -> None:
        self._library = _load()
        before = _sockets()
        self._context: int | None = self._library.nft_ctx_new(_DEFAULT_FLAGS)
        if self._context is None:
            raise UplinkError("--uplink nat: libnftables could not open a netlink socket")
        for descriptor, name in _sockets().items():
            if before.get(descriptor) != name:
                os.set_inheritable(descriptor, False)  # libmnl leaves it open across an exec
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)

    def run(self, text: str) -> str:
        """Applies all of `text`, or nothing of it; returns what `nft` would have printed."""
        if self._context is None:
            raise ValueError("the nftables context is closed")
        with _turn():
            failed = self._library.nft_run_cmd_from_buffer(self._context, text.encode())
        problem: str = self._library.nft_ctx_get_error_buffer(self._context).decode(errors="replace")
        output: str = self._library.nft_ctx_get_output_buffer(self._context).decode(errors="replace")
        if failed:
            raise UplinkError(f"--uplink nat: nftables refused the VM's rules: {_explain(problem)}")
        return output

    def close(self) -> None:
        """Closes the netlink socket, and the kernel removes the tables it owns. Idempotent."""
        if self._context is not None:
            self._library.nft_ctx_free(self._context)
            self._context = None


def _explain(problem: str) -> str:
    """The first error of libnftables' report (which underlines the place on further lines)."""
    lines = [line.strip() for line in problem.splitlines() if line.strip()]
    first = next((line for line in lines if "Error:" in line), lines[0] if lines else "no reason given")
    reason = first.partition("Error:")[2].strip() or first
    if "not supported" in reason or "syntax error" in reason or "No such file" in reason:
        reason += " (tables with an owner need Linux 5.12 and nftables 1.0 or newer)"
    return reason
