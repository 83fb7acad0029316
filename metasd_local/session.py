"""A conversation: messages in, events out.

Turns messages into prompt tokens and emitted tokens into text, and keeps what both sides said.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field

from metasd_local.engine import Engine
from metasd_local.errors import Cancelled, ContextFull, TemplateError
from metasd_local.events import (
    Event,
    FinishReason,
    GenerationDone,
    Notice,
    PromptRead,
    RoundDone,
    TextPiece,
)
from metasd_local.interrupt import Interrupt
from metasd_local.protocols import Vocabulary
from metasd_local.sampling import SamplerSettings
from metasd_local.templates.chat_template import ChatTemplate, Message
from metasd_local.text import TextStream

FULL_SHARE = 0.75
"""The share of the context that a prompt may take before old turns are dropped from it."""
KEPT_SHARE = 0.5
"""What may remain then: dropping makes the models read all anew, so it should be seldom."""
MOST_CHARACTERS = 2**21
"""More than any context holds: no template has to work on them."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a session runs with, settled: defaults filled in, drafters checked."""

    pool: str
    policy: str
    scheme: str
    sampling: SamplerSettings
    device: str
    threads: int
    drafters: tuple[str, ...]
    context_size: int
    notices: tuple[str, ...] = ()
    """What the user should know before the first answer, such as a refused drafter."""
    memory_bytes: int = 0
    """Of the weights and token memories of all loaded models; 0 if not known."""


@dataclass(slots=True)
class _Answer:
    """What has been said of an answer so far."""

    tokens: list[int] = field(default_factory=list)
    text: str = ""

    def add(self, pieces: Sequence[TextPiece]) -> Sequence[TextPiece]:
        """Remember the pieces that belong to the answer and return all of them."""
        self.text += "".join(piece.text for piece in pieces if piece.kind == "answer")
        return pieces


class Session:
    """Hold one conversation with one pool; not to be used from two threads at once.

    Only `interrupt` may be called from another thread or a signal handler.
    """

    def __init__(
        self,
        *,
        setup: Setup,
        engine: Engine,
        vocabulary: Vocabulary,
        template: ChatTemplate,
        interrupt: Interrupt,
        system: str | None = None,
        stop_strings: Sequence[str] = (),
        thinks: bool | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.setup = setup
        self.prompt_tokens: Sequence[int] = ()
        self.num_dropped = 0
        """The oldest turns that the last question dropped, to leave its answer room."""
        self._engine = engine
        self._vocabulary = vocabulary
        self._template = template
        self._interrupt = interrupt
        self._stop_strings = stop_strings
        self._thinks = thinks
        self._clock = clock
        self._messages = [Message("system", system)] if system else []
        self._spoken: dict[str, Sequence[int]] = {}
        self._unseen_notices = list(setup.notices)

    @property
    def messages(self) -> Sequence[Message]:
        """Return the conversation so far, the system prompt first."""
        return tuple(self._messages)

    def send(self, text: str, *, seed: int, max_tokens: int | None = None) -> Generator[Event]:
        """Say `text` and yield the events of the answer.

        `max_tokens` None means to the end of the context. A generation that is interrupted, or
        whose consumer stops early, keeps what was said so far; one that fails takes `text` back
        and raises.
        """
        self._interrupt.clear()
        self._messages.append(Message("user", text))
        answer = _Answer()
        try:
            while self._unseen_notices:
                yield Notice(self._unseen_notices.pop(0))
            yield from self._answer(answer, seed, max_tokens)
        except GeneratorExit:
            self._keep(answer)
            raise
        except BaseException:
            self._messages.pop()
            raise
        self._keep(answer)

    def clear(self) -> None:
        """Forget the conversation but not the system prompt."""
        self._messages = [m for m in self._messages if m.role == "system"]
        self._spoken.clear()

    def restore(self, system: str | None, turns: Sequence[tuple[str, str]]) -> None:
        """Go on from this conversation instead: what was said and what was answered, in turns.

        An answer this session gave itself is read again as the tokens it was made of.
        """
        self._messages = [Message("system", system)] if system else []
        for question, answer in turns:
            self._messages += (Message("user", question), Message("assistant", answer))

    def spell(self, tokens: Sequence[int]) -> Sequence[bytes]:
        """Return the bytes each token adds to the text; empty for control tokens."""
        return [self._vocabulary.piece(token) for token in tokens]

    def forget(self) -> None:
        """Forget the conversation and all that the models have read: the next answer is cold."""
        self.clear()
        self._engine.forget()

    def interrupt(self) -> None:
        """Stop the running generation; it ends with the finish reason `cancelled`."""
        self._interrupt.set()

    def _keep(self, answer: _Answer) -> None:
        """Add the answer to the conversation; without a single token there was no turn."""
        if not answer.tokens:
            self._messages.pop()
            return
        self._messages.append(Message("assistant", answer.text))
        pieces = list(self.spell(answer.tokens))
        tokens = answer.tokens
        if self._vocabulary.is_end(tokens[-1]):
            del pieces[-1]
            tokens = tokens[:-1]
        # Only tokens that spell the answer and nothing else may stand for it in the next prompt.
        if all(pieces) and b"".join(pieces) == answer.text.encode():
            self._spoken[answer.text] = tokens

    def _fit(self, limit: int) -> Sequence[int]:
        """Return the prompt's tokens; drop the oldest turns if they leave an answer no room."""
        first = int(self._messages[0].role == "system")

        def encode(num_dropped: int) -> Sequence[int]:
            rest = self._messages[first + 2 * num_dropped :]
            return self._template.encode(
                [*self._messages[:first], *rest], thinks=self._thinks, spoken=self._spoken
            )

        num_characters = sum(len(message.content) for message in self._messages)
        if num_characters > MOST_CHARACTERS:
            raise ContextFull(
                f"the conversation has {num_characters} characters and the context {limit} "
                "tokens; shorten the prompt"
            )
        self.num_dropped = 0
        prompt = encode(0)
        if len(prompt) <= FULL_SHARE * limit:
            return prompt
        most = (len(self._messages) - first - 1) // 2
        self.num_dropped = bisect_left(
            range(most), True, key=lambda count: len(encode(count)) <= KEPT_SHARE * limit
        )
        prompt = encode(self.num_dropped)
        del self._messages[first : first + 2 * self.num_dropped]
        return prompt

    def _answer(self, answer: _Answer, seed: int, max_tokens: int | None) -> Iterator[Event]:
        limit = self._engine.context_size
        self.prompt_tokens = prompt = self._fit(limit)
        if self.num_dropped:
            yield Notice(
                f"the conversation outgrows the context of {limit} tokens: its {self.num_dropped} "
                "oldest turns are not sent any more; a new conversation or a larger --ctx has room"
            )
        if len(prompt) > limit:
            raise ContextFull(
                f"the prompt has {len(prompt)} tokens and the context {limit}; "
                "shorten the prompt or raise --ctx"
            )
        if not prompt:
            raise TemplateError("the prompt has no tokens; say something the model can read")
        stream = TextStream(self._vocabulary, self._stop_strings, self._template.reasoning_marks)
        started_s = self._clock()
        read_s: float | None = None
        inside_s = 0.0
        first_token_s: float | None = None
        reason: FinishReason = "length"
        rounds = self._engine.generate(
            prompt,
            seed=seed,
            max_tokens=limit if max_tokens is None else max_tokens,
            count_kept=stream.consume,
        )
        try:
            for event in rounds:
                if isinstance(event, RoundDone):
                    answer.tokens += event.emitted
                    if first_token_s is None:
                        first_token_s = self._clock() - started_s
                elif isinstance(event, PromptRead):
                    read_s = self._clock()
                    inside_s = self._engine.seconds_inside
                yield event
                yield from answer.add(stream.take())
            if stream.has_ended:
                reason = "stop"
        except Cancelled:
            reason = "cancelled"
        yield from answer.add(stream.finish())
        seconds_decode = seconds_inside = 0.0
        if read_s is not None:
            seconds_decode = self._clock() - read_s
            seconds_inside = self._engine.seconds_inside - inside_s
        yield GenerationDone(
            finish_reason=reason,
            seconds_to_first_token=first_token_s,
            seconds_decode=seconds_decode,
            seconds_inside=seconds_inside,
        )
