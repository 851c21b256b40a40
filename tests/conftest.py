"""Skips that say why: tests marked `root` need root, tests marked `mac` a Mac (or VMNET_TWIN, its twin).

And what tests have to run one after the other where several processes share them.
"""

import os
import sys

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    not_root = pytest.mark.skip(reason="needs root: run as root, or see `make test`")
    not_linux = pytest.mark.skip(reason="needs Linux network namespaces")
    not_mac = pytest.mark.skip(reason="needs a Mac, as root: `pytest -m mac`")
    has_vmnet = (sys.platform == "darwin" or "VMNET_TWIN" in os.environ) and os.geteuid() == 0
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
        if "mac" in item.keywords and not has_vmnet:
            item.add_marker(not_mac)
        if "root" in item.keywords and not sys.platform.startswith("linux"):
            item.add_marker(not_linux)
        elif "root" in item.keywords and os.geteuid() != 0:
            item.add_marker(not_root)


def _group(item: pytest.Item) -> str:
    """What one process runs: a file, or all files that boot VMs, or all that build the package.

    A file's fixtures are made once; VMs under emulation, or builds in one checkout, disturb each other.
    """
    if "vm" in item.keywords:
        return "vm"
    return "build" if item.path.stem.startswith(("test_build", "test_install")) else item.path.stem
