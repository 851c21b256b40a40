"""Breaks the vmnet binding in one way after the other, and says which breakages the tests notice.

    python tests/twin/mutants.py [NAME ...]

Each mutation of mutations.txt is made to a copy of the sources; then the tests of the binding run on the
copy until one fails. A mutation whose lines are no longer there is an error, so the list keeps up with
the code. Ends with 1 when a mutation survives that is not expected to.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "tests" / "unit"
TESTS = ["api", "abi", "wakeup", "blocks", "rules", "interface", "uplink", "link"]
LIST = Path(__file__).with_name("mutations.txt")
SECONDS = 60
REPEATS = 3  # a race is given three chances to show


class Mutation(NamedTuple):
    name: str
    file: str
    survives: str  # why it is right that no test notices it; empty where one must
    old: str
    new: str


def mutations() -> list[Mutation]:
    """mutations.txt, read."""
    found = []
    for part in LIST.read_text().split("\n== ")[2:]:
        name, *lines = part.splitlines()
        marked = {mark: [line[1:] for line in lines if line.startswith(mark)] for mark in "@!-+"}
        old, new = ("".join(f"{line}\n" for line in marked[mark]) for mark in "-+")
        found.append(Mutation(name, marked["@"][0].strip(), "".join(marked["!"]).strip(), old, new))
    return found


def run(source: Path) -> tuple[bool, str]:
    """Whether the tests pass on these sources, and what they said first if not."""
    files = [str(UNIT / f"test_vmnet_{name}.py") for name in TESTS]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "--timeout",
        "20",
        *files,
    ]
    paths = os.pathsep.join((str(source), str(ROOT / "tests")))
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return False, f"nothing within {SECONDS} s"
    if done.returncode == 0:
        return True, ""
    if done.returncode < 0:
        return False, f"killed by signal {-done.returncode}"
    named = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return False, named[0].partition("::")[2].partition(" - ")[0] if named else "the run itself"


def try_one(mutation: Mutation, directory: Path) -> tuple[bool, str]:
    """Whether the tests notice it, and which one did."""
    source = directory / "src"
    shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
    file = source / "softnet" / "uplinks" / "vmnet" / mutation.file
    text = file.read_text()
    if text.count(mutation.old) != 1:
        sys.exit(f"{mutation.name}: {mutation.file} does not have these lines once:\n{mutation.old}")
    file.write_text(text.replace(mutation.old, mutation.new, 1))
    for _ in range(REPEATS):
        passed, first = run(source)
        if not passed:
            return True, first
    return False, ""


def main(names: list[str]) -> int:
    chosen = [each for each in mutations() if not names or any(name in each.name for name in names)]
    passed, first = run(ROOT / "src")
    if not passed:
        sys.exit(f"the tests fail without any mutation: {first}")
    print("| mutation | noticed by |\n| --- | --- |")
    surprises = 0
    for mutation in chosen:
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="snt-mutant-") as directory:
            caught, first = try_one(mutation, Path(directory))
        surprises += caught == bool(mutation.survives)
        said = f"`{first}`" if caught else f"survives: {mutation.survives or 'NOT EXPECTED'}"
        print(f"| {mutation.name} | {said} |", flush=True)
        print(f"{time.monotonic() - begun:.1f} s", file=sys.stderr)
    print(f"\n{len(chosen)} mutations, {surprises} unexpected")
    return bool(surprises)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
