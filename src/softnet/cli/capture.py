"""`softnet capture`: frames of a running VM with their verdicts, as pcapng for Wireshark and others.

Written as they come, to a file or a pipe; with `--ring N` the last N are kept here and written at the
end: at ^C, at SIGTERM, when the VM ends, or at a limit.
"""

import argparse
import os
import signal
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import FrameType
from typing import BinaryIO

from softnet import pcapng
from softnet.cli import options, running
from softnet.control.client import Client, ControlError
from softnet.errors import ConfigError

USAGE = "softnet capture [--vm WHICH] [-w FILE] [--dropped] [--ring N] [--frames N] [--limit BYTES]"
DESCRIPTION = """Capture a running VM's frames, each with its verdict and reason as its comment, for example:

  softnet capture --dropped | tshark -r - -T fields -e ip.dst -e frame.comment"""
MOST = 10**9


class _Ended(Exception):  # noqa: N818 - how a capture ends, not an error
    """A signal asked for the end."""


def main(argv: Sequence[str]) -> int:
    chosen = _parser().parse_args(list(argv))
    ring, frames, limit = (
        None if text is None else options.number(option, text, 1, MOST)
        for option, text in (("--ring", chosen.ring), ("--frames", chosen.frames), ("--limit", chosen.limit))
    )
    params = {
        "droppedOnly": chosen.dropped,
        "snaplen": options.number("--snaplen", chosen.snaplen, 64, 1 << 18),
    }
    client = running.connect(chosen.vm)
    try:
        with _output(chosen.write) as output:
            client.call("softnet.capture", params)
            _copy(client, output, ring, frames, limit)
    finally:
        client.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = options.new_parser("softnet capture", USAGE, DESCRIPTION)
    running.add_vm_option(parser)
    parser.add_argument("-w", "--write", metavar="FILE", help="where to (default: standard output)")
    parser.add_argument("--dropped", action="store_true", help="refused frames alone")
    parser.add_argument("--ring", metavar="N", help="keep the last N frames and write them at the end")
    parser.add_argument("--frames", metavar="N", help="end after N frames")
    parser.add_argument("--limit", metavar="BYTES", help="end before the file is larger")
    parser.add_argument("--snaplen", metavar="BYTES", default=str(1 << 18), help="keep so much of a frame")
    return parser


def _output(path: str | None) -> BinaryIO:
    if path is None or path == "-":
        if sys.stdout.isatty():
            raise ConfigError("-w", "-", "is a terminal", "write to a file, or into a pipe")
        return os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    try:
        return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb")
    except OSError as error:
        raise ConfigError("-w", path, f"cannot write: {error.strerror}", "name another file") from None


def _copy(client: Client, output: BinaryIO, ring: int | None, frames: int | None, limit: int | None) -> None:
    """Blocks from the control channel to the output, until something ends it."""
    kept: deque[bytes] = deque(maxlen=ring)
    written = seen = 0
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    try:
        for block in _blocks(client):
            is_frame = block[0] == pcapng.ENHANCED_PACKET
            if limit is not None and ring is None and written + len(block) > limit:
                break
            if ring is not None and is_frame:
                kept.append(block)
            else:
                output.write(block)
                output.flush()
                written += len(block)
            seen += is_frame
            if seen == frames:
                break
    except _Ended:
        pass
    except BrokenPipeError:
        kept.clear()
    for block in _fitting(kept, written, limit):
        output.write(block)
    with suppress(BrokenPipeError):
        output.flush()


def _blocks(client: Client) -> Iterator[bytes]:
    """Whole blocks, until the other side ends."""
    stream = bytearray(client.rest())
    client.peer.settimeout(None)
    while True:
        try:
            yield from pcapng.blocks(stream)
        except ValueError as error:
            raise ControlError(f"the capture makes no sense: {error}") from None
        try:
            data = client.peer.recv(1 << 16)
        except ConnectionResetError:
            return
        if not data:
            return
        stream += data


def _fitting(kept: deque[bytes], written: int, limit: int | None) -> deque[bytes]:
    """The last of `kept` that fit the limit."""
    while limit is not None and kept and written + sum(map(len, kept)) > limit:
        kept.popleft()
    return kept


def _end(_number: int, _frame: FrameType | None) -> None:
    raise _Ended
