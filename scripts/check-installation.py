"""Refuses an installation that others than root could change, before anything may run it as root.

Run by the installed interpreter itself: `check-installation.py PREFIX`. Judges every file of the
prefix and all that this interpreter loads, with every extension module of the standard library that
Softnet or error reporting may ever import.
"""

import contextlib
import importlib
import os
import sys

from softnet.privilege import installation

EVERYTHING = (
    "_bz2 _ctypes _hashlib _json _lzma _posixsubprocess _queue _socket _ssl pyexpat resource select zlib"
)


def main(prefix: str) -> None:
    for name in EVERYTHING.split():
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    files = [os.path.join(folder, name) for folder, _, names in os.walk(prefix) for name in names]
    folders = [folder for folder, _, _ in os.walk(prefix)]
    code = [path for path in installation.running_code() if path != os.path.abspath(sys.argv[0])]
    unsafe = installation.first_unsafe([*folders, *files, *code], installation.changeable_by_others)
    if unsafe is not None:
        sys.exit(
            f"install.sh: {unsafe} can be changed by others than root; choose another --python or --prefix, "
            "or try --copy-python"
        )


main(sys.argv[1])
