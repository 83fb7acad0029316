"""A file of events: one JSON object a line, only ever appended to, and readable again.

{"event": "RoundDone", "index": 0, "arm": "code", ...}: the name of the record and its fields.
Where somebody was answered, an `Asked` precedes the events of the answer, and a `Known` follows
those that mean more to the models than they say; without them no screen could be drawn again.
JSON has no infinity and no not-a-number, so such numbers are written as the texts "inf", "-inf"
and "nan".
"""

from __future__ import annotations

import json
import logging
import math
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from metasd_local.errors import MetasdError, UsageError
from metasd_local.events import Event, GenerationDone

logger = logging.getLogger(__name__)

MAX_INTEGER = 2**53
"""JSON's numbers are exact up to here; larger ones are damage."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The question that the events up to the next GenerationDone answer, and who answers."""

    question: str
    seed: int
    pool: str
    policy: str
    scheme: str
    sampling: Mapping[str, float]
    """By field of SamplerSettings."""
    device: str
    threads: int
    drafters: tuple[str, ...]
    context_size: int


@dataclass(frozen=True, slots=True)
class Known:
    """What only the models know of the event before."""

    pieces: tuple[str, ...] = ()
    """What each token of a round adds to the text; bytes that are no UTF-8 as lone surrogates."""
    prompt_tokens: tuple[int, ...] = ()
    """The prompt that was read."""
    plain_s: float | None = None
    """What a single token costs the target; None if not known."""


Entry: TypeAlias = Event | Asked | Known

_RECORDS: Mapping[str, Any] = {record.__name__: record for record in get_args(Entry)}


class TraceWriter:
    """Append events to a file; what is on the disk is whole up to the last generation's end."""

    def __init__(self, path: Path) -> None:
        """Open the file, creating it; raise UsageError if that is impossible."""
        try:
            if path.is_file() and not _can_be_continued(path):
                raise UsageError(
                    f"{path}: its last line is cut off or it is no trace; "
                    "remove that line or give another file"
                )
            self._file = path.open("a", encoding="utf-8", newline="\n")
        except OSError as error:
            raise UsageError(f"{path}: cannot write a trace there: {error.strerror}") from error

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, entry: Entry) -> None:
        """Append one event; raise MetasdError if the disk refuses it."""
        try:
            self._file.write(json.dumps(_encode(entry), allow_nan=False) + "\n")
            if isinstance(entry, GenerationDone):
                self._file.flush()
        except OSError as error:
            raise self._failure(error) from error

    def close(self) -> None:
        """Write out what is left and close; harmless when called twice. Raises MetasdError."""
        try:
            self._file.close()
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> MetasdError:
        return MetasdError(f"{self._file.name}: the trace is incomplete: {error.strerror}")


def read_entries(path: Path) -> Iterator[tuple[int, Entry]]:
    """Yield everything in a trace with the numbers of its lines.

    A last line without its newline that cannot be read was cut off while being written: it is
    skipped with a warning. Raises MetasdError for any other damage.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    entry = _decode_entry(json.loads(line))
                except (ValueError, OverflowError, RecursionError) as error:
                    if not line.endswith(b"\n"):
                        logger.warning("%s: line %d is cut off and skipped", path, number)
                        return
                    raise MetasdError(f"{path}, line {number}: {error}") from error
                yield number, entry
    except OSError as error:
        raise MetasdError(f"{path}: cannot be read: {error.strerror}") from error


def _can_be_continued(path: Path) -> bool:
    with path.open("rb") as file:
        first = file.readline()
        if not first:
            return True
        try:
            _decode_entry(json.loads(first))
        except (ValueError, OverflowError, RecursionError):
            return False
        file.seek(-1, 2)
        return file.read() == b"\n"


def _encode(entry: Entry) -> dict[str, Any]:
    values = {each.name: _encode_value(getattr(entry, each.name)) for each in fields(entry)}
    return {"event": type(entry).__name__, **values}


def _encode_value(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _encode_value(item) for key, item in value.items()}
    return value


def _decode_entry(document: Any) -> Entry:
    """Return the record of a JSON object; raise ValueError naming what is wrong with it."""
    if not isinstance(document, dict):
        raise ValueError(f"found {document!r}, expected an object")
    name = document.pop("event", None)
    if name not in _RECORDS:
        raise ValueError(f"found event {name!r}, expected one of {', '.join(_RECORDS)}")
    record = _RECORDS[name]
    hints = get_type_hints(record)
    optional = {each.name for each in fields(record) if each.default is not MISSING}
    if different := (document.keys() ^ hints.keys()) - (optional - document.keys()):
        raise ValueError(f"{name} has missing or unknown fields: {', '.join(sorted(different))}")
    values = {key: _decode_value(f"{name}.{key}", hints[key], document[key]) for key in document}
    entry: Entry = record(**values)
    return entry


def _decode_value(where: str, hint: Any, value: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        return _decode_value(where, arguments[0], value)
    if origin is Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, list):
        return tuple(_decode_value(where, arguments[0], item) for item in value)
    if origin is Mapping and isinstance(value, dict):
        return {key: _decode_value(where, arguments[1], item) for key, item in value.items()}
    if hint is float and (value in ("inf", "-inf", "nan") or _is_number(value)):
        return float(value)
    if hint is int and type(value) is int and abs(value) <= MAX_INTEGER:
        return value
    if hint is str and isinstance(value, str):
        return value
    raise ValueError(f"{where}: found {value!r}, expected {hint}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
