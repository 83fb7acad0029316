"""A scripted pool for the self-test, and parts of it that break what it promises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from metasd_local.backend.scripted import ScriptedModel, ScriptedVocabulary
from metasd_local.drafters.model import ModelDrafter
from metasd_local.drafters.ngram import NgramDrafter
from metasd_local.engine import Engine
from metasd_local.interrupt import Interrupt
from metasd_local.options import Options
from metasd_local.protocols import Draft, Drafter, Logits, Scheme, Verdict
from metasd_local.sampling import SamplerChain, SamplerSettings
from metasd_local.selection.factory import choose_policy
from metasd_local.session import Session, Setup
from metasd_local.templates.chat_template import ChatTemplate
from metasd_local.verify import Chance, Coupled, Greedy, Match, Rejection, seeded_chance
from tests.enumeration import take

if TYPE_CHECKING:
    pass

VOCABULARY = ScriptedVocabulary(("<|end|>", "<|user|>", "<|assistant|>"))
SIZE = VOCABULARY.size
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}<|assistant|>"
)


@cache
def target_rule(tokens: tuple[int, ...]) -> Logits:
    """Return logits that favour eight letters, depending on every token read."""
    rng = np.random.default_rng([hash(tokens) % 2**32])
    row = np.full(SIZE, -9.0, np.float32)
    row[97:105] = rng.normal(size=8) * 2
    if rng.random() < 0.03:  # two that almost tie
        row[97] = row.max() + 1.0
        row[98] = row[97] - 2e-4
    return row


@cache
def drafter_rule(tokens: tuple[int, ...]) -> Logits:
    """Return logits like the target's."""
    rng = np.random.default_rng([7, hash(tokens) % 2**32])
    row = target_rule(tokens).copy()
    row[97:107] += (rng.normal(size=10) * 1.5).astype(np.float32)
    row[105:107] += 8.0  # now and then the drafter likes what the target never says
    return row


class Forgetful(ScriptedModel):
    """Forgets one token too few when it rewinds, and says nothing of it."""

    def rewind(self, length: int) -> None:
        """Keep the first of the tokens to forget instead of the last one to keep."""
        if 0 < length < len(self._tokens):
            self._tokens[length - 1] = self._tokens[length]
        super().rewind(length)


class Rounding(ScriptedModel):
    """Computes batches with other last digits."""

    digits = 1e-3

    def feed(self, tokens: Sequence[int], num_rows: int) -> Logits:
        """Append and return rows that depend on the width of the batch."""
        rows = super().feed(tokens, num_rows)
        noise = np.random.default_rng(len(tokens)).normal(size=SIZE) * self.digits
        return rows + noise.astype(np.float32) if len(tokens) > 1 else rows


class Coarse(Rounding):
    """Computes batches that have little to do with single tokens."""

    digits = 1.0


class Sampler:
    """Draws from the target's law."""

    def __init__(self, settings: SamplerSettings) -> None:
        self._chain = SamplerChain(settings, SIZE)
        self._chance: Chance = seeded_chance(0)

    def begin(self, seed: int, context: Sequence[int]) -> None:
        """Seed."""
        self._chance = seeded_chance(seed)

    def sample(self, logits: Logits) -> int:
        """Draw."""
        return take(self._chain.survivors(logits, (), ()), self._chance)


class Lenient:
    """Accepts one token too many in one round of a hundred."""

    def __init__(self, scheme: Scheme, rng: np.random.Generator) -> None:
        self._scheme = scheme
        self._rng = rng
        self.begin, self.draft, self.overlaps = scheme.begin, scheme.draft, scheme.overlaps
        self.expect, self.matches = scheme.expect, scheme.matches
        self.margins = scheme.margins

    def verify(self, rows: Logits, draft: Draft) -> Verdict:
        """Judge, mostly."""
        verdict = self._scheme.verify(rows, draft)
        if verdict.accepted == len(draft.tokens) or self._rng.random() > 0.01:
            return verdict
        return Verdict(verdict.accepted + 1, verdict.next_token, "recovered")


class WrongRejection(Rejection):
    """Draws the token after a rejection from the target's law."""

    def verify(self, rows: Logits, draft: Draft) -> Verdict:
        """Forget that there is a residual."""
        verdict = super().verify(rows, draft)
        if verdict.next_kind == "bonus":
            return verdict
        empty = Draft((), is_point_mass=True)
        return Verdict(
            verdict.accepted,
            super().verify(rows[verdict.accepted :][:1], empty).next_token,
            "recovered",
        )


SchemeMaker = Callable[[SamplerSettings, int], Scheme]
SCHEMES: dict[str, SchemeMaker] = {
    "greedy": lambda settings, window: Greedy(settings, SIZE, window),
    "coupled": lambda settings, window: Coupled(settings, SIZE, window),
    "match": lambda settings, _: Match(Sampler(settings), settings, SIZE),
    "rejection": lambda settings, window: Rejection(settings, SIZE, window),
}


def lenient(name: str) -> SchemeMaker:
    """Return a maker of a scheme that accepts too much, in all sessions together."""
    rng = np.random.default_rng(5)
    return lambda settings, window: Lenient(SCHEMES[name](settings, window), rng)


@dataclass
class ScriptedPool:
    """A pool whose parts can be broken."""

    target: ScriptedModel = field(
        default_factory=lambda: ScriptedModel(target_rule, vocab_size=SIZE)
    )
    drafters: Sequence[Drafter] = field(
        default_factory=lambda: [
            ModelDrafter(
                "code", ScriptedModel(drafter_rule, vocab_size=SIZE), target_vocab_size=SIZE
            ),
            NgramDrafter("ngram"),
        ]
    )
    makers: dict[str, SchemeMaker] = field(default_factory=dict)
    interrupt: Interrupt = field(default_factory=Interrupt)
    notices: tuple[str, ...] = ()
    complaint: str | None = None
    """Of every round, as of a machine that is busy."""

    def session(self, options: Options) -> Session:
        """Make a session as the composition root does."""
        chosen = choose_policy(options.policy or "ucb", window=options.window, seed=options.seed)
        settings, name = self._settle(options)
        engine = Engine(
            target=self.target,
            drafters=self.drafters,
            policy=chosen.policy,
            scheme=self.scheme(options),
            interrupt=self.interrupt,
            watch=lambda *_: self.complaint,
        )
        return Session(
            setup=Setup("scripted", "", name, settings, "CPU", 1, (), 4096, self.notices),
            engine=engine,
            vocabulary=VOCABULARY,
            template=ChatTemplate(TEMPLATE, VOCABULARY),
            interrupt=self.interrupt,
        )

    def scheme(self, options: Options) -> Scheme:
        """Make a scheme."""
        settings, name = self._settle(options)
        return {**SCHEMES, **self.makers}[name](settings, options.window or 16)

    def _settle(self, options: Options) -> tuple[SamplerSettings, str]:
        temperature = 0.8 if options.temperature is None else options.temperature
        name = options.scheme or "coupled"
        if temperature == 0.0 and name != "match":
            name = "greedy"
        return SamplerSettings(temperature), name
