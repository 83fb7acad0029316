"""`metasd bench` and `metasd lab` on real models."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from metasd_local.cli.surroundings import DONE, INTERRUPTED, WRONG_USAGE
from metasd_local.events import GenerationDone, Notice, RoundDone
from metasd_local.stats import LoopFinder
from tests.command import metasd, metasd_here
from tests.tiny_gguf import write_tiny_gguf
from tests.traces import read_trace

PROMPTS = [
    {"domain": "code", "prompt": "def add(a, b):\n    '''Add two numbers.'''"},
    {"domain": "code", "prompt": "def largest(numbers):\n    '''Return the largest number.'''"},
    {"domain": "dialogue", "prompt": "User: I want to find a restaurant in San Jose."},
    {"domain": "dialogue", "prompt": "User: Please book a hotel for two nights."},
]
QUICK = ("--threads", "1", "--max-tokens", "12", "--minutes", "0.4", "--repeats", "2")
FEW = ("--drafters", "code,ngram")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of four prompts of two domains."""
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tiny_pool(tmp_path_factory: pytest.TempPathFactory) -> Sequence[str]:
    """Return the words that name a target of random weights and a drafter that is mostly right.

    With this seed the answers to dialogue loop, and no answer is short.
    """
    folder = tmp_path_factory.mktemp("pool")
    make = partial(write_tiny_gguf, num_layers=1, seed=38)
    target = make(folder / "target.gguf")
    drafter = make(folder / "drafter.gguf", disturbance=0.3)
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
        *("bench", "--prompts", str(prompts), "--policies", "ucb,fixed:code,ucb"),
        *(*QUICK, *FEW, "--json", "--trace", str(trace), "--plot", str(plot)),
    )
    assert finished.returncode == DONE, finished.stderr
    return Benched(json.loads(finished.stdout), trace, plot.read_text(encoding="utf-8"))


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation of a trace."""

    policy: str
    domain: str
    repeat: int
    prompt: int
    """Its number in the domain."""
    rounds: Sequence[RoundDone]
    done: GenerationDone

    @property
    def text(self) -> tuple[int, ...]:
        """Return the tokens."""
        return tuple(token for each in self.rounds for token in each.emitted)


def generations(trace: Path) -> list[Generation]:
    """Return the generations of all units that are complete in a trace."""
    found: list[Generation] = []
    rounds: list[RoundDone] = []
    title = ""
    prompts: Counter[tuple[str, str]] = Counter()
    for event in read_trace(trace):
        if isinstance(event, Notice) and event.text.startswith("bench: "):
            title, rounds = event.text.removeprefix("bench: "), []
        elif isinstance(event, RoundDone):
            rounds.append(event)
        elif isinstance(event, GenerationDone):
            policy, domain, repeat = title.split(", ")
            number = int(repeat.removeprefix("repeat "))
            prompts[policy, domain] += number == 0
            prompt = prompts[policy, domain]
            found.append(Generation(policy, domain, number, prompt, rounds, event))
    units = [
        list(unit) for _, unit in itertools.groupby(found, lambda each: (each.domain, each.repeat))
    ]
    sizes = {unit[0].domain: len(unit) for unit in reversed(units)}
    whole = [unit for unit in units if len(unit) == sizes[unit[0].domain]]
    return [each for unit in whole for each in unit]


def recomputed(found: Sequence[Generation]) -> dict[str, float]:
    """Return the figures of one policy in one domain, counted without any code of the bench."""
    counts: Counter[str] = Counter()
    by_prompt: dict[int, list[tuple[int, float]]] = {}
    overheads = []
    for each in found:
        loops, tokens, seconds = LoopFinder(()), 0, 0.0
        loops.add(each.text)
        start = len(each.text) if loops.start is None else loops.start
        for done in each.rounds:
            if tokens + len(done.emitted) > start:
                break
            tokens += len(done.emitted)
            seconds += done.seconds
            counts.update(drafted=done.drafted, accepted=done.accepted)
        seconds *= each.done.seconds_decode / sum(done.seconds for done in each.rounds)
        counts.update(emitted=tokens, looping=loops.num_looping, length=len(each.text))
        by_prompt.setdefault(each.prompt, []).append((tokens, seconds))
        overheads.append(1 - each.done.seconds_inside / each.done.seconds_decode)
    medians = [
        [median(column) for column in zip(*runs, strict=True)] for runs in by_prompt.values()
    ]
    all_tokens, all_s = (sum(column) for column in zip(*medians, strict=True))
    return {
        **counts,
        "loop_share": counts["looping"] / counts["length"],
        "seconds_decode": sum(seconds for runs in by_prompt.values() for _, seconds in runs),
        "overhead_share": median(overheads),
        "tokens_per_second": all_tokens / all_s,
    }


def check_against_trace(document: Mapping[str, Any], trace: Path) -> None:
    """Compare every figure of every result with what the trace says."""
    found = generations(trace)
    longest = min(128, document["max_tokens"])
    is_short = {
        (each.domain, each.prompt): len(each.text) < longest
        for each in found
        if each.policy == "plain"
    }
    for entry, short in itertools.product(document["results"], (False, True)):
        figures = entry["short"] if short else entry
        mine, plain = (
            [
                each
                for each in found
                if (each.policy, each.domain) == (policy, entry["domain"])
                and is_short[each.domain, each.prompt] == short
            ]
            for policy in (entry["policy"], "plain")
        )
        assert figures["prompts"] == len({each.prompt for each in mine})
        if not mine:
            continue
        expected = recomputed(mine)
        assert figures["emitted"] == expected["emitted"]
        for name in ("seconds_decode", "overhead_share", "tokens_per_second", "loop_share"):
            assert figures[name] == pytest.approx(expected[name], rel=1e-9)
        speedup = expected["tokens_per_second"] / recomputed(plain)["tokens_per_second"]
        assert figures["speedup"] == pytest.approx(speedup)
        accepted = (figures["acceptance_rate"] or 0.0) * expected["drafted"]
        assert accepted == pytest.approx(expected["accepted"])


def test_the_figures_are_those_of_the_trace(benched: Benched) -> None:
    """Counted again from the events that were written; a policy may be named twice."""
    document = benched.document
    assert benched.plot.startswith("<svg")
    assert {entry["policy"] for entry in document["results"]} == {
        *("plain", "ucb", "ucb#2", "fixed:code")
    }
    check_against_trace(document, benched.trace)
    texts = {(each.domain, each.text) for each in generations(benched.trace)}
    assert Counter(domain for domain, _ in texts) == {"code": 2, "dialogue": 2}


FIGURES = {
    *("prompts", "emitted", "seconds_decode", "tokens_per_second", "speedup", "interval"),
    *("acceptance_rate", "mean_accepted_length", "overhead_share", "loop_share", "best_arm_share"),
    *("is_valid", "possible_speedup", "of_possible"),
}
SUMMARY = {
    *("speedup", "interval", "of_oracle", "of_oracle_interval", "of_plain_worst"),
    "overhead_share",
}


def test_the_document_has_its_shape(benched: Benched) -> None:
    """Programs rely on the keys."""
    document = benched.document
    assert set(document) == {
        *("commit", "llama_cpp", "command", "pool", "device", "threads", "scheme", "temperature"),
        *("emulated", "machine", "max_tokens", "prompts_hash", "seconds", "idle", "idle_detail"),
        *("warnings", "cost_curve", "curve_depth", "results", "best", "summary", "ceiling"),
        "drafter_costs",
    }
    for entry in document["results"]:
        assert set(entry) == FIGURES | {"policy", "domain", "short"}
        assert set(entry["short"]) == FIGURES
    for total in document["summary"].values():
        assert set(total) == SUMMARY | {"short"}
        assert set(total["short"]) == SUMMARY
    for best in document["best"]:
        assert set(best) == {"domain", "arm", "window", "tokens_per_second", "speedup"}


def test_every_decoding_starts_cold(benched: Benched) -> None:
    """The target reuses nothing of a prompt, and drafters read it anew."""
    text = benched.trace.read_text(encoding="utf-8")
    assert '"reused_tokens": 0' in text
    assert text.count('"reused_tokens": 0') == text.count('"event": "PromptRead"')
    for each in generations(benched.trace):
        if each.policy == "fixed:code":
            assert each.rounds[0].catch_up_s > 0.0


@pytest.mark.parametrize(("form", "width"), [("--no-report", 79), ("--report", 9999)])
def test_the_report_is_for_people(
    prompts: Path, tiny_pool: Sequence[str], form: str, width: int
) -> None:
    """A table no wider than a terminal or a block for an issue; the estimate on stderr."""
    arguments = ("--prompts", str(prompts), "--policies", "ucb", *QUICK, "--minutes", "0.05")
    finished = metasd_here("bench", *tiny_pool, *arguments, form)
    assert finished.returncode == DONE, finished.stderr
    assert "prompts of 2 domains, 2 policies, each 2 times: about " in finished.stderr
    assert finished.stdout.startswith("### metasd bench\n") == (form == "--report")
    assert "Speed-up over plain" in finished.stdout
    assert "idle" in finished.stdout
    assert max(map(len, finished.stdout.splitlines())) <= width


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


def test_ctrl_c_prints_what_was_measured(
    prompts: Path, tiny_pool: Sequence[str], tmp_path: Path
) -> None:
    """A partial document and exit status 130; the trace says when it is time.

    With 26 answers, of five policies, one prompt of a domain was repeated and the other was not.
    """
    trace = tmp_path / "trace.jsonl"
    command = [sys.executable, "-W", "error", "-m", "metasd_local", "bench", *tiny_pool]
    command += [
        "--prompts",
        str(prompts),
        "--policies",
        "ucb",
        "--threads",
        "1",
        "--minutes",
        "0.5",
    ]
    command += ["--max-tokens", "99", "--repeats", "2", "--json", "--trace", "/dev/stderr"]
    lines: list[str] = []
    num_answers = 0
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            num_answers += "GenerationDone" in line
            if num_answers == 26:
                break
        process.send_signal(signal.SIGINT)
        lines += process.stderr
        printed = process.stdout.read()
    said = [line for line in lines if not line.startswith("{")]
    assert process.returncode == INTERRUPTED, said
    assert "Traceback" not in "".join(said)
    document = json.loads(printed)
    assert "stopped early by Ctrl-C" in document["warnings"]
    assert {bool(entry["loop_share"]) for entry in document["results"]} == {True, False}
    trace.write_text("".join(line for line in lines if line.startswith("{")), encoding="utf-8")
    check_against_trace(document, trace)


def test_ctrl_c_is_heeded_before_anything_is_measured(tiny_pool: Sequence[str]) -> None:
    """As in the cost curve, which takes minutes with a large model."""
    command = [sys.executable, "-m", "metasd_local", "bench", *tiny_pool, "--minutes", "9"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert b"about 9 min" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        printed, said = process.communicate()
    assert process.returncode == INTERRUPTED
    assert (printed, said) == (b"", b"metasd: stopped before anything was measured\n")


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
