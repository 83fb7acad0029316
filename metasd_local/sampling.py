"""From logits to the law a token is drawn from, and the keyed noise that can draw it.

One path for target and drafters. Owns the scratch memory it needs; knows neither models nor
schemes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from metasd_local.errors import BackendError, UsageError
from metasd_local.protocols import Logits, Probabilities

TokenIds: TypeAlias = NDArray[np.int64]

_LOWEST_TEMPERATURE = 1e-6
_PEAKS_PER_SURVIVOR = 16
# Nats under the highest logit where the threshold is tried first.
_USUAL_DEPTH = np.float32(7.0)
_MOST_CANDIDATES = 64

_WORD = (1 << 64) - 1
_GOLDEN_GAMMA = 0x9E3779B97F4A7C15
_FIRST_MULTIPLIER = 0xBF58476D1CE4E5B9
_SECOND_MULTIPLIER = 0x94D049BB133111EB
# Converting a large whole number takes numpy as long as the arithmetic.
_GAMMA = np.uint64(_GOLDEN_GAMMA)
_ROUNDS = ((30, np.uint64(_FIRST_MULTIPLIER)), (27, np.uint64(_SECOND_MULTIPLIER)))


@dataclass(frozen=True, slots=True)
class SamplerSettings:
    """The sampler chain, in llama.cpp's names and with its meaning of the edge values."""

    temperature: float = 0.8
    """0 always takes the likeliest token; otherwise at least a millionth."""
    top_k: int = 40
    """Keep this many of the likeliest tokens; 0 keeps all."""
    top_p: float = 0.95
    """Keep the fewest of the likeliest tokens that together have this probability; 1 keeps all."""
    min_p: float = 0.05
    """Keep tokens at least this share of the likeliest one's probability; 0 keeps all."""
    repeat_penalty: float = 1.0
    """Divides positive and multiplies other logits of recent tokens; 1 does nothing."""
    penalty_last_n: int = 64
    """How many of the last tokens are recent; 0 turns the penalty off."""

    def __post_init__(self) -> None:
        """Raise UsageError for a value outside its range."""
        if not (self.temperature == 0.0 or _LOWEST_TEMPERATURE <= self.temperature < math.inf):
            raise UsageError(
                f"temperature is {self.temperature}; give 0 (always the likeliest token) "
                f"or a number of at least {_LOWEST_TEMPERATURE}"
            )
        for name, count in (("top_k", self.top_k), ("penalty_last_n", self.penalty_last_n)):
            if count < 0:
                raise UsageError(f"{name} is {count}; give a whole number of at least 0 (0 = off)")
        for name, share in (("top_p", self.top_p), ("min_p", self.min_p)):
            if not 0.0 <= share <= 1.0:
                raise UsageError(f"{name} is {share}; give a number from 0 to 1")
        if not 0.0 < self.repeat_penalty < math.inf:
            raise UsageError(
                f"repeat_penalty is {self.repeat_penalty}; give a number above 0 (1 = off)"
            )


class Survivors(NamedTuple):
    """The tokens a sampler chain leaves, and the law over them."""

    token_ids: TokenIds
    """Distinct, ascending."""
    probabilities: Probabilities
    """Same length; sums to 1."""


class SamplerChain:
    """Apply penalty, top-k, top-p, min-p and temperature, in this order, to rows of logits.

    Truncation looks at the probabilities at temperature 1. Of equal logits the lowest id comes
    first; llama.cpp leaves that open.

    Source: llama.cpp, src/llama-sampler.cpp (the samplers) and common/common.h (their order).
    """

    def __init__(self, settings: SamplerSettings, vocab_size: int) -> None:
        self._settings = settings
        self._num_recent = settings.penalty_last_n if settings.repeat_penalty != 1.0 else 0
        self._penalty = np.float32(settings.repeat_penalty)
        self._temperature = np.float32(settings.temperature)
        self._top_p = np.float32(settings.top_p)
        self._log_min_p = np.log(np.float32(settings.min_p)) if settings.min_p else -math.inf
        self._truncates = settings.top_k > 0 or settings.top_p < 1.0 or settings.min_p > 0.0
        self._all_ids = np.arange(vocab_size)  # (vocab_size,) int64
        self._penalised = np.empty(vocab_size, np.float32)  # (vocab_size,)
        self._ordered = np.empty(vocab_size, np.float32)  # (vocab_size,)
        self._weights = np.empty(vocab_size, np.float32)  # (vocab_size,)
        self._sums = np.empty(vocab_size, np.float32)  # (vocab_size,)
        self._mask = np.empty(vocab_size, np.bool_)  # (vocab_size,)

    def tail(self, context: Sequence[int]) -> Sequence[int]:
        """Return a copy of the part of `context` that the penalty can reach."""
        return context[-self._num_recent :] if self._num_recent else ()

    def likeliest(self, logits: Logits, context: Sequence[int], drafted: Sequence[int]) -> int:
        """Return the token of the highest logit after the penalty, the lowest id among equals.

        `logits` is the `(n,)` row after `context + drafted`, n at most the vocabulary size.
        Raises BackendError if the highest logit is not a finite number.
        """
        row = self._penalise(logits, context, drafted) if self._num_recent else logits
        token = int(row.argmax())
        if not math.isfinite(row[token]):
            refuse_peak(row[token])
        return token

    def all_likeliest(self, rows: Logits, context: Sequence[int], first: int) -> list[int]:
        """Return `likeliest` of rows; row i follows the first `first + i` tokens of `context`."""
        return [
            self.likeliest(row, self._tail_before(context, position), ())
            for position, row in enumerate(rows, first)
        ]

    def survivors_after(self, logits: Logits, context: Sequence[int], position: int) -> Survivors:
        """Return what `survivors` would after the first `position` tokens of `context`."""
        return self.survivors(logits, self._tail_before(context, position), ())

    def _tail_before(self, context: Sequence[int], position: int) -> Sequence[int]:
        return context[max(0, position - self._num_recent) : position] if self._num_recent else ()

    def survivors(
        self, logits: Logits, context: Sequence[int], drafted: Sequence[int]
    ) -> Survivors:
        """Return the law of the next token after `context + drafted`.

        `logits` is `(n,)` with n at most the vocabulary size; entries may be minus infinity.
        Raises BackendError if the highest logit is not a finite number.
        """
        row = self._penalise(logits, context, drafted) if self._num_recent else logits
        token = row.argmax()
        peak = row[token]
        if not math.isfinite(peak):
            refuse_peak(peak)
        if self._settings.temperature == 0.0:
            return Survivors(self._all_ids[token : token + 1], np.ones(1))
        if not self._truncates:
            return Survivors(self._all_ids[: len(row)], self._soften(row, peak))
        token_ids, candidates = self._candidates(row, peak)
        size = len(candidates)
        ordered = self._ordered[:size]
        np.copyto(ordered, candidates)
        ordered.sort()
        num_kept = self._num_kept(ordered, peak)
        if num_kept < size:
            lowest = ordered[size - num_kept]
            kept = self._at_least(lowest, candidates)
            token_ids, candidates = token_ids[kept], candidates[kept]
            surplus = len(candidates) - num_kept
            if surplus:
                equals = (candidates == lowest).nonzero()[0][-surplus:]
                token_ids, candidates = np.delete(token_ids, equals), np.delete(candidates, equals)
        return Survivors(token_ids, self._soften(candidates, peak))

    def _penalise(self, logits: Logits, context: Sequence[int], drafted: Sequence[int]) -> Logits:
        """Return a copy of the row with the penalty applied."""
        recent = np.array([*context[-self._num_recent :], *drafted], np.int64)
        recent = recent[-self._num_recent :]
        recent = recent[recent < len(logits)]
        row = self._penalised[: len(logits)]
        np.copyto(row, logits)
        values = logits[recent]
        row[recent] = np.where(values <= 0.0, values * self._penalty, values / self._penalty)
        return row

    def _candidates(self, row: Logits, peak: np.float32) -> tuple[TokenIds, Logits]:
        """Return, in order of id, all tokens above a threshold that no survivor lies under."""
        settings = self._settings
        if settings.top_p == 1.0 and settings.min_p > 0.0:
            mask = self._at_least(peak + self._log_min_p, row)
        elif 0 < settings.top_k < len(row):
            # All of the top-k, even for min-p: top-p takes its share of their sum.
            mask = self._at_least(peak - _USUAL_DEPTH, row)
            if not settings.top_k <= np.count_nonzero(mask) <= _MOST_CANDIDATES * settings.top_k:
                mask = self._at_least(self._top_k_bound(row), row)
        else:
            return self._all_ids[: len(row)], row
        token_ids = mask.nonzero()[0]
        return token_ids, row[token_ids]

    def _at_least(self, lowest: np.float32, row: Logits) -> NDArray[np.bool_]:
        return np.greater_equal(row, lowest, out=self._mask[: len(row)])

    def _top_k_bound(self, row: Logits) -> np.float32:
        """Return a number no higher than the k-th highest logit, and seldom much lower.

        The k-th highest among the maxima of disjoint groups is one, and there are far fewer
        maxima to sort.
        """
        size, top_k = len(row), self._settings.top_k
        num_groups = min(size, _PEAKS_PER_SURVIVOR * top_k)
        depth = size // num_groups
        peaks = self._weights[:num_groups]
        row[: depth * num_groups].reshape(depth, num_groups).max(axis=0, out=peaks)
        peaks.partition(num_groups - top_k)
        bound: np.float32 = peaks[num_groups - top_k]
        return bound

    def _num_kept(self, ordered: Logits, peak: np.float32) -> int:
        """Count the survivors among ascending logits: the last ones, whatever each sampler keeps.

        The probabilities are summed one by one in single precision, as in llama.cpp: where
        logits are equal the rounding decides.
        """
        settings, size = self._settings, len(ordered)
        num_kept = min(settings.top_k or size, size)
        if settings.top_p < 1.0:
            weights, sums = self._weights[:num_kept], self._sums[:num_kept]
            np.subtract(ordered[::-1][:num_kept], peak, out=weights)
            np.exp(weights, out=weights)
            weights.cumsum(out=sums)
            weights /= sums[-1]
            weights.cumsum(out=sums)
            num_kept = min(num_kept, int(sums.searchsorted(self._top_p)) + 1)
        if settings.min_p > 0.0:
            num_kept = min(num_kept, size - int(ordered.searchsorted(peak + self._log_min_p)))
        return num_kept

    def _soften(self, candidates: Logits, peak: np.float32) -> Probabilities:
        """Return the softmax at the temperature.

        Dividing before subtracting is llama.cpp's order: it rounds differently at low
        temperatures.
        """
        tempered = candidates / self._temperature
        tempered -= peak / self._temperature
        probabilities = tempered.astype(np.float64)
        np.exp(probabilities, out=probabilities)
        probabilities /= np.add.reduce(probabilities)
        return probabilities


class KeyedNoise:
    """Standard exponential noise that is a function of seed, position and token id.

    Minus its logarithm is standard Gumbel noise, so the argmax of `log(probability) + Gumbel` is
    the argmax of `probability / exponential`, which also takes probabilities of 0.

    Source: the splitmix64 generator (Steele, Lea, Flood, "Fast splittable pseudorandom number
    generators", OOPSLA 2014; constants of Vigna's splitmix64.c): seed and position choose a
    stream, the token id is the place in it.
    """

    def __init__(self, vocab_size: int) -> None:
        self._words = np.empty(vocab_size, np.uint64)  # (vocab_size,)
        self._shifted = np.empty(vocab_size, np.uint64)  # (vocab_size,)

    def exponentials(self, seed: int, position: int, token_ids: TokenIds) -> Probabilities:
        """Return the noise of `(n,)` token ids, all above 0."""
        words, shifted = self._words[: len(token_ids)], self._shifted[: len(token_ids)]
        stream = _mix(_mix(seed) + position * _GOLDEN_GAMMA)
        np.multiply(token_ids.view(np.uint64), _GAMMA, words)
        words += np.uint64((stream + _GOLDEN_GAMMA) & _WORD)
        for shift, multiplier in _ROUNDS:
            words ^= np.right_shift(words, shift, shifted)
            words *= multiplier
        words ^= np.right_shift(words, 31, shifted)
        # Odd multiples of 2^-53 lie strictly between 0 and 1 and are exact in double precision.
        words >>= 11
        words |= 1
        noise: Probabilities = -np.log(words * 2.0**-53)
        return noise


def _mix(word: int) -> int:
    """Return splitmix64's finaliser of `word` modulo 2^64."""
    word &= _WORD
    word = ((word ^ (word >> 30)) * _FIRST_MULTIPLIER) & _WORD
    word = ((word ^ (word >> 27)) * _SECOND_MULTIPLIER) & _WORD
    return word ^ (word >> 31)


def refuse_peak(peak: np.float32) -> NoReturn:
    """Raise BackendError for a row whose highest logit is not a finite number."""
    raise BackendError(
        f"the highest logit of a row is {peak}; expected a finite number. The model file may "
        "be damaged or its format not supported on this device: try another quantisation"
    )
