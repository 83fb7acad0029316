"""The user's own models.toml: adding a pool to it and taking one out, the rest left as it was."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metasd_local.errors import ConfigError
from metasd_local.hub.repository import HubFile
from metasd_local.pools.catalogue import DrafterEntry, Pool, Source
from metasd_local.state import replace_text

_HEADER = re.compile(r"\s*\[\[?(.+?)\]\]?\s*(?:#.*)?")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def append_pool(path: Path, pool: Pool) -> None:
    """Write a pool's target and drafters at the end of a models.toml, made if need be.

    Raises ConfigError, with the file left as it was.
    """
    before = _read(path)
    name = f"pool.{pool.name}" if _BARE_KEY.fullmatch(pool.name) else f'pool."{pool.name}"'
    lines = [f"[{name}]", f"target = {{ {', '.join(_model(pool.target))} }}"]
    for drafter in pool.drafters:
        lines += ["", f"[[{name}.drafter]]", *_drafter(drafter)]
    added = "\n".join(lines) + "\n"
    after = f"{before.rstrip()}\n\n{added}" if before.strip() else added
    _replace(path, before, after, {pool.name: tomllib.loads(added)["pool"][pool.name]}, pool.name)


def remove_pool(path: Path, name: str) -> None:
    """Take a pool's tables out of a models.toml; comments inside them go, those between stay.

    Raises ConfigError, with the file left as it was, if it is written so that tables are not all.
    """
    before = _read(path)
    after = "".join(_without(before.splitlines(keepends=True), name)).rstrip()
    _replace(path, before, after + "\n" if after else "", {}, name)


def _replace(path: Path, before: str, after: str, pools: Mapping[str, Any], name: str) -> None:
    """Write a text if the only change in what it means is that of one pool."""
    expected = tomllib.loads(before)
    expected["pool"] = {**expected.get("pool", {})}
    expected["pool"].pop(name, None)
    expected["pool"] |= pools
    try:
        is_sound = {"pool": {}, **tomllib.loads(after)} == expected
    except tomllib.TOMLDecodeError:
        is_sound = False
    if not is_sound:
        raise ConfigError(
            f"{path} is not written in tables such as [pool.{name}] alone; change it by hand"
        )
    try:
        # It may be a link to somebody's collection of such files.
        replace_text(Path(os.path.realpath(path)), after)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _without(lines: Sequence[str], name: str) -> list[str]:
    """Return the lines outside a pool's tables."""
    kept: list[str] = []
    waiting: list[str] = []
    is_inside = False
    for line in lines:
        found = _HEADER.fullmatch(line.rstrip("\r\n"))
        if found is not None:
            was_inside, is_inside = is_inside, _is_table_of(found[1], name)
            if was_inside and not is_inside:
                kept += waiting  # what stands before a table, describes it
            waiting = []
        if not is_inside:
            kept.append(line)
        elif line.strip() and not line.lstrip().startswith("#"):
            waiting = []
        else:
            waiting.append(line)
    return [*kept, *waiting]


def _is_table_of(header: str, name: str) -> bool:
    try:
        return name in tomllib.loads(f"[{header}]").get("pool", {})
    except tomllib.TOMLDecodeError:
        return False


def _drafter(drafter: DrafterEntry) -> list[str]:
    return [f"name = {_text(drafter.name)}", *_model(drafter.source)]


def _model(source: Source) -> list[str]:
    if isinstance(source, HubFile):
        return [f"repo = {_text(source.repo)}", f"file = {_text(source.name)}"]
    return [f"path = {_text(str(source))}"]


def _text(text: str) -> str:
    # JSON's strings are TOML's, but for this one character.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
