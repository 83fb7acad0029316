"""Whether rejection sampling emits the target's own law: two tokens, over many seeds."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from metasd_local.errors import Cancelled
from metasd_local.events import GenerationDone, Notice, RoundDone
from metasd_local.options import Options
from metasd_local.protocols import PLAIN
from metasd_local.selftest.identity import PROMPTS, STOPPED, answer
from metasd_local.selftest.law import Law, fold, law_of_two_tokens, p_value
from metasd_local.session import Session

if TYPE_CHECKING:
    from metasd_local.compose import OpenPool

_WINDOW = 3
_NUM_PROMPTS = 2
_MAX_SEEDS = 2000
_SEEDS_PER_TURN = 20
_GOOD_PEAK, _LARGEST_DISTANCE = 0.6, 0.25
"""The probability of the likeliest first token that makes a good law, and how far it may be."""


@dataclass(slots=True)
class LawTest:
    """The chi-squared test of one drafter, growing."""

    drafter: str
    laws: Mapping[str, Law]
    """The target's, by prompt."""
    counts: Mapping[str, Counter[tuple[int, ...]]]
    drafted: int = 0
    accepted: int = 0
    notices: list[str] = field(default_factory=list)
    """What went wrong, such as a drafter that failed."""

    @property
    def seeds(self) -> int:
        """Return how many answers were begun."""
        return sum(counts.total() for counts in self.counts.values())

    @property
    def p_value(self) -> float | None:
        """Return the probability of beginnings this far from the target's law, None of none."""
        if not self.seeds:
            return None
        return p_value(fold(self.counts[prompt], law) for prompt, law in self.laws.items())

    def draw(self, session: Session, prompt: str, seed: int) -> None:
        """Count the first two tokens of an answer; the session forgets the turn."""
        tokens: list[int] = []
        question, said = (message.content for message in session.messages)
        with closing(session.send(prompt, seed=seed, max_tokens=_WINDOW + 2)) as events:
            for event in events:
                if isinstance(event, RoundDone):
                    tokens += event.emitted
                    self.drafted += event.drafted
                    self.accepted += event.accepted
                elif isinstance(event, Notice) and event.dropped:
                    self.notices.append(event.text)
                elif isinstance(event, GenerationDone) and event.finish_reason == "cancelled":
                    raise Cancelled(STOPPED)
                if len(tokens) >= 2:
                    break
        self.counts[prompt][tuple(tokens[:2])] += 1
        session.restore(None, [(question, said)])


def sample_laws(pool: OpenPool, options: Options, *, seed: int) -> Iterator[list[LawTest]]:
    """Yield the tests of all drafters, at first and whenever they have grown.

    Where no prompt is fit they have no law and never grow.
    The temperature of `options` must be above 0.
    """
    options = dataclasses.replace(options, scheme="rejection", policy=PLAIN, window=_WINDOW)
    laws = _choose_laws(pool, pool.session(options), seed) if pool.drafters else {}
    sessions = {}
    for drafter in pool.drafters:
        chosen = dataclasses.replace(options, policy=f"fixed:{drafter.name}")
        sessions[drafter.name] = pool.session(chosen)
    tests = [LawTest(name, laws, {prompt: Counter() for prompt in laws}) for name in sessions]
    yield tests
    for first in range(seed, seed + _MAX_SEEDS, _SEEDS_PER_TURN):
        for number, prompt in enumerate(laws):
            # With the same seeds the two samples would not be independent.
            first_seed = first + number * _MAX_SEEDS
            for test in tests:
                session = sessions[test.drafter]
                _begin(session, prompt, seed)
                for turn_seed in range(first_seed, first_seed + _SEEDS_PER_TURN):
                    test.draw(session, prompt, turn_seed)
                yield tests


def _choose_laws(pool: OpenPool, session: Session, seed: int) -> dict[str, Law]:
    """Return the laws of the prompts where the target is neither sure nor at a loss.

    The search ends with the first ones that are good enough.
    """
    found: list[tuple[float, str, Law]] = []
    for prompt in PROMPTS:
        _begin(session, prompt, seed)
        answer(session, prompt, seed, 1)
        settings = session.setup.sampling
        law = law_of_two_tokens(pool.target, settings, session.prompt_tokens, _WINDOW + 1)
        firsts: defaultdict[int, float] = defaultdict(float)
        for tokens, share in law.items():
            firsts[tokens[0]] += share
        if law:
            found.append((abs(max(firsts.values()) - _GOOD_PEAK), prompt, law))
        if sum(distance <= _LARGEST_DISTANCE for distance, *_ in found) == _NUM_PROMPTS:
            break
    found.sort(key=lambda each: each[0])
    return {prompt: law for _, prompt, law in found[:_NUM_PROMPTS]}


def _begin(session: Session, prompt: str, seed: int) -> None:
    """Start a conversation in which the same prompt comes twice: n-grams have what to copy.

    An answer of one token has no room for a draft: it is the same with every drafter.
    """
    session.clear()
    answer(session, prompt, seed, 1)
