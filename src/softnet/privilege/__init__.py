"""From whoever started Softnet to nobody who matters, in five numbered phases.

1. **probe** (`has_net_admin`, `identity`): who are we, who asked, whom do we become. Should: turn
   every name into a number and refuse the unknown ones now. Must not: change anything.
2. **acquire** (`acquire`): with root or CAP_NET_ADMIN already there, nothing; otherwise become root
   through passwordless sudo, or end in one line. Should: run before any descriptor, file or network
   is touched. Must not: ask for a password, read standard input, write to standard output.
3. **check** (`check_installation`): whoever runs as root for somebody else may run only what root
   alone can write. Should: run first of all that happens as root. Must not: follow what it judges.
4. **drop** (`drop`): take the caller's identity for good, keep no capability, and prove it. Should:
   run with one thread, after everything that needs root, and before the first frame is judged.
   Must not: go on when one step fails. What needs undoing with privilege is by now tied to
   a descriptor.
5. **confine** (`confine`): give up what an unprivileged process still has and a filter never needs:
   other files, other programs, other kinds of sockets. Should: run after the last program was
   started. Must not: be needed for 4 to hold; a kernel that lacks a measure loses that measure only.

Systems differ in `linux` and `darwin`, which have the same functions.
"""

import os
import sys

from softnet.privilege.accounts import Identity, PrivilegeError, acting_as, asker, identity, take_root
from softnet.privilege.installation import check_installation

if sys.platform == "darwin":
    from softnet.privilege.darwin import assume, confine, drop, has_net_admin
else:
    from softnet.privilege.linux import assume, confine, drop, has_net_admin

__all__ = [
    "Identity",
    "PrivilegeError",
    "acquire",
    "acting_as",
    "asker",
    "assume",
    "check_installation",
    "confine",
    "drop",
    "has_net_admin",
    "identity",
]


def acquire(argv: list[str], needs_root: bool) -> None:
    """Return with what it takes to open the uplink, or replace this process by one that has it.

    `argv` is the command line without the program's name. Call it after argv was parsed, and before
    `identity`: as an ordinary user, `--user` is refused there, and here handed on. Two hidden options
    come back to the command line: with `--sudo-escalation-probing` and an effective uid of 0, end
    with 0 right after parsing; `--sudo-escalation-done` only tells this function not to try again.
    """
    take_root()
    if needs_root and not has_net_admin() and os.geteuid() != 0:
        from softnet.privilege.sudo import escalate

        escalate(argv)
