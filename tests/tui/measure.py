"""What the chat costs, in a real terminal: `python -m tests.tui.measure [POOL]`, idle machine.

Prints CPU seconds until the first screen and until a conversation of 1,000 messages is open, the
delay between a key and its character while an answer is given, tokens per second with a screen
÷ the same session as lines, and the gain shown less what a plain rerun finds.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from metasd_local.bench.prompts import read_prompts
from tests.e2e.terminal import Screen, Terminal
from tui.conversation import Conversation, Turn
from tui.store import Store

METASD = (sys.executable, "-m", "metasd_local", "chat")
RAMBLING = ("--temperature=1.5", "--top-k=0", "--top-p=1", "--min-p=0", "--seed=1")
NUM_STARTS, NUM_KEYS, NUM_MESSAGES, NUM_ROUNDS = 5, 100, 1000, 4
MAX_TOKENS = 128
CLEAR = "/clear"
TITLE = "a long conversation"
F4, ENTER, LEAVE, DELETE = "\x1bOS", "\r", "\x11", "\x7f"
LINE = re.compile(r"^ \d+ tokens?[^│\n]* tok/s", re.MULTILINE)
"""What stands under an answer."""
GAIN = re.compile(r"~([+-]\d+)%")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def is_open(screen: Screen) -> bool:
    """Tell whether the prompt is there to be typed into."""
    return "Ask something" in screen.text


def is_ready(screen: Screen) -> bool:
    """Tell whether the models are there, too."""
    return is_open(screen) and "threads" in screen.text and "loading" not in screen.text


def has_typed(sign: str, screen: Screen) -> bool:
    """Tell whether a sign stands in the prompt."""
    return f"│ {sign}" in screen.text


def cpu_s(terminal: Terminal) -> float:
    """Return the processor time of the program and of what it started, all threads."""
    ticks = 0
    for process in (terminal.process.pid, *terminal.children):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS_PER_S


@contextlib.contextmanager
def chat(home: Path, *options: str) -> Iterator[Terminal]:
    """Open the chat with files of its own, and leave it."""
    environment = {f"XDG_{name}_HOME": str(home / name) for name in ("DATA", "STATE", "CONFIG")}
    with Terminal(*METASD, *options, environment=environment) as terminal:
        yield terminal
        terminal.type(LEAVE)
        terminal.wait()


def first_screen_s(home: Path, pool: Sequence[str]) -> float:
    """Return CPU seconds from nothing to a prompt that can be typed into."""
    with chat(home, *pool) as terminal:
        terminal.until(is_open)
        return cpu_s(terminal)


def opening_s(home: Path, pool: Sequence[str]) -> float:
    """Return CPU seconds from choosing a long conversation to seeing its end."""
    saved = Store(home / "DATA" / "metasd" / "chats.db")
    text = "Some *words* and `code`.\n\n```python\ndef f(x):\n    return x\n```\n\n- a\n- b\n"
    turns = [
        Turn(f"question {number}", f"{text}\nanswer {number}")
        for number in range(NUM_MESSAGES // 2)
    ]
    saved.save(Conversation(None, TITLE, None, turns))
    saved.close()
    with chat(home, *pool) as terminal:
        terminal.until(is_ready)
        terminal.type(F4)
        terminal.until(lambda screen: TITLE in screen.text)
        begun_s = cpu_s(terminal)
        terminal.type(ENTER)
        terminal.until(lambda screen: f"answer {len(turns) - 1}" in screen.text)
        return cpu_s(terminal) - begun_s


def key_delays_s(home: Path, pool: Sequence[str]) -> list[float]:
    """Return seconds from a key to its character on the screen, all during one long answer."""
    delays = []
    with chat(home, *pool, *RAMBLING) as terminal:
        terminal.until(is_ready)
        terminal.type(f"Tell me everything.{ENTER}")
        terminal.until(lambda screen: "tok/s" in screen.text and is_open(screen))
        for index in range(NUM_KEYS):
            sign = "abcdefghij"[index % 10]
            begun_s = time.perf_counter()
            terminal.type(sign)
            terminal.until(partial(has_typed, sign))
            delays.append(time.perf_counter() - begun_s)
            terminal.type(DELETE)
            terminal.until(is_open)
            if "limit reached" in terminal.screen.text:
                break
    return delays


def answers(trace: Path) -> list[tuple[int, float]]:
    """Return tokens and seconds of every answer in a trace, as far as it is written."""
    found, emitted = [], 0
    whole = trace.read_text(encoding="utf-8").rpartition("\n")[0]
    for event in map(json.loads, whole.splitlines()):
        if event["event"] == "RoundDone":
            emitted += len(event["emitted"])
        elif event["event"] == "GenerationDone":
            found.append((emitted, event["seconds_decode"]))
            emitted = 0
    return found


def has_ended(trace: Path, size_bytes: int) -> bool:
    """Tell whether an answer has ended in what was added to a trace since it had that size."""
    with trace.open("rb") as file:
        file.seek(size_bytes)
        return b'"GenerationDone"' in file.read()


def shows_answer(trace: Path, number: int, screen: Screen) -> bool:
    """Tell whether the answer of a number is over, on the screen too."""
    is_shown = LINE.search(screen.text) and "tok/s now" not in screen.text
    return len(answers(trace)) == number and bool(is_shown)


def with_screen(
    home: Path, options: Sequence[str], prompts: Sequence[str]
) -> tuple[list[float], list[float]]:
    """Return tokens per second, and the gains shown, of one conversation on the screen."""
    trace, gains = home / f"{time.time_ns()}.jsonl", []
    trace.touch()
    with chat(home, *options, f"--trace={trace}") as terminal:
        terminal.until(is_ready)
        for number, prompt in enumerate(prompts, start=1):
            terminal.type(f"{CLEAR}{ENTER}")
            terminal.until(lambda screen: is_ready(screen) and not LINE.search(screen.text))
            size_bytes = trace.stat().st_size
            terminal.type(f"\x1b[200~{prompt}\x1b[201~{ENTER}")
            terminal.let_pass(partial(has_ended, trace, size_bytes))
            terminal.until(partial(shows_answer, trace, number))
            shown = GAIN.search(terminal.screen.text)
            gains.append(float(shown[1]) if shown else math.nan)
    return [emitted / seconds for emitted, seconds in answers(trace)], gains


def as_lines(home: Path, options: Sequence[str], prompts: Sequence[str]) -> list[float]:
    """Return tokens per second of the same conversation without a screen."""
    trace = home / f"{time.time_ns()}.jsonl"
    environment = {f"XDG_{name}_HOME": str(home / name) for name in ("DATA", "STATE", "CONFIG")}
    subprocess.run(
        [*METASD, *options, "--lines", f"--trace={trace}"],
        input="".join(f"{CLEAR}\n{prompt}\n" for prompt in prompts),
        text=True,
        check=True,
        capture_output=True,
        env={**os.environ, **environment},
    )
    return [emitted / seconds for emitted, seconds in answers(trace)]


def drawing(home: Path, pool: Sequence[str]) -> dict[str, object]:
    """Compare conversations with and without a screen, and the gains shown with plain reruns."""
    prompts = [prompt.text for prompt in read_prompts() if "\n" not in prompt.text][::4]
    common = (*pool, "--temperature=0", f"--max-tokens={MAX_TOKENS}")
    ratios, errors = [], []
    for _ in range(NUM_ROUNDS):
        shown, gains = with_screen(home, common, prompts)
        lines = as_lines(home, common, prompts)
        plain, _ = with_screen(home, (*common, "--policy=plain"), prompts)
        ratios += [fast / slow for fast, slow in zip(shown, lines, strict=True)]
        found = [100 * (fast / slow - 1) for fast, slow in zip(shown, plain, strict=True)]
        errors += [
            gain - truth for gain, truth in zip(gains, found, strict=True) if not math.isnan(gain)
        ]
    return {
        "screen_over_lines": statistics.median(ratios),
        "answers": len(ratios),
        "gain_error_median_points": statistics.median(errors),
        "gain_error_median_size_points": statistics.median(map(abs, errors)),
        "gains_within_5_points": sum(abs(error) <= 5 for error in errors) / len(errors),
    }


def main(pool: Sequence[str]) -> None:
    """Measure everything, one thing after the other."""
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        starts = [first_screen_s(home, pool) for _ in range(NUM_STARTS)]
        delays = sorted(key_delays_s(home, pool))
        figures = {
            "first_screen_cpu_s": statistics.median(starts),
            f"open_{NUM_MESSAGES}_messages_cpu_s": opening_s(home, pool),
            "keys": len(delays),
            "key_median_s": statistics.median(delays),
            "key_95_percent_s": delays[int(0.95 * len(delays))],
            "key_worst_s": delays[-1],
            **drawing(home, pool),
        }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
