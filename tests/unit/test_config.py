"""The option table and its three sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from metasd_local.config import config_path, load_options
from metasd_local.errors import ConfigError, UsageError
from metasd_local.options import MAX_SEED, OPTIONS, Options, nearest_hint

TABLE = {option.name: option for option in OPTIONS}


def write(path: Path, text: str) -> Path:
    """Write a config.toml."""
    path.write_text(text, encoding="utf-8")
    return path


def test_nothing_said_leaves_every_option_open(tmp_path: Path) -> None:
    """Without a file, a variable or an argument nothing is decided."""
    assert load_options({}, {}, tmp_path / "config.toml") == Options()


def test_command_line_beats_environment_beats_file(tmp_path: Path) -> None:
    """Each source overrides the ones before it and leaves the rest of them alone."""
    path = write(tmp_path / "c.toml", 'temperature = 1\ntop_k = 1\nseed = 1\nstop = ["a", "b"]\n')
    environment = {"METASD_TOP_K": "2", "METASD_SEED": "2", "UNRELATED": "x", "METASD_SYSTEM": ""}
    options = load_options({"seed": 3, "stop": ("c",)}, environment, path)
    assert options == Options(temperature=1.0, top_k=2, seed=3, stop=("c",))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("policy", "ucb:beta=0.5,reward=be", "ucb:beta=0.5,reward=be"),
        ("drafters", "code, maths", ("code", "maths")),
        ("window", "16", 16),
        ("temperature", "0", 0.0),
        ("top-k", "0", 0),
        ("top-p", "1", 1.0),
        ("min-p", "0.05", 0.05),
        ("scheme", "rejection", "rejection"),
        ("seed", str(MAX_SEED), MAX_SEED),
        ("stop", "a,b", ("a,b",)),
        ("think", "off", False),
        ("think", "True", True),
        ("gpu-layers", "0", 0),
    ],
)
def test_a_text_becomes_its_value(name: str, text: str, expected: object) -> None:
    """Command line and environment read texts this way."""
    value = TABLE[name].parse_text(name, text)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("policy", ""),
        ("drafters", ""),
        ("drafters", "code,,maths"),
        ("window", "0"),
        ("window", "17"),
        ("window", "5.0"),
        ("max-tokens", "0"),
        ("temperature", "-0.1"),
        ("temperature", "nan"),
        ("temperature", "inf"),
        ("temperature", "warm"),
        ("top-k", "-1"),
        ("top-p", "0"),
        ("top-p", "1.01"),
        ("min-p", "-0.01"),
        ("repeat-penalty", "0"),
        ("scheme", "Coupled"),
        ("seed", "-1"),
        ("seed", str(MAX_SEED + 1)),
        ("system", "\udcff"),
        ("stop", ""),
        ("think", "maybe"),
        ("ctx", "0"),
        ("threads", "0"),
        ("target-params", "inf"),
        ("target-params", "0M"),
    ],
)
def test_a_text_outside_the_range_is_refused(name: str, text: str) -> None:
    """The message says where, what was found and what was expected."""
    with pytest.raises(UsageError) as caught:
        TABLE[name].parse_text(f"--{name}", text)
    assert str(caught.value) == f"--{name}: found {text!r}, expected {TABLE[name].kind.expected}"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('window = "5"', "'5'"),
        ("window = true", "True"),
        ("window = 5.0", "5.0"),
        ('temperature = "0"', "'0'"),
        ("temperature = true", "True"),
        ("scheme = [1]", "[1]"),
        ("stop = []", "[]"),
        ("stop = [1]", "[1]"),
        ("think = 1", "1"),
        ('json = "yes"', "'yes'"),
        (f"temperature = 1{400 * '0'}", f"1{400 * '0'}"),
    ],
)
def test_a_wrong_type_in_the_file_names_file_key_and_expectation(
    tmp_path: Path, line: str, found: str
) -> None:
    """TOML has types, so a text is not taken for a number."""
    path = write(tmp_path / "config.toml", line)
    key = line.split()[0]
    with pytest.raises(ConfigError) as caught:
        load_options({}, {}, path)
    expected = TABLE[key].kind.expected
    assert str(caught.value) == f"{path}: {key}: found {found}, expected {expected}"


def test_lists_and_dashes_are_read_from_the_file(tmp_path: Path) -> None:
    """A key may be written like the option; a single text stands for a list of one."""
    path = write(tmp_path / "c.toml", 'max-tokens = 9\ndrafters = ["code", "maths"]\nstop = "END"')
    options = load_options({}, {}, path)
    assert options == Options(max_tokens=9, drafters=("code", "maths"), stop=("END",))


def test_paths_begin_at_home_wherever_they_are_said(tmp_path: Path) -> None:
    """No shell expands the ~ after a comma or in a file."""
    path = write(tmp_path / "c.toml", 'pool = "~/t.gguf"\ntrace = "~/t.jsonl"\n')
    options = load_options({}, {"METASD_DRAFTERS": "~/a.gguf,~/b.gguf"}, path)
    home = Path.home()
    assert options.pool == str(home / "t.gguf")
    assert options.trace == str(home / "t.jsonl")
    assert options.drafters == (str(home / "a.gguf"), str(home / "b.gguf"))


def test_an_unknown_key_names_the_file_and_the_nearest_key(tmp_path: Path) -> None:
    """A misspelt setting is never ignored."""
    path = write(tmp_path / "config.toml", "temprature = 0\n")
    with pytest.raises(ConfigError, match="unknown key 'temprature'; did you mean 'temperature'"):
        load_options({}, {}, path)


def test_what_files_are_done_with_must_be_typed(tmp_path: Path) -> None:
    """No configured `yes` lets `rm` remove files unasked."""
    path = write(tmp_path / "config.toml", "yes = true\n")
    with pytest.raises(ConfigError, match="unknown key 'yes'"):
        load_options({}, {}, path)
    with pytest.raises(UsageError, match="unknown environment variable 'METASD_YES'"):
        load_options({}, {"METASD_YES": "1"}, tmp_path / "none.toml")


def test_a_configured_system_prompt_can_be_switched_off(tmp_path: Path) -> None:
    path = write(tmp_path / "config.toml", 'system = "Be brief."\n')
    assert load_options({}, {}, path).system == "Be brief."
    assert load_options({"system": ""}, {}, path).system == ""


def test_an_unknown_variable_names_the_nearest_one(tmp_path: Path) -> None:
    """The same holds for the environment, where the prefix is ours."""
    with pytest.raises(UsageError, match="did you mean 'METASD_TOP_K'"):
        load_options({}, {"METASD_TOPK": "1"}, tmp_path / "config.toml")


def test_one_key_in_two_spellings_is_refused(tmp_path: Path) -> None:
    """Neither of two contradicting lines is dropped in silence."""
    path = write(tmp_path / "config.toml", "top_k = 1\ntop-k = 2\n")
    with pytest.raises(ConfigError, match="top_k is given twice"):
        load_options({}, {}, path)


@pytest.mark.parametrize("content", [b"window =", b"system = '\xff'"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    """Neither broken TOML nor broken UTF-8 shows a traceback."""
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="no valid TOML"):
        load_options({}, {}, path)


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    """A directory stands for every file that exists and cannot be read."""
    with pytest.raises(ConfigError, match="cannot be read"):
        load_options({}, {}, tmp_path)


def test_config_path_follows_xdg_and_ignores_relative_paths() -> None:
    """As the XDG specification asks."""
    at_home = Path.home() / ".config/metasd/config.toml"
    absolute = Path.home() / "elsewhere"
    assert config_path({"XDG_CONFIG_HOME": str(absolute)}) == absolute / "metasd/config.toml"
    assert config_path({"XDG_CONFIG_HOME": "relative"}) == at_home
    assert config_path({}) == at_home


def test_the_nearest_word_is_one_that_begins_so_or_looks_alike() -> None:
    """An abbreviation is understood as such; nonsense gets no suggestion."""
    known = ["--system", "--temperature"]
    assert nearest_hint("--temp", known) == "; did you mean '--temperature'?"
    assert nearest_hint("--sytsem", known) == "; did you mean '--system'?"
    assert nearest_hint("zzz", known) == ""
