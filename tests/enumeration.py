"""Replay a generation on table-driven models for every outcome of every random draw.

Shared by tests: rules that stand for models, plans that stand for drafters, and the distance
between what a scheme emits and the target's own law over token sequences.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import numpy as np

from metasd_local.protocols import Draft, Logits, Probabilities, Scheme
from metasd_local.sampling import SamplerChain, SamplerSettings, Survivors
from metasd_local.verify import Chance

VOCAB_SIZE = 3
MAX_WINDOW = 3
PROMPT = (2, 0)

SETTINGS = {
    "untruncated": SamplerSettings(1.0, 0, 1.0, 0.0),
    "tempered": SamplerSettings(0.6, 0, 1.0, 0.0),
    "truncated": SamplerSettings(0.8, 2, 1.0, 0.0),
    "default chain": SamplerSettings(0.8, 40, 0.8, 0.3),
    "penalised": SamplerSettings(1.0, 0, 1.0, 0.0, repeat_penalty=1.3),
    "penalised and truncated": SamplerSettings(0.9, 2, 0.9, 0.05, 1.3, 3),
}

Rule = Callable[[tuple[int, ...]], Logits]
Law = dict[tuple[int, ...], float]
Plan = Callable[[Sequence[int], Scheme], Draft]


@cache
def target(tokens: tuple[int, ...]) -> Logits:
    """Return the target's logits after `tokens`."""
    return (np.random.default_rng([1, *tokens]).normal(size=VOCAB_SIZE) * 1.5).astype(np.float32)


@cache
def near_drafter(tokens: tuple[int, ...]) -> Logits:
    """Return logits that often agree with the target's."""
    own = np.random.default_rng([2, *tokens]).normal(size=VOCAB_SIZE)
    return (target(tokens) + own).astype(np.float32)


@cache
def small_drafter(tokens: tuple[int, ...]) -> Logits:
    """Return unrelated logits over a smaller vocabulary."""
    own = np.random.default_rng([3, *tokens]).normal(size=VOCAB_SIZE - 1)
    return own.astype(np.float32)


def softmax(row: Logits) -> Probabilities:
    """Return the plain softmax in double precision."""
    weights = np.exp(row.astype(np.float64) - row.max())
    return np.asarray(weights / weights.sum())


def draw(rule: Rule, window: int, context: Sequence[int], scheme: Scheme) -> Draft:
    """Draft `window` tokens."""
    tokens: list[int] = []
    while len(tokens) < window:
        tokens.append(scheme.draft(rule((*context, *tokens)), tokens))
    return Draft(tokens, is_point_mass=False)


def stop_before_doubt(context: Sequence[int], scheme: Scheme) -> Draft:
    """Stop before a position whose likeliest token is unlikely."""
    tokens: list[int] = []
    while len(tokens) < MAX_WINDOW:
        row = near_drafter((*context, *tokens))
        if softmax(row).max() < 0.6:
            break
        tokens.append(scheme.draft(row, tokens))
    return Draft(tokens, is_point_mass=False)


def stop_after_unlikely(context: Sequence[int], scheme: Scheme) -> Draft:
    """Stop after a token that was unlikely to be drawn; it stays in the draft."""
    tokens: list[int] = []
    while len(tokens) < MAX_WINDOW:
        row = near_drafter((*context, *tokens))
        tokens.append(scheme.draft(row, tokens))
        if softmax(row)[tokens[-1]] < 0.4:
            break
    return Draft(tokens, is_point_mass=False)


def copy(context: Sequence[int], _scheme: Scheme) -> Draft:
    """Copy from the context, as an n-gram drafter does."""
    return Draft(tuple(context[:MAX_WINDOW]), is_point_mass=True)


def nothing(_context: Sequence[int], _scheme: Scheme) -> Draft:
    """Draft nothing."""
    return Draft((), is_point_mass=True)


def adversary(context: Sequence[int], scheme: Scheme) -> Draft:
    """Change the plan with every token of the history, and the window too."""
    salt = sum((place + 2) * token for place, token in enumerate(context)) + len(context)
    plans: list[Plan] = [
        lambda context, scheme: draw(near_drafter, 1, context, scheme),
        copy,
        stop_after_unlikely,
        nothing,
        lambda context, scheme: draw(small_drafter, 2, context, scheme),
        stop_before_doubt,
        lambda context, scheme: draw(near_drafter, 3, context, scheme),
    ]
    return plans[salt % len(plans)](context, scheme)


PLANS: dict[str, Plan] = {
    "model": lambda context, scheme: draw(near_drafter, 2, context, scheme),
    "smaller vocabulary": lambda context, scheme: draw(small_drafter, 2, context, scheme),
    "stop before doubt": stop_before_doubt,
    "stop after unlikely": stop_after_unlikely,
    "copy": copy,
    "nothing": nothing,
    "adversary": adversary,
}


def generate(
    scheme: Scheme, plan: Plan, num_tokens: int, *, seed: int = 0, end: int | None = None
) -> tuple[int, ...]:
    """Run rounds until `num_tokens` are emitted or `end` is among them."""
    context = list(PROMPT)
    scheme.begin(seed, context)
    while len(context) < len(PROMPT) + num_tokens:
        draft = plan(tuple(context), scheme)
        prefixes = [(*context, *draft.tokens[:i]) for i in range(len(draft.tokens) + 1)]
        verdict = scheme.verify(np.array([target(prefix) for prefix in prefixes]), draft)
        assert (verdict.next_kind == "bonus") == (verdict.accepted == len(draft.tokens))
        emitted = [*draft.tokens[: verdict.accepted], verdict.next_token]
        if end in emitted:
            context += emitted[: emitted.index(end) + 1]
            break
        context += emitted
    return tuple(context[len(PROMPT) :][:num_tokens])


def target_law(settings: SamplerSettings, num_tokens: int, end: int | None = None) -> Law:
    """Return the probability of every sequence the target can emit on its own."""
    chain = SamplerChain(settings, VOCAB_SIZE)
    law: Law = {}

    def extend(tokens: tuple[int, ...], weight: float) -> None:
        if len(tokens) == num_tokens or (tokens and tokens[-1] == end):
            law[tokens] = weight
            return
        prefix = (*PROMPT, *tokens)
        survivors = chain.survivors(target(prefix), prefix, ())
        shares = survivors.probabilities.tolist()
        for token, share in zip(survivors.token_ids.tolist(), shares, strict=True):
            extend((*tokens, token), weight * share)

    extend((), 1.0)
    return law


class Branches:
    """A chance that takes every outcome of every draw in turn, one path per replay."""

    def __init__(self) -> None:
        self._outcomes: list[int] = []
        self._shares: list[list[float]] = []
        self._depth = 0

    def chance(self, edges: Probabilities) -> int:
        """Take the outcome of this path; outcomes of probability 0 are skipped."""
        if self._depth == len(self._outcomes):
            shares = np.diff(edges, prepend=0.0, append=1.0).tolist()
            assert min(shares) >= 0.0
            self._shares.append(shares)
            self._outcomes.append(next(i for i, share in enumerate(shares) if share))
        self._depth += 1
        return self._outcomes[self._depth - 1]

    def replay(self, run: Callable[[], tuple[int, ...]]) -> Iterator[tuple[tuple[int, ...], float]]:
        """Yield what `run` returns on every path, and the path's probability."""
        while True:
            self._depth = 0
            result = run()
            assert self._depth == len(self._outcomes)
            taken = zip(self._shares, self._outcomes, strict=True)
            yield result, math.prod(shares[outcome] for shares, outcome in taken)
            while self._outcomes:
                shares, last = self._shares[-1], self._outcomes[-1]
                later = [i for i in range(last + 1, len(shares)) if shares[i]]
                if later:
                    self._outcomes[-1] = later[0]
                    break
                self._outcomes.pop()
                self._shares.pop()
            else:
                return


SchemeMaker = Callable[[SamplerSettings, Chance], Scheme]


def error_of(
    make: SchemeMaker,
    settings: SamplerSettings,
    plan: Plan,
    num_tokens: int,
    end: int | None = None,
) -> float:
    """Return the L1 distance between what a scheme emits and the target's law."""
    branches = Branches()
    scheme = make(settings, branches.chance)
    law: Law = {}
    for tokens, weight in branches.replay(lambda: generate(scheme, plan, num_tokens, end=end)):
        law[tokens] = law.get(tokens, 0.0) + weight
    expected = target_law(settings, num_tokens, end)
    return sum(abs(law.get(tokens, 0.0) - expected.get(tokens, 0.0)) for tokens in law | expected)


class ScriptedSampler:
    """Draw from the target's law by a given chance; remembers what it drew."""

    def __init__(self, settings: SamplerSettings, chance: Chance) -> None:
        self._chain = SamplerChain(settings, VOCAB_SIZE)
        self._chance = chance
        self._history: list[int] = []

    def begin(self, seed: int, context: Sequence[int]) -> None:
        """Forget the last generation."""
        self._history = list(context)

    def sample(self, logits: Logits) -> int:
        """Draw the token after everything drawn so far, whose logits these must be."""
        assert (logits == target(tuple(self._history))).all()
        law = self._chain.survivors(logits, self._history, ())
        token = take(law, self._chance)
        self._history.append(token)
        return token


def take(law: Survivors, chance: Chance) -> int:
    """Draw from a law."""
    sums = np.cumsum(law.probabilities)
    return int(law.token_ids[chance(sums[:-1] / sums[-1])])
