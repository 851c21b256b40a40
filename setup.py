"""Compiles `core` (and the batched socket calls) where Cython and a C compiler are at hand.

A compiled module is an ordinary Python file with a sibling `.pxd` that types it; without a compiler
the same file is installed as it is. The one `.pyx` (system calls that Python has no name for) has
a Python twin, which is used where it is missing. SOFTNET_COMPILE=0 asks for the plain build.
"""

import os
from pathlib import Path

from setuptools import Extension, setup

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
            optional=True,
        )
        for path in SOURCES
        if path.exists()
    ]
    return cythonize(modules, compiler_directives=DIRECTIVES, build_dir="build/cython")


setup(ext_modules=extensions(), options={"build_ext": {"parallel": os.cpu_count() or 1}})
