"""The declarations of the vmnet binding against Apple's own words, as far as they can be had on Linux.

xpc, dispatch and struct iovec: every prototype is declared again after Apple's headers and compiled for
both Macs; a declaration that differs is a compile error. vmnet: names, kinds of parameters, handlers,
keys and values against a listing that was made by machine from Apple's SDK. `tests/twin/fetch.sh`
fetches both. Every check is also shown to fail.
"""

import ctypes
import os
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from softnet.uplinks.vmnet import api, blocks

CACHE = Path(__file__).parents[2] / ".cache" / "abi"
ZIG = CACHE / "ziglang" / "zig"
LISTING = CACHE / "package" / "types" / "vmnet.d.ts"
TARGETS = ["aarch64-macos", "x86_64-macos"]
HEADERS = """
#include <dispatch/dispatch.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <xpc/xpc.h>
struct vmpktdesc { size_t vm_pkt_size; struct iovec *vm_pkt_iov; uint32_t vm_pkt_iovcnt; uint32_t vm_flags; };
"""
needs_zig = pytest.mark.skipif(not ZIG.exists(), reason="no Apple headers: run tests/twin/fetch.sh")
needs_listing = pytest.mark.skipif(
    not LISTING.exists(), reason="no listing of vmnet: run tests/twin/fetch.sh"
)


def compiles(source: str, target: str, directory: Path) -> str:
    """The compiler's complaints; empty when there are none."""
    file = directory / "declarations.c"
    file.write_text(HEADERS + source)
    command = [ZIG, "cc", "-target", target, "-fblocks", "-Wall", "-c", "-o", file.with_suffix(".o"), file]
    caches = {f"ZIG_{kind}_CACHE_DIR": str(directory / "zig") for kind in ("GLOBAL", "LOCAL")}
    done = subprocess.run(command, env=os.environ | caches, capture_output=True, text=True, timeout=300)
    return "" if done.returncode == 0 else done.stderr


def system_prototypes() -> list[str]:
    lines = api.PROTOTYPES.strip().splitlines()
    return [line for line in lines if re.match(r"[^(]*\b(xpc|dispatch)_\w+\(", line) and "vmnet" not in line]


def size_assertions() -> str:
    """Every C type that the binding maps has the size of its ctypes type; likewise the structures."""
    unknown = ("vmnet_return_t", "interface_event_t", "interface_ref")  # vmnet's own: uint32_t, and a pointer
    sizes = {text: ctypes.sizeof(kind) for text, kind in api.C_TYPES.items() if kind and text not in unknown}
    assertions = [f'_Static_assert(sizeof({text}) == {size}, "{text}");' for text, size in sizes.items()]
    for c_name, structure in (("struct iovec", api.Iovec), ("struct vmpktdesc", api.PacketDescriptor)):
        assertions.append(f'_Static_assert(sizeof({c_name}) == {ctypes.sizeof(structure)}, "{c_name}");')
        for name, _type in structure._fields_:
            offset = getattr(structure, name).offset
            assertions.append(f'_Static_assert(offsetof({c_name}, {name}) == {offset}, "{c_name}.{name}");')
    return "\n".join(assertions)


NUMBERS = f"""
_Static_assert(AF_INET == {api.AF_INET}, "AF_INET");
_Static_assert(IPPROTO_TCP == {api.IPPROTO_TCP} && IPPROTO_UDP == {api.IPPROTO_UDP}, "protocols");
"""


@needs_zig
@pytest.mark.parametrize("target", TARGETS)
def test_the_declarations_agree_with_apples_headers(target: str, tmp_path: Path) -> None:
    prototypes = system_prototypes()
    assert len(prototypes) == 10
    assert not compiles("\n".join(prototypes) + size_assertions() + NUMBERS, target, tmp_path)


@needs_zig
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (
            "set_uint64(xpc_object_t, const char *, uint64_t)",
            "set_uint64(xpc_object_t, const char *, uint32_t)",
        ),
        ("set_bool(xpc_object_t, const char *, bool)", "set_bool(const char *, xpc_object_t, bool)"),
        ("size_t xpc_array_get_count", "uint32_t xpc_array_get_count"),
        ("void dispatch_release(dispatch_object_t)", "int dispatch_release(dispatch_object_t)"),
    ],
)
def test_a_wrong_prototype_is_refused(right: str, wrong: str, tmp_path: Path) -> None:
    source = "\n".join(system_prototypes())
    assert right in source
    assert "conflicting types" in compiles(source.replace(right, wrong), TARGETS[0], tmp_path)


@needs_zig
@pytest.mark.parametrize(
    ("right", "wrong"),
    [("sizeof(struct vmpktdesc) == 24", "sizeof(struct vmpktdesc) == 32"), ("AF_INET == 2", "AF_INET == 10")],
)
def test_a_wrong_size_or_number_is_refused(right: str, wrong: str, tmp_path: Path) -> None:
    source = size_assertions() + NUMBERS
    assert right in source
    assert "static" in compiles(source.replace(right, wrong), TARGETS[0], tmp_path)


@cache
def listing() -> str:
    return LISTING.read_text()


def split(parameters: str) -> list[str]:
    """At the commas that are in no brackets; the `>` of an arrow closes nothing."""
    parts, depth, start = [], 0, 0
    text = parameters.replace("=>", "=\0")
    for at, character in enumerate(text):
        depth += (character in "(<{") - (character in ")>}")
        if character == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    return [part.strip().replace("=\0", "=>") for part in [*parts, text[start:]] if part.strip()]


def listed_kind(kind: str) -> str:
    """One word for a type of the listing: a handler's is made of its parameters' words."""
    if "=>" in kind:
        return (
            "handler("
            + ",".join(listed_kind(part.partition(": ")[2]) for part in split(kind[1 : kind.rindex(")")]))
            + ")"
        )
    if kind.startswith("interop.Enum"):
        return "enum"
    return {"NSObject": "object", "number": "number", "void": "void"}.get(kind, "pointer")


HANDLERS = {
    "vmnet_start_interface_completion_handler_t": blocks.STATUS_OBJECT_SIGNATURE,
    "vmnet_interface_event_callback_t": blocks.STATUS_OBJECT_SIGNATURE,
    "vmnet_interface_completion_handler_t": blocks.STATUS_SIGNATURE,
    "vmnet_interface_get_ip_port_forwarding_rules_handler_t": blocks.OBJECT_SIGNATURE,
}


def declared_kind(kind: str) -> str:
    """The same for a type of the binding; a handler's comes from the signature its block is made with."""
    if kind in HANDLERS:
        encoded = HANDLERS[kind].decode().removeprefix("v@?")
        return "handler(" + ",".join({"I": "enum", "@": "object"}[letter] for letter in encoded) + ")"
    if kind in ("vmnet_return_t", "interface_event_t"):
        return "enum"
    if kind in ("xpc_object_t", "dispatch_queue_t"):
        return "object"
    return "number" if kind in ("uint8_t", "uint16_t") else "pointer"


def disagreements(declarations: list[tuple[str, str, list[str]]]) -> list[str]:
    wrong = []
    for result, name, parameters in declarations:
        if not name.startswith("vmnet_"):
            continue
        found = re.search(rf"declare function {name}\((.*)\): ([^;]+);", listing())
        if found is None:
            wrong.append(name)
            continue
        theirs = [listed_kind(part.partition(": ")[2]) for part in split(found[1])] + [listed_kind(found[2])]
        ours = [declared_kind(part) for part in [*parameters, result]]
        if theirs != ours:
            wrong.append(f"{name}: {ours} is not {theirs}")
    return wrong


@needs_listing
def test_the_vmnet_declarations_agree_with_the_listing() -> None:
    assert sum(name.startswith("vmnet_") for _result, name, _parameters in api.declarations()) == 9
    assert disagreements(api.declarations()) == []


@needs_listing
@pytest.mark.parametrize(
    "wrong",
    [
        ("vmnet_return_t", "vmnet_read", ["struct vmpktdesc *", "interface_ref"]),
        ("vmnet_return_t", "vmnet_write", ["interface_ref", "struct vmpktdesc *", "uint16_t"]),
        ("interface_ref", "vmnet_stop_interface", ["interface_ref", "dispatch_queue_t", "dispatch_queue_t"]),
        ("interface_ref", "vmnet_begin_interface", []),
    ],
)
def test_a_wrong_vmnet_declaration_is_found(wrong: tuple[str, str, list[str]]) -> None:
    assert len(disagreements([wrong])) == 1


@needs_listing
def test_the_keys_and_values_agree_with_the_listing() -> None:
    for key in api.KEYS:
        assert f"declare const vmnet_{key}_key: string;" in listing()
    statuses = dict(
        re.findall(r"^  (\w+): (\d+),", listing().partition("vmnet_return_t: {")[2].partition("}")[0], re.M)
    )
    assert {f"VMNET_{name}": int(value) for name, value in statuses.items()} == {
        name: value for value, name in api.STATUS_NAMES.items()
    }
    assert f"HOST_: {api.HOST_MODE}," in listing()
    assert f"SHARED_: {api.SHARED_MODE}," in listing()
    assert f"VMNET_INTERFACE_PACKETS_AVAILABLE: {api.PACKETS_AVAILABLE}," in listing()
