"""The sampler chain computes the law of llama.cpp's own samplers, to a millionth."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Sequence
from typing import TypeAlias

import llama_cpp.llama_cpp as llama
import numpy as np
import pytest
from numpy.typing import NDArray

from metasd_local.protocols import Logits
from metasd_local.sampling import SamplerChain, SamplerSettings

CONTEXT = [int(token) for token in np.random.default_rng(99).integers(0, 512, 90)]
DRAFTED = [3, 5, 3]
NEGLIGIBLE = 1e-30
"""Below this llama.cpp's single precision loses tokens at low temperatures."""

RowMaker: TypeAlias = Callable[[np.random.Generator, int], NDArray[np.floating]]

ROWS: dict[str, RowMaker] = {
    "normal": lambda rng, size: rng.normal(size=size) * 3,
    "flat": lambda rng, size: rng.normal(size=size) * 0.1,
    "peaked": lambda rng, size: np.where(np.arange(size) == 17, 30.0, rng.normal(size=size)),
    "uniform": lambda rng, size: np.full(size, rng.normal()),
    "tied": lambda rng, size: rng.integers(-6, 7, size=size) / 2,
    "few peaks": lambda rng, size: np.where(np.arange(size) % 200 == 7, 9.0, rng.normal()),
    "far below zero": lambda rng, size: rng.normal(size=size) * 2 - 60,
    "far above zero": lambda rng, size: rng.normal(size=size) * 2 + 300,
    "partly impossible": lambda rng, size: np.where(
        rng.random(size) < 0.9, -np.inf, rng.normal(size=size)
    ),
}


def settings_grid(temperature: float, top_ks: Sequence[int]) -> list[SamplerSettings]:
    """Return every combination of the edge values."""
    return [
        SamplerSettings(temperature, top_k, top_p, min_p, repeat_penalty, penalty_last_n)
        for top_k, top_p, min_p, (repeat_penalty, penalty_last_n) in itertools.product(
            top_ks, (0.0, 0.5, 0.95, 1.0), (0.0, 0.05, 1.0), ((1.0, 64), (1.3, 64), (0.7, 2))
        )
    ]


class LlamaChain:
    """llama.cpp's samplers in its default order, told of the context and the draft."""

    def __init__(self, settings: SamplerSettings, size: int) -> None:
        self._chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        for sampler in (
            llama.llama_sampler_init_penalties(
                size, settings.penalty_last_n, settings.repeat_penalty, 0.0, 0.0
            ),
            llama.llama_sampler_init_top_k(settings.top_k),
            llama.llama_sampler_init_top_p(settings.top_p, 1),
            llama.llama_sampler_init_min_p(settings.min_p, 1),
            llama.llama_sampler_init_temp(settings.temperature),
            llama.llama_sampler_init_dist(0),
        ):
            llama.llama_sampler_chain_add(self._chain, sampler)
        for token in CONTEXT + DRAFTED:
            llama.llama_sampler_accept(self._chain, token)

    def law(self, row: Logits) -> dict[int, float]:
        """Return the probability of every token left with one."""
        fields = [("id", np.int32), ("logit", np.float32), ("p", np.float32)]
        candidates = np.zeros(len(row), fields)
        candidates["id"] = np.arange(len(row))
        candidates["logit"] = row
        array = llama.llama_token_data_array(
            candidates.ctypes.data_as(llama.llama_token_data_p), len(row), -1, False
        )
        llama.llama_sampler_apply(self._chain, ctypes.byref(array))
        left = candidates[: array.size]
        return dict(zip(left["id"].tolist(), left["p"].tolist(), strict=True))

    def close(self) -> None:
        """Free the samplers."""
        llama.llama_sampler_free(self._chain)


def disagreement(row: Logits, ours: dict[int, float], theirs: dict[int, float]) -> str:
    """Describe how two laws differ; of equal logits the last survivors may be exchanged."""
    ours = {token: share for token, share in ours.items() if share > NEGLIGIBLE}
    theirs = {token: share for token, share in theirs.items() if share > NEGLIGIBLE}
    if len(ours) != len(theirs):
        return f"{len(ours)} survivors instead of {len(theirs)}"
    if not np.allclose(sorted(ours.values()), sorted(theirs.values()), rtol=0, atol=1e-6):
        return "other probabilities"
    lowest = min(ours.values())
    for token in ours.keys() | theirs.keys():
        mine, other = ours.get(token, 0.0), theirs.get(token, 0.0)
        is_tied = np.count_nonzero(row == row[token]) > 1
        if abs(mine - other) > 1e-6 and not (is_tied and max(mine, other) <= lowest + 1e-6):
            return f"token {token} has {mine} instead of {other}"
    return ""


@pytest.mark.parametrize(
    ("size", "temperature", "top_ks"),
    [
        (512, 0.0, (0, 1, 40, 5000)),
        (512, 0.2, (0, 40)),
        (512, 0.8, (0, 1, 40, 5000)),
        (512, 1.0, (0, 40)),
        (512, 1.7, (0, 40)),
        # From 1024 tokens and a top-k of 128 on llama.cpp sorts in other ways.
        (3000, 0.8, (0, 300)),
    ],
)
@pytest.mark.parametrize("num_rows", [1, pytest.param(3, marks=pytest.mark.full)])
def test_chain_equals_llama_cpp(
    size: int, temperature: float, top_ks: Sequence[int], num_rows: int
) -> None:
    """Same survivors, same probabilities, on every kind of row and at every edge value."""
    rows = [
        (name, make(np.random.default_rng(seed), size).astype(np.float32))
        for name, make in ROWS.items()
        for seed in range(num_rows)
    ]
    failures = []
    for settings in settings_grid(temperature, top_ks):
        ours = SamplerChain(settings, size)
        theirs = LlamaChain(settings, size)
        for name, row in rows:
            law = ours.survivors(row, CONTEXT, DRAFTED)
            mine = dict(zip(law.token_ids.tolist(), law.probabilities.tolist(), strict=True))
            difference = disagreement(row, mine, theirs.law(row))
            if difference:
                failures.append((settings, name, difference))
        theirs.close()
    assert not failures, failures[:5]
