"""Rules about the repository itself: who may import whom, what each file must say, what may lie where."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from softnet.core import reasons

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "softnet"
SOURCES = sorted(PACKAGE.rglob("*.py"))
TYPED = [path for path in SOURCES if path.with_suffix(".pxd").exists()]
MOST_LINES = 600

# A room may import itself and those above it here; `errors` and `clock` are below everything but
# `core`, which imports nothing but itself.
ROOMS = (
    {"core"},
    {"errors", "clock", "pcapng"},
    {"rules", "limits"},
    {"ruleset"},
    {"policy"},
    {"config", "privilege"},
    {"links", "policyfile"},
    {"dhcp_server"},
    {"uplinks"},
    {"forwarder"},
    {"expose", "events", "metrics", "capture", "control", "reporting", "doctor", "txqueue"},
    {"cli"},
    {"__main__"},
)
RANK = {room: rank for rank, rooms in enumerate(ROOMS) for room in rooms}

# Test files that are about no single module, and what they are about.
CROSS_CUTTING = {
    "vectors": "the corpus against the core",
    "special": "core.special by way of policy",
    "builds": "the compiled build against the interpreted one",
    "blackbox": "the program between two sockets",
    "bench": "the measurements in bench/",
    "fuzz": "the targets in fuzz/",
    "repository": "this file",
}
# Modules of the standard library that cost every VM megabytes and milliseconds.
TOO_HEAVY = {"asyncio", "dataclasses", "ipaddress", "logging", "pathlib", "subprocess", "tempfile", "urllib"}


def ids(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> Iterator[str]:
    """The modules that a file imports, wherever in it the statement stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            module = node.module or ""
            yield module
            if module == "softnet" or (PACKAGE.joinpath(*module.split(".")[1:])).is_dir():
                yield from (f"{module}.{name.name}" for name in node.names)


def rooms_imported(path: Path) -> set[str]:
    modules = [name.split(".") for name in imported(ast.parse(path.read_text()))]
    return {parts[1] for parts in modules if parts[0] == "softnet" and len(parts) > 1} - {"__version__"}


@pytest.mark.parametrize("path", SOURCES, ids=ids(SOURCES))
def test_imports_go_one_way(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        assert rooms_imported(path) == set()
        return
    assert room in RANK, f"say in tests/unit/test_repository.py where {room} stands"
    for other in rooms_imported(path):
        assert other == room or RANK[other] < RANK[room], f"{room} imports {other}"


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if room_of(path) == "core"], ids=lambda path: path.stem
)
def test_the_core_has_no_socket_clock_log_or_thread(path: Path) -> None:
    allowed = {"softnet", "array", "mmap", "collections", "typing", "struct", "bisect", "heapq"}
    assert {name.split(".")[0] for name in imported(ast.parse(path.read_text()))} <= allowed


@pytest.mark.parametrize("path", SOURCES, ids=ids(SOURCES))
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), "no docstring"


@pytest.mark.parametrize("path", SOURCES, ids=ids(SOURCES))
def test_no_file_is_too_long_to_read_in_a_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", SOURCES, ids=ids(SOURCES))
def test_no_python_file_knows_cython(path: Path) -> None:
    assert not {"cython", "Cython"} & {name.split(".")[0] for name in imported(ast.parse(path.read_text()))}


def test_every_pxd_has_the_python_file_that_it_types() -> None:
    for declarations in PACKAGE.rglob("*.pxd"):
        partner = declarations.with_suffix(".py")
        native = any(PACKAGE.rglob(f"*/{declarations.stem}.pyx")) or "extern" in declarations.read_text()
        assert partner.exists() or native, declarations


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return listed.stdout.splitlines()


@pytest.mark.parametrize("path", TYPED, ids=ids(TYPED))
def test_large_numbers_have_names_where_frames_are_judged(path: Path) -> None:
    """Cython takes a literal of more than 31 bits for a Python object, and reckons with it in Python."""
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    literals = [
        f"{node.value:#x} in line {node.lineno}"
        for function in functions
        for node in ast.walk(function)
        if isinstance(node, ast.Constant) and isinstance(node.value, int) and node.value > 0x7FFFFFFF
    ]
    assert literals == []


def test_nothing_built_is_kept() -> None:
    built = re.compile(r"\.(so|o|c|pyc|html)$|^build/|\.egg-info/")
    assert [name for name in tracked() if name.startswith("src/") and built.search(name)] == []


def modules() -> set[str]:
    """The names a test file may begin with: modules and packages, with and without their package."""
    names = set(CROSS_CUTTING)
    for path in SOURCES:
        parts = [part for part in path.relative_to(PACKAGE).with_suffix("").parts if part != "__init__"]
        names |= {"_".join(parts[at:]) for at in range(len(parts))}
    return {name.strip("_") for name in names if name}


@pytest.mark.parametrize("kind", ["unit", "property"])
def test_test_files_are_named_after_what_they_test(kind: str) -> None:
    known = modules()
    for path in sorted((ROOT / "tests" / kind).glob("test_*.py")):
        words = path.stem.removeprefix("test_").split("_")
        begun = {"_".join(words[:count]) for count in range(1, len(words) + 1)}
        assert begun & known, f"{path.name} is named after no module"


def test_reasons_have_a_code_a_name_and_a_sentence_of_their_own() -> None:
    assert len(reasons.BY_CODE) == len(reasons.BY_NAME) == len(reasons.REASONS)
    assert len({reason.sentence for reason in reasons.REASONS}) == len(reasons.REASONS)
    for reason in reasons.REASONS:
        assert reason.passes == reason.name.startswith("pass-")
        assert reason.code < reasons.REASON_LIMIT < reasons.UNJUDGED


@pytest.mark.parametrize("name", sorted(reasons.BY_NAME))
def test_every_reason_is_in_the_docs_and_in_a_test(name: str) -> None:
    pages = " ".join(path.read_text() for path in (ROOT / "docs").rglob("*.md"))
    assert f"`{name}`" in pages, "no page says what it means"
    constant = name.upper().replace("-", "_")
    spelled = re.compile(rf"""["']{re.escape(name)}["']|\b{constant}\b""")
    tests = [path for path in (ROOT / "tests").rglob("*") if path.suffix in (".py", ".jsonl")]
    assert any(spelled.search(path.read_text()) for path in tests if path != Path(__file__)), (
        "no test produces it"
    )


def test_the_runtime_path_imports_nothing_heavy() -> None:
    """What `softnet --vm-fd` loads before it opens an uplink, beyond what the interpreter has at start."""
    program = (
        "import json, sys; before = set(sys.modules); import softnet.cli.serve; "
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    ran = subprocess.run(
        [sys.executable, "-S", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert TOO_HEAVY & set(json.loads(ran.stdout)) == set()
