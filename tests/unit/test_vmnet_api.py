"""The declarations of the vmnet binding, its loader, and its errors. No library is called."""

import ctypes
import os
import sys
from pathlib import Path

import pytest

from softnet.errors import ConfigError, UplinkError
from softnet.uplinks.vmnet import api
from softnet.uplinks.vmnet.api import Iovec, PacketDescriptor, VmnetError


def test_the_structures_have_the_layout_of_arm64_and_x86_64_macos() -> None:
    offsets = [getattr(PacketDescriptor, name).offset for name, _type in PacketDescriptor._fields_]
    assert offsets == [0, 8, 16, 20]
    assert ctypes.sizeof(PacketDescriptor) == 24
    assert [Iovec.iov_base.offset, Iovec.iov_len.offset, ctypes.sizeof(Iovec)] == [0, 8, 16]


def test_the_numbers_are_darwins() -> None:
    assert (api.AF_INET, api.IPPROTO_TCP, api.IPPROTO_UDP) == (2, 6, 17)
    assert sorted(api.STATUS_NAMES) == list(range(1000, 1011))


def test_every_prototype_has_known_types() -> None:
    for result, name, parameters in api.declarations():
        api.c_type(result)
        assert name.startswith(("xpc_", "dispatch_", "vmnet_"))
        assert all(api.c_type(parameter) for parameter in parameters)


def test_off_macos_there_is_no_vmnet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("VMNET_TWIN", raising=False)
    with pytest.raises(ConfigError, match=r"^--uplink vmnet: exists only on macOS; use nat, "):
        api.load()


def test_a_twin_is_looked_for_off_macos_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VMNET_TWIN", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert all(path.startswith(str(tmp_path)) for path in api.library_paths())
    monkeypatch.setattr(sys, "platform", "darwin")
    assert api.library_paths() == [api.FRAMEWORK, api.LIBSYSTEM]


def test_a_library_that_cannot_be_loaded_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VMNET_TWIN", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(UplinkError, match=r"^vmnet: .*libtwinvmnet\.so") as caught:
        api.load()
    assert "\n" not in str(caught.value)


def test_a_symbol_that_is_missing_is_named() -> None:
    with pytest.raises(
        UplinkError, match=r"^vmnet: this system has no xpc_dictionary_create; Softnet needs macOS 11"
    ):
        api.Api([ctypes.CDLL(None)])


def test_an_error_names_the_call_and_the_status() -> None:
    error = VmnetError("vmnet_write", api.BUFFER_EXHAUSTED)
    assert str(error) == "vmnet_write: VMNET_BUFFER_EXHAUSTED (1007)"
    assert error.status == 1007
    assert isinstance(error, UplinkError)
    assert isinstance(error, OSError)
    assert str(VmnetError("vmnet_read", 4711, "do this")) == "vmnet_read: unknown status (4711); do this"
    api.check("vmnet_read", api.SUCCESS)
    with pytest.raises(VmnetError, match=r"^vmnet_read: VMNET_FAILURE \(1001\)$"):
        api.check("vmnet_read", api.FAILURE)


def test_the_environment_is_not_needed_on_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delenv("VMNET_TWIN", raising=False)
    assert "VMNET_TWIN" not in os.environ
    assert api.library_paths()[0].startswith("/System/Library/")
