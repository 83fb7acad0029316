"""Which pool answers, and which of its drafters: decided by the files on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from metasd_local.config import models_path, state_path
from metasd_local.errors import ModelError, UsageError
from metasd_local.options import Options
from metasd_local.plan import Sources, make_plan
from metasd_local.pools.local import LocalPool, find_pool, names_pool, remember_pool
from tests.hub_cache import put_in_cache

POOLS = """
[pool.mine]
target = { repo = "user/big", file = "big-Q4_K_M.gguf" }
[[pool.mine.drafter]]
name = "code"
repo = "user/small"
file = "code.gguf"
[[pool.mine.drafter]]
name = "maths"
repo = "user/small"
file = "maths.gguf"
[pool.other]
target = { repo = "user/other", file = "other.gguf" }
[pool.local]
target = { path = "local.gguf" }
"""

Environment = Mapping[str, str]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of an empty Hugging Face cache."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """Return one with pools of its own."""
    environment = {f"XDG_{name}_HOME": str(tmp_path / name) for name in ("CONFIG", "STATE")}
    models_path(environment).parent.mkdir(parents=True)
    models_path(environment).write_text(POOLS, encoding="utf-8")
    return environment


def drafters(pool: LocalPool, **said: str | tuple[str, ...]) -> Sources:
    options = Options(**said)  # type: ignore[arg-type]
    return make_plan(options, pool).sources


def test_files_of_the_hub_are_found_in_the_cache(cache: Path, environment: Environment) -> None:
    """A drafter that is missing is named and left out; one that was asked for is an error."""
    big = put_in_cache(cache, "user/big", "big-Q4_K_M.gguf", b"big")
    code = put_in_cache(cache, "user/small", "code.gguf", b"code")
    pool = find_pool("mine", environment)
    assert (pool.target, pool.drafters[0].path) == (big, code)
    sources = drafters(pool)
    assert [source.name for source in sources.models] == ["code"]
    (notice,) = sources.notices
    assert "drafter maths is not used" in notice
    assert "user/small/maths.gguf" in notice
    assert "metasd download mine" in notice
    assert drafters(pool, drafters=("code",)).notices == ()
    assert drafters(pool, policy="fixed:code").notices == ()
    assert drafters(pool, policy="plain").notices == ()
    for said in ({"drafters": ("code", "maths")}, {"policy": "fixed:maths"}):
        with pytest.raises(ModelError, match=r"maths.gguf .* metasd download mine"):
            drafters(pool, **said)


def test_a_missing_target_is_named_with_the_command(environment: Environment) -> None:
    """Or with the file to correct where a command cannot help."""
    with pytest.raises(ModelError, match=r"user/big/big-Q4_K_M.gguf of pool mine .* download mine"):
        find_pool("mine", environment)
    with pytest.raises(ModelError, match=r"local.gguf of pool local .* \[pool.local\] in .*toml"):
        find_pool("local", environment)
    with pytest.raises(ModelError, match="metasd download user/big:Q4_K_M"):
        find_pool("user/big:Q4_K_M", environment)
    with pytest.raises(UsageError, match="did you mean 'mine'"):
        find_pool("min", environment)


def test_what_was_downloaded_without_a_pool_is_one(cache: Path, environment: Environment) -> None:
    """As target and as drafter, by repository, quantisation or file; a path goes first."""
    big = put_in_cache(cache, "user/big", "big-Q4_K_M.gguf", b"big")
    code = put_in_cache(cache, "user/small", "sub/code.gguf", b"code")
    for text in ("user/big", "user/big:Q4_K_M", "user/big/big-Q4_K_M.gguf", str(big)):
        pool = find_pool(text, environment)
        assert (pool.target, pool.name, pool.text) == (big, "big-Q4_K_M", str(big))
        assert names_pool(text)
        (drafter,) = drafters(pool, drafters=("user/small/sub/code.gguf",)).models
        assert (drafter.name, drafter.path) == ("code", code)
        with pytest.raises(ModelError, match=r"metasd download user/small/maths.gguf"):
            drafters(pool, drafters=("user/small/maths.gguf",))
        with pytest.raises(UsageError, match=r"--drafters: found 'ngrm'.* did you mean 'ngram'"):
            drafters(pool, drafters=("ngrm",))


@pytest.mark.parametrize("text", ["either/or", "read a/b:c", "why", "user/nothing"])
def test_a_prompt_is_no_pool(text: str) -> None:
    """A slash alone names nothing that is here."""
    assert not names_pool(text)


def test_the_default_pool_is_the_last_else_the_newest_else_the_starter(
    cache: Path, environment: Environment
) -> None:
    """Only what is here counts, only complete downloads do, and a file that is gone is passed."""
    assert find_pool(None, environment).name == "starter"
    target = put_in_cache(cache, "user/big", "big-Q4_K_M.gguf", b"big")
    put_in_cache(cache, "user/small", "code.gguf", b"code")
    assert find_pool(None, environment).name == "starter"
    put_in_cache(cache, "user/small", "maths.gguf", b"maths")
    assert find_pool(None, environment).name == "mine"
    newest = put_in_cache(cache, "user/other", "other.gguf", b"other")
    os.utime(target, (1, 1))
    assert find_pool(None, environment).name == "other"
    for last in ("mine", "starter", "user/other"):
        remember_pool(find_pool(last, environment), state_path(environment))
        assert find_pool(None, environment).target == find_pool(last, environment).target
    newest.unlink()
    assert find_pool(None, environment).name == "mine"
    (state_path(environment) / "pools.json").write_text('{"last": ["mine"]}', encoding="utf-8")
    assert find_pool(None, environment).name == "mine"
