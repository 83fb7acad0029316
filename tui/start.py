"""`metasd chat`: the conversation on the screen, in lines, or as it was recorded."""

from __future__ import annotations

import dataclasses
import gc
import os
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metasd_local.cli.surroundings import DONE, Surroundings
from metasd_local.config import chats_path, config_path, load_keys, memory_path
from metasd_local.errors import MetasdError
from metasd_local.options import Options

if TYPE_CHECKING:
    from metasd_local.replay import Recording


def chat(
    options: Options, words: Sequence[str], around: Surroundings, *, policies: Sequence[str] = ()
) -> int:
    """Open the chat and return when it is left; policies: names to complete."""
    options = dataclasses.replace(options, pool=words[0] if words else options.pool)
    open_pool: Callable[..., Any] = around.open_pool
    chats: Path | None = chats_path(around.environment)
    recordings: list[Recording] | None = None
    with ExitStack() as stack:
        if options.replay is not None:
            from metasd_local.replay import Replay, read_recordings

            recordings = read_recordings(Path(options.replay))
            open_pool, chats = Replay(recordings).open, None
        elif options.trace is not None:
            from metasd_local.replay import recording
            from metasd_local.trace import TraceWriter

            trace = stack.enter_context(TraceWriter(Path(options.trace)))
            open_pool = recording(open_pool, trace)
        streams = (around.stdin, around.stdout)
        has_screen = all(stream is not None and stream.isatty() for stream in streams)
        if options.lines or not has_screen or around.environment.get("TERM") == "dumb":
            from tui.desk import Desk
            from tui.lines import Lines

            desk = Desk(open_pool, options, chats, recordings or ())
            return Lines(desk, around, is_live=recordings is None).run()
        from tui.guard import guarded

        state_path = memory_path(around.environment)
        config = config_path(around.environment)

        def show() -> int:
            # Milliseconds that Textual waits after Esc for the rest of another key; it has 100.
            os.environ.setdefault("ESCDELAY", "40")
            from tui.app import ChatApp
            from tui.desk import Desk
            from tui.keys import read_keymap

            keymap = read_keymap(load_keys(config), config)
            desk = Desk(sparing_collections(open_pool), options, chats, recordings or ())
            app = ChatApp(desk, state_path, policies, keymap)
            app.run()
            if app.return_code:
                # Textual has no other name for it.
                raise _crash(app._exception, state_path.with_name("crash.log"))
            if desk.failure is not None:
                raise desk.failure
            return DONE

        return guarded(show, around)


def sparing_collections(open_pool: Callable[..., Any]) -> Callable[..., Any]:
    """Return what opens the same pools, after which whole collections of garbage are quick.

    They would go through all modules and models again, and stop the screen for up to 40 ms.
    """

    def opened(*arguments: Any, **keywords: Any) -> Any:
        pool = open_pool(*arguments, **keywords)
        gc.unfreeze()  # of an earlier pool something may be garbage
        gc.collect()
        gc.freeze()
        return pool

    return opened


def _crash(error: Exception | None, path: Path) -> MetasdError:
    """Return what to say of an error that is a mistake of ours, and write where it happened."""
    said = f"the chat failed with an unexpected {type(error).__name__}: {error}; what was said is "
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError as failure:
        return MetasdError(f"{said}saved, but not where it happened: {failure}")
    return MetasdError(f"{said}saved; {path} tells where it happened, for a bug report")
