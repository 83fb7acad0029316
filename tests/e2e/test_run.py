"""`metasd run` as a user meets it: a real process, real GGUF files, a real terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from metasd_local.backend.llama import LlamaModel, LlamaWeights
from metasd_local.backend.loader import Loader
from metasd_local.compose import open_pool
from metasd_local.config import state_path
from metasd_local.errors import BackendError, IncompatibleVocabulary, ModelError, UsageError
from metasd_local.events import Event, GenerationDone, Notice, PromptRead, RoundDone
from metasd_local.kept import PROFILE_FILE
from metasd_local.options import Options
from metasd_local.pools.local import find_pool
from metasd_local.session import Session
from tests.command import metasd_here
from tests.tiny_gguf import write_tiny_gguf
from tests.traces import read_trace

PROMPT = "Translate German to English: Ich habe einen Hund und zwei Katzen."
POOL = find_pool("starter")
FILE_BYTES = sum(path.stat().st_size for path in (POOL.target, *(d.path for d in POOL.drafters)))


@contextmanager
def session_on(
    pool: str | None,
    options: Options,
    on_progress: Callable[[float], bool] = lambda _: True,
) -> Iterator[Session]:
    """Open a pool for one session."""
    with closing(open_pool(options, pool, on_progress=on_progress)) as opened:
        yield opened.session(options)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "metasd_local", "run", "--threads=1", *arguments]


def run(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        input=text,
        stdin=subprocess.DEVNULL if text is None else None,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_text_goes_to_stdout_and_one_line_of_figures_to_stderr() -> None:
    done = run(PROMPT, "--temperature=0", "--max-tokens=24")
    assert done.returncode == 0
    assert done.stdout.strip()
    assert re.fullmatch(r"\d+ tokens · .*tok/s · .*\n", done.stderr)


def test_json_says_what_the_trace_says(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    done = run(PROMPT, "--seed=3", "--max-tokens=40", "--json", f"--trace={trace}")
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    stats = result["stats"]
    rounds = [event for event in read_trace(trace) if isinstance(event, RoundDone)]
    assert stats["emitted"] == sum(len(e.emitted) for e in rounds)
    assert stats["rounds"] == len(rounds)
    assert stats["drafted"] == sum(e.drafted for e in rounds)
    assert stats["accepted"] == sum(e.accepted for e in rounds)
    assert {name: arm["rounds"] for name, arm in stats["arms"].items()} == {
        name: sum(e.arm == name for e in rounds) for name in {e.arm for e in rounds}
    }
    assert (result["pool"], result["policy"], result["scheme"]) == ("starter", "auto", "coupled")
    assert (result["seed"], result["threads"]) == (3, 1)


def test_json_figures_are_those_of_a_stopwatch() -> None:
    """Seconds between PromptRead and GenerationDone, within 1 %.

    The operating system may stop the process between the two clocks: one of ten must agree.
    """
    errors = []
    with session_on(None, Options(seed=1, threads=1)) as session:
        for seed in range(10):
            session.clear()
            seen_s: dict[type, float] = {}
            for event in session.send(PROMPT, seed=seed, max_tokens=64):
                seen_s[type(event)] = time.perf_counter()
            assert isinstance(event, GenerationDone)
            assert 0.0 < event.seconds_inside < event.seconds_decode
            stopwatch_s = seen_s[GenerationDone] - seen_s[PromptRead]
            errors.append(abs(event.seconds_decode / stopwatch_s - 1))
    assert min(errors) < 0.01


def test_the_same_seed_gives_the_same_text_in_another_process() -> None:
    """Whatever the policy, and whether `auto` knows the pool from before or not."""
    asked = ("--policy=plain", "--policy=random", "--policy=auto", "--policy=auto", "--fresh")
    texts = {run(PROMPT, "--seed=5", "--max-tokens=30", choice).stdout for choice in asked}
    assert len(texts) == 1
    assert (state_path(os.environ) / PROFILE_FILE).exists()


def test_a_second_turn_prefills_only_new_tokens() -> None:
    with session_on(None, Options(threads=1, temperature=0.0)) as session:
        events = list(session.send("User: I want to see a movie.", seed=0, max_tokens=40))
        emitted = sum(len(e.emitted) for e in events if isinstance(e, RoundDone))
        first = len(session.prompt_tokens)
        second = next(
            e for e in session.send("User: A comedy.", seed=0) if isinstance(e, PromptRead)
        )
    assert second.reused_tokens == first + emitted - 1


def test_ctrl_c_stops_cleanly_with_the_figures() -> None:
    """On a terminal, in the middle of the answer: exit status 130 and the statistics line."""
    primary, secondary = pty.openpty()
    process = subprocess.Popen(
        command(
            PROMPT,
            "--max-tokens=900",
            "--policy=plain",
            "--temperature=1.5",
            "--top-k=0",
            "--top-p=1",
            "--min-p=0",
            "--seed=1",
        ),
        stdin=secondary,
        stdout=secondary,
        stderr=secondary,
        start_new_session=True,
    )
    os.close(secondary)
    screen = b""
    has_sent = False
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([primary], [], [], 1.0)[0]:
            try:
                chunk = os.read(primary, 4096)
            except OSError:  # Linux: the other side is closed
                break
            if not chunk:
                break
            screen += chunk
        _, is_loaded, answer = screen.partition(b"\x1b[2K")
        if not has_sent and is_loaded and len(answer) > 20:
            process.send_signal(signal.SIGINT)
            has_sent = True
    os.close(primary)
    assert process.wait(timeout=10) == 130
    assert has_sent
    assert re.search(rb"\d+ tokens \(stopped\)", screen)
    assert b"Traceback" not in screen


def test_loading_and_the_first_token_take_two_seconds_of_cpu_after_import() -> None:
    """CPU seconds, not seconds of the clock: true on a busy machine too."""
    script = (
        "import resource, numpy, metasd_local.templates.chat_template\n"
        "import metasd_local.compose as compose\n"
        "from metasd_local.options import Options\n"
        "def used(): u = resource.getrusage(resource.RUSAGE_SELF); return u.ru_utime + u.ru_stime\n"
        "before = used()\n"
        "pool = compose.open_pool(Options(threads=1))\n"
        "session = pool.session(Options(threads=1))\n"
        f"for event in session.send({PROMPT!r}, seed=1, max_tokens=1): pass\n"
        "print(used() - before)\n"
        "pool.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert float(done.stdout) <= 2.0


def test_memory_stays_below_four_times_the_files() -> None:
    usage = (
        "import resource, subprocess, sys\n"
        f"subprocess.run({command(PROMPT, '--max-tokens=64')!r}, check=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", usage], capture_output=True, text=True, check=True, timeout=60
    )
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    peak_bytes = int(done.stderr.split()[-1]) * unit_bytes
    assert resource.getpagesize() < peak_bytes <= 4 * FILE_BYTES + 150 * 2**20


def test_own_files_by_path_need_no_catalogue(tmp_path: Path) -> None:
    target = write_tiny_gguf(tmp_path / "T.gguf", seed=1)
    drafter = write_tiny_gguf(tmp_path / "D.gguf", seed=1, disturbance=0.3)
    done = run(str(target), "hello", f"--drafters={drafter}", "--json", "--max-tokens=20")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result["stats"]["arms"]) <= {"D", "plain"}
    assert result["pool"] == "T"


def test_the_prompt_may_come_through_a_pipe(tmp_path: Path) -> None:
    target = write_tiny_gguf(tmp_path / "T.gguf")
    asked = ("--json", "--temperature=0", "--max-tokens=8")
    piped = run(str(target), *asked, text="hello")
    typed = run(str(target), "hello", *asked)
    assert json.loads(piped.stdout)["text"] == json.loads(typed.stdout)["text"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ((), 2, "no prompt"),
        (("hi", "--policy=uct"), 2, "did you mean 'ucb'?"),
        (("hi", "--policy=fixed:cod"), 2, "did you mean 'code'?"),
        (("hi", "--policy=auto:windw=3"), 2, "did you mean 'window'?"),
        (("hi", "--drafters=mats"), 2, "did you mean 'maths'?"),
        (("hi", "--policy=ucb:beta=-1"), 2, "beta"),
        (("hi", "--temperature=-1"), 2, "temperature"),
        (("hi", "--scheme=greedy", "--temperature=1"), 2, "--temperature 0"),
        (("hi", "--drafters=nope"), 2, "nope"),
        (("hi", "--drafters=./plain.gguf"), 2, "rename a file"),
        (("hi", "--drafters=./ngram.gguf,ngram"), 2, "rename a file"),
        (("hi", "--drafters=ngram", "--policy=fixed:code"), 2, "expected one of ngram"),
        (("startr", "hi"), 2, "did you mean 'starter'?"),
        (("hello", "world"), 2, "in quotes"),
        (("missing.gguf", "hi"), 1, "missing.gguf"),
        (("hi", "--drafters=missing.gguf"), 1, "missing.gguf"),
        (("hi " * 2000,), 1, "--ctx"),
        (("hi", "--windw=3"), 2, "--windw"),
    ],
)
def test_wrong_input_gets_one_helpful_line(
    arguments: tuple[str, ...], status: int, message: str
) -> None:
    done = metasd_here("run", "--threads=1", *arguments)
    assert done.returncode == status
    assert message in done.stderr
    assert done.stdout == ""


def test_a_process_fails_with_one_line_too() -> None:
    done = run("hi", "--drafters=missing.gguf")
    assert done.returncode == 1
    assert done.stderr.startswith("metasd: ")
    assert "missing.gguf" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_reader_that_goes_ends_it_in_silence() -> None:
    """As `| head` does."""
    asked = command(
        "--temperature=1.5", "--top-k=0", "--top-p=1", "--seed=1", "--max-tokens=400", "Tell me"
    )
    with subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as done:
        assert done.stdout is not None
        assert done.stderr is not None
        done.stdout.read(5)
        done.stdout.close()
        assert done.stderr.read() == ""
    assert done.returncode == 1


def test_a_state_folder_that_cannot_be_used_costs_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one for every file; the answer and its figures are what they would be."""
    (tmp_path / "metasd").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    done = metasd_here("run", "starter", PROMPT, "--threads=1", "--json", "--max-tokens=40")
    assert done.returncode == 0
    assert json.loads(done.stdout)["stats"]["emitted"] > 0
    assert re.fullmatch(r"metasd: .*/metasd cannot be used \(.*\): .*; nothing .*\n", done.stderr)


def test_a_damaged_profile_costs_one_line_and_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moved aside if it is damaged as a whole; else other pools' entries are left alone."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    path = tmp_path / "metasd" / PROFILE_FILE

    def answer() -> tuple[str, str]:
        done = metasd_here("run", PROMPT, "--threads=1", "--json", "--max-tokens=40", "--seed=5")
        assert done.returncode == 0
        return json.loads(done.stdout)["text"], done.stderr

    text, complaint = answer()
    assert complaint == ""
    whole = path.read_text()
    (key,) = json.loads(whole)
    mixed = json.dumps({key: [1], "another pool": {"arms": {}}})
    for damage in (whole[:-9], whole.replace("[", "[NaN,", 1), mixed):
        path.write_text(damage)
        again, complaint = answer()
        assert again == text
        assert re.fullmatch(r"metasd: .*profile\.json.* anew\n", complaint)
        assert key in json.loads(path.read_text())
    assert json.loads(path.read_text())["another pool"] == {"arms": {}}


def test_drafters_that_are_gone_or_cut_off_are_left_out_with_a_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the pool is listed, and after it; under a policy that counts rounds per arm."""
    target = write_tiny_gguf(tmp_path / "target.gguf", seed=1)
    names = ("sound", "cut", "vanishing", "tight", "absent")
    paths = {name: tmp_path / f"{name}.gguf" for name in names}
    for name in names[:-1]:
        write_tiny_gguf(paths[name], seed=1, disturbance=0.3)
    paths["cut"].write_bytes(paths["cut"].read_bytes()[:-1000])
    lines = ["[pool.mine]", f'target = {{ path = "{target}" }}']
    for name, path in paths.items():
        lines += ["[[pool.mine.drafter]]", f'name = "{name}"', f'path = "{path}"']
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "metasd").mkdir()
    (tmp_path / "metasd" / "models.toml").write_text("\n".join(lines))

    make_memory = Loader.open

    def open_model(
        self: Loader, weights: LlamaWeights, context_size: int, *, max_rows: int
    ) -> LlamaModel:
        if weights.info.path.stem == "tight":
            raise BackendError("no room for its memory")
        return make_memory(self, weights, context_size, max_rows=max_rows)

    monkeypatch.setattr(Loader, "open", open_model)

    def answer(policy: str, on_progress: Callable[[float], bool]) -> list[Event]:
        options = Options(threads=1, temperature=0.0, policy=policy)
        with session_on("mine", options, on_progress) as session:
            return list(session.send("hello", seed=0, max_tokens=20))

    def remove(_share: float) -> bool:
        paths["vanishing"].unlink(missing_ok=True)
        return True

    events = answer("ucb", remove)
    plain = answer("plain", lambda _: True)
    notices = [event.text.split(" is not used")[0] for event in events if isinstance(event, Notice)]
    assert sorted(notices) == [f"drafter {name}" for name in sorted(names[1:])]
    assert {e.arm for e in events if isinstance(e, RoundDone)} == {"sound", "ngram"}
    assert tokens_of(events) == tokens_of(plain)


def tokens_of(events: Sequence[Event]) -> list[int]:
    return [token for e in events if isinstance(e, RoundDone) for token in e.emitted]


def test_a_drafter_of_another_vocabulary_is_refused_with_the_rule(tmp_path: Path) -> None:
    stranger = write_tiny_gguf(tmp_path / "stranger.gguf")
    with pytest.raises(IncompatibleVocabulary, match=r"drafter stranger: .* by the rule size"):
        open_pool(Options(drafters=(str(stranger),), threads=1))


def test_a_recurrent_drafter_is_refused_and_a_recurrent_target_decodes_plainly(
    tmp_path: Path,
) -> None:
    mamba = write_tiny_gguf(tmp_path / "mamba.gguf", architecture="mamba")
    llama = write_tiny_gguf(tmp_path / "llama.gguf")
    with pytest.raises(ModelError, match="cannot forget"):
        open_pool(Options(drafters=(str(mamba),), threads=1), str(llama))
    with closing(open_pool(Options(threads=1, drafters=(str(llama),)), str(mamba))) as pool:
        pool.measure_costs()  # which takes what it has measured back, where that is possible
        events = list(pool.session(Options(threads=1)).send("hi", seed=0, max_tokens=6))
    assert any(isinstance(e, Notice) and "plainly" in e.text for e in events)
    assert {e.arm for e in events if isinstance(e, RoundDone)} == {"plain"}


def test_a_greedy_scheme_with_a_temperature_is_an_error_before_loading() -> None:
    with pytest.raises(UsageError, match="--temperature 0"):
        open_pool(Options(scheme="greedy", temperature=0.5), "/no/such/file.gguf")
