"""Runs the fuzz targets, one after the other, each in a process of its own.

    python -m fuzz.run                         every target for 20 s
    python -m fuzz.run filter --seconds 600    one of them for ten minutes
    python -m fuzz.run --replay                the kept corpus once, through every target

With atheris (`pip install atheris`; run it with PYTHONPATH=src, since coverage is that of the
interpreted build) inputs are found by coverage. Without it, or with --plain, they are mutations of the
corpus at random, which any build takes. An input that finds something is left in .cache/fuzz, and
new ones that reach further are too; `--keep` merges those into fuzz/corpus.
"""

import argparse
import random
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import sha1
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

CORPUS = Path(__file__).parent / "corpus"
FOUND = Path(__file__).parents[1] / ".cache" / "fuzz"
LONGEST = 8192


def corpus(name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]


def replay(name: str) -> int:
    """Every kept input once; how many there were."""
    from fuzz.targets import TARGETS

    inputs = corpus(name)
    for data in inputs:
        TARGETS[name](data)
    return len(inputs)


def mutations(name: str, seconds: float, seed: int) -> int:
    """Random changes to the corpus, until time is up; how many there were."""
    from fuzz.targets import TARGETS

    target, chance = TARGETS[name], random.Random(seed)
    inputs = corpus(name) or [b""]
    deadline, count = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        data = changed(chance, chance.choice(inputs), chance.choice(inputs))
        try:
            target(data)
        except Exception:
            FOUND.mkdir(parents=True, exist_ok=True)
            (FOUND / f"crash-{name}").write_bytes(data)
            raise
        count += 1
    return count


def changed(chance: random.Random, data: bytes, other: bytes) -> bytes:
    new = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at, kind = chance.randint(0, len(new)), chance.randrange(5)
        if kind == 0 and at < len(new):
            new[at] ^= 1 << chance.randrange(8)
        elif kind == 1 and at < len(new):
            new[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        elif kind == 2:
            new[at:at] = chance.randbytes(chance.randint(1, 8))
        elif kind == 3:
            del new[at : at + chance.randint(1, 8)]
        elif other:
            start = chance.randrange(len(other))
            new[at : at + chance.choice((0, 40))] = other[start : start + chance.randint(1, 80)]
    return bytes(new[:LONGEST])


def by_coverage(name: str, seconds: float) -> None:
    """Does not return: libFuzzer ends the process. Nothing of Softnet may be imported before."""
    import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]

    with atheris.instrument_imports(include=["softnet"]):
        from fuzz.targets import TARGETS
    target: Callable[[bytes], None] = TARGETS[name]
    new = FOUND / name
    for folder in (new, CORPUS / name):
        folder.mkdir(parents=True, exist_ok=True)
    options = [
        f"-artifact_prefix={FOUND}/crash-{name}-",
        f"-max_len={LONGEST}",
        "-print_final_stats=1",
        f"-max_total_time={seconds:.0f}",
        "-verbosity=0",
    ]
    atheris.Setup([sys.argv[0], *options, str(new), str(CORPUS / name)], target)
    atheris.Fuzz()


def keep(name: str) -> int:
    """Adds to the corpus what reaches a step that nothing shorter reaches; how many inputs that makes."""
    from fuzz.targets import TARGETS

    paths = [*(CORPUS / name).glob("*"), *(FOUND / name).glob("*")]
    reached: set[tuple[str, int, int]] = set()
    kept = 0
    for path in sorted(paths, key=lambda path: (path.stat().st_size, path.name)):
        data = path.read_bytes()
        steps = steps_of(TARGETS[name], data)
        if steps <= reached:
            continue
        reached |= steps
        kept += 1
        (CORPUS / name).mkdir(parents=True, exist_ok=True)
        (CORPUS / name / sha1(data).hexdigest()[:16]).write_bytes(data)
    return kept


def steps_of(target: Callable[[bytes], None], data: bytes) -> set[tuple[str, int, int]]:
    """The pairs of lines of Softnet that follow each other when the target takes `data`."""
    steps: set[tuple[str, int, int]] = set()
    last = 0

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal last
        if "/softnet/" not in frame.f_code.co_filename:
            return None
        if event == "line":
            steps.add((frame.f_code.co_filename, last, frame.f_lineno))
            last = frame.f_lineno
        return trace

    sys.settrace(trace)
    try:
        target(data)
    finally:
        sys.settrace(None)
    return steps


def in_process(name: str, arguments: argparse.Namespace) -> int:
    """The exit status of a run of one target."""
    words = [sys.executable, "-m", "fuzz.run", name, "--alone", "--seconds", str(arguments.seconds)]
    words += [flag for flag in ("--keep", "--plain", "--replay") if getattr(arguments, flag[2:])]
    return subprocess.run(words, check=False).returncode


def alone(name: str, arguments: argparse.Namespace) -> None:
    if arguments.keep:
        print(f"{name}: {keep(name)} inputs in the corpus")
    elif arguments.replay:
        print(f"{name}: {replay(name)} kept inputs, nothing found")
    elif arguments.plain or find_spec("atheris") is None:
        seed = time.time_ns()
        print(f"{name}: {mutations(name, arguments.seconds, seed)} inputs from seed {seed}, nothing found")
    else:
        by_coverage(name, arguments.seconds)


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz.run", description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="filter, dhcp, ... (all of them)")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument(
        "--plain", action="store_true", help="random mutations, even where atheris is at hand"
    )
    parser.add_argument("--replay", action="store_true", help="only the kept corpus")
    parser.add_argument("--keep", action="store_true", help="merge what was found into fuzz/corpus")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        alone(arguments.targets[0], arguments)
        return 0
    from fuzz.targets import TARGETS

    unknown = set(arguments.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no target is called {', '.join(sorted(unknown))}: choose from {', '.join(TARGETS)}")
    results = {name: in_process(name, arguments) for name in arguments.targets or TARGETS}
    return 1 if any(results.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
