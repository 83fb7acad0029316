"""Records of training text: reading DOMAIN.jsonl.gz, choosing among them, the held-out split.

Owns the file format; must not know about tokens or models.
"""

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from metasd_local.starter.train.config import DomainSettings

HELD_OUT_BUCKETS = 200


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


def select(records: Iterable[Record], settings: DomainSettings) -> list[Record]:
    """Keep the records the settings ask for, each source's share of running text included."""
    chosen = []
    for record in records:
        if settings.sources and not any(part in record.source for part in settings.sources):
            continue
        if len(record.prompt) + len(record.response) > settings.max_characters:
            continue
        text = (record.prompt + record.response).encode()
        if not record.prompt and zlib.crc32(text) % 1000 >= 1000 * settings.running_text:
            continue
        chosen.append(record)
    return chosen
