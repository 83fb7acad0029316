"""Four lossless schemes: the only place where losslessness can be broken.

Knows token ids and logits, and no drafter. Whatever is drafted and however long the draft is,
the emitted tokens follow the target's law after its sampler chain.

Every scheme is used in this order: `begin`; possibly `expect`; then per round any number of
`draft` calls, one `verify`, possibly `matches`, and possibly `overlaps` before the next draft. The
context may already have grown when `overlaps` is called.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from metasd_local.laws import (
    Laws,
    Said,
    check_position,
    margin_of_shares,
    margins_of,
    probability_of,
    weigh,
)
from metasd_local.protocols import Draft, Logits, NextKind, Probabilities, TargetSampler, Verdict
from metasd_local.sampling import KeyedNoise, SamplerChain, SamplerSettings, Survivors, TokenIds

Chance: TypeAlias = Callable[[Probabilities], int]
"""Draw a uniform number from [0, 1) and return how many of the ascending edges it reaches."""


def seeded_chance(seed: int) -> Chance:
    """Return a chance driven by numpy's default generator."""
    uniform = np.random.default_rng(seed).random
    return lambda edges: int(edges.searchsorted(uniform(), side="right"))


class _LikeliestDrafts:
    """What schemes have in common whose drafters propose the token they hold likeliest."""

    def __init__(self, settings: SamplerSettings, vocab_size: int) -> None:
        self._chain = SamplerChain(settings, vocab_size)
        self._target_weights = np.empty(vocab_size, np.float32)  # (vocab_size,)
        self._context: Sequence[int] = ()
        self._said = Said(())
        self._rows = np.empty((0, vocab_size), np.float32)
        """Those of the last `draft` or `matches`."""

    def begin(self, seed: int, context: list[int]) -> None:
        """Start a generation after `context`."""
        self._context = context
        self._said = Said(context)

    def draft(self, logits: Logits, drafted: Sequence[int]) -> int:
        """Return the drafter's likeliest token."""
        self._rows = logits[None]
        return self._chain.likeliest(logits, self._context, drafted)

    def expect(self, rows: Logits, first: int) -> None:
        """Note the target's likeliest tokens, without the penalty."""
        self._said.expect(rows.argmax(axis=1).tolist(), first)

    def matches(self, rows: Logits, first: int) -> Sequence[float]:
        """Compare the drafter's likeliest tokens with what was emitted or is expected."""
        self._rows = rows
        return self._said.compare(first, self._chain.all_likeliest(rows, self._context, first))

    def margins(self) -> Sequence[float]:
        """Return highest less second highest logit, without the penalty."""
        return margins_of(self._rows)


class Greedy(_LikeliestDrafts):
    """Accept the likeliest token: decoding at temperature 0.

    The penalty applies, the other settings have no effect on the likeliest token.
    """

    def __init__(
        self,
        settings: SamplerSettings,
        vocab_size: int,
        max_window: int,
        *,
        keeps_rows: bool = True,
    ) -> None:
        """Without `keeps_rows` the drafters' rows are not copied and there are no overlaps."""
        super().__init__(settings, vocab_size)
        self._keeps_rows = keeps_rows
        self._drafter_rows = list(np.empty((max_window, vocab_size), np.float32))
        self._drafter_sizes = [0] * max_window
        self._drafter_weights = np.empty(vocab_size, np.float32)  # (vocab_size,)

    def draft(self, logits: Logits, drafted: Sequence[int]) -> int:
        """Return the drafter's likeliest token."""
        position, size = len(drafted), len(logits)
        check_position(position, len(self._drafter_sizes))
        if self._keeps_rows:
            self._drafter_rows[position][:size] = logits
            self._drafter_sizes[position] = size
        return super().draft(logits, drafted)

    def verify(self, rows: Logits, draft: Draft) -> Verdict:
        """Accept up to the first token that is not the target's likeliest."""
        tokens = draft.tokens
        return _accept_equal(
            tokens, lambda i: self._chain.likeliest(rows[i], self._context, tokens[:i])
        )

    def overlaps(self, rows: Logits, draft: Draft, num_positions: int) -> Probabilities:
        """Compare the plain softmax of both rows, without the penalty."""
        assert self._keeps_rows, "overlaps need the drafters' rows"
        overlaps = np.empty(num_positions)  # (num_positions,)
        for i in range(num_positions):
            target_weights, target_sum = weigh(rows[i], self._target_weights)
            if draft.is_point_mass:
                overlaps[i] = target_weights[draft.tokens[i]] / target_sum
                continue
            size = self._drafter_sizes[i]
            drafter_row = self._drafter_rows[i][:size]
            drafter_weights, drafter_sum = weigh(drafter_row, self._drafter_weights[:size])
            # Scaling one side replaces dividing both.
            drafter_weights *= target_sum / drafter_sum
            common = np.minimum(target_weights[:size], drafter_weights, out=drafter_weights)
            overlaps[i] = np.add.reduce(common) / target_sum
        return overlaps


class Coupled:
    """Let target and drafter draw with the same noise; accept when they draw the same token.

    The noise is a function of seed, position in the context and token id, so the emitted tokens
    are a function of seed, prompt and target alone.

    Source: drafter-invariant speculative sampling (Daliri, Musco, Suresh, "Coupling without
    communication and drafter-invariant speculative decoding", arXiv 2408.07978).
    """

    def __init__(self, settings: SamplerSettings, vocab_size: int, max_window: int) -> None:
        self._chain = SamplerChain(settings, vocab_size)
        self._noise = KeyedNoise(vocab_size)
        self._laws = Laws(vocab_size, max_window)
        self._seed = 0
        self._context: Sequence[int] = ()
        self._said = Said(())
        self._shares: list[Probabilities] = []
        """What the draws since the last `draft` or `matches` were decided by."""

    def begin(self, seed: int, context: list[int]) -> None:
        """Start a generation whose noise is keyed by `seed`."""
        self._seed = seed
        self._context = context
        self._said = Said(context)

    def draft(self, logits: Logits, drafted: Sequence[int]) -> int:
        """Draw from the drafter's law with the noise the target will use there."""
        self._shares.clear()
        law = self._chain.survivors(logits, self._context, drafted)
        self._laws.store_drafter(len(drafted), law)
        return self._draw(law, len(self._context) + len(drafted))

    def verify(self, rows: Logits, draft: Draft) -> Verdict:
        """Accept up to the first token that is not the one the target draws."""
        tokens = draft.tokens

        def choose(position: int) -> int:
            law = self._chain.survivors(rows[position], self._context, tokens[:position])
            self._laws.store_target(position, law)
            return self._draw(law, len(self._context) + position)

        return _accept_equal(tokens, choose)

    def overlaps(self, rows: Logits, draft: Draft, num_positions: int) -> Probabilities:
        """Compare the laws after the sampler chain."""
        return self._laws.overlaps(draft, num_positions)

    def expect(self, rows: Logits, first: int) -> None:
        """Note what the target draws inside the prompt."""
        self._said.expect(self._draw_all(rows, first), first)

    def matches(self, rows: Logits, first: int) -> Sequence[float]:
        """Compare what the drafter draws with what the target drew, with the same noise."""
        return self._said.compare(first, self._draw_all(rows, first))

    def margins(self) -> Sequence[float]:
        """Return by how much the drawn tokens' noisy logarithms of probability are the highest."""
        return [margin_of_shares(shares) for shares in self._shares]

    def _draw_all(self, rows: Logits, first: int) -> list[int]:
        """Return one token for every row; row i stands at position `first + i`."""
        self._shares.clear()
        laws = (
            self._chain.survivors_after(row, self._context, position)
            for position, row in enumerate(rows, first)
        )
        return [self._draw(law, position) for position, law in enumerate(laws, first)]

    def _draw(self, law: Survivors, position: int) -> int:
        if len(law.token_ids) == 1:
            self._shares.append(law.probabilities)
            return int(law.token_ids[0])
        noise = self._noise.exponentials(self._seed, position, law.token_ids)
        shares = law.probabilities / noise
        self._shares.append(shares)
        return int(law.token_ids[shares.argmax()])


class Match(_LikeliestDrafts):
    """Draw every token with a sampler of its own; accept greedy drafts that equal it.

    The sampler draws once per emitted token, in order. The settings serve the drafts and the
    overlaps only: they should resemble the sampler's chain, and need not equal it.

    Source: llama.cpp, common/sampling.cpp, common_sampler_sample_and_accept_n.
    """

    def __init__(self, sampler: TargetSampler, settings: SamplerSettings, vocab_size: int) -> None:
        super().__init__(settings, vocab_size)
        self._sampler = sampler
        self._is_greedy = settings.temperature == 0.0
        self._tail: Sequence[int] = ()

    def begin(self, seed: int, context: list[int]) -> None:
        """Start a generation; the sampler sees `context` as it is now."""
        super().begin(seed, context)
        self._sampler.begin(seed, context)

    def verify(self, rows: Logits, draft: Draft) -> Verdict:
        """Accept up to the first token that is not the one the sampler draws."""
        self._tail = self._chain.tail(self._context)
        return _accept_equal(draft.tokens, lambda i: self._sampler.sample(rows[i]))

    def overlaps(self, rows: Logits, draft: Draft, num_positions: int) -> Probabilities:
        """Return the target's probability of each draft token: every draft is a point mass."""
        overlaps = np.empty(num_positions)  # (num_positions,)
        tokens = draft.tokens
        for i in range(num_positions):
            if self._is_greedy:
                weights, total = weigh(rows[i], self._target_weights)
                overlaps[i] = weights[tokens[i]] / total
            else:
                law = self._chain.survivors(rows[i], self._tail, tokens[:i])
                overlaps[i] = probability_of(law, tokens[i])
        return overlaps


class Rejection:
    """Accept a token drawn from the drafter's law in proportion to the target's.

    Accepts with probability min(1, target / drafter); after a rejection the next token comes from
    the normalised positive part of target - drafter. The emitted tokens depend on the drafter,
    their law does not, provided that no drawn token is dropped from the draft.

    Source: Leviathan, Kalman, Matias, "Fast inference from transformers via speculative
    decoding", arXiv 2211.17192, algorithm 1; Chen et al., arXiv 2302.01318, algorithm 2.
    """

    def __init__(
        self,
        settings: SamplerSettings,
        vocab_size: int,
        max_window: int,
        chance: Callable[[int], Chance] = seeded_chance,
    ) -> None:
        self._chain = SamplerChain(settings, vocab_size)
        self._laws = Laws(vocab_size, max_window)
        self._seeded_chance = chance
        self._chance = chance(0)
        self._num_drawn = 0
        self._num_compared = 0
        self._context: Sequence[int] = ()
        self._num_prompt_tokens = 0
        self._emitted: list[float] = []
        """The target's probability of every token of the answer."""
        self._expected: dict[int, Survivors] = {}
        """The target's laws inside the prompt, by position."""

    def begin(self, seed: int, context: list[int]) -> None:
        """Start a generation with a fresh chance."""
        self._context = context
        self._num_prompt_tokens = len(context)
        self._emitted.clear()
        self._expected.clear()
        self._num_drawn = 0
        self._chance = self._seeded_chance(seed)

    def draft(self, logits: Logits, drafted: Sequence[int]) -> int:
        """Draw a token from the drafter's law."""
        law = self._chain.survivors(logits, self._context, drafted)
        self._laws.store_drafter(len(drafted), law)
        self._num_drawn = len(drafted) + 1
        self._num_compared = 1
        return self._draw(law.token_ids, law.probabilities)

    def verify(self, rows: Logits, draft: Draft) -> Verdict:
        """Accept or reject the tokens one by one."""
        tokens = draft.tokens
        num_drawn, self._num_drawn = self._num_drawn, 0
        # Dropping a token because of what was drawn would bend the law.
        assert draft.is_point_mass or len(tokens) == num_drawn, "a drawn token is lost"
        for i, token in enumerate(tokens):
            target = self._chain.survivors(rows[i], self._context, tokens[:i])
            self._laws.store_target(i, target)
            drafter = self._laws.drafter(i, draft)
            probability = probability_of(target, token)
            ratio = probability / probability_of(drafter, token)
            if ratio >= 1.0 or self._chance(np.array([ratio])) == 0:
                self._emitted.append(probability)
                continue
            aligned = self._laws.align(drafter, target.token_ids)
            residual = np.subtract(target.probabilities, aligned, out=aligned)
            np.maximum(residual, 0.0, out=residual)
            # Equal laws that differ by rounding alone can be rejected and leave nothing.
            weights = residual if residual.any() else target.probabilities
            return self._end(target, i, weights, "recovered")
        target = self._chain.survivors(rows[len(tokens)], self._context, tokens)
        return self._end(target, len(tokens), target.probabilities, "bonus")

    def overlaps(self, rows: Logits, draft: Draft, num_positions: int) -> Probabilities:
        """Compare the laws after the sampler chain."""
        return self._laws.overlaps(draft, num_positions)

    def expect(self, rows: Logits, first: int) -> None:
        """Note the target's laws inside the prompt."""
        for position, row in enumerate(rows, first):
            law = self._chain.survivors_after(row, self._context, position)
            self._expected[position] = law

    def matches(self, rows: Logits, first: int) -> Sequence[float]:
        """Return min(1, drafter / target) of emitted tokens, whose mean is 1 - TV.

        Inside the prompt, where the target emitted nothing, 1 - TV itself.
        """
        matches: list[float] = []
        self._num_compared = len(rows)
        for position, row in enumerate(rows, first):
            law = self._chain.survivors_after(row, self._context, position)
            index = position - self._num_prompt_tokens
            if index >= 0:
                ratio = probability_of(law, self._context[position]) / self._emitted[index]
                matches.append(min(1.0, ratio))
            elif position in self._expected:
                target = self._expected[position]
                aligned = self._laws.align(law, target.token_ids)
                matches.append(float(np.minimum(target.probabilities, aligned).sum()))
            else:
                matches.append(math.nan)
        return matches

    def margins(self) -> Sequence[float]:
        """Return infinity: every drawn token has to be judged, whatever was drawn."""
        return [math.inf] * self._num_compared

    def _end(
        self, target: Survivors, accepted: int, weights: NDArray[np.float64], kind: NextKind
    ) -> Verdict:
        """Draw the token after the accepted ones and note its probability."""
        token = self._draw(target.token_ids, weights)
        self._emitted.append(probability_of(target, token))
        return Verdict(accepted, token, kind)

    def _draw(self, token_ids: TokenIds, weights: NDArray[np.float64]) -> int:
        """Draw in proportion to `weights`, never a token of weight 0."""
        sums = weights.cumsum()
        # A sum divided by itself is exactly 1, which no uniform number reaches.
        sums /= sums[-1]
        return int(token_ids[self._chance(sums[:-1])])


def _accept_equal(tokens: Sequence[int], choose: Callable[[int], int]) -> Verdict:
    """Accept tokens while the target's own choice, made in order, equals them."""
    for i, token in enumerate(tokens):
        own = choose(i)
        if own != token:
            return Verdict(i, own, "recovered")
    return Verdict(len(tokens), choose(len(tokens)), "bonus")
