"""Blocks and completions on the twin's dispatch: nothing freed, nothing raised, nothing confused."""

import ctypes
import threading
from collections.abc import Iterator
from ctypes import c_uint32, c_void_p
from pathlib import Path

import pytest

from softnet.errors import UplinkError
from softnet.uplinks.vmnet import api as vmnet
from softnet.uplinks.vmnet.api import Api
from softnet.uplinks.vmnet.blocks import STATUS_SIGNATURE, Block, Completion, _Literal
from softnet.uplinks.vmnet.interface import Interface
from twin import support


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    monkeypatch.setenv("VMNET_TWIN", str(support.folder()))
    return vmnet.load()


@pytest.fixture
def interface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Interface]:
    with support.wire(tmp_path, monkeypatch):
        made = Interface(vmnet.SHARED_MODE, True)
        yield made
        made.stop()


def test_the_literal_is_a_global_block_with_a_signature(api: Api) -> None:
    literal = _Literal.from_address(Block(api, STATUS_SIGNATURE, [c_uint32], print)._as_parameter_)
    assert literal.flags == 0x50000000
    assert literal.isa == api.global_block
    assert literal.reserved == 0
    descriptor = literal.descriptor.contents
    assert (descriptor.reserved, descriptor.size, descriptor.signature) == (0, 32, b"v@?I")


def test_the_runtime_neither_copies_nor_frees_it(api: Api) -> None:
    system = ctypes.CDLL(str(support.folder() / "libtwinsystem.so"))  # finds what it is linked with
    system._Block_copy.restype, system._Block_copy.argtypes = c_void_p, [c_void_p]
    system._Block_release.argtypes = [c_void_p]
    block = Block(api, STATUS_SIGNATURE, [c_uint32], print)
    assert system._Block_copy(block._as_parameter_) == block._as_parameter_
    system._Block_release(block._as_parameter_)
    system._Block_release(block._as_parameter_)


def test_thirty_thousand_answers_through_one_block(interface: Interface) -> None:
    """A block that was freed, or made anew and dropped a call, does not survive this."""
    completion = Completion(interface.api, b"v@?@", [c_void_p], 5.0, lambda rules: rules is None)
    get = interface.api.vmnet_interface_get_ip_port_forwarding_rules
    blocks = len(Block._immortal)
    for _ in range(30_000):
        assert completion.call("get", lambda block: get(interface.ref, vmnet.AF_INET, block)) == (
            vmnet.SUCCESS,
            True,
        )
    assert len(Block._immortal) == blocks


def test_a_call_that_was_not_accepted_is_not_waited_for(api: Api) -> None:
    completion = Completion(api, STATUS_SIGNATURE, [c_uint32], 60.0)
    assert completion.call("x", lambda block: vmnet.FAILURE) == (vmnet.FAILURE, None)


def answer(api: Api, block: Block, status: int) -> threading.Thread:
    """What a dispatch thread does with a block: calls its invoke function with the block itself."""
    literal = _Literal.from_address(block._as_parameter_)
    invoke = ctypes.CFUNCTYPE(None, c_void_p, c_uint32)(literal.invoke)
    thread = threading.Thread(target=invoke, args=(block._as_parameter_, status))
    thread.start()
    return thread


def test_an_exception_in_a_handler_reaches_the_caller(api: Api) -> None:
    def convert(_status: int) -> None:
        raise LookupError("in the handler")

    completion = Completion(api, STATUS_SIGNATURE, [c_uint32], 5.0, convert)

    def start(block: Block) -> int:
        answer(api, block, 7).join()
        return vmnet.SUCCESS

    with pytest.raises(LookupError, match="in the handler"):
        completion.call("x", start)


def test_a_late_answer_is_not_taken_for_the_next_one(api: Api) -> None:
    completion = Completion(api, STATUS_SIGNATURE, [c_uint32], 0.05)
    late: list[Block] = []

    def forget(block: Block) -> int:
        late.append(block)
        return vmnet.SUCCESS

    with pytest.raises(UplinkError, match=r"^vmnet_x: vmnet did not answer within 0\.05 s$"):
        completion.call("vmnet_x", forget)
    answer(api, late[0], vmnet.FAILURE).join()

    def start(block: Block) -> int:
        answer(api, block, 42)
        return vmnet.SUCCESS

    assert completion.call("x", start) == (vmnet.SUCCESS, 42)
