"""models.toml: what is read, and what a mistake in it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from metasd_local.config import models_path
from metasd_local.errors import ConfigError, UsageError
from metasd_local.hub.repository import HubFile
from metasd_local.pools.catalogue import (
    DEFAULT_DOWNLOAD,
    parse_catalogue,
    read_catalogue,
)

SHA256 = "0123456789abcdef" * 4
POOL = f"""
[pool.big]
summary = "two"
licence = "MIT"
memory_gb = 1.5
demo = true
target = {{ path = "big.gguf" }}
sampling = {{ temperature = 0.6, top_k = 20 }}

[[pool.big.drafter]]
name = "code"
domain = "code"
path = "/elsewhere/code.gguf"

[[pool.big.drafter]]
name = "maths"
unverified = "its name"
repo = "user/repo"
file = "folder/maths.gguf"
revision = "v1"
size_bytes = 1000
sha256 = "{SHA256}"
"""


def parse(folder: Path, text: str) -> Path:
    path = folder / "models.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_pool_is_read_whole(tmp_path: Path) -> None:
    """Paths start at the root unless they are absolute."""
    pool = parse_catalogue(parse(tmp_path, POOL), Path("/root"))["big"]
    maths = HubFile("user/repo", "folder/maths.gguf", "v1", 1000, SHA256)
    assert pool.sources == (Path("/root/big.gguf"), Path("/elsewhere/code.gguf"), maths)
    assert [drafter.name for drafter in pool.drafters] == ["code", "maths"]
    assert (pool.drafters[0].domain, pool.drafters[1].unverified) == ("code", "its name")
    assert (pool.memory_bytes, pool.is_demo, pool.licence) == (1_500_000_000, True, "MIT")
    assert (pool.sampling.temperature, pool.sampling.top_k, pool.sampling.top_p) == (0.6, 20, 0.95)


def test_the_shipped_catalogue_is_sound() -> None:
    """The starter's files are there; the other pools come from the Hub and say they are untried."""
    catalogue = read_catalogue({})
    starter = catalogue["starter"]
    assert all(isinstance(source, Path) and source.is_file() for source in starter.sources)
    assert len(starter.drafters) == 6
    assert starter.is_demo
    others = [pool for pool in catalogue if pool.name != "starter"]
    assert DEFAULT_DOWNLOAD in [pool.name for pool in others]
    for pool in others:
        assert pool.unverified
        assert pool.licence
        assert all(isinstance(source, HubFile) for source in pool.sources)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("summary", "sumary", r"models.toml: \[pool.big\].*'sumary'; did you mean 'summary'"),
        ("top_k", "topk", r"\[pool.big.sampling\].*did you mean 'top_k'"),
        ("20", '"x"', r"\[pool.big.sampling\]: top_k: found 'x'"),
        ("20", "true", r"\[pool.big.sampling\]: top_k: found True"),
        ("0.6", "-1", r"\[pool.big.sampling\].*temperature"),
        ("0.6", "1e-9", r"\[pool.big.sampling\].*temperature"),
        ('"big.gguf"', "3", r"\[pool.big.target\]: path: found 3"),
        ('path = "big.gguf"', 'file = "x.gguf"', r"\[pool.big.target\]: expected either path"),
        ('path = "big.gguf"', 'path = "x", revision = "v1"', r"revision: belongs to a repo"),
        ('path = "big.gguf"', 'repo = "a/b"', r"\[pool.big.target\]: file: found nothing"),
        (
            'target = { path = "big.gguf" }',
            "",
            r"\[pool.big\]: target: found nothing, expected a table with path = …",
        ),
        ('{ path = "big.gguf" }', '"big.gguf"', r"expected a table"),
        ('name = "code"', "", r"\[pool.big.drafter\]: name: found nothing"),
        ('name = "code"', 'name = "ngram"', r"\[pool.big.drafter\]: name: found 'ngram'"),
        ('name = "code"', 'name = "a,b"', r"\[pool.big.drafter\]: name: found 'a,b'"),
        ('name = "code"', 'name = "maths"', r"\[pool.big\]: drafter: two of maths, maths"),
        ("demo = true", "demo = 1", r"demo: found 1, expected true or false"),
        ("1.5", "true", r"memory_gb: found True"),
        ("= 1000", "= 0", r"size_bytes: found 0, expected a whole number of at least 1"),
        ("= 1000", "= true", r"size_bytes: found True"),
        (SHA256, SHA256[1:], r"sha256: found .*, expected 64 hexadecimal digits"),
        (SHA256, SHA256.upper(), r"sha256: found"),
        ("user/repo", "repo", r"repo: found 'repo', expected user/repo"),
        ("user/repo", "a/b/c", r"repo: found 'a/b/c'"),
        ("user/repo", "a/b:Q4", r"repo: found 'a/b:Q4'"),
        ("user/repo", "../b", r"repo: found"),
        ("folder/maths", "../maths", r"\[pool.big.drafter\]: file: found '../maths.gguf'"),
        ("folder/maths", "a/../../maths", r"file: found"),
        ("folder/maths", "/maths", r"file: found"),
        ("folder/maths", "C:maths", r"file: found"),
        ("folder/maths", "a\\\\\\\\maths", r"file: found"),
        ("folder/maths", "a\\\\u001bmaths", r"file: found"),
        ("maths.gguf", "maths.bin", r"file: found"),
        ("[pool.big]", "[pool.'a b']", r"\[pool\]: found 'a b', expected a name of letters"),
        ("[pool.big]", "[pool.big", r"models.toml: no valid TOML"),
        ("[pool.big]", "[pools.big]", r"did you mean 'pool'"),
        (POOL, "pool = 3", r"models.toml: pool: found 3, expected a table"),
    ],
)
def test_a_mistake_names_file_table_and_key(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    """And the nearest valid key or what was expected."""
    text = POOL.replace(old, new.replace("\\\\", "\\"))
    assert text != POOL
    with pytest.raises(ConfigError, match=message) as caught:
        parse_catalogue(parse(tmp_path, text), tmp_path)
    assert str(tmp_path / "models.toml") in str(caught.value)


def test_pools_of_the_user_extend_and_replace(tmp_path: Path) -> None:
    """Relative paths of theirs start at their folder, `~` at the home folder."""
    environment = {"XDG_CONFIG_HOME": str(tmp_path)}
    path = models_path(environment)
    path.parent.mkdir()
    own = POOL.replace('"big.gguf"', '"~/big.gguf"')
    path.write_text(own + '[pool.starter]\ntarget = { path = "mine.gguf" }\n', encoding="utf-8")
    catalogue = read_catalogue(environment)
    assert catalogue["big"].target == Path("~/big.gguf").expanduser()
    assert catalogue["starter"].target == path.parent / "mine.gguf"
    assert (catalogue["starter"].drafters, catalogue["starter"].is_demo) == ((), False)
    assert catalogue["starter"].defined_in == path
    assert DEFAULT_DOWNLOAD in catalogue


def test_a_catalogue_of_the_user_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Nobody guesses why a pool is missing."""
    path = models_path({"XDG_CONFIG_HOME": str(tmp_path)})
    path.mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"models.toml: cannot be read: Is a directory"):
        read_catalogue({"XDG_CONFIG_HOME": str(tmp_path)})


def test_an_unknown_pool_gets_the_nearest_name() -> None:
    """And the list of all."""
    with pytest.raises(UsageError, match=r"did you mean 'starter'.*qwen3"):
        read_catalogue({})["startr"]
