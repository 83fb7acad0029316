"""One generation of the bench, folded into counters.

All figures come from events, so that a trace of a bench gives the same ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from metasd_local.bench.prompts import Prompt
from metasd_local.errors import Cancelled
from metasd_local.events import Event, GenerationDone, Notice, PromptRead, RoundDone
from metasd_local.stats import LoopFinder


class Decoder(Protocol):
    """Decodes prompts, every time from empty memories: models, drafters and n-gram index."""

    @property
    def prompt_tokens(self) -> Sequence[int]:
        """The prompt of the running generation, known once it was read."""
        ...

    def decode(self, policy: str, prompt: Prompt, max_tokens: int) -> Iterator[Event]:
        """Yield the events of one generation."""
        ...


@dataclass(frozen=True, slots=True)
class Run:
    """The counters of one generation; those of rounds and time stop where its text loops."""

    policy: str
    """As typed."""
    prompt: Prompt
    repeat: int
    length: int
    """Emitted tokens, loops included."""
    looping: int
    """Emitted tokens that belong to loops."""
    emitted: int
    seconds_decode: float
    overhead_share: float
    """Of the whole generation's decoding time, spent outside llama.cpp."""
    rounds: Mapping[tuple[str, int, int], int]
    """Number of rounds by arm, drafted and accepted tokens."""
    draft_seconds: Mapping[str, float]
    """Seconds of drafting by arm, catch-up apart."""
    seconds_prompt: float
    notices: tuple[str, ...] = ()
    """What went wrong, such as a drafter that failed."""


def run_once(
    decoder: Decoder, policy: str, prompt: Prompt, repeat: int, max_tokens: int
) -> tuple[Run, Sequence[Event]]:
    """Decode a prompt and return its counters and the events; raise Cancelled if interrupted."""
    events = list(decoder.decode(policy, prompt, max_tokens))
    return fold_run(policy, prompt, repeat, decoder.prompt_tokens, events), events


def fold_run(
    policy: str,
    prompt: Prompt,
    repeat: int,
    prompt_tokens: Sequence[int],
    events: Sequence[Event],
) -> Run:
    """Return the counters of a generation's events; raise Cancelled if it was interrupted."""
    read = next((event for event in events if isinstance(event, PromptRead)), None)
    done = events[-1] if events else None
    if read is None or not isinstance(done, GenerationDone) or done.finish_reason == "cancelled":
        raise Cancelled("the generation was interrupted")
    rounds = [event for event in events if isinstance(event, RoundDone)]
    loops = LoopFinder(prompt_tokens)
    for each in rounds:
        loops.add(each.emitted)
    kept = _before(rounds, loops.start)
    emitted = sum(len(each.emitted) for each in kept)
    all_seconds = sum(each.seconds for each in rounds)
    kept_share = sum(each.seconds for each in kept) / all_seconds if all_seconds else 0.0
    outside_s = done.seconds_decode - done.seconds_inside
    draft_seconds: Counter[str] = Counter()
    for each in kept:
        draft_seconds[each.arm] += each.draft_s  # type: ignore[assignment]
    return Run(
        policy=policy,
        prompt=prompt,
        repeat=repeat,
        length=sum(len(each.emitted) for each in rounds),
        looping=loops.num_looping,
        emitted=emitted,
        seconds_decode=done.seconds_decode * kept_share,
        overhead_share=outside_s / done.seconds_decode if done.seconds_decode else 0.0,
        rounds=Counter((each.arm, each.drafted, each.accepted) for each in kept),
        draft_seconds=dict(draft_seconds),
        seconds_prompt=read.seconds,
        # What precedes the reading of the prompt is known from the session's setup.
        notices=tuple(
            event.text for event in events[events.index(read) :] if isinstance(event, Notice)
        ),
    )


def _before(rounds: Sequence[RoundDone], position: int | None) -> Sequence[RoundDone]:
    """Return the rounds that end before a position of the answer."""
    if position is None:
        return rounds
    end = 0
    for index, each in enumerate(rounds):
        end += len(each.emitted)
        if end > position:
            return rounds[:index]
    return rounds
