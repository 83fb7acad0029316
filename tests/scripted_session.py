"""A session that plays a script, and a shell that keeps what the command line wrote."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, cast

from metasd_local.cli import main
from metasd_local.cli.surroundings import Surroundings
from metasd_local.compose import OpenPool
from metasd_local.events import Event, GenerationDone, PromptRead, RoundDone, TextPiece
from metasd_local.options import Options
from metasd_local.sampling import SamplerSettings
from metasd_local.session import Setup
from tui.start import chat

ROUND = RoundDone(
    index=0,
    arm="code",
    window=5,
    drafted=5,
    accepted=2,
    emitted=(4, 5, 6),
    next_kind="recovered",
    catch_up_s=0.0,
    draft_s=0.25,
    verify_s=0.25,
    own_s=0.125,
    reward=0.5,
    scores={"code": float("inf")},
)
DONE_EVENT = GenerationDone("stop", 0.25, seconds_decode=0.5, seconds_inside=0.375)
EVENTS: tuple[Event, ...] = (
    PromptRead(prompt_tokens=3, reused_tokens=0, seconds=0.125),
    ROUND,
    TextPiece("weighing", kind="reasoning"),
    TextPiece("Hello "),
    TextPiece("world"),
    DONE_EVENT,
)
FIGURES = "3 tokens · 6.0 tok/s · 40% acc. · code 100% · first 0.25 s"

Step: TypeAlias = Event | BaseException | Callable[[], object]


class Terminal(io.StringIO):
    """A stream that says it is a terminal; `screen` collects what several of them show."""

    def __init__(self, text: str = "", screen: io.StringIO | None = None) -> None:
        super().__init__(text)
        self._screen = screen

    def write(self, text: str) -> int:
        """Write here and to the screen."""
        if self._screen is not None:
            self._screen.write(text)
        return super().write(text)

    def isatty(self) -> bool:
        """Return True."""
        return True


class BrokenPipe(io.StringIO):
    """A pipe whose reader is gone."""

    def write(self, text: str) -> int:
        """Raise BrokenPipeError."""
        raise BrokenPipeError


@dataclass
class ScriptedSession:
    """Answers everything with the same events; an exception among them is raised."""

    script: Sequence[Step] = EVENTS
    setup: Setup = field(
        default_factory=lambda: Setup(
            pool="starter",
            policy="ucb",
            scheme="coupled",
            sampling=SamplerSettings(),
            device="cpu",
            threads=2,
            drafters=("code",),
            context_size=1024,
        )
    )
    prompt_tokens: Sequence[int] = (1, 2, 3)
    sent: list[tuple[str, int, int | None]] = field(default_factory=list)
    num_interrupts: int = 0

    def send(self, text: str, *, seed: int, max_tokens: int | None) -> Iterator[Event]:
        """Play the script up to its last event once it is interrupted."""
        self.sent.append((text, seed, max_tokens))
        for item in self.script:
            if isinstance(item, BaseException):
                raise item
            if self.num_interrupts:
                yield GenerationDone("cancelled", None, seconds_decode=0.5, seconds_inside=0.5)
                return
            if callable(item):
                item()
            else:
                yield item

    def spell(self, tokens: Sequence[int]) -> Sequence[bytes]:
        """Return bytes that no text has."""
        return [b"\xff" for _ in tokens]

    def interrupt(self) -> None:
        """Count."""
        self.num_interrupts += 1


class ScriptedPool:
    """A pool of one session; its interrupt is the session's."""

    def __init__(self, session: ScriptedSession) -> None:
        self.interrupt = self
        self.set = session.interrupt
        self.is_closed = False
        self._session = session

    def session(self, _: Options) -> ScriptedSession:
        """Return the one there is."""
        return self._session

    def close(self) -> None:
        """Remember."""
        self.is_closed = True


class Shell:
    """Runs commands and keeps what they wrote."""

    def __init__(
        self,
        session: ScriptedSession | None = None,
        *,
        stdin: io.StringIO | None = None,
        stdout: io.StringIO | None = None,
        stderr: io.StringIO | None = None,
        environment: Mapping[str, str] | None = None,
        on_open: Callable[[Callable[[float], bool]], None] | None = None,
    ) -> None:
        self.session = session or ScriptedSession()
        self.pool = ScriptedPool(self.session)
        self.opened: list[tuple[Options, str | None]] = []
        self._stdin = stdin or Terminal()
        self._stdout = stdout or io.StringIO()
        self._stderr = stderr or io.StringIO()
        self._environment = environment or {"XDG_CONFIG_HOME": "/nowhere"}
        self._on_open = on_open

    def run(self, *arguments: str) -> int:
        """Run one command in these surroundings."""
        return main(
            arguments,
            Surroundings(
                stdin=self._stdin,
                stdout=self._stdout,
                stderr=self._stderr,
                environment=self._environment,
                open_pool=self._open,
                names_pool=lambda text: text in ("starter", "big"),
                chat=chat,
            ),
        )

    @property
    def out(self) -> str:
        """What was written to stdout."""
        return self._stdout.getvalue()

    @property
    def err(self) -> str:
        """What was written to stderr."""
        return self._stderr.getvalue()

    def _open(
        self, options: Options, pool: str | None, *, on_progress: Callable[[float], bool]
    ) -> OpenPool:
        self.opened.append((options, pool))
        if self._on_open is not None:
            self._on_open(on_progress)
        return cast(OpenPool, self.pool)
