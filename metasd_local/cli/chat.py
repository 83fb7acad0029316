"""`metasd chat`: the conversation in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from metasd_local.cli.surroundings import DONE, Surroundings
from metasd_local.config import chats_path, memory_path
from metasd_local.errors import UsageError
from metasd_local.options import Options
from metasd_local.selection import POLICIES


def chat(options: Options, words: Sequence[str], around: Surroundings) -> int:
    """Open the chat and return when it is left."""
    if len(words) > 1:
        raise UsageError(f"found {len(words)} words, expected [POOL] (see metasd chat --help)")
    stdin = around.stdin
    if stdin is None or not stdin.isatty() or not around.stdout.isatty():
        raise UsageError("the chat needs a terminal; for a single answer type: metasd run PROMPT")
    from tui.app import ChatApp

    app = ChatApp(
        around.open_pool,
        options,
        words[0] if words else None,
        chats_path=chats_path(around.environment),
        state_path=memory_path(around.environment),
        policies=[policy.name for policy in POLICIES],
    )
    app.run()
    return app.return_code or DONE
