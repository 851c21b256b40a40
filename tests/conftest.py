"""Skips that say why: tests marked `root` need root, tests marked `mac` a Mac (or VMNET_TWIN, its twin)."""

import os
import sys

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    not_root = pytest.mark.skip(reason="needs root: run as root, or see `make test`")
    not_linux = pytest.mark.skip(reason="needs Linux network namespaces")
    not_mac = pytest.mark.skip(reason="needs a Mac, as root: `pytest -m mac`")
    has_vmnet = (sys.platform == "darwin" or "VMNET_TWIN" in os.environ) and os.geteuid() == 0
    for item in items:
        if "mac" in item.keywords and not has_vmnet:
            item.add_marker(not_mac)
        if "root" in item.keywords and not sys.platform.startswith("linux"):
            item.add_marker(not_linux)
        elif "root" in item.keywords and os.geteuid() != 0:
            item.add_marker(not_root)
