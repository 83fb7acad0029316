"""Whatever happens to a chat, or beside it: what was said is in the file."""

from __future__ import annotations

import os
import random
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tui.conversation import Conversation
from tui.store import Store

DEADLINE_S = 60.0
# One model, and answers that do not end before they are told to.
CHAT = (
    *(sys.executable, "-m", "metasd_local", "chat", "--lines", "--threads=1", "--drafters=ngram"),
    *("--temperature=1.5", "--top-k=0", "--top-p=1", "--min-p=0", "--max-tokens=60"),
)


class Talk:
    """A chat through pipes; what it has said so far."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.out = self.err = b""

    def ask(self, question: str) -> None:
        """Send a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(question.encode() + b"\n")
        self.process.stdin.flush()

    def until(self, is_so: Callable[[Talk], bool]) -> None:
        """Read until something was said."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        out, err = self.process.stdout.fileno(), self.process.stderr.fileno()
        while not is_so(self):
            ready = select.select([out, err], [], [], DEADLINE_S)[0]
            assert ready, (self.out, self.err)
            if out in ready:
                self.out += os.read(out, 4096)
            if err in ready:
                self.err += os.read(err, 4096)


def has_answered(number: int, chat: Talk) -> bool:
    return chat.err.count(b" tok/s") == number


def has_said(num_bytes: int, chat: Talk) -> bool:
    return len(chat.out) >= num_bytes or has_answered(2, chat)


@contextmanager
def talk(folder: Path, *options: str) -> Iterator[Talk]:
    names = ("DATA", "STATE", "CONFIG")
    homes = {f"XDG_{name}_HOME": str(folder / name.lower()) for name in names}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*CHAT, *options], stdin=pipe, stdout=pipe, stderr=pipe, env={**os.environ, **homes}
    ) as process:
        try:
            yield Talk(process)
        finally:
            process.kill()


def saved(folder: Path) -> list[Conversation]:
    """Return all conversations, the oldest first."""
    store = Store(folder / "data" / "metasd" / "chats.db")
    found = [store.load(entry.id) for entry in store.entries()]
    store.close()
    return sorted(found, key=lambda chat: chat.id or 0)


@pytest.mark.parametrize(("seed", "times"), [(0, 2), pytest.param(1, 50, marks=pytest.mark.full)])
def test_kill_loses_nothing_that_was_finished(tmp_path: Path, seed: int, times: int) -> None:
    """At random moments of the second answer of each conversation."""
    random_number = random.Random(seed)
    said: list[tuple[str, str]] = []
    for number in range(times):
        with talk(tmp_path, f"--seed={number}") as chat:
            chat.ask(f"first {number}")
            chat.until(partial(has_answered, 1))
            finished = len(chat.out)
            chat.ask(f"second {number}")
            moment = finished + random_number.randrange(300)
            chat.until(partial(has_said, moment))
        said.append((chat.out[:finished].decode(), chat.out[finished:].decode(errors="replace")))
        found = saved(tmp_path)
        assert len(found) == number + 1
        for index, (conversation, (first, second)) in enumerate(zip(found, said, strict=True)):
            questions = [turn.question for turn in conversation.turns]
            assert questions[0] == f"first {index}"
            assert conversation.turns[0].answer.removesuffix("\n") == first.removesuffix("\n")
            assert conversation.turns[0].stats is not None
            if second:
                assert questions[1] == f"second {index}"


@pytest.mark.full
def test_two_instances_share_the_file(tmp_path: Path) -> None:
    with talk(tmp_path) as one, talk(tmp_path) as two:
        for number in range(3):
            for chat in (one, two):
                chat.ask(f"question {number}")
            for chat in (one, two):
                chat.until(partial(has_answered, number + 1))
        for chat in (one, two):
            chat.ask("/exit")
            assert chat.process.wait(DEADLINE_S) == 0
            assert b"unsaved" not in chat.err
    conversations = saved(tmp_path)
    assert [len(chat.turns) for chat in conversations] == [3, 3]
    assert all(turn.stats for chat in conversations for turn in chat.turns)
