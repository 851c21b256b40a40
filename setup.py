"""Compiles `core` (and the batched socket calls) where Cython and a C compiler are at hand.

A compiled module is an ordinary Python file with a sibling `.pxd` that types it; without a compiler
the same file is installed as it is. The one `.pyx` (system calls that Python has no name for) has
a Python twin, which is used where it is missing. SOFTNET_COMPILE=0 asks for the plain build.
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

ROOT = Path("src/softnet")
SOURCES = sorted(path.with_suffix(".py") for path in ROOT.rglob("*.pxd")) + sorted(ROOT.rglob("*.pyx"))
DIRECTIVES = {"language_level": 3, "annotation_typing": False, "cdivision": True}


def extensions() -> list[Extension]:
    if os.environ.get("SOFTNET_COMPILE") == "0":
        return []
    try:
        from Cython.Build import cythonize
    except ImportError:
        return []
    modules = [
        Extension(
            ".".join(path.with_suffix("").parts[1:]),
            [str(path)],
            extra_compile_args=["-O2", "-g0"],
        )
        for path in SOURCES
        if path.exists()
    ]
    return cythonize(modules, compiler_directives=DIRECTIVES, build_dir="build/cython")


class CompileAllOrNothing(build_ext):
    """Compiled modules call each other in C: where one cannot be built, none is installed."""

    def run(self) -> None:
        try:
            super().run()
        except (BaseError, CCompilerError) as error:
            print(f"softnet: not compiled ({error}); installing the interpreted build", file=sys.stderr)
            for built in map(Path, self.get_outputs()):
                built.unlink(missing_ok=True)
            self.extensions = []


setup(
    ext_modules=extensions(),
    cmdclass={"build_ext": CompileAllOrNothing},
    options={"build_ext": {"parallel": os.cpu_count() or 1}},
)
