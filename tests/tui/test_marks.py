"""Which arm drafted what: the marks spell the text, whatever of the tokens became text."""

from __future__ import annotations

import codecs
import random
from itertools import pairwise

import pytest

from tui.conversation import Mark
from tui.marks import OWN, Legend, MarkFinder
from tui.show import marked


def test_a_round_is_split_at_its_last_accepted_token() -> None:
    finder = MarkFinder()
    finder.add_round("code", 2, [b"ab", b"c", b"de"])
    assert finder.find("abcde") == [("code", 3), (OWN, 2)]


def test_rounds_are_not_joined() -> None:
    finder = MarkFinder()
    finder.add_round("code", 1, [b"a", b"b"])
    finder.add_round("code", 1, [b"c"])
    assert finder.find("abc") == [("code", 1), (OWN, 1), ("code", 1)]


def test_a_character_belongs_to_the_token_that_completes_it() -> None:
    finder = MarkFinder()
    finder.add_round("code", 1, ["ö".encode()[:1], "ö".encode()[1:]])
    assert finder.find("ö") == [(OWN, 1)]


def test_text_may_come_later_than_its_tokens() -> None:
    finder = MarkFinder()
    finder.add_round("code", 1, [b"wai", b"t"])
    assert finder.find("w") == [("code", 1)]
    finder.add_round("maths", 1, [b"ing"])
    assert finder.find("aiting") == [("code", 2), (OWN, 1), ("maths", 3)]


def test_tokens_that_became_no_text_are_skipped() -> None:
    finder = MarkFinder()
    finder.add_round("code", 2, [b"<think>", b"\n", b"hm"])
    finder.add_round("maths", 2, [b"</think>", b"\n\n", b"yes"])
    assert finder.find("hm") == [(OWN, 2)]
    assert finder.find("yes") == [(OWN, 3)]


def test_text_nobody_spelled_counts_as_the_targets_own() -> None:
    finder = MarkFinder()
    finder.add_round("code", 1, [b"abc"])
    assert finder.find("xyz") == [(OWN, 3)]


@pytest.mark.parametrize("seed", range(20))
def test_the_marks_always_spell_the_whole_text(seed: int) -> None:
    rng = random.Random(seed)
    finder, text, marks = MarkFinder(), "", list[Mark]()
    letters = ["a", "ö", "🙂", "\n", " "]
    pending = ""
    for _ in range(30):
        tokens = ["".join(rng.choices(letters, k=rng.randint(0, 3))) for _ in range(4)]
        finder.add_round(rng.choice("xyz"), rng.randint(0, 4), [each.encode() for each in tokens])
        pending += "".join(tokens)
        held = rng.randint(0, len(pending))
        part, pending = pending[:held], pending[held:]
        marks += finder.find(part)
        text += part
    assert sum(length for _, length in marks) == len(text)
    shown = marked(text, marks, Legend()).plain
    assert "".join(sign for sign in shown if sign not in "¹²³") == text


@pytest.mark.parametrize("seed", range(20))
def test_bytes_that_are_no_text_are_marked_as_they_are_shown(seed: int) -> None:
    """Characters may be broken across tokens, and tokens may hold what is no character."""
    rng = random.Random(seed)
    finder, decoder = MarkFinder(), codecs.getincrementaldecoder("utf-8")("replace")
    whole = "añ語🙂".encode() + bytes(rng.choices(range(256), k=60)) + "ö".encode()
    cuts = sorted(rng.choices(range(len(whole)), k=20))
    tokens = [whole[start:end] for start, end in pairwise([0, *cuts, len(whole)])]
    text, marks = "", list[Mark]()
    while tokens:
        emitted, tokens = tokens[:4], tokens[4:]
        finder.add_round("x", 3, emitted)
        said = decoder.decode(b"".join(emitted))
        marks += finder.find(said) if said else []
        text += said
    assert sum(length for _, length in marks) == len(text)
    assert {arm for arm, _ in marks} == {"x", OWN}


def test_every_arm_has_a_sign_of_its_own_up_to_nine() -> None:
    legend = Legend()
    signs = [legend.sign(f"arm {number}") for number in range(11)]
    assert len(set(signs[:9])) == 9
    assert signs[9:] == ["⁺", "⁺"]
    assert legend.sign("arm 3") == signs[3]
