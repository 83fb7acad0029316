"""Answers of the target that loop, which it is then trained not to give.

Owns how they are found, their file and the windows drawn from them; must not know about losses.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metasd_local.starter.train.answers import Generator, loop_start
from metasd_local.starter.train.config import LoopSettings
from metasd_local.starter.train.data import USER, nearest_mark


@dataclass(frozen=True, slots=True)
class Loops:
    """Prompts and looping answers joined to one stream."""

    tokens: NDArray[np.uint16]
    """(num_tokens,)."""
    is_repeated: NDArray[np.bool_]
    """(num_tokens,): from the second occurrence of what an answer repeats to its end."""


def find_loops(
    generator: Generator,
    prompts: Iterable[Sequence[int]],
    settings: LoopSettings,
    report: Callable[[int], None],
) -> Loops:
    """Answer prompts, up to the settings' numbers of prompts and of looping answers; keep those.

    report: takes the number of looping answers so far, after each answer.
    """
    tokens: list[NDArray[np.uint16]] = []
    is_repeated: list[NDArray[np.bool_]] = []
    for part in generator.answer(islice(prompts, settings.max_prompts)):
        start = loop_start(part)
        if start is not None:
            tokens.append(part.tokens)
            is_repeated.append(np.arange(len(part.tokens)) >= start)
        report(len(tokens))
        if len(tokens) == settings.max_answers:
            break
    return join_loops([Loops(*both) for both in zip(tokens, is_repeated, strict=True)])


def join_loops(parts: Sequence[Loops]) -> Loops:
    """Return the streams one after the other."""
    nothing = Loops(np.empty(0, np.uint16), np.empty(0, np.bool_))
    return Loops(
        np.concatenate([part.tokens for part in (nothing, *parts)]),
        np.concatenate([part.is_repeated for part in (nothing, *parts)]),
    )


def write_loops(path: Path, loops: Loops) -> None:
    """Leave them at path (.npz)."""
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, tokens=loops.tokens, is_repeated=loops.is_repeated)
    partial.replace(path)


def read_loops(path: Path) -> Loops:
    """Read what write_loops left."""
    with np.load(path) as arrays:
        return Loops(arrays["tokens"], arrays["is_repeated"])


def draw_loops(
    loops: Loops, batch_size: int, window: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Draw windows that begin with a prompt, where one is near enough.

    loops: more than window + 1 tokens. Returns tokens and whether each is repeated, both
    (batch_size, window + 1).
    """
    tokens = np.empty((batch_size, window + 1), dtype=np.int64)
    is_repeated = np.empty((batch_size, window + 1), dtype=np.bool_)
    for row in range(batch_size):
        start = int(rng.integers(0, len(loops.tokens) - window - 1))
        start = nearest_mark(loops.tokens, USER, start, window)
        tokens[row] = loops.tokens[start : start + window + 1]
        is_repeated[row] = loops.is_repeated[start : start + window + 1]
    return tokens, is_repeated
