"""Training text: reading DOMAIN.jsonl.gz, formatting records as tokens, drawing windows.

Owns the record format of the chat marks; must not know about models.
"""

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from metasd_local.starter.train.config import DomainSettings

END, USER, ASSISTANT, SYSTEM, PAD = range(5)
SPECIAL_TOKENS = ("<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|pad|>")
HELD_OUT_BUCKETS = 200

Tokens = NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Record:
    """One training text."""

    domain: str
    prompt: str
    """Empty for running text."""
    response: str
    source: str
    """Where the text comes from: repository, commit, path."""
    licence: str


@dataclass(frozen=True, slots=True)
class Stream:
    """One domain's text as tokens, records in shuffled order."""

    train: Tokens
    """(num_tokens,) uint16."""
    held_out: Tokens
    """(num_tokens,) uint16: the records that no training window shows."""


def find_domains(folder: Path) -> tuple[str, ...]:
    """Name the domains of a folder, sorted. Raises: FileNotFoundError when there is none."""
    names = tuple(sorted(path.name.removesuffix(".jsonl.gz") for path in folder.glob("*.jsonl.gz")))
    if not names:
        raise FileNotFoundError(f"{folder} holds no DOMAIN.jsonl.gz; see train/README.md")
    return names


def read_records(folder: Path, domain: str) -> Iterator[Record]:
    """Yield a domain's records in file order. Raises: ValueError naming file, line and field."""
    path = folder / f"{domain}.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            fields = json.loads(line)
            try:
                yield Record(**{name: str(fields[name]) for name in Record.__slots__})
            except KeyError as error:
                raise ValueError(f"{path}:{number}: field {error} is missing") from error


def is_held_out(record: Record) -> bool:
    """Tell whether the record belongs to the held-out split: 1 in 200, by hash of its prompt.

    Running text is hashed by its response. Equal prompts fall on the same side.
    """
    text = " ".join((record.prompt or record.response).lower().split())
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:4], "big") % HELD_OUT_BUCKETS == 0


def select(records: Iterator[Record], settings: DomainSettings) -> list[Record]:
    """Keep the records the settings ask for, each source's share of running text included."""
    chosen = []
    for record in records:
        if settings.sources and not any(part in record.source for part in settings.sources):
            continue
        text = (record.prompt + record.response).encode()
        if not record.prompt and zlib.crc32(text) % 1000 >= 1000 * settings.running_text:
            continue
        chosen.append(record)
    return chosen


def encode_prompt(tokenizer: Tokenizer, prompt: str, max_tokens: int) -> list[int]:
    """Return the prompt between its marks, cut to max_tokens, ready for the answer."""
    tokens = [USER, *encode_text(tokenizer, prompt)]
    return [*tokens[: max_tokens - 1], ASSISTANT]


def encode_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """Encode content: chat marks spelled in it stay ordinary text."""
    tokenizer.encode_special_tokens = True
    return list(tokenizer.encode(text).ids)


def build_stream(
    tokenizer: Tokenizer, records: Sequence[Record], max_tokens: int, seed: int
) -> Stream:
    """Format, encode and shuffle records until max_tokens training tokens are reached."""
    tokenizer.encode_special_tokens = True
    order = np.random.default_rng(seed).permutation(len(records))
    parts: dict[bool, list[Tokens]] = {False: [], True: []}
    num_train = 0
    for first in range(0, len(order), 1024):
        batch = [records[index] for index in order[first : first + 1024]]
        prompts = tokenizer.encode_batch_fast([record.prompt for record in batch])
        responses = tokenizer.encode_batch_fast([record.response for record in batch])
        for record, prompt, response in zip(batch, prompts, responses, strict=True):
            marks = [USER, *prompt.ids, ASSISTANT] if record.prompt else []
            tokens = np.array([*marks, *response.ids, END], dtype=np.uint16)
            parts[is_held_out(record)].append(tokens)
            num_train += 0 if is_held_out(record) else len(tokens)
        if num_train >= max_tokens:
            break
    return Stream(train=_joined(parts[False]), held_out=_joined(parts[True]))


def prompt_texts(records: Sequence[Record], seed: int, *, held_out: bool) -> Iterator[str]:
    """Yield the prompts of one side of the split in shuffled order.

    Running text becomes a prompt by a cut at one of its line ends.
    """
    rng = np.random.default_rng((seed, 1))
    for index in rng.permutation(len(records)):
        record = records[index]
        prompt = record.prompt
        if not prompt:
            lines = record.response.split("\n")
            prompt = "\n".join(lines[: int(rng.integers(1, max(2, min(len(lines), 12))))])
        if is_held_out(record) == held_out:
            yield prompt


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
    for domain, chosen in settings.items():
        source = folder / f"{domain}.jsonl.gz"
        facts = f"{vocabulary}{chosen}{seed}{source.stat().st_size}".encode()
        path = cache / f"{domain}-{hashlib.sha256(facts).hexdigest()[:12]}.npz"
        if not path.exists():
            records = select(read_records(folder, domain), chosen)
            stream = build_stream(tokenizer, records, chosen.max_tokens, seed)
            partial = path.with_suffix(".partial.npz")
            np.savez(partial, train=stream.train, held_out=stream.held_out)
            partial.replace(path)
        with np.load(path) as arrays:
            streams[domain] = Stream(train=arrays["train"], held_out=arrays["held_out"])
    return streams


def draw_windows(
    streams: Mapping[str, Stream],
    mixture: Mapping[str, float],
    batch_size: int,
    window: int,
    seed: int,
    step: int,
) -> NDArray[np.int64]:
    """Draw one step's windows; the same seed and step always give the same ones.

    Returns (batch_size, window + 1) int64: inputs are all but the last column, labels all but the
    first.
    """
    rng = np.random.default_rng((seed, step))
    domains = sorted(mixture)
    shares = np.array([mixture[domain] for domain in domains])
    rows = np.empty((batch_size, window + 1), dtype=np.int64)
    for row, index in enumerate(rng.choice(len(domains), size=batch_size, p=shares / shares.sum())):
        tokens = streams[domains[index]].train
        start = int(rng.integers(0, len(tokens) - window))
        rows[row] = tokens[start : start + window + 1]
    return rows


def held_out_windows(stream: Stream, window: int, max_windows: int) -> NDArray[np.int64]:
    """Return the first held-out windows, (num_windows, window + 1) int64; may be empty."""
    count = min(max_windows, len(stream.held_out) // (window + 1))
    return stream.held_out[: count * (window + 1)].reshape(count, window + 1).astype(np.int64)


def _joined(parts: Sequence[Tokens]) -> Tokens:
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint16)
