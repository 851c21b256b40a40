"""The functions and keys of vmnet.framework that Softnet calls, bound through ctypes.

The C text in PROTOTYPES is the only declaration of a signature: the binding derives its ctypes types
from it, and the tests compile the same text against Apple's own headers. Keys are exported
variables; their text is read from the symbols and is never spelled here. Every constant is Darwin's,
whatever the `socket` module of the machine says.

Off macOS, the folder that VMNET_TWIN names may hold a twin of the framework (tests/twin).
"""

import ctypes
import os
import sys
from ctypes import POINTER, c_bool, c_char_p, c_int, c_size_t, c_uint8, c_uint16, c_uint32, c_uint64, c_void_p
from typing import TYPE_CHECKING, Any

from softnet.errors import ConfigError, UplinkError

PROTOTYPES = """
xpc_object_t xpc_dictionary_create(const char * const *, const xpc_object_t *, size_t);
void xpc_dictionary_set_uint64(xpc_object_t, const char *, uint64_t);
void xpc_dictionary_set_bool(xpc_object_t, const char *, bool);
uint64_t xpc_dictionary_get_uint64(xpc_object_t, const char *);
const char * xpc_dictionary_get_string(xpc_object_t, const char *);
size_t xpc_array_get_count(xpc_object_t);
xpc_object_t xpc_array_get_value(xpc_object_t, size_t);
void xpc_release(xpc_object_t);
dispatch_queue_t dispatch_queue_create(const char *, dispatch_queue_attr_t);
void dispatch_release(dispatch_object_t);
interface_ref vmnet_start_interface(xpc_object_t, dispatch_queue_t, \
vmnet_start_interface_completion_handler_t);
vmnet_return_t vmnet_interface_set_event_callback(interface_ref, interface_event_t, \
dispatch_queue_t, vmnet_interface_event_callback_t);
vmnet_return_t vmnet_read(interface_ref, struct vmpktdesc *, int *);
vmnet_return_t vmnet_write(interface_ref, struct vmpktdesc *, int *);
vmnet_return_t vmnet_stop_interface(interface_ref, dispatch_queue_t, \
vmnet_interface_completion_handler_t);
vmnet_return_t vmnet_interface_add_ip_port_forwarding_rule(interface_ref, uint8_t, uint16_t, \
uint8_t, const void *, uint16_t, vmnet_interface_completion_handler_t);
vmnet_return_t vmnet_interface_remove_ip_port_forwarding_rule(interface_ref, uint8_t, uint16_t, \
uint8_t, vmnet_interface_completion_handler_t);
vmnet_return_t vmnet_interface_get_ip_port_forwarding_rules(interface_ref, uint8_t, \
vmnet_interface_get_ip_port_forwarding_rules_handler_t);
vmnet_return_t vmnet_ip_port_forwarding_rule_get_details(xpc_object_t, uint8_t *, uint16_t *, \
uint8_t, void *, uint16_t *);
"""

KEYS = (
    "operation_mode",
    "enable_isolation",
    "mtu",
    "max_packet_size",
    "start_address",
    "read_max_packets",
    "write_max_packets",
)
NEWER_KEYS = frozenset({"read_max_packets", "write_max_packets"})  # macOS 15
DEFAULT_MAX_PACKETS = 200  # a call, where those keys are missing: Apple's documented limit

HOST_MODE = 1000
SHARED_MODE = 1001
PACKETS_AVAILABLE = 1 << 0
AF_INET = 2
IPPROTO_TCP = 6
IPPROTO_UDP = 17

SUCCESS = 1000
FAILURE = 1001
MEM_FAILURE = 1002
INVALID_ARGUMENT = 1003
SETUP_INCOMPLETE = 1004
INVALID_ACCESS = 1005
PACKET_TOO_BIG = 1006
BUFFER_EXHAUSTED = 1007
TOO_MANY_PACKETS = 1008
SHARING_SERVICE_BUSY = 1009
NOT_AUTHORIZED = 1010

STATUS_NAMES = {
    SUCCESS: "VMNET_SUCCESS",
    FAILURE: "VMNET_FAILURE",
    MEM_FAILURE: "VMNET_MEM_FAILURE",
    INVALID_ARGUMENT: "VMNET_INVALID_ARGUMENT",
    SETUP_INCOMPLETE: "VMNET_SETUP_INCOMPLETE",
    INVALID_ACCESS: "VMNET_INVALID_ACCESS",
    PACKET_TOO_BIG: "VMNET_PACKET_TOO_BIG",
    BUFFER_EXHAUSTED: "VMNET_BUFFER_EXHAUSTED",
    TOO_MANY_PACKETS: "VMNET_TOO_MANY_PACKETS",
    SHARING_SERVICE_BUSY: "VMNET_SHARING_SERVICE_BUSY",
    NOT_AUTHORIZED: "VMNET_NOT_AUTHORIZED",
}

FRAMEWORK = "/System/Library/Frameworks/vmnet.framework/vmnet"
LIBSYSTEM = "/usr/lib/libSystem.B.dylib"


class Iovec(ctypes.Structure):
    """struct iovec"""

    _fields_ = (("iov_base", c_void_p), ("iov_len", c_size_t))


class PacketDescriptor(ctypes.Structure):
    """struct vmpktdesc: 24 bytes, the same on arm64 and x86_64."""

    _fields_ = (
        ("vm_pkt_size", c_size_t),
        ("vm_pkt_iov", POINTER(Iovec)),
        ("vm_pkt_iovcnt", c_uint32),
        ("vm_flags", c_uint32),
    )


C_TYPES: dict[str, Any] = {
    "void": None,
    "bool": c_bool,
    "size_t": c_size_t,
    "uint8_t": c_uint8,
    "uint16_t": c_uint16,
    "uint64_t": c_uint64,
    "int *": POINTER(c_int),
    "uint8_t *": POINTER(c_uint8),
    "uint16_t *": POINTER(c_uint16),
    "const char *": c_char_p,
    "const char * const *": c_void_p,
    "const xpc_object_t *": c_void_p,
    "const void *": c_char_p,
    "void *": c_void_p,
    "struct vmpktdesc *": POINTER(PacketDescriptor),
    "vmnet_return_t": c_uint32,
    "interface_event_t": c_uint32,
    "xpc_object_t": c_void_p,
    "dispatch_queue_t": c_void_p,
    "dispatch_queue_attr_t": c_void_p,
    "dispatch_object_t": c_void_p,
    "interface_ref": c_void_p,
}


class VmnetError(UplinkError, OSError):
    """A call that vmnet refused. Names the call and the status; says no more than is known."""

    def __init__(self, call: str, status: int, remedy: str = "") -> None:
        self.status = status
        name = STATUS_NAMES.get(status, "unknown status")
        super().__init__(f"{call}: {name} ({status})" + (f"; {remedy}" if remedy else ""))


def check(call: str, status: int) -> None:
    if status != SUCCESS:
        raise VmnetError(call, status)


def declarations() -> list[tuple[str, str, list[str]]]:
    """PROTOTYPES as (result, name, parameters), each a piece of C."""
    found = []
    for line in PROTOTYPES.strip().splitlines():
        head, _, parameters = line.partition("(")
        result, _, name = head.rpartition(" ")
        found.append((result, name, parameters.removesuffix(");").split(", ")))
    return found


def c_type(text: str) -> Any:
    """The ctypes type of a piece of C; blocks are pointers."""
    return c_void_p if text.endswith(("_handler_t", "_callback_t")) else C_TYPES[text]


class Api:
    """Every function of PROTOTYPES as an attribute; `keys` maps a key's short name to its text.

    A key that this version of macOS does not export is missing from `keys`.
    """

    def __init__(self, libraries: list[ctypes.CDLL]) -> None:
        for result, name, parameters in declarations():
            function = _find(libraries, name)
            function.restype = c_type(result)
            function.argtypes = [c_type(parameter) for parameter in parameters]
            setattr(self, name, function)
        self.keys: dict[str, bytes] = {}
        for key in KEYS:
            text = _key(libraries[0], key)
            if text is not None:
                self.keys[key] = text
        self.global_block = ctypes.addressof(_find_data(libraries, "_NSConcreteGlobalBlock"))

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


def _find(libraries: list[ctypes.CDLL], name: str) -> Any:
    for library in libraries:
        try:
            return getattr(library, name)
        except AttributeError:
            continue
    raise _too_old(name)


def _find_data(libraries: list[ctypes.CDLL], name: str) -> Any:
    for library in libraries:
        try:
            return c_void_p.in_dll(library, name)
        except ValueError:
            continue
    raise _too_old(name)


def _key(library: ctypes.CDLL, key: str) -> bytes | None:
    try:
        return c_char_p.in_dll(library, f"vmnet_{key}_key").value
    except ValueError:
        if key in NEWER_KEYS:
            return None
        raise _too_old(f"vmnet_{key}_key") from None


def _too_old(name: str) -> UplinkError:
    return UplinkError(f"vmnet: this system has no {name}; Softnet needs macOS 11 or newer")


def library_paths() -> list[str]:
    """The framework and libSystem, or their twins; ConfigError where there is neither."""
    if sys.platform == "darwin":
        return [FRAMEWORK, LIBSYSTEM]
    twin = os.environ.get("VMNET_TWIN")
    if not twin:
        raise ConfigError("--uplink", "vmnet", "exists only on macOS", "use nat, bridge=NAME or user")
    return [f"{twin}/libtwinvmnet.so", f"{twin}/libtwinsystem.so"]


def load() -> Api:
    try:
        return Api([ctypes.CDLL(path) for path in library_paths()])
    except OSError as error:
        if isinstance(error, UplinkError):
            raise
        raise UplinkError(f"vmnet: {error}") from None
