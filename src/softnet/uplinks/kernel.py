"""Changes to the host's kernel that a TAP of ours needs: checked first, said as data, applied in one go.

Everything set here belongs to a TAP that is not persistent, and goes away with its descriptor.
"""

import fcntl
import os
import socket
import struct
from collections.abc import Sequence

from softnet.errors import UplinkError
from softnet.uplinks import host

CAP_NET_ADMIN = 12
TUN_DEVICE = "/dev/net/tun"
SIOCSIFHWADDR = 0x8924


def check_privileges(uplink: str) -> None:
    """UplinkError, naming the remedy, unless this process may make a TAP."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as stream:
        effective = next(int(line.split()[1], 16) for line in stream if line.startswith("CapEff:"))
    if not effective >> CAP_NET_ADMIN & 1:
        raise UplinkError(
            f"--uplink {uplink} needs root (CAP_NET_ADMIN): run with sudo, or use --uplink user"
        )
    if not os.access(TUN_DEVICE, os.R_OK | os.W_OK):
        remedy = "run `modprobe tun` as root, or use --uplink user"
        raise UplinkError(f"--uplink {uplink} needs {TUN_DEVICE}: {remedy}")


def set_mac(tap: int, name: str, mac: int) -> None:
    """Gives a TAP its MAC address at once: udev replaces one that is the kernel's random choice."""
    request = struct.pack("16sH6s8x", name.encode(), socket.AF_UNIX, mac.to_bytes(6, "big"))
    fcntl.ioctl(tap, SIOCSIFHWADDR, request)


def write_sysctls(uplink: str, settings: Sequence[tuple[str, int]]) -> None:
    """Writes values under /proc/sys/net; those that this kernel does not have are left out."""
    for name, value in settings:
        try:
            with open(f"/proc/sys/net/{name}", "w", encoding="ascii") as stream:
                stream.write(str(value))
        except FileNotFoundError:
            continue  # a kernel without IPv6
        except OSError as error:
            raise UplinkError(
                f"--uplink {uplink}: cannot set net/{name} to {value}: {error.strerror}"
            ) from None


def run_ip(uplink: str, commands: Sequence[str], program: str = "ip") -> None:
    """Runs iproute2 commands in one process; UplinkError names the one that failed."""
    status, output = host.run((program, "-batch", "-"), "\n".join(commands) + "\n")
    if not status:
        return
    # "RTNETLINK answers: No such device\nCommand failed -:3"
    *problem, place = output.strip().splitlines() or ["no reason given"]
    number = place.rpartition(":")[2]
    command = commands[int(number) - 1] if number.isdigit() and int(number) <= len(commands) else "-batch"
    raise UplinkError(f"--uplink {uplink}: `{program} {command}` failed: {' '.join(problem) or place}")
