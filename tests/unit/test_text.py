"""Tokens to text: nothing shown is ever taken back, and how tokens are cut changes nothing."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from itertools import pairwise

import pytest

from metasd_local.events import TextPiece
from metasd_local.text import ReasoningMarks, TextStream, printable
from tests.byte_vocabulary import ByteVocabulary

MARKS = ReasoningMarks("<think>", "</think>", is_open=False)
OPEN = ReasoningMarks("<think>", "</think>", is_open=True)


class ChunkVocabulary:
    """A vocabulary whose tokens are whatever bytes a test wants: ids are given on demand.

    Texts in `control` are control tokens, whose pieces are empty; "END" among them is an end.
    """

    def __init__(self, control: Sequence[str] = ("END",)) -> None:
        self._pieces = [b""] * len(control)
        self._control = list(control)

    def add(self, piece: bytes | str) -> int:
        """Return a token for a piece; a control text gives its control token."""
        if isinstance(piece, str) and piece in self._control:
            return self._control.index(piece)
        self._pieces.append(piece if isinstance(piece, bytes) else piece.encode())
        return len(self._pieces) - 1

    def encode(self, text: str, *, special: bool, continues: bool = False) -> list[int]:
        """Return one token."""
        return [self.add(text if special else text.encode())]

    def piece(self, token: int) -> bytes:
        """Return the bytes of a token."""
        return self._pieces[token]

    def is_end(self, token: int) -> bool:
        """Tell whether the token is END."""
        return token < len(self._control) and self._control[token] == "END"


def read(stream: TextStream, rounds: Sequence[Sequence[int]]) -> tuple[str, str, int | None]:
    """Return the answer, the reasoning, and the number of tokens that count if it ended."""
    pieces: list[TextPiece] = []
    num_before = 0
    kept: int | None = None
    for tokens in rounds:
        kept = stream.consume(tokens)
        pieces += stream.take()
        if kept is not None:
            kept += num_before
            break
        num_before += len(tokens)
    assert stream.has_ended == (kept is not None)
    pieces += stream.finish()
    assert stream.finish() == []
    answer = "".join(piece.text for piece in pieces if piece.kind == "answer")
    reasoning = "".join(piece.text for piece in pieces if piece.kind == "reasoning")
    return answer, reasoning, kept


TABLE: dict[str, tuple[list[str | bytes], list[str], ReasoningMarks | None, str, str, int | None]]
TABLE = {
    "plain": (["Hel", "lo"], [], None, "Hello", "", None),
    "nothing": ([], [], None, "", "", None),
    "end token": (["Hi", "END", "more"], ["x"], None, "Hi", "", 2),
    "end token alone": (["END"], [], None, "", "", 1),
    "split emoji": ([b"a\xf0\x9f", b"\x91", b"\x8bb"], [], None, "a👋b", "", None),
    "broken bytes": ([b"a\xf0\x9f", b"b\xff"], [], None, "a\ufffdb\ufffd", "", None),
    "cut emoji": ([b"a\xf0\x9f"], [], None, "a\ufffd", "", None),
    "cut emoji at the end token": ([b"a\xf0\x9f", "END"], [], None, "a\ufffd", "", 2),
    "stop": (["one STOP two"], ["STOP"], None, "one ", "", 1),
    "stop across tokens": (["one S", "TO", "P two", "x"], ["STOP"], None, "one ", "", 3),
    "stop at once": (["STOP"], ["STOP"], None, "", "", 1),
    "no stop after all": (["one ST", "AR"], ["STOP"], None, "one STAR", "", None),
    "stop that began twice": (["aab", "aac"], ["aac"], None, "aab", "", 2),
    "first stop to end": (["abcd"], ["abcd", "bc"], None, "a", "", 1),
    "longest stop of one end": (["xab"], ["ab", "xab", "b"], None, "", "", 1),
    "stop with an emoji": ([b"a\xf0\x9f", b"\x91\x8bb"], ["👋"], None, "a", "", 2),
    "empty stop": (["a"], ["", "b"], None, "a", "", None),
    "half a stop at the end": (["a ST"], ["STOP"], None, "a ST", "", None),
    "half a stop at the end token": (["a ST", "END"], ["STOP"], None, "a ST", "", 2),
    "reasoning": (["<think>\nhm\n</think>\n\nyes"], [], MARKS, "yes", "hm\n", None),
    "reasoning across tokens": (["\n<th", "ink>a</", "think", "> b"], [], MARKS, "b", "a", None),
    "open reasoning": (["\nhm</think>yes"], [], OPEN, "yes", "hm", None),
    "empty reasoning": (["<think>\n\n</think>\n\nyes"], [], MARKS, "yes", "", None),
    "cut reasoning": (["<think>hm </th"], [], MARKS, "", "hm </th", None),
    "reasoning to the end token": (["<think>hm", "END"], [], MARKS, "", "hm", 2),
    "no reasoning": ([" <thin air"], [], MARKS, " <thin air", "", None),
    "half a mark": ([" <thi"], [], MARKS, " <thi", "", None),
    "mark inside an answer": (["a <think> </think>"], [], MARKS, "a <think> </think>", "", None),
    "mark after reasoning": (["<think>a</think>b<think>c"], [], MARKS, "b<think>c", "a", None),
    "no marks known": (["<think>a</think>"], [], None, "<think>a</think>", "", None),
    "stop in reasoning": (["<think>a STOP b</think>c STOP"], ["STOP"], MARKS, "c ", "a STOP b", 1),
    "stop in trimmed space": (["<think>a</think>\n\nb\n\nc"], ["\n\n"], MARKS, "b", "a", 1),
    "stop before a mark": (["\n\n<think>"], ["\n\n"], MARKS, "", "", 1),
    "stop that ends with a mark": (["<think>a</think>b>c"], [">"], MARKS, "b", "a", 1),
    "stop inside a mark": (["<think>"], ["thi"], MARKS, "<", "", 1),
}  # fmt: skip


@pytest.mark.parametrize(
    ("chunks", "stops", "marks", "answer", "reasoning", "kept"), TABLE.values(), ids=TABLE
)
def test_table(
    chunks: list[str | bytes],
    stops: list[str],
    marks: ReasoningMarks | None,
    answer: str,
    reasoning: str,
    kept: int | None,
) -> None:
    """Each case: tokens, stop strings, marks; then answer, reasoning, tokens that count."""
    vocabulary = ChunkVocabulary()
    tokens = [vocabulary.add(chunk) for chunk in chunks]
    one_round = TextStream(vocabulary, stops, marks)
    assert read(one_round, [tokens]) == (answer, reasoning, kept)
    one_token_each = TextStream(vocabulary, stops, marks)
    assert read(one_token_each, [[token] for token in tokens]) == (answer, reasoning, kept)


@pytest.mark.parametrize(
    ("chunks", "answer", "reasoning"),
    [
        (["\n", "<think>", "\nhm\n", "</think>", "\n\nyes"], "yes", "hm\n"),
        (["a", "<think>", "b", "</think>", "c", "<think>", "d"], "ac", "bd"),
        (["<think>", b"a\xf0\x9f", "</think>", b"\x91b"], "\ufffdb", "a\ufffd"),
        (["<think>", "a", "END"], "", "a"),
    ],
)
def test_marks_that_are_control_tokens(
    chunks: list[str | bytes], answer: str, reasoning: str
) -> None:
    """Their pieces are empty, so their ids count, wherever they stand."""
    vocabulary = ChunkVocabulary(("END", "<think>", "</think>"))
    tokens = [vocabulary.add(chunk) for chunk in chunks]
    stream = TextStream(vocabulary, [], MARKS)
    assert read(stream, [tokens])[:2] == (answer, reasoning)


def test_named_tokens_are_marks_by_their_text() -> None:
    """A mark that is one token with a text of its own is found as text."""
    vocabulary = ByteVocabulary(named=("<think>", "</think>"))
    tokens = vocabulary.encode("<think>hm</think>yes", special=True)
    assert read(TextStream(vocabulary, [], MARKS), [tokens]) == ("yes", "hm", None)


def test_pieces_come_as_soon_as_they_are_final() -> None:
    """Only what may still change is held back; neighbours of one kind come as one piece."""
    vocabulary = ChunkVocabulary()
    stream = TextStream(vocabulary, ["STOP"], OPEN)
    seen = []
    for chunk in (b"a", b"b</thi", b"nk> \n", b"c S", b"T", b"\xf0\x9f\x91", b"\x8bd"):
        stream.consume([vocabulary.add(chunk)])
        seen.append(stream.take())
    assert seen == [
        [TextPiece("a", "reasoning")],
        [TextPiece("b", "reasoning")],
        [],
        [TextPiece("c ")],
        [],
        [],
        [TextPiece("ST👋d")],
    ]
    stream.consume([vocabulary.add("e"), vocabulary.add("f")])
    assert stream.take() == [TextPiece("ef")]


def stopped(text: str, stops: Sequence[str]) -> str:
    """Return the text before the stop string that ends first, by trying every end."""
    for end in range(len(text) + 1):
        lengths = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if lengths:
            return text[: end - max(lengths)]
    return text


@pytest.mark.parametrize("num_trials", [400, pytest.param(20_000, marks=pytest.mark.full)])
def test_cutting_a_text_into_tokens_changes_nothing(num_trials: int) -> None:
    """Random bytes per token and tokens per round give the same text and the same end.

    Without marks the text is what a naive search for stop strings leaves, so no stop string is
    ever shown; with marks it is what single bytes give.
    """
    rng = random.Random(3)
    scraps = [
        "a",
        "b",
        "ab",
        "STOP",
        "ST",
        "\n",
        " ",
        "é",
        "👋🏽",
        "<think>",
        "</think>",
        "<",
        "k>",
    ]
    for trial in range(num_trials):
        text = "".join(rng.choices(scraps, k=rng.randrange(12)))
        stops = rng.sample(["STOP", "ab", "bab", "\n\n", "👋", "TOPa", "k>", "<think"], k=3)
        marks = [None, MARKS, OPEN][trial % 3]
        data = text.encode()
        vocabulary = ChunkVocabulary()
        single = [[vocabulary.add(bytes([byte]))] for byte in data]
        expected = read(TextStream(vocabulary, stops, marks), single)
        if marks is None:
            assert expected[0] == stopped(text, stops)
            assert not any(stop in expected[0] for stop in stops)
        cuts = sorted({0, len(data), *(rng.randrange(len(data) + 1) for _ in range(4))})
        chunks = [data[start:end] for start, end in pairwise(cuts)]
        tokens = [vocabulary.add(chunk) for chunk in chunks]
        split = rng.randrange(len(tokens) + 1)
        rounds = [tokens[:split], tokens[split:]]
        answer, reasoning, kept = read(TextStream(vocabulary, stops, marks), rounds)
        assert (answer, reasoning) == expected[:2]
        num_bytes = None if kept is None else len(b"".join(chunks[: kept - 1]))
        if num_bytes is None or expected[2] is None:
            assert kept == expected[2]
        else:
            assert num_bytes < expected[2] <= num_bytes + len(chunks[(kept or 0) - 1])


def test_nothing_is_consumed_after_the_end() -> None:
    """Tokens after an end are a mistake of the caller."""
    vocabulary = ChunkVocabulary()
    stream = TextStream(vocabulary)
    assert stream.consume([0]) == 1
    with pytest.raises(AssertionError):
        stream.consume([0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\tb\nc", "a\tb\nc"),
        ("a\r\nb\rc", "a\nbc"),
        ("\x1b[31mred\x1b[0m", "[31mred[0m"),
        ("\x1b]0;title\x07\x9b2J\x90q\x9c", "]0;title2Jq"),
        ("a\bb\x7f\x00\x0b\x0c\x85", "ab"),
        ("user\u202etxt.exe\u202c \u2066x\u2069", "usertxt.exe x"),
        ("a\u200bb\u2060c\ufeffd\u00ade", "abcde"),
        ("hidden\U000e0041\U000e0042\U000e007f", "hidden"),
        ("a\u2028b\u2029c", "a\nb\nc"),
        ("\ud800a\udfff", "\ufffda\ufffd"),
        ("👨\u200d👩\u200d👧 ❤\ufe0f 葛\U000e0100", "👨\u200d👩\u200d👧 ❤\ufe0f 葛\U000e0100"),
        # joiners in Persian, Hebrew, a combining accent
        ("می\u200cش שלום é e\u0301", "می\u200cش שלום é e\u0301"),
    ],
)
def test_printable(text: str, expected: str) -> None:
    """Tells, case by case, what a terminal gets."""
    assert printable(text) == expected


def test_printable_lets_nothing_dangerous_through() -> None:
    """For every character there is: doing it twice changes nothing, and no control survives."""
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    shown = printable(everything)
    assert printable(shown) == shown
    controls = {chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))} - {"\n", "\t"}
    turning = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    surrogates = {chr(code) for code in range(0xD800, 0xE000)}
    assert not (controls | turning | surrogates) & set(shown)
    assert len(shown) > len(everything) - 6000
    shown.encode()
