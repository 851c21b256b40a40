"""A vmnet interface from start to stop.

    start      handler: status and parameters     root, or a failure that does not say why
    listen     set_event_callback                 from here on a callback may be held back
    read, write, rules                            any user
    stop       1 no more callbacks, 2 let the one that is held back go, 3 stop_interface,
               4 wait for its handler, 5 give the queues and the wake-up back

The order of a stop is not free: with a callback held back, step 3 before step 2 waits for ever, and
before step 1 another callback may follow. It also runs when the interpreter ends, because a callback
into an interpreter that is being torn down kills the process. After `kill -9` macOS cleans up by itself.

Two serial queues: handlers of start and stop must not wait behind a callback that is held back.
All calls are made from one thread.
"""

import atexit
import os
from contextlib import suppress
from ctypes import byref, c_int, c_uint32, c_void_p
from typing import Any, NamedTuple

from softnet.core.address import parse_ipv4
from softnet.errors import LinkClosed, UplinkError
from softnet.uplinks.vmnet import api as vmnet
from softnet.uplinks.vmnet.api import Api, VmnetError, check
from softnet.uplinks.vmnet.batch import PacketTable
from softnet.uplinks.vmnet.blocks import STATUS_OBJECT_SIGNATURE, STATUS_SIGNATURE, Block, Completion
from softnet.uplinks.vmnet.wakeup import Wakeup

START_TIMEOUT = 30.0  # InternetSharing may have to bring a network up
STOP_TIMEOUT = 5.0
_TYPES = (c_uint32, c_void_p)


class Parameters(NamedTuple):
    """What vmnet says about a started interface. `gateway` is the first address of its network."""

    gateway: int
    mtu: int
    max_packet_size: int
    read_max_packets: int
    write_max_packets: int


class Interface:
    """Started by its constructor, which undoes everything when it fails; `stop` is idempotent."""

    def __init__(self, mode: int, isolated: bool, mtu: int | None = None, api: Api | None = None) -> None:
        self.api = api = api or vmnet.load()
        self.ref: int | None = None
        self._count = c_int()
        self._wakeup = Wakeup()
        self._queue = api.dispatch_queue_create(b"softnet.vmnet", None)
        self._events = api.dispatch_queue_create(b"softnet.vmnet.events", None)
        self._stopped = Completion(api, STATUS_SIGNATURE, [c_uint32], STOP_TIMEOUT)
        try:
            self.ref, raw = self._start(mode, isolated, mtu)
            atexit.register(self._stop_at_exit)
            self.parameters = _parameters(raw)
            self._listen()
        except BaseException:
            self._stop_at_exit()
            raise

    def _start(self, mode: int, isolated: bool, mtu: int | None) -> tuple[int, dict[str, Any]]:
        api = self.api
        started = Completion(api, STATUS_OBJECT_SIGNATURE, _TYPES, START_TIMEOUT, self._read_parameters)
        wanted = api.xpc_dictionary_create(None, None, 0)
        try:
            api.xpc_dictionary_set_uint64(wanted, api.keys["operation_mode"], mode)
            api.xpc_dictionary_set_bool(wanted, api.keys["enable_isolation"], isolated)
            if mtu is not None:
                api.xpc_dictionary_set_uint64(wanted, api.keys["mtu"], mtu)
            ref, answer = started.call(
                "vmnet_start_interface",
                lambda block: api.vmnet_start_interface(wanted, self._queue, block),
                lambda ref: ref is not None,
            )
        finally:
            api.xpc_release(wanted)
        status, parameters = answer or (vmnet.FAILURE, {})  # NULL: a handler that runs has no more to say
        if ref is None or status != vmnet.SUCCESS:
            raise VmnetError("vmnet_start_interface", status, root_remedy())
        return ref, parameters

    def _read_parameters(self, status: int, parameters: int | None) -> tuple[int, dict[str, Any]]:
        """Inside the handler, where the dictionary may be looked at; NULL when the start failed."""
        api, keys = self.api, self.api.keys
        if not parameters:
            return status, {}
        numbers = ("mtu", "max_packet_size", "read_max_packets", "write_max_packets")
        found = {key: api.xpc_dictionary_get_uint64(parameters, keys[key]) for key in numbers if key in keys}
        found["start_address"] = api.xpc_dictionary_get_string(parameters, keys["start_address"])
        return status, found

    def _listen(self) -> None:
        wakeup = self._wakeup
        block = Block(self.api, STATUS_OBJECT_SIGNATURE, _TYPES, lambda _mask, _event: wakeup.callback())
        status = self.api.vmnet_interface_set_event_callback(
            self.ref, vmnet.PACKETS_AVAILABLE, self._events, block
        )
        check("vmnet_interface_set_event_callback", status)

    def fileno(self) -> int:
        """Readable when frames may be waiting."""
        return self._wakeup.fileno()

    def read(self, table: PacketTable) -> int:
        """Fills the table's slots, as many as there are frames; 0 re-arms the wake-up. Never blocks."""
        self._running()
        self._wakeup.consume()
        table.reset()
        self._count.value = table.capacity
        check("vmnet_read", self.api.vmnet_read(self.ref, table.descriptors, byref(self._count)))
        count = self._count.value
        if count == 0:
            self._wakeup.rearm()
        return count

    def write(self, table: PacketTable, first: int, count: int) -> tuple[int, int]:
        """Writes `count` descriptors from `first`; the status, and how many vmnet took."""
        self._running()
        self._count.value = count
        status = self.api.vmnet_write(self.ref, table.descriptors[first], byref(self._count))
        taken = self._count.value
        if status != vmnet.SUCCESS and taken >= count:
            taken = 0  # a refusal that left the count alone
        return status, max(0, min(taken, count))

    @property
    def running(self) -> bool:
        return self.ref is not None

    def _running(self) -> None:
        if self.ref is None:
            raise LinkClosed("the vmnet interface is stopped")

    def stop(self) -> None:
        """Every step is taken; the first that fails is raised at the end."""
        ref, self.ref = self.ref, None
        if ref is not None:
            atexit.unregister(self._stop_at_exit)
            try:
                self._stop(ref)
            finally:
                self._release()

    def _stop(self, ref: int) -> None:
        api = self.api
        cleared = api.vmnet_interface_set_event_callback(ref, vmnet.PACKETS_AVAILABLE, None, None)
        self._wakeup.let_go()
        accepted, stopped = self._stopped.call(
            "vmnet_stop_interface", lambda block: api.vmnet_stop_interface(ref, self._queue, block)
        )
        check("vmnet_stop_interface", accepted if stopped is None else stopped)
        check("vmnet_interface_set_event_callback", cleared)

    def _release(self) -> None:
        self._wakeup.close()
        self.api.dispatch_release(self._queue)
        self.api.dispatch_release(self._events)

    def _stop_at_exit(self) -> None:
        """For the paths on which an error is already on its way, or nobody is left to hear of one."""
        if self.ref is None:
            self._release()
            return
        with suppress(UplinkError):
            self.stop()


def root_remedy() -> str:
    """Said from the effective user, because vmnet's status does not tell why a start failed."""
    return "" if os.geteuid() == 0 else "vmnet needs root: run softnet with sudo"


def _parameters(raw: dict[str, Any]) -> Parameters:
    for key in ("start_address", "mtu", "max_packet_size"):
        if not raw.get(key):
            raise UplinkError(f"vmnet_start_interface: the interface came without its {key}")
    text = raw["start_address"].decode(errors="replace")
    try:
        gateway = parse_ipv4(text)
    except ValueError:
        raise UplinkError(f"vmnet_start_interface: {text!r} is no address for a gateway") from None
    return Parameters(
        gateway,
        raw["mtu"],
        raw["max_packet_size"],
        raw.get("read_max_packets") or vmnet.DEFAULT_MAX_PACKETS,
        raw.get("write_max_packets") or vmnet.DEFAULT_MAX_PACKETS,
    )
