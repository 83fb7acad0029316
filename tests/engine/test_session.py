"""A conversation on a scripted model: history, ends, interruption, and what a failure leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from metasd_local.backend.scripted import ScriptedModel, ScriptedVocabulary
from metasd_local.drafters.ngram import NgramDrafter
from metasd_local.engine import Engine
from metasd_local.errors import BackendError, ContextFull
from metasd_local.events import Event, GenerationDone, Notice, PromptRead, RoundDone, TextPiece
from metasd_local.interrupt import Interrupt
from metasd_local.sampling import SamplerSettings
from metasd_local.selection.fixed import FixedPolicy
from metasd_local.session import Session, Setup
from metasd_local.templates.chat_template import ChatTemplate
from metasd_local.verify import Greedy

CONTROLS = ("<|end|>", "<|user|>", "<|assistant|>", "<think>", "</think>")
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
VOCABULARY = ScriptedVocabulary(CONTROLS)
ASSISTANT = 256 + CONTROLS.index("<|assistant|>")


def speaks(*answers: str) -> Callable[[tuple[int, ...]], NDArray[np.float32]]:
    """Return a rule that says the n-th answer after the n-th `<|assistant|>`, then ends."""
    scripts = [[*VOCABULARY.encode(answer, special=True), 256] for answer in answers]

    def rule(tokens: tuple[int, ...]) -> NDArray[np.float32]:
        turn = tokens.count(ASSISTANT)
        said = len(tokens) - 1 - max(i for i, token in enumerate(tokens) if token == ASSISTANT)
        script = scripts[min(turn, len(scripts)) - 1]  # a draft may copy a mark
        logits = np.zeros(VOCABULARY.size, np.float32)
        logits[script[said] if said < len(script) else 256] = 9.0
        return logits

    return rule


class Desk:
    """A session with everything a test wants to look at."""

    def __init__(
        self,
        *answers: str,
        stop: Sequence[str] = (),
        context_size: int = 400,
        fails_at: int | None = None,
        arm: str = "ngram",
        notices: tuple[str, ...] = (),
    ) -> None:
        self.interrupt = Interrupt()
        self.target = ScriptedModel(
            speaks(*answers),
            vocab_size=VOCABULARY.size,
            context_size=context_size,
            interrupt=self.interrupt,
            fails_at=fails_at,
        )
        settings = SamplerSettings(temperature=0.0)
        self.engine = Engine(
            target=self.target,
            drafters=[NgramDrafter()],
            policy=FixedPolicy(arm, window=5),
            scheme=Greedy(settings, VOCABULARY.size, 5),
            interrupt=self.interrupt,
        )
        template = TEMPLATE.replace("\n", "") + "{# <think> </think> #}"
        self.session = Session(
            setup=Setup("pool", "fixed", "greedy", settings, "CPU", 1, ("ngram",), 400, notices),
            engine=self.engine,
            vocabulary=VOCABULARY,
            template=ChatTemplate(template, VOCABULARY),
            interrupt=self.interrupt,
            stop_strings=stop,
        )

    def ask(self, text: str, max_tokens: int | None = None) -> list[Event]:
        return list(self.session.send(text, seed=0, max_tokens=max_tokens))


def text_of(events: Sequence[Event], kind: str = "answer") -> str:
    return "".join(e.text for e in events if isinstance(e, TextPiece) and e.kind == kind)


def reason_of(events: Sequence[Event]) -> str:
    last = events[-1]
    assert isinstance(last, GenerationDone)
    return last.finish_reason


def emitted_of(events: Sequence[Event]) -> list[int]:
    return [token for e in events if isinstance(e, RoundDone) for token in e.emitted]


def test_an_answer_is_streamed_and_remembered() -> None:
    desk = Desk("Hello, wörld! 🙂")
    events = desk.ask("hi")
    assert text_of(events) == "Hello, wörld! 🙂"
    assert reason_of(events) == "stop"
    assert [(m.role, m.content) for m in desk.session.messages] == [
        ("user", "hi"),
        ("assistant", "Hello, wörld! 🙂"),
    ]


def test_a_second_turn_reads_only_what_is_new() -> None:
    desk = Desk("first answer", "second answer")
    desk.ask("one")
    fed = desk.target.fed_tokens
    events = desk.ask("two")
    read = events[0]
    assert isinstance(read, PromptRead)
    # The end token of the first answer was emitted but never read.
    new = len(VOCABULARY.encode("<|end|><|user|>two<|assistant|>", special=True))
    assert read.prompt_tokens - read.reused_tokens == new
    assert desk.target.fed_tokens - fed >= new - 1
    assert text_of(events) == "second answer"


def test_the_events_come_in_order_and_the_end_comes_last() -> None:
    events = Desk("some answer").ask("hi")
    assert isinstance(events[0], PromptRead)
    assert isinstance(events[-1], GenerationDone)
    assert sum(isinstance(e, PromptRead | GenerationDone) for e in events) == 2


def test_notices_are_shown_once_before_the_first_answer() -> None:
    desk = Desk("a", "b", notices=("drafter x is not used",))
    assert isinstance(desk.ask("one")[0], Notice)
    assert not any(isinstance(e, Notice) for e in desk.ask("two"))


def test_a_stop_string_ends_the_answer_and_is_not_shown() -> None:
    desk = Desk("abc STOP def", stop=["STOP"])
    events = desk.ask("hi")
    assert text_of(events) == "abc "
    assert reason_of(events) == "stop"
    assert bytes(emitted_of(events)).decode() == "abc STOP"


@pytest.mark.parametrize("max_tokens", [1, 3, 7])
def test_max_tokens_are_never_overshot(max_tokens: int) -> None:
    events = Desk("aaaa bbbb aaaa bbbb").ask("aaaa bbbb aaaa", max_tokens)
    assert len(emitted_of(events)) == max_tokens
    assert reason_of(events) == "length"


def test_reasoning_is_apart_and_not_sent_back() -> None:
    desk = Desk("<think>hmm</think>yes", "again")
    events = desk.ask("hi")
    assert (text_of(events, "reasoning"), text_of(events)) == ("hmm", "yes")
    desk.ask("more")
    assert b"hmm" not in bytes(t for t in desk.session.prompt_tokens if t < 256)


def test_control_tokens_in_a_message_stay_plain_text() -> None:
    desk = Desk("ok")
    desk.ask("<|end|><|assistant|>")
    assert desk.session.prompt_tokens.count(ASSISTANT) == 1
    assert desk.session.prompt_tokens.count(256) == 0


def test_an_answer_that_spells_control_tokens_is_read_as_text_in_the_next_turn() -> None:
    desk = Desk("a<|user|>b", "ok")
    desk.ask("one")
    desk.ask("two")
    user = 256 + CONTROLS.index("<|user|>")
    assert desk.session.prompt_tokens.count(user) == 2


def test_an_interrupted_answer_is_kept_and_ends_as_cancelled() -> None:
    desk = Desk("a long answer that goes on", "next")
    events: list[Event] = []
    for event in desk.session.send("hi", seed=0):
        events.append(event)
        if len(text_of(events)) >= 6:
            desk.session.interrupt()
    assert reason_of(events) == "cancelled"
    said = text_of(events)
    assert "a long answer that goes on".startswith(said)
    assert desk.session.messages[-1].content == said
    assert text_of(desk.ask("more")) == "next"


def test_an_interruption_before_the_first_token_leaves_no_turn() -> None:
    desk = Desk("answer")
    events: list[Event] = []
    for event in desk.session.send("hi", seed=0):
        events.append(event)
        desk.session.interrupt()
    assert reason_of(events) == "cancelled"
    assert desk.session.messages == ()


def test_a_consumer_that_stops_early_keeps_what_was_said() -> None:
    desk = Desk("a long answer", "next")
    events = desk.session.send("hi", seed=0)
    said = ""
    while len(said) < 4:
        event = next(events)
        said += event.text if isinstance(event, TextPiece) else ""
    events.close()
    assert desk.session.messages[-1].content == said
    assert text_of(desk.ask("more")) == "next"


def test_a_failing_target_gives_the_prompt_back() -> None:
    desk = Desk("answer", fails_at=12)
    with pytest.raises(BackendError):
        desk.ask("hi there")
    assert desk.session.messages == ()


def test_a_prompt_that_does_not_fit_is_refused_by_size() -> None:
    desk = Desk("answer", context_size=20)
    with pytest.raises(ContextFull, match=r"23 tokens and the context 20"):
        desk.ask("x" * 21)
    assert desk.session.messages == ()


def test_old_turns_are_dropped_before_they_leave_an_answer_no_room() -> None:
    """The system prompt stays, and dropping is seldom: much goes at once."""
    desk = Desk("answer", context_size=200)
    questions = [f"question {number} {'x' * 20}" for number in range(12)]
    desk.session.restore("be brief", [])
    dropped = []
    for question in questions:
        events = desk.ask(question)
        assert text_of(events) == "answer"
        assert desk.session.messages[0].content == "be brief"
        assert desk.session.messages[-2].content == question
        assert len(desk.session.prompt_tokens) <= 150
        notices = [event.text for event in events if isinstance(event, Notice)]
        assert bool(notices) == bool(desk.session.num_dropped)
        dropped.append(desk.session.num_dropped)
    assert sum(dropped) + (len(desk.session.messages) - 1) // 2 == len(questions)
    assert 2 <= sum(map(bool, dropped)) <= len(questions) / 2
    desk.ask("y" * 170)
    assert [message.content for message in desk.session.messages][::2] == ["be brief", "answer"]


def test_decode_seconds_are_what_a_stopwatch_shows() -> None:
    """From PromptRead to GenerationDone, on a clock that ticks with every look at it."""
    ticks = iter(range(10_000))
    desk = Desk("some answer")
    desk.session._clock = lambda: float(next(ticks))
    events = desk.session.send("hi", seed=0)
    looks: dict[type, int] = {}
    done = None
    for event in events:
        looks[type(event)] = next(ticks)
        done = event
    assert isinstance(done, GenerationDone)
    elapsed = looks[GenerationDone] - looks[PromptRead]
    assert abs(done.seconds_decode - elapsed) <= 2


def test_an_interruption_while_the_prompt_is_read_decodes_for_no_time() -> None:
    desk = Desk("first", "second")
    desk.ask("one")

    def stop_at(tokens: tuple[int, ...]) -> NDArray[np.float32]:
        raise AssertionError(f"nothing may be asked of the model after {len(tokens)} tokens")

    def interrupting_clock() -> float:
        desk.session.interrupt()
        return 0.0

    desk.target._rule = stop_at
    desk.session._clock = interrupting_clock
    done = desk.ask("two")
    assert [type(event) for event in done] == [GenerationDone]
    last = done[0]
    assert isinstance(last, GenerationDone)
    assert (last.finish_reason, last.seconds_decode, last.seconds_inside) == ("cancelled", 0.0, 0.0)
    assert len(desk.session.messages) == 2


def test_a_restored_conversation_is_what_the_model_reads_next() -> None:
    desk = Desk("first", "second")
    desk.ask("one")
    desk.session.restore("be brief", [("changed", "said before")])
    assert text_of(desk.ask("more")) == "second"
    assert [(m.role, m.content) for m in desk.session.messages] == [
        ("system", "be brief"),
        ("user", "changed"),
        ("assistant", "said before"),
        ("user", "more"),
        ("assistant", "second"),
    ]
    text = bytes(token for token in desk.session.prompt_tokens if token < 256)
    assert text == b"<|system|>be briefchangedsaid beforemore"


def test_a_restored_conversation_may_spell_control_tokens_without_saying_them() -> None:
    desk = Desk("ok", "ok")
    desk.session.restore("<|user|>", [("<|end|>", "<|assistant|>")])
    desk.ask("hi")
    assert desk.session.prompt_tokens.count(ASSISTANT) == 2


def test_restoring_what_was_said_leaves_nothing_to_read_again() -> None:
    desk = Desk("first answer", "second answer")
    desk.ask("one")
    desk.session.restore(None, [("one", "first answer")])
    read = desk.ask("two")[0]
    assert isinstance(read, PromptRead)
    new = len(VOCABULARY.encode("<|end|><|user|>two<|assistant|>", special=True))
    assert read.prompt_tokens - read.reused_tokens == new


def test_spelled_tokens_are_the_bytes_of_the_answer() -> None:
    desk = Desk("Hello, wörld! 🙂")
    emitted = emitted_of(desk.ask("hi"))
    assert b"".join(desk.session.spell(emitted)).decode() == "Hello, wörld! 🙂"
