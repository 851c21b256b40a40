"""Blocks, Apple's closures, made by hand around Python callables.

The layout is the Block ABI's, and what a compiler emits for a block that captures nothing: a *global*
block, which the runtime neither copies nor frees. Three rules keep it sound:

- A block is never freed. Its dispatch thread may still be in the trampoline's tail when Python learns
  that the call was made; freeing it then is a crash. So blocks are few and reused.
- What a handler is given is borrowed: it reads values out while it runs, and no pointer leaves it.
- A handler never raises into the thread that called it: an exception travels as a value.
"""

import ctypes
from collections.abc import Callable, Sequence
from ctypes import POINTER, Structure, addressof, c_char_p, c_int, c_size_t, c_void_p, sizeof
from queue import Empty, SimpleQueue
from typing import Any

from softnet.errors import UplinkError
from softnet.uplinks.vmnet.api import SUCCESS, Api

IS_GLOBAL = 1 << 28
HAS_SIGNATURE = 1 << 30

STATUS_SIGNATURE = b"v@?I"  # void (^)(uint32_t), in Objective-C's type encoding
STATUS_OBJECT_SIGNATURE = b"v@?I@"  # void (^)(uint32_t, object)
OBJECT_SIGNATURE = b"v@?@"  # void (^)(object)


class _Descriptor(Structure):
    _fields_ = (("reserved", c_size_t), ("size", c_size_t), ("signature", c_char_p), ("layout", c_void_p))


class _Literal(Structure):
    _fields_ = (
        ("isa", c_void_p),
        ("flags", c_int),
        ("reserved", c_int),
        ("invoke", c_void_p),
        ("descriptor", POINTER(_Descriptor)),
    )


class Block:
    """`function` as a block; ctypes passes it wherever a prototype takes one."""

    _immortal: list["Block"] = []  # noqa: RUF012

    def __init__(
        self, api: Api, signature: bytes, types: Sequence[Any], function: Callable[..., None]
    ) -> None:
        self._invoke = ctypes.CFUNCTYPE(None, c_void_p, *types)(lambda _block, *rest: function(*rest))
        self._descriptor = _Descriptor(0, sizeof(_Literal), signature, None)
        self._literal = _Literal(
            api.global_block,
            IS_GLOBAL | HAS_SIGNATURE,
            0,
            ctypes.cast(self._invoke, c_void_p),
            ctypes.pointer(self._descriptor),
        )
        self._as_parameter_ = addressof(self._literal)
        self._immortal.append(self)


def is_success(status: Any) -> bool:
    return bool(status == SUCCESS)


class Completion:
    """One completion block, used for one call at a time by one thread.

    `convert` runs inside the handler and makes a value of its arguments. After a time-out the block is
    replaced, so that a late answer cannot be taken for that of the next call.
    """

    def __init__(
        self,
        api: Api,
        signature: bytes,
        types: Sequence[Any],
        timeout: float,
        convert: Callable[..., Any] = lambda value: value,
    ) -> None:
        self._api, self._signature, self._types = api, signature, types
        self._timeout, self._convert = timeout, convert
        self._renew()

    def _renew(self) -> None:
        answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        convert = self._convert

        def handler(*arguments: Any) -> None:
            try:
                answers.put((convert(*arguments), None))
            except BaseException as error:
                answers.put((None, error))

        self._block, self._answers = Block(self._api, self._signature, self._types, handler), answers

    def call(
        self, name: str, start: Callable[[Block], Any], accepted: Callable[[Any], bool] = is_success
    ) -> tuple[Any, Any]:
        """What `start(block)` returned, and what the handler was told: None if the call was not accepted.

        Only an accepted call is waited for: the others may never run their handler.
        """
        result = start(self._block)
        if not accepted(result):
            return result, None
        try:
            value, error = self._answers.get(timeout=self._timeout)
        except Empty:
            self._renew()
            raise UplinkError(f"{name}: vmnet did not answer within {self._timeout:g} s") from None
        if error is not None:
            raise error
        return result, value
