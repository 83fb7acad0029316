"""From logits to the law a token is drawn from, and the keyed noise that can draw it.

One path for target and drafters. Owns the scratch memory it needs; knows neither models nor
schemes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from metasd_local.errors import BackendError, UsageError
from metasd_local.protocols import Logits, Probabilities

TokenIds: TypeAlias = NDArray[np.int64]

_LOWEST_TEMPERATURE = 1e-6
_PEAKS_PER_SURVIVOR = 16

_WORD = (1 << 64) - 1
_GOLDEN_GAMMA = 0x9E3779B97F4A7C15
_FIRST_MULTIPLIER = 0xBF58476D1CE4E5B9
_SECOND_MULTIPLIER = 0x94D049BB133111EB


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


@dataclass(frozen=True, slots=True)
class Survivors:
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
        self._all_ids = np.arange(vocab_size)  # (vocab_size,) int64
        self._penalised = np.empty(vocab_size, np.float32)  # (vocab_size,)
        self._scratch = np.empty(vocab_size, np.float32)  # (vocab_size,)
        self._sums = np.empty(vocab_size, np.float32)  # (vocab_size,)
        self._mask = np.empty(vocab_size, np.bool_)  # (vocab_size,)
        self._probabilities = np.empty(vocab_size, np.float64)  # (vocab_size,)

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
            _refuse_peak(row[token])
        return token

    def survivors(
        self, logits: Logits, context: Sequence[int], drafted: Sequence[int]
    ) -> Survivors:
        """Return the law of the next token after `context + drafted`.

        `logits` is `(n,)` with n at most the vocabulary size; entries may be minus infinity. The
        result's arrays die at the next call. Raises BackendError if the highest logit is not a
        finite number.
        """
        row = self._penalise(logits, context, drafted) if self._num_recent else logits
        peak = row.max()
        if not math.isfinite(peak):
            _refuse_peak(peak)
        if self._settings.temperature == 0.0:
            token = int(row.argmax())
            return Survivors(self._all_ids[token : token + 1], np.ones(1))
        token_ids, candidates = self._candidates(row)
        num_survivors = self._num_survivors(candidates, peak)
        if num_survivors < len(candidates):
            kept = self._largest(candidates, num_survivors)
            token_ids, candidates = token_ids[kept], candidates[kept]
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

    def _candidates(self, row: Logits) -> tuple[TokenIds, Logits]:
        """Return the top-k tokens and few others, in order of id; all tokens without top-k.

        The k-th highest among the maxima of disjoint groups is no higher than the k-th highest
        logit, and there are far fewer maxima to sort.
        """
        size, top_k = len(row), self._settings.top_k
        if not 0 < top_k < size:
            return self._all_ids[:size], row
        num_groups = min(size, _PEAKS_PER_SURVIVOR * top_k)
        depth = size // num_groups
        peaks = self._scratch[:num_groups]
        row[: depth * num_groups].reshape(depth, num_groups).max(axis=0, out=peaks)
        peaks.partition(num_groups - top_k)
        mask = np.greater_equal(row, peaks[num_groups - top_k], out=self._mask[:size])
        token_ids = mask.nonzero()[0]
        return token_ids, row[token_ids]

    def _num_survivors(self, candidates: Logits, peak: np.float32) -> int:
        """Count the tokens that pass; each sampler keeps the first of the descending order.

        The probabilities are summed one by one in single precision, as in llama.cpp: where
        logits are equal the rounding decides.
        """
        settings, size = self._settings, len(candidates)
        num_kept = min(settings.top_k or size, size)
        if settings.top_p < 1.0:
            deficits = np.subtract(peak, candidates, out=self._scratch[:size])
            deficits.sort()
            weights = deficits[:num_kept]
            np.exp(np.negative(weights, out=weights), out=weights)
            sums = np.cumsum(weights, out=self._sums[:num_kept])
            weights /= sums[-1]
            np.cumsum(weights, out=sums)
            num_kept = min(num_kept, int(sums.searchsorted(self._top_p)) + 1)
        if settings.min_p > 0.0:
            lowest = peak + np.log(np.float32(settings.min_p))
            mask = np.greater_equal(candidates, lowest, out=self._mask[:size])
            num_kept = min(num_kept, int(np.count_nonzero(mask)))
        return num_kept

    def _largest(self, candidates: Logits, count: int) -> TokenIds:
        """Return the ascending indices of the `count` largest, the first ones among equals."""
        size = len(candidates)
        scratch = self._scratch[:size]
        np.copyto(scratch, candidates)
        scratch.partition(size - count)
        lowest = scratch[size - count]
        mask = np.greater_equal(candidates, lowest, out=self._mask[:size])
        indices: TokenIds = mask.nonzero()[0]
        surplus = len(indices) - count
        if surplus:
            equals = (candidates[indices] == lowest).nonzero()[0]
            indices = np.delete(indices, equals[-surplus:])
        return indices

    def _soften(self, candidates: Logits, peak: np.float32) -> Probabilities:
        """Return the softmax at the temperature.

        Dividing before subtracting is llama.cpp's order: it rounds differently at low
        temperatures.
        """
        size = len(candidates)
        tempered = np.divide(candidates, self._temperature, out=self._scratch[:size])
        tempered -= peak / self._temperature
        probabilities = self._probabilities[:size]
        np.copyto(probabilities, tempered)
        np.exp(probabilities, out=probabilities)
        probabilities /= probabilities.sum()
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
        self._noise = np.empty(vocab_size, np.float64)  # (vocab_size,)

    def exponentials(self, seed: int, position: int, token_ids: TokenIds) -> Probabilities:
        """Return the noise of `(n,)` token ids, all above 0; the array dies at the next call."""
        size = len(token_ids)
        words, shifted, noise = self._words[:size], self._shifted[:size], self._noise[:size]
        stream = _mix(_mix(seed) + position * _GOLDEN_GAMMA)
        np.multiply(token_ids.view(np.uint64), _GOLDEN_GAMMA, out=words)
        words += (stream + _GOLDEN_GAMMA) & _WORD
        words ^= np.right_shift(words, 30, out=shifted)
        words *= _FIRST_MULTIPLIER
        words ^= np.right_shift(words, 27, out=shifted)
        words *= _SECOND_MULTIPLIER
        words ^= np.right_shift(words, 31, out=shifted)
        # Odd multiples of 2^-53 lie strictly between 0 and 1 and are exact in double precision.
        np.right_shift(words, 11, out=words)
        words |= 1
        np.multiply(words, 2.0**-53, out=noise)
        np.log(noise, out=noise)
        return np.negative(noise, out=noise)


def _mix(word: int) -> int:
    """Return splitmix64's finaliser of `word` modulo 2^64."""
    word &= _WORD
    word = ((word ^ (word >> 30)) * _FIRST_MULTIPLIER) & _WORD
    word = ((word ^ (word >> 27)) * _SECOND_MULTIPLIER) & _WORD
    return word ^ (word >> 31)


def _refuse_peak(peak: np.float32) -> NoReturn:
    raise BackendError(
        f"the highest logit of a row is {peak}; expected a finite number. The model file may "
        "be damaged or its format not supported on this device: try another quantisation"
    )
