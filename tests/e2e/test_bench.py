"""`metasd bench` and `metasd lab` on real models."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from metasd_local.cli.surroundings import DONE, INTERRUPTED, WRONG_USAGE
from metasd_local.events import GenerationDone, Notice, RoundDone
from metasd_local.trace import read_trace

PROMPTS = [
    {"domain": "code", "prompt": "def add(a, b):\n    '''Add two numbers.'''"},
    {"domain": "code", "prompt": "def largest(numbers):\n    '''Return the largest number.'''"},
    {"domain": "dialogue", "prompt": "User: I want to find a restaurant in San Jose."},
    {"domain": "dialogue", "prompt": "User: Please book a hotel for two nights."},
]
QUICK = ("--threads", "1", "--max-tokens", "12", "--minutes", "0.2", "--repeats", "2")
FEW = ("--drafters", "code,ngram")


def metasd(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the real command."""
    command = [sys.executable, "-m", "metasd_local", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Return a file of four prompts of two domains."""
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS), encoding="utf-8")
    return path


def generations(trace: Path) -> list[tuple[str, Sequence[RoundDone], GenerationDone]]:
    """Return policy and domain, rounds and end of every generation of a trace."""
    found: list[tuple[str, Sequence[RoundDone], GenerationDone]] = []
    rounds: list[RoundDone] = []
    title = ""
    for event in read_trace(trace):
        if isinstance(event, Notice) and event.text.startswith("bench: "):
            title, rounds = event.text.removeprefix("bench: "), []
        elif isinstance(event, RoundDone):
            rounds.append(event)
        elif isinstance(event, GenerationDone):
            found.append((title, rounds, event))
    return found


def test_the_figures_are_those_of_the_trace(prompts: Path, tmp_path: Path) -> None:
    """Tokens, seconds and acceptance, counted again from the events that were written."""
    trace = tmp_path / "trace.jsonl"
    plot = tmp_path / "plot.svg"
    finished = metasd(
        *("bench", "--prompts", str(prompts), "--policies", "ucb"),
        *(*QUICK, *FEW, "--json", "--trace", str(trace), "--plot", str(plot)),
    )
    assert finished.returncode == DONE, finished.stderr
    document: dict[str, Any] = json.loads(finished.stdout)
    assert plot.read_text(encoding="utf-8").startswith("<svg")
    assert {entry["policy"] for entry in document["results"]} == {"plain", "ucb"}
    recounted = generations(trace)
    assert recounted
    for entry in document["results"]:
        mine = [
            (rounds, done)
            for title, rounds, done in recounted
            if title.startswith(f"{entry['policy']}, {entry['domain']}, ")
        ]
        drafted = sum(each.drafted for rounds, _ in mine for each in rounds)
        accepted = sum(each.accepted for rounds, _ in mine for each in rounds)
        figures = [each for each in (entry, entry["short"]) if each["prompts"]]
        assert sum(each["emitted"] for each in figures) == sum(
            len(each.emitted) for rounds, _ in mine for each in rounds
        )
        assert sum(each["seconds_decode"] for each in figures) == pytest.approx(
            sum(done.seconds_decode for _, done in mine)
        )
        if len(figures) == 1 and drafted:
            assert figures[0]["acceptance_rate"] == pytest.approx(accepted / drafted)
    texts: dict[str, set[tuple[int, ...]]] = {}
    for title, rounds, _ in recounted:
        _, domain, _ = title.split(", ")
        text = tuple(token for each in rounds for token in each.emitted)
        texts.setdefault(domain, set()).add(text)
    assert {domain: len(found) for domain, found in texts.items()} == {"code": 2, "dialogue": 2}


def test_every_decoding_starts_cold(prompts: Path, tmp_path: Path) -> None:
    """The target reuses nothing of a prompt, and drafters read it anew."""
    trace = tmp_path / "trace.jsonl"
    finished = metasd(
        *("bench", "--prompts", str(prompts), "--policies", "fixed:code", *QUICK),
        *(*FEW, "--trace", str(trace)),
    )
    assert finished.returncode == DONE, finished.stderr
    text = trace.read_text(encoding="utf-8")
    assert '"reused_tokens": 0' in text
    assert text.count('"reused_tokens": 0') == text.count('"event": "PromptRead"')
    for title, rounds, _ in generations(trace):
        if title.startswith("fixed:code"):
            assert rounds[0].catch_up_s > 0.0


def test_the_report_is_for_people(prompts: Path) -> None:
    """A table on stdout, the estimate on stderr, nothing wider than a terminal."""
    finished = metasd("bench", "--prompts", str(prompts), "--policies", "ucb", *QUICK, *FEW)
    assert finished.returncode == DONE, finished.stderr
    assert "2 domains x 2 prompts" in finished.stderr
    assert "Speed-up over plain" in finished.stdout
    assert "idle" in finished.stdout
    assert max(map(len, finished.stdout.splitlines())) <= 79


@pytest.mark.full
def test_a_chat_configured_otherwise_changes_no_measurement(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Temperature and policy of config.toml are for chats."""
    (tmp_path / "metasd").mkdir()
    (tmp_path / "metasd/config.toml").write_text('temperature = 0.9\npolicy = "random"\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    finished = metasd(
        "bench", "--prompts", str(prompts), "--policies", "plain", *QUICK, *FEW, "--json"
    )
    assert finished.returncode == DONE, finished.stderr
    document = json.loads(finished.stdout)
    assert (document["temperature"], document["scheme"]) == (0.0, "greedy")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policies", "ubc"], "did you mean 'ucb'?"),
        (["--policies", "fixed:cod"], "did you mean 'code'?"),
        (["--domains", "cod"], "did you mean 'code'?"),
        (["--prompts", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--plot", "/nowhere/plot.svg"], "/nowhere/plot.svg"),
        (["--minutes", "0"], "--minutes"),
        (["one", "two"], "expected [POOL]"),
        (["--prompt", "x"], "did you mean '--prompts'?"),
    ],
)
def test_wrong_usage_is_said_before_anything_is_measured(
    arguments: list[str], message: str
) -> None:
    """One line, exit status 2."""
    finished = metasd("bench", *arguments)
    assert finished.returncode == WRONG_USAGE
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr
    assert not finished.stdout


def test_a_broken_line_of_prompts_is_named(tmp_path: Path) -> None:
    """File and line."""
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"domain": "code", "prompt": "x"}\n{"domain": "code"}\n', encoding="utf-8")
    finished = metasd("bench", "--prompts", str(path))
    assert finished.returncode == WRONG_USAGE
    assert f"{path}, line 2: prompt" in finished.stderr


def test_ctrl_c_prints_what_was_measured(prompts: Path) -> None:
    """A partial table and exit status 130; the trace tells when something was measured."""
    command = [sys.executable, "-m", "metasd_local", "bench", "--prompts", str(prompts)]
    command += ["--policies", "ucb", "--threads", "1", "--minutes", "1", "--trace", "/dev/stderr"]
    command += ["--max-tokens", "40", "--repeats", "50", "--drafters", "code"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        ends = (line for line in process.stderr if "GenerationDone" in line)
        assert len(list(islice(ends, 6))) == 6
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        printed = process.stdout.read()
    assert process.returncode == INTERRUPTED, said
    assert "Speed-up over plain" in printed
    assert "stopped early by Ctrl-C" in printed
    assert "Traceback" not in said


@pytest.mark.full
def test_emulated_figures_are_labelled(tmp_path: Path) -> None:
    """Nobody can take them for a real pool's."""
    made = metasd(
        *("lab", "make-pair", str(tmp_path), "--target-params", "600K"),
        *("--drafter-params", "300K", "--vocab-from", str(starter_target())),
    )
    assert made.returncode == DONE, made.stderr
    target, drafter = made.stdout.split()
    finished = metasd(
        *("lab", "emulate", "metasd", target, "--drafters", drafter, "--policies", "fixed:code"),
        *(*QUICK, "--domains", "code,maths", "--json"),
    )
    assert finished.returncode == DONE, finished.stderr
    document = json.loads(finished.stdout)
    assert document["emulated"] is True
    assert "emulated" in document["pool"]
    acceptance = {
        entry["domain"]: entry["acceptance_rate"] or entry["short"]["acceptance_rate"]
        for entry in document["results"]
        if entry["policy"] == "fixed:code"
    }
    assert acceptance["code"] > acceptance["maths"]


def starter_target() -> Path:
    """Return the target of the embedded pool."""
    (path,) = (Path(__file__).parents[2] / "metasd_local/starter").glob("target-*.gguf")
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        ["lab", "emulate"],
        ["lab", "emulate", "metasdd"],
        ["lab", "simulate", "--policies", "ubc"],
        ["lab", "simulate", "--policies", "fixed:nobody"],
        ["lab", "make-pair"],
        ["lab", "make-pair", "x", "--target-params", "many"],
        ["lab", "emul"],
        ["lab"],
        ["verify", "one", "two"],
    ],
)
def test_wrong_usage_of_the_lab(arguments: list[str], tmp_path: Path) -> None:
    """One line that says what to do, exit status 2."""
    finished = metasd(*arguments)
    assert finished.returncode == WRONG_USAGE, finished.stderr
    assert len(finished.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
