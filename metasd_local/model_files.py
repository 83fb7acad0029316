"""The files of a model: the parts of a split one, their size, how to replace a damaged one."""

from __future__ import annotations

import os
import re
from pathlib import Path

_PART = re.compile(r"(.*-)(\d{5})(-of-)(\d{5})(\.gguf)", re.DOTALL)
# Source: huggingface_hub, file_download.py (the cache's folders).
_IN_HUB_CACHE = re.compile(r".*/models--([^/]+)/snapshots/[^/]+/(.+)", re.DOTALL)
_MOST_PARTS = 1000


def part_names(name: str) -> tuple[str, ...]:
    """Return the names of a model's files, split as NAME-00001-of-00003.gguf or not, given one."""
    match = _PART.fullmatch(name)
    if match is None or not 0 < int(match[4]) <= _MOST_PARTS:
        return (name,)
    stem, _, middle, total, suffix = match.groups()
    return tuple(f"{stem}{number:05}{middle}{total}{suffix}" for number in range(1, int(total) + 1))


def part_paths(path: Path) -> tuple[Path, ...]:
    """Return the files of a model, given one."""
    return tuple(path.with_name(name) for name in part_names(path.name))


def size_of_parts(path: Path) -> int:
    """Return the bytes of those files of a model that are here."""
    return sum(part.stat().st_size for part in part_paths(path) if os.path.isfile(part))


def repair_advice(path: Path, otherwise: str = "download it again") -> str:
    """Say how to get a file again: by a command if it lies in the Hugging Face cache."""
    match = _IN_HUB_CACHE.fullmatch(path.as_posix())
    if match is None:
        return otherwise
    repository = match[1].replace("--", "/", 1)
    return f"run: metasd download --verify {repository}/{match[2]}"
