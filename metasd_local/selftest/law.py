"""Whether tokens drawn with a drafter follow the target's own law: a chi-squared test."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from metasd_local.protocols import TokenModel
from metasd_local.sampling import SamplerChain, SamplerSettings

Law = Mapping[tuple[int, ...], float]
"""The probability of every beginning of a text; they exclude each other and sum to 1."""
Counts = Mapping[tuple[int, ...], int]

_LEAST_EXPECTED = 5.0
_LEAST_SHARE_TO_SPLIT = 0.05


def p_value(samples: Iterable[tuple[Counts, Law]]) -> float:
    """Return the probability of counts this far from their laws, all samples taken together.

    The rarest outcomes are put together until they are expected at least 5 times. An outcome that
    a law does not know is impossible: 0.
    Source: Wilson, Hilferty, "The distribution of chi-square", PNAS 17 (1931).
    """
    chi_squared, degrees = 0.0, 0
    for counts, law in samples:
        if not counts.keys() <= law.keys():
            return 0.0
        kinds = _kinds(counts, law)
        chi_squared += sum((count - expected) ** 2 / expected for count, expected in kinds)
        degrees += max(len(kinds) - 1, 0)
    if degrees == 0:
        return 1.0
    spread = 2 / (9 * degrees)
    deviation = ((chi_squared / degrees) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)
    return math.erfc(deviation / math.sqrt(2)) / 2


def _kinds(counts: Counts, law: Law) -> list[tuple[float, float]]:
    """Return what was counted and what is expected of each kind of outcome."""
    total = sum(counts.values())
    kinds: list[tuple[float, float]] = []
    count = expected = 0.0
    for tokens, share in sorted(law.items(), key=lambda item: item[1]):
        count += counts.get(tokens, 0)
        expected += total * share
        if expected >= _LEAST_EXPECTED:
            kinds.append((count, expected))
            count = expected = 0.0
    if kinds:
        kinds[-1] = (kinds[-1][0] + count, kinds[-1][1] + expected)
    return kinds


def law_of_two_tokens(
    model: TokenModel, settings: SamplerSettings, prompt: Sequence[int], max_width: int
) -> Law:
    """Return the target's own law of the two tokens after `prompt`, from its logits alone.

    A pair is told apart where its first token is likely, else `(first,)` stands for all its
    continuations; so it does where batches of 1 to `max_width` tokens disagree on which tokens
    survive truncation. Empty if they disagree on the first token.
    """
    chain = SamplerChain(settings, model.vocab_size)
    model.rewind(0)
    law: dict[tuple[int, ...], float] = {}
    for first, share in _settled_law(model, chain, prompt, max_width).items():
        seconds = {}
        if share >= _LEAST_SHARE_TO_SPLIT:
            seconds = _settled_law(model, chain, [*prompt, first], max_width)
        law.update({(first, second): share * rest for second, rest in seconds.items()})
        if not seconds:
            law[(first,)] = share
    return law


def fold(counts: Counts, law: Law) -> tuple[Counts, Law]:
    """Return counts and law of the same outcomes.

    A first token stands for all its continuations where the law does not tell them apart, and
    where texts were seen to end with it.
    """
    whole = {tokens[0] for tokens in (*counts, *law) if len(tokens) == 1}

    def outcome(tokens: tuple[int, ...]) -> tuple[int, ...]:
        return tokens[:1] if tokens[0] in whole else tokens

    folded_counts: defaultdict[tuple[int, ...], int] = defaultdict(int)
    for tokens, count in counts.items():
        folded_counts[outcome(tokens)] += count
    folded_law: defaultdict[tuple[int, ...], float] = defaultdict(float)
    for tokens, share in law.items():
        folded_law[outcome(tokens)] += share
    return folded_counts, folded_law


def _settled_law(
    model: TokenModel, chain: SamplerChain, context: Sequence[int], max_width: int
) -> dict[int, float]:
    """Return the mean law of the next token over batch widths, empty if survivors differ."""
    num_read = model.keep_prefix(context[:-1])
    model.feed(context[num_read:-1], 0)
    laws = []
    for width in range(1, max_width + 1):
        model.rewind(len(context) - 1)
        survivors = chain.survivors(model.feed([context[-1]] * width, width)[0], context, ())
        shares = (survivors.probabilities / max_width).tolist()
        laws.append(dict(zip(survivors.token_ids.tolist(), shares, strict=True)))
    if any(law.keys() != laws[0].keys() for law in laws):
        return {}
    return {token: sum(law[token] for law in laws) for token in laws[0]}
