"""The user's own models.toml is changed by one pool at a time, and by nothing else."""

from __future__ import annotations

import stat
import tomllib
from pathlib import Path

import pytest

from metasd_local.errors import ConfigError
from metasd_local.hub.repository import HubFile
from metasd_local.pools.catalogue import DrafterEntry, Pool, parse_catalogue
from metasd_local.pools.own import append_pool, remove_pool

MINE = Pool(
    "mine.2",
    Path('/models/a "big" \\ one\x7fé.gguf'),
    (
        DrafterEntry("code", HubFile("user/repo", "folder/code.gguf")),
        DrafterEntry("maths", Path("/models/maths.gguf")),
    ),
)
OTHERS = """# Mine, written by hand.
[pool.first]
target = { path = "a.gguf" }  # the big one

# This one is slow.
[pool.second]
summary = '''
[pool.first]
'''
target = { path = "b.gguf" }
"""


def test_what_is_appended_is_read_back(tmp_path: Path) -> None:
    """Into a new file, and behind what stands there, which stays to the letter."""
    path = tmp_path / "metasd" / "models.toml"
    append_pool(path, MINE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert next(iter(parse_catalogue(path, tmp_path))).sources == MINE.sources
    path.write_text(OTHERS, encoding="utf-8")
    append_pool(path, MINE)
    assert path.read_text(encoding="utf-8").startswith(OTHERS)
    pools = parse_catalogue(path, tmp_path)
    assert [pool.name for pool in pools] == ["first", "second", "mine.2"]
    assert pools["mine.2"].sources == MINE.sources
    assert [drafter.name for drafter in pools["mine.2"].drafters] == ["code", "maths"]
    assert [each.name for each in path.parent.iterdir()] == ["models.toml"]


def test_appending_and_removing_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    """Comments included; a link to the file stays a link."""
    path, link = tmp_path / "kept.toml", tmp_path / "models.toml"
    path.write_text(OTHERS, encoding="utf-8")
    link.symlink_to(path)
    append_pool(link, MINE)
    remove_pool(link, MINE.name)
    assert path.read_text(encoding="utf-8") == OTHERS
    assert link.is_symlink()


def test_a_pool_in_the_middle_is_removed_with_its_own_tables_only(tmp_path: Path) -> None:
    """The comment before the next table belongs to that one."""
    path = tmp_path / "models.toml"
    append_pool(path, MINE)
    mine = path.read_text(encoding="utf-8")
    path.write_text(mine + "\n" + OTHERS, encoding="utf-8")
    remove_pool(path, MINE.name)
    assert path.read_text(encoding="utf-8").strip() == OTHERS.strip()


@pytest.mark.parametrize(
    "text",
    [
        'pool.mine.target = { path = "a.gguf" }\n',
        'pool = { mine = { target = { path = "a.gguf" } } }\n',
        '[pool]\nmine = { target = { path = "a.gguf" } }\n',
    ],
)
def test_what_is_written_in_another_way_is_left_alone(tmp_path: Path, text: str) -> None:
    """The user is told to change it by hand."""
    path = tmp_path / "models.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"models.toml .*by hand"):
        remove_pool(path, "mine")
    assert path.read_text(encoding="utf-8") == text
    if text.startswith("pool ="):
        with pytest.raises(ConfigError, match="by hand"):
            append_pool(path, MINE)
    assert tomllib.loads(path.read_text(encoding="utf-8"))
