"""Files of what was measured or learned: JSON objects that may be lost, and never do harm."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


def read_state(path: Path) -> dict[str, Any]:
    """Return the object in a file; one that cannot be understood is moved aside with a warning."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(document, dict):
            return document
    except FileNotFoundError:
        return {}
    except OSError as error:
        logger.warning("%s: not read: %s", path, error.strerror)
        return {}
    except ValueError:
        pass
    aside = path.with_name(f"{path.name}.damaged")
    logger.warning("%s: found no JSON object; it is kept as %s", path, aside.name)
    try:
        path.replace(aside)
    except OSError as error:
        logger.warning("%s: cannot be moved aside: %s", path, error.strerror)
    return {}


def write_entry(path: Path, key: str, entry: Mapping[str, Any]) -> None:
    """Put an entry into the object in a file, for this user alone; a failure is only logged."""
    document = read_state(path)
    document[key] = entry
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch(mode=0o600)
        partial.write_text(json.dumps(document, indent=1), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        logger.warning("%s: not kept: %s", path, error.strerror)
