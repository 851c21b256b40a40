"""Which Softnet this is: its version, and whether its core runs compiled or interpreted."""

import sys

import softnet
from softnet.core import filter as core_filter


def is_compiled() -> bool:
    return not str(core_filter.__file__).endswith(".py")


def version_line() -> str:
    build = "compiled" if is_compiled() else "interpreted"
    python = ".".join(str(part) for part in sys.version_info[:3])
    return f"softnet {softnet.__version__} ({build} core, Python {python}, {sys.platform})"
