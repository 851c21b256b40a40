"""`python -m softnet`: the same program as the `softnet` command."""

import sys

from softnet.cli import main

if __name__ == "__main__":
    sys.exit(main())
