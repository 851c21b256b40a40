"""The same source twice in one process: what is installed, and the plain Python of `src` under another name.

`interpreted("core.filter")` is `src/softnet/core/filter.py` run by the interpreter as
`softnet_interpreted.core.filter`, with every import inside the package led to its own kind. Both
builds can then be fed the same and compared.
"""

import importlib
import re
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType

SOURCE = Path(__file__).parents[2] / "src" / "softnet"
NAME = "softnet_interpreted"
_IMPORT = re.compile(r"^(\s*(?:from|import)\s+)softnet\b", re.MULTILINE)


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        """Compiles the source with its imports renamed; never from or to a cache of byte code."""
        source = Path(self.path).read_text()
        return compile(_IMPORT.sub(rf"\1{NAME}", source), self.path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, *rest = fullname.split(".")
        if package != NAME:
            return None
        place = SOURCE.joinpath(*rest)
        inside = [str(place)] if place.is_dir() else None
        file = place / "__init__.py" if inside else place.with_suffix(".py")
        if not file.exists():
            return None
        loader = _Loader(fullname, str(file))
        return spec_from_file_location(fullname, file, loader=loader, submodule_search_locations=inside)


def interpreted(module: str) -> ModuleType:
    """The module of `src` with this name (`core.filter`), always as plain Python."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    return importlib.import_module(f"{NAME}.{module}")


def installed(module: str) -> ModuleType:
    return importlib.import_module(f"softnet.{module}")


def is_compiled(module: ModuleType) -> bool:
    return not str(module.__file__).endswith(".py")
