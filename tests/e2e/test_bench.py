"""`metasd bench` and `metasd lab` on real models."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from metasd_local.cli.surroundings import DONE, INTERRUPTED, WRONG_USAGE
from metasd_local.events import GenerationDone, Notice, RoundDone
from metasd_local.trace import read_trace
from tests.command import metasd, metasd_here
from tests.tiny_gguf import write_tiny_gguf

PROMPTS = [
    {"domain": "code", "prompt": "def add(a, b):\n    '''Add two numbers.'''"},
    {"domain": "code", "prompt": "def largest(numbers):\n    '''Return the largest number.'''"},
    {"domain": "dialogue", "prompt": "User: I want to find a restaurant in San Jose."},
    {"domain": "dialogue", "prompt": "User: Please book a hotel for two nights."},
]
QUICK = ("--threads", "1", "--max-tokens", "12", "--minutes", "0.2", "--repeats", "2")
FEW = ("--drafters", "code,ngram")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of four prompts of two domains."""
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tiny_pool(tmp_path_factory: pytest.TempPathFactory) -> Sequence[str]:
    """Return the words that name a target of random weights and a drafter that is mostly right."""
    folder = tmp_path_factory.mktemp("pool")
    target = write_tiny_gguf(folder / "target.gguf", seed=1)
    drafter = write_tiny_gguf(folder / "drafter.gguf", seed=1, disturbance=0.3)
    return (str(target), "--drafters", f"{drafter},ngram")


@dataclass(frozen=True, slots=True)
class Benched:
    """What a bench of the starter pool printed and wrote."""

    document: Mapping[str, Any]
    trace: Path
    plot: str


@pytest.fixture(scope="module")
def benched(prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Benched:
    """Run one bench for all tests that only read its figures."""
    folder = tmp_path_factory.mktemp("bench")
    trace, plot = folder / "trace.jsonl", folder / "plot.svg"
    finished = metasd(
        *("bench", "--prompts", str(prompts), "--policies", "ucb,fixed:code"),
        *(*QUICK, *FEW, "--json", "--trace", str(trace), "--plot", str(plot)),
    )
    assert finished.returncode == DONE, finished.stderr
    return Benched(json.loads(finished.stdout), trace, plot.read_text(encoding="utf-8"))


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


def test_the_figures_are_those_of_the_trace(benched: Benched) -> None:
    """Tokens, seconds and acceptance, counted again from the events that were written."""
    document = benched.document
    assert benched.plot.startswith("<svg")
    assert {entry["policy"] for entry in document["results"]} == {"plain", "ucb", "fixed:code"}
    recounted = generations(benched.trace)
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


def test_every_decoding_starts_cold(benched: Benched) -> None:
    """The target reuses nothing of a prompt, and drafters read it anew."""
    text = benched.trace.read_text(encoding="utf-8")
    assert '"reused_tokens": 0' in text
    assert text.count('"reused_tokens": 0') == text.count('"event": "PromptRead"')
    for title, rounds, _ in generations(benched.trace):
        if title.startswith("fixed:code"):
            assert rounds[0].catch_up_s > 0.0


def test_the_report_is_for_people(prompts: Path, tiny_pool: Sequence[str]) -> None:
    """A table on stdout, the estimate on stderr, nothing wider than a terminal."""
    finished = metasd("bench", *tiny_pool, "--prompts", str(prompts), "--policies", "ucb", *QUICK)
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
    finished = metasd_here("bench", *arguments)
    assert finished.returncode == WRONG_USAGE
    assert message in finished.stderr
    assert not finished.stdout


def test_a_broken_line_of_prompts_is_named(tmp_path: Path) -> None:
    """File and line."""
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"domain": "code", "prompt": "x"}\n{"domain": "code"}\n', encoding="utf-8")
    finished = metasd_here("bench", "--prompts", str(path))
    assert finished.returncode == WRONG_USAGE
    assert f"{path}, line 2: prompt" in finished.stderr


def test_ctrl_c_prints_what_was_measured(prompts: Path, tiny_pool: Sequence[str]) -> None:
    """A partial table and exit status 130; the trace tells when something was measured."""
    command = [sys.executable, "-m", "metasd_local", "bench", *tiny_pool]
    command += ["--prompts", str(prompts), "--policies", "ucb", "--threads", "1", "--minutes", "1"]
    command += ["--max-tokens", "99", "--repeats", "99", "--trace", "/dev/stderr"]
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
        *("lab", "emulate", "metasd", target, "--drafters", drafter),
        *("--policies", "fixed:code,ucb", *QUICK, "--domains", "code,maths", "--json"),
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
        ["verify", "one", "two"],
    ],
)
def test_wrong_usage_of_the_lab(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line that says what to do, exit status 2, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    finished = metasd_here(*arguments)
    assert finished.returncode == WRONG_USAGE, finished.stderr
    assert len(finished.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
