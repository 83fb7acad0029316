"""Training text as tokens: formatting records, encoding them once, drawing windows.

Owns the record format of the chat marks; must not know about models.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from metasd_local.starter.train.config import DomainSettings
from metasd_local.starter.train.forms import Group, read_groups

END, USER, ASSISTANT, SYSTEM, PAD = range(5)
SPECIAL_TOKENS = ("<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|pad|>")
GROUPS_TOGETHER = 1024

Tokens = NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Stream:
    """One domain's text as tokens, records in shuffled order."""

    train: Tokens
    """(num_tokens,) uint16."""
    held_out: Tokens
    """(num_tokens,) uint16: the records that no training window shows."""


def encode_prompt(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Return the prompt between its marks, ready for the answer.

    Chat marks spelled in it stay ordinary text.
    """
    tokenizer.encode_special_tokens = True
    return [USER, *tokenizer.encode(prompt).ids, ASSISTANT]


def encode_groups(tokenizer: Tokenizer, groups: Iterable[Group], max_tokens: int) -> Tokens:
    """Format and encode groups of records until max_tokens are reached."""
    tokenizer.encode_special_tokens = True
    parts: list[Tokens] = []
    num_tokens = 0
    waiting = iter(groups)
    while num_tokens < max_tokens:
        batch = [record for group in islice(waiting, GROUPS_TOGETHER) for record in group]
        if not batch:
            break
        prompts = tokenizer.encode_batch_fast([record.prompt for record in batch])
        responses = tokenizer.encode_batch_fast([record.response for record in batch])
        for record, prompt, response in zip(batch, prompts, responses, strict=True):
            marks = [USER, *prompt.ids, ASSISTANT] if record.prompt else []
            parts.append(np.array([*marks, *response.ids, END], dtype=np.uint16))
            num_tokens += len(parts[-1])
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint16)


def prompt_texts(groups: Iterable[Group], seed: int) -> Iterator[str]:
    """Yield the first prompt of every group; running text is cut at one of its line ends."""
    rng = np.random.default_rng((seed, 1))
    for record, *_ in groups:
        lines = record.response.split("\n")
        cut = int(rng.integers(1, max(2, min(len(lines), 12))))
        yield record.prompt or "\n".join(lines[:cut])


def load_streams(
    folder: Path,
    cache: Path,
    tokenizer: Tokenizer,
    settings: Mapping[str, DomainSettings],
    seed: int,
) -> dict[str, Stream]:
    """Return every domain's stream, encoded once and kept in the cache folder as .npz."""
    cache.mkdir(parents=True, exist_ok=True)
    vocabulary = tokenizer.to_str()
    streams = {}
    for name, chosen in settings.items():
        sizes = [(folder / f"{file}.jsonl.gz").stat().st_size for file in chosen.files or (name,)]
        facts = f"{vocabulary}{replace(chosen, share=1.0)}{seed}{sizes}".encode()
        path = cache / f"{name}-{hashlib.sha256(facts).hexdigest()[:12]}.npz"
        if not path.exists():
            train, held_out = (
                encode_groups(tokenizer, groups, chosen.max_tokens)
                for groups in (
                    read_groups(folder, name, chosen, seed, held_out=False),
                    read_groups(folder, name, chosen, seed, held_out=True),
                )
            )
            partial = path.with_suffix(".partial.npz")
            np.savez(partial, train=train, held_out=held_out)
            partial.replace(path)
        with np.load(path) as arrays:
            streams[name] = Stream(train=arrays["train"], held_out=arrays["held_out"])
    return streams


def draw_windows(
    streams: Mapping[str, Stream],
    mixture: Mapping[str, float],
    batch_size: int,
    window: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Draw windows that begin with a record, unless it is longer than a window.

    Returns (batch_size, window + 1) int64: inputs are all but the last column, labels all but the
    first.
    """
    domains = sorted(mixture)
    shares = np.array([mixture[domain] for domain in domains])
    rows = np.empty((batch_size, window + 1), dtype=np.int64)
    for row, index in enumerate(rng.choice(len(domains), size=batch_size, p=shares / shares.sum())):
        tokens = streams[domains[index]].train
        start = nearest_mark(tokens, END, int(rng.integers(0, len(tokens) - window - 1)), window)
        start += tokens[start] == END
        rows[row] = tokens[start : start + window + 1]
    return rows


def nearest_mark(tokens: Tokens, mark: int, start: int, reach: int) -> int:
    """Return the last position of the mark among the `reach` before start, or else start."""
    first = max(0, start - reach)
    earlier = np.flatnonzero(tokens[first : start + 1] == mark)
    return first + int(earlier[-1]) if len(earlier) else start


def held_out_windows(stream: Stream, window: int, max_windows: int) -> NDArray[np.int64]:
    """Return the first held-out windows, (num_windows, window + 1) int64; may be empty."""
    count = min(max_windows, len(stream.held_out) // (window + 1))
    return stream.held_out[: count * (window + 1)].reshape(count, window + 1).astype(np.int64)
