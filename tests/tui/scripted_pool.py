"""A pool whose target says what a test wants, with the real engine and session behind it."""

from __future__ import annotations

import asyncio
import dataclasses
import html
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from textual.pilot import Pilot
from textual.widgets import Static

from metasd_local.backend.scripted import ScriptedModel, ScriptedVocabulary
from metasd_local.compose import OpenPool
from metasd_local.drafters.ngram import NgramDrafter
from metasd_local.engine import Engine
from metasd_local.errors import Cancelled, ModelError, UsageError
from metasd_local.interrupt import Interrupt
from metasd_local.options import Options
from metasd_local.protocols import Drafter
from metasd_local.sampling import SamplerSettings
from metasd_local.selection.fixed import FixedPolicy
from metasd_local.session import Session, Setup
from metasd_local.templates.chat_template import ChatTemplate
from metasd_local.verify import Greedy
from tui.app import ChatApp
from tui.commands import KEYS
from tui.desk import Desk

CONTROLS = ("<|end|>", "<|user|>", "<|assistant|>", "<think>", "</think>")
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}{# <think> </think> #}"
)
VOCABULARY = ScriptedVocabulary(CONTROLS)
USER, ASSISTANT = 257, 258
PLAIN_S = 0.5
CHARACTER_WIDTH = 12.2
"""Of Rich's pictures of a screen."""


class ScriptedPool:
    """Answers with `replies`, else repeats the question; holds still where a test wants it.

    hold_at: the characters of an answer after which the target waits for `go`, or a stop.
    refuses: a part of the name of pools that cannot be opened.
    """

    def __init__(
        self,
        replies: Mapping[str, str] | None = None,
        *,
        hold_at: int | None = None,
        fails_at: int | None = None,
        context_size: int = 2000,
        notices: Sequence[str] = (),
        refuses: str = "",
        name: str = "scripted",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.name = name
        self.clock = clock
        self.refuses = refuses
        self.replies = dict(replies or {})
        self.hold_at = hold_at
        self.go = threading.Event()
        self.is_held = threading.Event()
        self.interrupt = Interrupt()
        self.drafters: Sequence[Drafter] = (NgramDrafter(),)
        self.opened: list[tuple[Options, str | None]] = []
        self.sessions: list[Options] = []
        self.is_closed = False
        self.notices = tuple(notices)
        self.last_session: Session | None = None
        self.target = ScriptedModel(
            self._rule,
            vocab_size=VOCABULARY.size,
            context_size=context_size,
            interrupt=self.interrupt,
            fails_at=fails_at,
        )

    def open(
        self, options: Options, pool: str | None, *, on_progress: Callable[[float], bool]
    ) -> OpenPool:
        """Stand in for `compose.open_pool`."""
        self.opened.append((options, pool))
        on_progress(0.5)
        if pool == "missing":
            raise UsageError("no pool and no .gguf file is named 'missing'")
        if self.refuses and self.refuses in str(pool):
            raise ModelError(f"{pool} is no GGUF file")
        return cast(OpenPool, self)

    def session(self, options: Options) -> Session:
        """Begin a session as the real pool would."""
        arm = (options.policy or "fixed:ngram").removeprefix("fixed:")
        if arm not in ("ngram", "plain"):
            raise UsageError(f"no policy is named {arm!r}")
        self.sessions.append(options)
        settings = SamplerSettings(temperature=0.0)
        self.last_session = Session(
            setup=Setup(
                pool=self.name,
                policy=options.policy or "fixed:ngram",
                scheme="greedy",
                sampling=dataclasses.replace(settings, temperature=options.temperature or 0.0),
                device="CPU",
                threads=1,
                drafters=("ngram",),
                context_size=self.target.context_size,
                notices=self.notices,
            ),
            engine=Engine(
                target=self.target,
                drafters=self.drafters,
                policy=FixedPolicy(arm, window=5),
                scheme=Greedy(settings, VOCABULARY.size, 5),
                interrupt=self.interrupt,
                clock=self.clock,
            ),
            clock=self.clock,
            vocabulary=VOCABULARY,
            template=ChatTemplate(TEMPLATE, VOCABULARY),
            interrupt=self.interrupt,
        )
        return self.last_session

    def measure_costs(self) -> None:
        """Know them already."""

    def plain_s(self) -> float:
        """Return half a second for a token."""
        return PLAIN_S

    def close(self) -> None:
        """Remember."""
        self.is_closed = True

    def _rule(self, tokens: tuple[int, ...]) -> NDArray[np.float32]:
        logits = np.zeros(VOCABULARY.size, np.float32)
        if not {USER, ASSISTANT} <= set(tokens):
            return logits
        mark = max(index for index, token in enumerate(tokens) if token == ASSISTANT)
        asked = max(
            (index for index, token in enumerate(tokens[:mark]) if token == USER), default=0
        )
        # A draft may copy marks to where none belong.
        said_last = bytes(token for token in tokens[asked + 1 : mark] if token < 256)
        question = said_last.decode(errors="replace")
        reply = VOCABULARY.encode(self.replies.get(question, f"You said: {question}"), special=True)
        said = len(tokens) - 1 - mark
        if self.hold_at is not None and said >= self.hold_at:
            self.is_held.set()
            while not self.go.wait(0.002):
                if self.interrupt.is_set:
                    raise Cancelled("the generation was stopped")
        logits[reply[said] if said < len(reply) else 256] = 9.0
        return logits


class Chat:
    """A running application and what a test does with it."""

    def __init__(self, app: ChatApp, pilot: Pilot[None]) -> None:
        self.app = app
        self.pilot = pilot

    async def until(self, is_so: Callable[[], object]) -> None:
        """Let the application work until something holds."""
        async with asyncio.timeout(30):
            while not is_so():
                await self.pilot.pause(0.005)
        await self.pilot.pause()

    async def type(self, text: str) -> None:
        """Put a text into the prompt and press Enter."""
        self.app.prompt.insert(text)
        await self.pilot.press("enter")
        await self.pilot.pause()

    async def ask(self, text: str) -> None:
        """Type a question or a command and wait until all is done."""
        await self.type(text)
        await self.until(lambda: not self.app.desk.is_busy and not self.app.is_drawing)

    async def regenerate_and_stop(self, pool: ScriptedPool) -> None:
        """Ask for the last answer again, and stop before its first word."""
        pool.hold_at = 0
        await self.pilot.press("ctrl+r")
        await self.until(pool.is_held.is_set)
        await self.pilot.press("escape")
        await self.until(lambda: not self.app.desk.is_busy and not self.app.is_drawing)

    @property
    def notices(self) -> str:
        """Return what is said beside the prompt."""
        notice = self.app.screen_stack[0].query_one("#notice", Static)
        return str(notice.content) if notice.display else ""

    def screen(self) -> str:
        """Return what the screen shows, row by row."""
        svg = self.app.export_screenshot(simplify=True)
        rows = [""] * self.app.size.height
        for x, row, text in re.findall(r'<text[^>]* x="([\d.]+)"[^>]*line-(\d+)[^>]*>(.*?)<', svg):
            column = round(float(x) / CHARACTER_WIDTH)
            rows[int(row)] = f"{rows[int(row)]:{column}}{html.unescape(text)}"
        return "\n".join(row.replace("\xa0", " ").rstrip() for row in rows)


@asynccontextmanager
async def chat_on(
    pool: ScriptedPool,
    folder: Path,
    *,
    options: Options | None = None,
    name: str | None = None,
    size: tuple[int, int] = (80, 24),
    keymap: Mapping[str, str] = KEYS,
) -> AsyncIterator[Chat]:
    """Run the application on a pool; conversations and state lie in `folder`."""
    options = dataclasses.replace(options or Options(), pool=name)
    desk = Desk(pool.open, options, folder / "chats.db")
    app = ChatApp(desk, folder / "tui.json", ("plain", "ucb"), keymap)
    async with app.run_test(size=size, notifications=True) as pilot:
        chat = Chat(app, pilot)
        await chat.until(lambda: not app.desk.is_busy and not app.is_drawing)
        yield chat
