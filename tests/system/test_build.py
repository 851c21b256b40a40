"""`pip install .` without a C compiler: the same program, interpreted, and it says so."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def wheel(folder: Path, **environment: str) -> Path:
    """The wheel of a copy of this checkout, built in `folder` with the tools of this environment."""
    source = folder / "source"
    source.mkdir()
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
    ]
    subprocess.run([*build, str(source)], check=True, env=os.environ | environment, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.mark.parametrize(
    "environment", [{"CC": "/bin/false"}, {"SOFTNET_COMPILE": "0"}], ids=["broken", "asked"]
)
def test_without_a_compiler(tmp_path: Path, environment: dict[str, str]) -> None:
    pytest.importorskip("Cython", reason="needs Cython in this environment")
    built = wheel(tmp_path, **environment)
    with zipfile.ZipFile(built) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".so")]
        archive.extractall(tmp_path / "installed")
    command = [sys.executable, "-m", "softnet", "--version"]
    installed = {"PYTHONPATH": str(tmp_path / "installed"), "PATH": os.defpath}
    said = subprocess.run(command, cwd=tmp_path, env=installed, capture_output=True, text=True, check=True)
    assert "(interpreted core, " in said.stdout
