"""What a command finds around it: streams, environment, Ctrl-C, and the way to the models."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

from metasd_local.cli.output import Output
from metasd_local.config import state_path
from metasd_local.errors import Cancelled

if TYPE_CHECKING:
    from metasd_local.compose import OpenPool
    from metasd_local.options import Options

DONE, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True)
class Surroundings:
    """What the process finds around it: streams, environment, and the way to the models."""

    stdin: TextIO | None
    stdout: TextIO
    stderr: TextIO
    environment: Mapping[str, str]
    open_pool: Callable[..., OpenPool]
    """`compose.open_pool`, all but `options`, `pool` and `on_progress` already given."""
    names_pool: Callable[[str], bool]
    """`pools.local.names_pool`."""
    chat: Callable[[Options, Sequence[str], Surroundings], int]
    """`tui.start.chat`, which this package knows nothing of: it takes the words after `chat`."""

    @cached_property
    def output(self) -> Output:
        """Return what writes on these streams, for all who do."""
        return Output(self)


def process_surroundings(
    chat: Callable[[Options, Sequence[str], Surroundings], int],
) -> Surroundings:
    """Return those of this process; make its streams replace what they cannot encode."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            encoding = None if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="replace")

    # Imported when they are needed: `metasd --help` needs none of it.
    def open_pool(*arguments: Any, **keywords: Any) -> OpenPool:
        from metasd_local.compose import open_pool

        return open_pool(*arguments, **keywords, state_path=state_path(os.environ))

    def names_pool(text: str) -> bool:
        from metasd_local.pools.local import names_pool

        return names_pool(text)

    return Surroundings(
        stdin=sys.stdin,
        stdout=sys.stdout or io.StringIO(),
        stderr=sys.stderr or io.StringIO(),
        environment=os.environ,
        open_pool=open_pool,
        names_pool=names_pool,
        chat=chat,
    )


class Interrupts:
    """Turn the first Ctrl-C into a request to stop; the second one ends the process at once."""

    def __init__(self) -> None:
        self.has_happened = False
        self.stop: Callable[[], None] = lambda: None

    def __enter__(self) -> Interrupts:
        self._previous = signal.getsignal(signal.SIGINT)
        # A process in the background was told to ignore Ctrl-C, and goes on doing so.
        if self._previous != signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def _handle(self, _signal: int, _frame: FrameType | None) -> None:
        # Python's own handler would have to wait until llama.cpp returns.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        self.has_happened = True
        self.stop()


@contextmanager
def opened_pool(
    options: Options, name: str | None, around: Surroundings
) -> Iterator[tuple[OpenPool, Interrupts]]:
    """Open a pool with progress; Ctrl-C stops the loading, and then what is decoded with it.

    Raises what `compose.open_pool` raises, and Cancelled.
    """
    with Interrupts() as interrupts:

        def on_progress(share: float) -> bool:
            around.output.progress("loading", share)
            return not interrupts.has_happened

        with closing(around.open_pool(options, name, on_progress=on_progress)) as pool:
            around.output.end()
            interrupts.stop = pool.interrupt.set
            if interrupts.has_happened:
                raise Cancelled("stopped while loading")
            yield pool, interrupts
