"""A seccomp filter that takes away what a packet filter never calls.

A list of what is refused, not of what is allowed: Python and libc choose their calls by version, and a
filter that kills next year's libc helps nobody. Refused with EPERM: starting programs and
processes (threads stay: error reporting sends from one), looking into other processes, and corners of
the kernel known for their bugs. clone3 hides its flags from a filter, so it does not exist (ENOSYS) and
libc falls back to clone. Sockets: AF_UNIX; TCP and UDP for exposed ports; netlink for routes and socket
diagnosis. A call by another architecture's numbers, which would walk around the list, kills.

x86_64 and arm64; elsewhere there is no filter.
"""

import ctypes
import errno
import os
import socket
import sys
from typing import NamedTuple

PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
RET_KILL_PROCESS = 0x80000000
RET_ERRNO = 0x00050000
RET_ALLOW = 0x7FFF0000

LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # classic BPF, 32-bit words
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data, little-endian

CLONE_THREAD = 0x00010000
X32_BIT = 0x40000000

NETLINK_ROUTE, NETLINK_SOCK_DIAG = 0, 4
INTERNET = (0, socket.IPPROTO_TCP, socket.IPPROTO_UDP)
SOCKETS = {
    socket.AF_UNIX: (0,),
    socket.AF_INET: INTERNET,
    socket.AF_INET6: INTERNET,
    16: (NETLINK_ROUTE, NETLINK_SOCK_DIAG),  # AF_NETLINK, which macOS does not define
}


class Machine(NamedTuple):
    """System call numbers that depend on the architecture."""

    audit_arch: int
    clone: int
    socket: int
    refused: dict[str, int]


# The same everywhere, as are all calls that came after them.
REFUSED = {"io_uring_setup": 425, "pidfd_getfd": 438}
CLONE3 = 435

MACHINES = {
    "x86_64": Machine(
        audit_arch=0xC000003E,
        clone=56,
        socket=41,
        refused={
            "execve": 59,
            "execveat": 322,
            "fork": 57,
            "vfork": 58,
            "ptrace": 101,
            "process_vm_readv": 310,
            "process_vm_writev": 311,
            "kcmp": 312,
            "unshare": 272,
            "setns": 308,
            "bpf": 321,
            "perf_event_open": 298,
            "userfaultfd": 323,
            "add_key": 248,
            "request_key": 249,
            "keyctl": 250,
        },
    ),
    "aarch64": Machine(
        audit_arch=0xC00000B7,
        clone=220,
        socket=198,
        refused={
            "execve": 221,
            "execveat": 281,
            "ptrace": 117,
            "process_vm_readv": 270,
            "process_vm_writev": 271,
            "kcmp": 272,
            "unshare": 97,
            "setns": 268,
            "bpf": 280,
            "perf_event_open": 241,
            "userfaultfd": 282,
            "add_key": 217,
            "request_key": 218,
            "keyctl": 219,
        },
    ),
}

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand


class _Instruction(ctypes.Structure):
    _fields_ = [
        ("code", ctypes.c_uint16),
        ("true", ctypes.c_uint8),
        ("false", ctypes.c_uint8),
        ("operand", ctypes.c_uint32),
    ]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint16), ("filter", ctypes.POINTER(_Instruction))]


def restrict(libc: ctypes.CDLL) -> bool:
    """False on a machine without a list, or a kernel without filters. Needs no_new_privs."""
    machine = MACHINES.get(os.uname().machine) if sys.maxsize > 1 << 32 else None
    if machine is None:
        return False
    code = program(machine)
    instructions = (_Instruction * len(code))(*(_Instruction(*each) for each in code))
    loaded = _Program(len(code), instructions)
    result: int = libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(loaded))
    return result == 0


def program(machine: Machine) -> list[Instruction]:
    """Every block either returns or leaves the call's number in the accumulator for the next."""
    return [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, machine.audit_arch),
        (RETURN, 0, 0, RET_KILL_PROCESS),
        (LOAD, 0, 0, NUMBER),
        *_answer(AT_LEAST, X32_BIT, RET_KILL_PROCESS),
        *_answer(EQUAL, CLONE3, RET_ERRNO | errno.ENOSYS),
        *(
            instruction
            for number in (*machine.refused.values(), *REFUSED.values())
            for instruction in _answer(EQUAL, number, RET_ERRNO | errno.EPERM)
        ),
        (EQUAL, 0, 4, machine.clone),
        (LOAD, 0, 0, ARGUMENTS),
        *_answer(ANY_BIT, CLONE_THREAD, RET_ALLOW),
        (RETURN, 0, 0, RET_ERRNO | errno.EPERM),
        (EQUAL, 1, 0, machine.socket),
        (RETURN, 0, 0, RET_ALLOW),
        (LOAD, 0, 0, ARGUMENTS),
        *(each for family, protocols in SOCKETS.items() for each in _allow_socket(family, protocols)),
        (RETURN, 0, 0, RET_ERRNO | errno.EPERM),
    ]


def _answer(test: int, operand: int, verdict: int) -> list[Instruction]:
    return [(test, 0, 1, operand), (RETURN, 0, 0, verdict)]


def _allow_socket(family: int, protocols: tuple[int, ...]) -> list[Instruction]:
    """socket(family, type, protocol): these protocols of this family, and no others of it."""
    tests = [each for protocol in protocols for each in _answer(EQUAL, protocol, RET_ALLOW)]
    body = [(LOAD, 0, 0, ARGUMENTS + 16), *tests, (RETURN, 0, 0, RET_ERRNO | errno.EPERM)]
    return [(EQUAL, 0, len(body), family), *body]
