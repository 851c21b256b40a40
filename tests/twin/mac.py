"""Starts Softnet as it starts on a Mac, on Linux over the twin. `python mac.py ARGUMENTS`.

Two things are put in place, and nothing else: the Mac's way to give privileges up (Linux's insists on
one thread, and vmnet brings threads), and `--uplink vmnet`, which is the default on a Mac.
"""

import sys

from softnet import privilege
from softnet.cli import main
from softnet.privilege import darwin

if __name__ == "__main__":
    privilege.drop, privilege.confine = darwin.drop, darwin.confine
    words = sys.argv[1:]
    sys.exit(main([*words, "--uplink", "vmnet"] if "--vm-fd" in words else words))
