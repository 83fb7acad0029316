"""Files of what was measured or learned: JSON objects that may be lost, and never do harm."""

from __future__ import annotations

import functools
import json
import logging
import math
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


def read_state(path: Path) -> dict[str, Any]:
    """Return the object in a file; one that cannot be understood is moved aside with a warning."""
    try:
        return _read(path)
    except OSError as error:
        _complain(path.parent, error.strerror)
        return {}


def write_entry(path: Path, key: str, entry: Mapping[str, Any]) -> None:
    """Put an entry into the object in a file, for this user alone; a failure is only logged."""
    try:
        document = _read(path)  # what cannot be read must not be replaced
        document[key] = entry
        replace_text(path, json.dumps(document, indent=1))
    except OSError as error:
        _complain(path.parent, error.strerror)


def replace_text(path: Path, text: str, mode: int = 0o600) -> None:
    """Give a file a text, all of it or none; raise OSError."""
    partial = path.with_name(f".{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch(mode)
        partial.write_text(text, encoding="utf-8", newline="")
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        document = json.loads(text, parse_float=_finite, parse_int=_finite, parse_constant=_finite)
        if isinstance(document, dict):
            return document
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, RecursionError):
        pass
    aside = path.with_name(f"{path.name}.damaged")
    path.replace(aside)
    logger.warning("%s held no sound JSON object; it is kept as %s, begun anew", path, aside.name)
    return {}


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


@functools.cache
def _complain(folder: Path, reason: str) -> None:
    """Warn of a folder once: all files in it suffer from the same."""
    logger.warning(
        "%s cannot be used (%s): the pool used last and what was learned about speed are not kept; "
        "nothing else is lost",
        folder,
        reason,
    )
