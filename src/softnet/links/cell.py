"""A network namespace with nothing in it but a VM's card, for hypervisors that take nothing but a TAP.

    hypervisor -- NAME ==== bridge ==== card -- Softnet

Firecracker and Cloud Hypervisor open a TAP by its name, and a TAP has one user: its other side is the
kernel. So NAME, which is for the hypervisor, and `card`, which is Softnet's, are the two ports of a
bridge, in a namespace that has no other interface, no address and no route, and in which the
hypervisor is started. The kernel carries frames from one port to the other and has nothing else to do
with them: also after Softnet was killed, what the VM sends has nowhere to go.

The namespace goes with its last user: the hypervisor, or the descriptor of `card`. Root makes it as it
is; anybody else in a user namespace of its own, as the same user.
"""

import ctypes
import fcntl
import os
import socket
import struct
import sys
from contextlib import suppress

from softnet.errors import ConfigError, SoftnetError
from softnet.links.tap import IFF_NO_PI, IFF_TAP, NAME_SIZE, TUNSETIFF, create_tap

CARD, BRIDGE = "card", "bridge"
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
TUNSETPERSIST, TUNSETOWNER = 0x400454CB, 0x400454CC
SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCSIFMTU = 0x8913, 0x8914, 0x8922
SIOCBRADDIF = 0x89A2
IFF_UP = 1
QUIET = (
    ("ipv6/conf/all/disable_ipv6", "1"),
    ("ipv6/conf/default/disable_ipv6", "1"),
    *((f"bridge/bridge-nf-call-{kind}tables", "0") for kind in ("ip", "ip6", "arp")),
)

AF_NETLINK = 16
RTM_NEWLINK, CREATE_AND_ACKNOWLEDGE = 16, 0x605  # NLM_F_CREATE, _EXCL, _ACK, _REQUEST
IFLA_IFNAME, IFLA_LINKINFO, IFLA_INFO_KIND, IFLA_INFO_DATA = 3, 18, 1, 2
IFLA_BR_AGEING_TIME, IFLA_BR_MCAST_SNOOPING = 4, 23


class CellError(SoftnetError):
    """The namespace could not be made."""


def check_name(option: str, name: str) -> str:
    """A name that an interface of the cell may have."""
    if not sys.platform.startswith("linux"):
        raise ConfigError(option, name, "needs Linux", "use {fd} in COMMAND")
    if not 0 < len(name.encode()) < NAME_SIZE or set(name) & set("/:% \t\n") or name in (".", ".."):
        remedy = f"give at most {NAME_SIZE - 1} letters and digits, for example vmtap0"
        raise ConfigError(option, name, "is no name for an interface", remedy)
    if name in (CARD, BRIDGE, "lo"):
        raise ConfigError(option, name, "is taken", "give another name, for example vmtap0")
    return name


def enter(name: str, mtu: int, owner: int) -> int:
    """Moves this process into a new cell, where user `owner` may open the TAP `name`.

    Returns the descriptor of Softnet's TAP. This process keeps the privileges that it has, or got with
    its user namespace, until it becomes another program.
    """
    try:
        _unshare()
        _silence()
        card = create_tap(CARD)
        _make_tap(name, owner)
        _make_bridge()
        _connect(name, mtu)
    except OSError as error:
        what = "cannot make a network namespace with a TAP in it"
        remedy = "run as root, or allow user namespaces and /dev/net/tun to ordinary users"
        raise CellError(f"--tap {name}: {what}: {error.strerror}; {remedy}") from None
    return card


def _unshare() -> None:
    """A user namespace too where that takes one, in which everybody is who they were."""
    uid, gid, is_root = os.geteuid(), os.getegid(), os.geteuid() == 0
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET | (0 if is_root else CLONE_NEWUSER)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if not is_root:
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{uid} {uid} 1")
        _write("/proc/self/gid_map", f"{gid} {gid} 1")


def _silence() -> None:
    """No addresses that the kernel gives by itself, and no firewall that looks at what a bridge carries."""
    for name, value in QUIET:
        with suppress(FileNotFoundError):  # a kernel without IPv6, or without that module
            _write(f"/proc/sys/net/{name}", value)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as stream:
        stream.write(text)


def _make_tap(name: str, owner: int) -> None:
    """The hypervisor's: it is there before it is opened, and for nobody but `owner`."""
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(tap, TUNSETIFF, _request(name, "H", IFF_TAP | IFF_NO_PI))
        fcntl.ioctl(tap, TUNSETOWNER, owner)
        fcntl.ioctl(tap, TUNSETPERSIST, 1)
    finally:
        os.close(tap)


def _make_bridge() -> None:
    """One that learns no addresses and looks into no multicast: it would drop frames, and speak itself."""
    data = _attribute(IFLA_BR_AGEING_TIME, struct.pack("I", 0))
    data += _attribute(IFLA_BR_MCAST_SNOOPING, b"\0")
    link = _attribute(IFLA_INFO_KIND, b"bridge") + _attribute(IFLA_INFO_DATA, data)
    body = bytes(16) + _attribute(IFLA_IFNAME, BRIDGE.encode()) + _attribute(IFLA_LINKINFO, link)
    with socket.socket(AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        netlink.send(struct.pack("IHHII", 16 + len(body), RTM_NEWLINK, CREATE_AND_ACKNOWLEDGE, 1, 0) + body)
        number: int = -struct.unpack_from("i", netlink.recv(4096), 16)[0]  # struct nlmsgerr
    if number:
        raise OSError(number, os.strerror(number))


def _attribute(kind: int, value: bytes) -> bytes:
    """struct rtattr and its value, padded."""
    return struct.pack("HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _connect(name: str, mtu: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for port in (CARD, name):
            fcntl.ioctl(control, SIOCBRADDIF, _request(BRIDGE, "i", socket.if_nametoindex(port)))
        for device in (CARD, name, BRIDGE):
            fcntl.ioctl(control, SIOCSIFMTU, _request(device, "i", mtu))
            answer = fcntl.ioctl(control, SIOCGIFFLAGS, _request(device, "H", 0))
            flags: int = struct.unpack_from("16sH", answer)[1]
            fcntl.ioctl(control, SIOCSIFFLAGS, _request(device, "H", flags | IFF_UP))


def _request(name: str, kind: str, value: int) -> bytes:
    """struct ifreq: 40 bytes, a name and what the call is about."""
    return struct.pack(f"16s{kind}", name.encode(), value).ljust(40, b"\0")
