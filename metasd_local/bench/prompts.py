"""The prompts of a benchmark: the built-in set, or a file of the user's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from metasd_local.errors import UsageError
from metasd_local.options import nearest_hint


@dataclass(frozen=True, slots=True)
class Prompt:
    """What one answer is asked for."""

    domain: str
    """Kind of text the answer is; prompts of one domain are judged together."""
    text: str


def read_prompts(path: Path | None = None) -> tuple[Prompt, ...]:
    """Read JSON objects with the keys `domain` and `prompt`, one a line; None: the built-in set.

    Blank lines and other keys are ignored. Raises UsageError that names the file and the line.
    """
    source = path or resources.files("metasd_local") / "bench" / "prompts.jsonl"
    try:
        lines = source.read_bytes().split(b"\n")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    prompts = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            prompts.append(_parse(line))
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path}, line {number}: {error}; correct or remove it") from error
    if not prompts:
        raise UsageError(f"{path}: found no prompt, expected one JSON object a line")
    return tuple(prompts)


def _parse(line: bytes) -> Prompt:
    """Return the prompt of a line; raise ValueError that says what is wrong with it."""
    document = json.loads(line.decode("utf-8-sig"))
    if not isinstance(document, dict):
        raise ValueError("found no object, expected one with the keys domain and prompt")
    domain, text = (_text(document, key) for key in ("domain", "prompt"))
    if not domain.isprintable():
        raise ValueError(f"domain: found {domain!r}, expected a name without control characters")
    return Prompt(domain, text)


def _text(document: dict[str, object], key: str) -> str:
    value = document.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key}: found {value!r}, expected a text that is not empty")
    value.encode()  # JSON can spell lone surrogates, which no vocabulary knows
    return value


def select_domains(prompts: Sequence[Prompt], names: Collection[str]) -> tuple[Prompt, ...]:
    """Return the prompts of the named domains; raise UsageError if one of them has none."""
    known = list(dict.fromkeys(prompt.domain for prompt in prompts))
    for name in names:
        if name not in known:
            hint = nearest_hint(name, known)
            raise UsageError(f"no prompts of domain {name!r}{hint} (there are: {', '.join(known)})")
    return tuple(prompt for prompt in prompts if prompt.domain in names)


def prompts_hash(prompts: Sequence[Prompt]) -> str:
    """Return the SHA-256 of the prompts in their order, in hexadecimal."""
    canonical = json.dumps([[prompt.domain, prompt.text] for prompt in prompts])
    return hashlib.sha256(canonical.encode()).hexdigest()
