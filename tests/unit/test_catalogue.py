"""models.toml: what is read, and what a mistake in it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from metasd_local.catalogue import parse_catalogue, pool_of_file, read_catalogue
from metasd_local.errors import ConfigError, UsageError

POOL = """
[pool.big]
summary = "two"
target = { path = "big.gguf" }
sampling = { temperature = 0.6, top_k = 20 }

[[pool.big.drafter]]
name = "code"
path = "/elsewhere/code.gguf"
"""


def parse(folder: Path, text: str) -> Path:
    path = folder / "models.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_paths_start_at_the_root_unless_absolute(tmp_path: Path) -> None:
    pool = parse_catalogue(parse(tmp_path, POOL), Path("/root"))["big"]
    assert pool.target == Path("/root/big.gguf")
    assert [(d.name, d.path) for d in pool.drafters] == [("code", Path("/elsewhere/code.gguf"))]
    assert (pool.sampling.temperature, pool.sampling.top_k, pool.sampling.top_p) == (0.6, 20, 0.95)


def test_the_shipped_catalogue_names_files_that_are_there() -> None:
    pool = read_catalogue()["starter"]
    for path in (pool.target, *(drafter.path for drafter in pool.drafters)):
        assert path.is_file()
    assert len(pool.drafters) == 6


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("summary", "sumary", r"models.toml: \[pool.big\].*'sumary'; did you mean 'summary'"),
        ("top_k", "topk", r"\[pool.big.sampling\].*did you mean 'top_k'"),
        ("20", '"x"', r"\[pool.big.sampling\]"),
        ("0.6", "-1", r"\[pool.big.sampling\].*temperature"),
        ('"big.gguf"', "3", r"\[pool.big.target\] path: found 3"),
        ('target = { path = "big.gguf" }', "", r"has no target"),
        ('{ path = "big.gguf" }', '"big.gguf"', r"expected a table"),
        ('name = "code"', "", r"\[pool.big.drafter\] name"),
        ("[pool.big]", "[pool.big", r"models.toml"),
        ("[pool.big]", "[pools.big]", r"did you mean 'pool'"),
    ],
)
def test_a_mistake_names_file_table_and_key(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_catalogue(parse(tmp_path, POOL.replace(old, new)), tmp_path)


def test_an_unknown_pool_gets_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="did you mean 'starter'"):
        read_catalogue()["startr"]


def test_a_file_is_a_pool_without_drafters() -> None:
    pool = pool_of_file(Path("/models/T.gguf"))
    assert (pool.name, pool.target, pool.drafters) == ("T", Path("/models/T.gguf"), ())
