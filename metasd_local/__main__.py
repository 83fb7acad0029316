"""The command `metasd`, also `python -m metasd_local`: gives the command line the chat it opens."""

import sys
from functools import partial


def main() -> int:
    """Run what was typed and return the exit status."""
    try:
        # Ctrl-C may come while all of it is still being read.
        from metasd_local.cli import main as run_command
        from metasd_local.cli.surroundings import process_surroundings
        from metasd_local.selection import POLICIES
        from tui.start import chat

        policies = [policy.name for policy in POLICIES]
        return run_command(sys.argv[1:], process_surroundings(partial(chat, policies=policies)))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
