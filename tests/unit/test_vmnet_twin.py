"""The twin itself, and what the whole uplink loads.

A C client with a compiler's own blocks drives the twin: what it proves is the twin, so that the tests
of the binding stand on something that is not the binding.
"""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from twin import support

SOURCE = Path(__file__).parents[2] / "src" / "softnet"


def test_a_compilers_blocks_drive_the_twin(tmp_path: Path) -> None:
    environment = os.environ | {"TWIN_ANYUID": "1", "TWIN_WIRE": f"unix:{tmp_path}/wire"}
    client = support.folder() / "client"
    done = subprocess.run([client, tmp_path], env=environment, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout) == (0, "read 5, live xpc objects 0\n"), done.stderr


@pytest.mark.parametrize(
    ("misuse", "said"),
    [
        ("system.xpc_release(None)", "NULL object"),
        ("d = make(); system.xpc_release(d); system.xpc_release(d)", "object used after release"),
        ("system.xpc_array_get_count(make())", "object of the wrong type"),
    ],
)
def test_the_twin_aborts_on_misuse(misuse: str, said: str) -> None:
    program = f"""
import ctypes, sys
system = ctypes.CDLL(sys.argv[1])
for name in ("xpc_release", "xpc_array_get_count"):
    getattr(system, name).argtypes = [ctypes.c_void_p]
system.xpc_dictionary_create.restype = ctypes.c_void_p
make = lambda: system.xpc_dictionary_create(None, None, ctypes.c_size_t(0))
{misuse}
"""
    command = [sys.executable, "-c", program, str(support.folder() / "libtwinsystem.so")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == -6
    assert said in done.stderr


def imports(path: Path) -> set[str]:
    """Every module that a file names in an import, wherever in the file that is."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def file_of(name: str) -> Path | None:
    path = SOURCE.parent / name.replace(".", "/")
    candidates = (path / "__init__.py", path.with_suffix(".py"))
    return next((each for each in candidates if each.exists()), None)


def closure(waiting: list[str]) -> dict[str, Path]:
    """All of softnet that these modules import, lazily or not, with the packages around them."""
    seen: dict[str, Path] = {}
    while waiting:
        name = waiting.pop()
        file = file_of(name)
        if name in seen or file is None:
            continue
        seen[name] = file
        waiting += [each for each in imports(file) if each.startswith("softnet")]
        waiting += [name.rpartition(".")[0]] if "." in name else []
    return seen


def test_the_uplink_needs_nothing_of_linux() -> None:
    own = [f"softnet.uplinks.vmnet.{file.stem}" for file in (SOURCE / "uplinks" / "vmnet").glob("*.py")]
    needed = closure([*own, "softnet.uplinks.vmnet"])
    assert len(needed) > len(own)
    for name in needed:
        if name.startswith(("softnet.uplinks.", "softnet.links.")):
            assert name.startswith(("softnet.uplinks.vmnet", "softnet.uplinks.bootpd"))
    outside = {each.partition(".")[0] for file in needed.values() for each in imports(file)} - {"softnet"}
    assert outside <= sys.stdlib_module_names


def test_linux_loads_nothing_of_vmnet() -> None:
    """The command line, and every uplink of Linux, loaded for real."""
    program = """
import sys, importlib, importlib.util
names = ["softnet.cli", "softnet.uplinks.select"]
names += [f"softnet.uplinks.{name}" for name in ("nat", "bridge", "user", "attach")]
for name in names:
    if importlib.util.find_spec(name):
        importlib.import_module(name)
print(*(name for name in sys.modules if "vmnet" in name or "bootpd" in name))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_a_mac_loads_nothing_of_linux() -> None:
    """With the platform's name changed before anything is imported, the uplink loads its own alone."""
    program = """
import sys
before = set(sys.modules)
sys.platform = "darwin"
import softnet.uplinks.vmnet
loaded = [name for name in set(sys.modules) - before if name.startswith("softnet")]
print(*sorted(name for name in loaded if "uplinks." in name or "links." in name))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    own = ["api", "batch", "blocks", "host", "interface", "link", "ports", "rules", "wakeup"]
    expected = [
        "softnet.uplinks.bootpd",
        "softnet.uplinks.vmnet",
        *(f"softnet.uplinks.vmnet.{n}" for n in own),
    ]
    assert done.stdout.split() == sorted(expected)
