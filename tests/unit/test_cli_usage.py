"""How the command line reads its words, options and pipes, and how it explains itself."""

from __future__ import annotations

import inspect
import io
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import cast

import pytest

from metasd_local import __version__
from metasd_local.arguments import COMMANDS
from metasd_local.cli.measurement import choose_policies
from metasd_local.cli.surroundings import DONE, INTERRUPTED, WRONG_USAGE
from metasd_local.errors import Cancelled
from metasd_local.options import COMPARED_TEXT, OPTIONS, Options
from metasd_local.selection import COMPARED
from tests.scripted_session import Shell, Terminal


def run_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the real command."""
    command = [sys.executable, "-m", "metasd_local", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )


def test_options_reach_the_session_from_every_source(tmp_path: Path) -> None:
    """The command line may put them anywhere."""
    (tmp_path / "metasd").mkdir()
    (tmp_path / "metasd/config.toml").write_text("top_k = 1\nwindow = 2\n", encoding="utf-8")
    environment = {"XDG_CONFIG_HOME": str(tmp_path), "METASD_WINDOW": "3", "METASD_POOL": "big"}
    shell = Shell(environment=environment)
    assert shell.run("--seed", "1", "run", "--window=4", "hello", "--max-tokens", "9") == DONE
    assert shell.opened == [(Options(top_k=1, window=4, seed=1, max_tokens=9, pool="big"), None)]
    assert shell.session.sent == [("hello", 1, 9)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["verify"], Options(threads=1, fresh=True)),
        (["bench"], Options(threads=1, fresh=True, temperature=0.0)),
        (["lab", "emulate", "metasd"], Options(threads=1, fresh=True, temperature=0.0, ctx=512)),
    ],
)
def test_what_a_chat_is_configured_to_changes_no_measurement(
    words: list[str], expected: Options
) -> None:
    """With METASD_POLICY=plain no drafter would be loaded, and nothing be wrong with any."""

    def stop(_: Callable[[float], bool]) -> None:
        raise Cancelled("seen enough")

    said = {"POLICY": "plain", "WINDOW": "1", "SCHEME": "match", "TEMPERATURE": "0.9", "JSON": "1"}
    said |= {"SYSTEM": "Be brief.", "THINK": "1", "STOP": "x", "MAX_TOKENS": "9", "THREADS": "1"}
    environment = {f"METASD_{name}": text for name, text in said.items()}
    shell = Shell(environment={"XDG_CONFIG_HOME": "/nowhere", **environment}, on_open=stop)
    assert shell.run(*words, "big") == INTERRUPTED
    assert shell.opened == [(expected, "big")]


def test_policies_are_compared_as_named_and_twice_if_named_twice() -> None:
    """A second one has a number; plain is always there, and help says what the others are."""
    named = choose_policies(Options(policies=("auto", "ucb", "auto")), ["code"])
    assert named == {"plain": "plain", "auto": "auto", "ucb": "ucb", "auto#2": "auto"}
    assert [*choose_policies(Options(policies=("plain", "plain")), [])] == ["plain", "plain#2"]
    assert [*choose_policies(Options(), ["code"])] == ["plain", "fixed:code", *COMPARED]
    assert ", ".join(COMPARED) == COMPARED_TEXT


@pytest.mark.parametrize(
    ("words", "piped", "pool", "prompt"),
    [
        (["hello"], None, None, "hello"),
        (["hello"], "more\n\r\n", None, "hello\n\nmore"),
        (["hello"], "", None, "hello"),
        (["big", "hello"], None, "big", "hello"),
        (["big", "hello"], "more", "big", "hello\n\nmore"),
        (["nowhere", "hello"], None, "nowhere", "hello"),
        (["big"], "more", "big", "more"),
        (["big", "-"], "more", "big", "more"),
        (["-"], "more", None, "more"),
        ([], "more", None, "more"),
        (["--", "--flag"], None, None, "--flag"),
        (["- item"], None, None, "- item"),
    ],
)
def test_pool_and_prompt(
    words: list[str], piped: str | None, pool: str | None, prompt: str
) -> None:
    """One word is the prompt, unless it names a pool and a pipe brings the prompt."""
    shell = Shell(stdin=None if piped is None else io.StringIO(piped))
    assert shell.run("run", *words) == DONE
    assert shell.opened[0][1] == pool
    assert shell.session.sent[0][0] == prompt


def test_a_dash_reads_the_prompt_from_a_terminal() -> None:
    """Without the dash a terminal is never waited for."""
    shell = Shell(stdin=Terminal("typed\n"))
    assert shell.run("run", "-") == DONE
    assert shell.session.sent[0][0] == "typed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chat", "one", "two"], "expected [POOL]"),
        (["rnu", "hello"], "did you mean 'run'?"),
        (["Why is the sky blue?"], 'metasd run "Why is the sky blue?"'),
        (["run"], "no prompt"),
        (["run", "  "], "no prompt"),
        (["run", "big"], 'type metasd run big "..."'),
        (["run", "tell", "me", "more"], "put the prompt in quotes"),
        (["run", "\udcff"], "no UTF-8"),
        (["run", "x", "--windw", "3"], "did you mean '--window'?"),
        (["run", "x", "--temp", "3"], "did you mean '--temperature'?"),
        (["run", "x", "--window", "99"], "--window: found '99', expected a whole number"),
        (["run", "x", "--window"], "expected one argument"),
        (["run", "x", "--trace", "/nowhere/t"], "cannot write a trace"),
    ],
)
def test_wrong_usage_says_what_to_do_and_opens_no_model(arguments: list[str], message: str) -> None:
    """Exit status 2, one line on stderr, nothing on stdout."""
    shell = Shell()
    assert shell.run(*arguments) == WRONG_USAGE
    assert shell.err.startswith("metasd: ")
    assert message in shell.err
    assert shell.err.count("\n") == 1
    assert shell.out == ""
    assert not shell.opened


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_counts_its_words(name: str) -> None:
    """One that is too many, or missing, is answered with what is expected, and nothing is done."""
    command = COMMANDS[name]
    wrong = {max(command.num_words) + 1, max(min(command.num_words) - 1, 0)} - {*command.num_words}
    for num_words in wrong:
        shell = Shell()
        assert shell.run(*name.split(), *["x"] * num_words) == WRONG_USAGE
        assert f"found {num_words} word" in shell.err
        assert f"expected {command.usage or 'no word'}" in shell.err
        assert not shell.opened


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "chat"])
def test_every_command_names_what_runs_it(name: str) -> None:
    """A function of the command line, imported when it is needed, of the one signature."""
    module, _, function = COMMANDS[name].runs.partition(":")
    runs = inspect.signature(getattr(import_module(f"metasd_local.cli.{module}"), function))
    types = [parameter.annotation for parameter in runs.parameters.values()]
    assert types == ["Options", "Request", "Surroundings"]


def test_listing_pools_loads_nothing_slow() -> None:
    """Other commands' libraries stay out."""
    run = "import sys; from metasd_local.__main__ import main\nsys.argv[1:] = ['ls']\nmain()\n"
    report = "sys.stderr.write(' '.join(sys.modules))"
    finished = subprocess.run(
        [sys.executable, "-c", run + report], capture_output=True, text=True, check=True
    )
    assert {"llama_cpp", "textual", "httpx"}.isdisjoint(finished.stderr.split())


def test_a_binary_pipe_is_refused() -> None:
    """Bytes that are no text are a mistake of the caller."""
    shell = Shell(stdin=cast(io.StringIO, io.TextIOWrapper(io.BytesIO(b"\xff\xfe"))))
    assert shell.run("run", "x") == WRONG_USAGE
    assert "stdin is no UTF-8 text" in shell.err


def test_policy_help_lists_policies_and_needs_no_prompt() -> None:
    """One policy a line, its name first."""
    shell = Shell()
    assert shell.run("run", "--policy", "help") == DONE
    names = [line.split()[0] for line in shell.out.splitlines()]
    assert "plain" in names
    assert "ucb" in names
    assert not shell.opened


def test_help_fits_24_lines_of_80_columns_with_three_examples() -> None:
    """It can be read without scrolling."""
    finished = run_process("--help")
    lines = finished.stdout.splitlines()
    assert finished.returncode == DONE
    assert finished.stderr == ""
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    examples = lines[lines.index("examples:") + 1 :]
    assert examples.index("") == 3
    assert all("metasd run" in example for example in examples[:3])


@pytest.mark.parametrize("words", [["lab"], ["lab", "--help"]])
def test_lab_alone_lists_what_there_is_to_study(words: list[str]) -> None:
    shell = Shell()
    assert shell.run(*words) == DONE
    assert [line.split()[1:3] for line in shell.out.splitlines() if "metasd" in line] == [
        command.split() for command in COMMANDS if command.startswith("lab ")
    ]


def test_every_command_that_takes_a_pool_can_be_kept_offline() -> None:
    """A script need not know which of them would ever ask the network."""
    (offline,) = (option for option in OPTIONS if option.field == "offline")
    takers = {name for name, command in COMMANDS.items() if "POOL" in command.usage}
    assert takers <= {*offline.commands}


def test_run_help_describes_every_option() -> None:
    """It is made from the option table."""
    shell = Shell()
    assert shell.run("run", "--help") == DONE
    for name in ("--policy", "--no-think", "--trace FILE", "--stop TEXT"):
        assert name in shell.out
    assert "--pool" not in shell.out


@pytest.mark.parametrize("words", [["--version"], ["-V"], ["run", "--version"]])
def test_version(words: list[str]) -> None:
    """The one the package carries."""
    shell = Shell()
    assert shell.run(*words) == DONE
    assert shell.out == f"metasd {__version__}\n"


def test_help_is_a_word_as_well() -> None:
    shell, flag = Shell(), Shell()
    assert shell.run("help") == flag.run("--help") == DONE
    assert shell.out == flag.out
