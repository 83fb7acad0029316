"""`python -m metasd_local` is the command `metasd`."""

import sys

from metasd_local.cli import main

if __name__ == "__main__":
    sys.exit(main())
