"""The token memory on a real llama.cpp: what it holds is what was fed, whatever the path there."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from metasd_local.backend.library import devices
from metasd_local.backend.llama import LlamaModel, LlamaWeights
from metasd_local.errors import BackendError, Cancelled, ContextFull, ModelError
from metasd_local.interrupt import Interrupt
from metasd_local.protocols import Logits, TokenModel, Vocabulary
from metasd_local.stopwatch import Stopwatch
from metasd_local.templates.chat_template import ChatTemplate, Message
from tests.tiny_gguf import (
    BEGIN,
    CHAT_TEMPLATE,
    CONTROL_TOKENS,
    END,
    Architecture,
    write_tiny_gguf,
)

CONTEXT_SIZE = 700
MAX_ROWS = 8
# Kernels differ between batch widths; a wrong memory changes logits by about their deviation, 4.
TOLERANCE = 0.1


@pytest.fixture(scope="module", params=["llama", "gemma3", "mamba"])
def weights(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LlamaWeights]:
    architecture: Architecture = request.param
    path = tmp_path_factory.mktemp("models") / f"{architecture}.gguf"
    opened = LlamaWeights(write_tiny_gguf(path, architecture=architecture))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def attention(tiny_model_path: Path) -> Iterator[LlamaWeights]:
    opened = LlamaWeights(tiny_model_path)
    yield opened
    opened.close()


def open_model(
    weights: LlamaWeights,
    *,
    context_size: int = CONTEXT_SIZE,
    interrupt: Interrupt | None = None,
    inside: Stopwatch | None = None,
) -> LlamaModel:
    return LlamaModel(
        weights,
        context_size=context_size,
        max_rows=MAX_ROWS,
        num_threads=1,
        interrupt=interrupt or Interrupt(),
        inside=inside,
    )


def fresh_row(weights: LlamaWeights, tokens: list[int]) -> Logits:
    """Return the last row of a memory that was never used before."""
    model = open_model(weights)
    row: Logits = model.feed(tokens, 1)[0].copy()
    model.close()
    return row


def random_tokens(rng: np.random.Generator, count: int) -> list[int]:
    return [int(token) for token in rng.integers(0, 320, size=count)]


def test_info_and_vocabulary(attention: LlamaWeights, tiny_model_path: Path) -> None:
    info, vocabulary = attention.info, attention.vocabulary
    assert (info.architecture, info.name, info.path) == ("llama", "tiny", tiny_model_path)
    assert (info.trained_context, info.chat_template) == (512, CHAT_TEMPLATE)
    assert (info.bos_text, info.eos_text) == ("<|begin|>", "<|end|>")
    assert (info.rollback, info.devices) == ("exact", ("CPU",))
    assert info.file_bytes == tiny_model_path.stat().st_size
    assert info.num_parameters > info.file_bytes // 5
    # 2 layers, 2 heads for keys and values of size 16, 2 bytes each.
    assert info.memory_bytes_per_token == 2 * 2 * (16 + 16) * 2
    assert (vocabulary.size, vocabulary.bos, vocabulary.eos) == (320, BEGIN, END)
    assert (vocabulary.adds_bos, vocabulary.adds_eos) == (False, False)
    assert [vocabulary.text(token) for token in range(5)] == list(CONTROL_TOKENS)
    assert vocabulary.is_end(END)
    assert not vocabulary.is_end(BEGIN)


def test_a_file_without_a_first_token_has_no_text_for_it(tmp_path: Path) -> None:
    """llama.cpp would give an ordinary token instead."""
    weights = LlamaWeights(write_tiny_gguf(tmp_path / "model.gguf", has_bos=False))
    assert weights.info.bos_text == ""
    assert weights.info.eos_text == "<|end|>"
    weights.close()


def test_the_protocols_are_kept(attention: LlamaWeights) -> None:
    opened = open_model(attention)
    model: TokenModel = opened
    vocabulary: Vocabulary = attention.vocabulary
    assert vocabulary.encode("", special=False) == []
    assert model.vocab_size == attention.vocabulary.size == 320
    assert (model.context_size, model.length) == (CONTEXT_SIZE, 0)
    opened.close()


@pytest.mark.parametrize("text", ["", "plain", "the étude 日本 🙂\n\t", "a\0b", "<|end|>"])
def test_text_survives_tokens(attention: LlamaWeights, text: str) -> None:
    vocabulary = attention.vocabulary
    tokens = vocabulary.encode(text, special=False)
    assert b"".join(map(vocabulary.piece, tokens)).decode() == text
    assert END not in tokens


def test_control_tokens_only_where_asked_for(attention: LlamaWeights) -> None:
    vocabulary = attention.vocabulary
    tokens = vocabulary.encode("a<|end|>b", special=True)
    assert tokens[1] == END
    assert len(tokens) == 3
    assert vocabulary.piece(END) == b""


def test_a_prompt_in_parts_has_the_spaces_of_one_text(tmp_path: Path) -> None:
    """Only what follows a control token begins with the space that SentencePiece adds."""
    source = "<|user|>say {{ messages[0].content }} now<|end|><|assistant|>"
    path = write_tiny_gguf(tmp_path / "pieces.gguf", vocab_size=340, tokenizer="llama")
    with closing(LlamaWeights(path)) as weights:
        vocabulary = weights.vocabulary
        parts = ChatTemplate(source, vocabulary).encode([Message("user", "hi  you")])
        whole = vocabulary.encode("<|user|>say hi  you now<|end|><|assistant|>", special=True)
        assert parts == whole
        assert b"".join(map(vocabulary.piece, parts)) == b" say hi  you now"


def test_rows_are_those_of_the_last_tokens(weights: LlamaWeights) -> None:
    tokens = random_tokens(np.random.default_rng(1), 40)
    model = open_model(weights)
    rows = model.feed(tokens, MAX_ROWS).copy()
    assert rows.shape == (MAX_ROWS, 320)
    assert rows.dtype == np.float32
    assert rows.std() > 2.0
    for index in (0, 3, MAX_ROWS - 1):
        prefix = tokens[: len(tokens) - MAX_ROWS + 1 + index]
        assert np.abs(rows[index] - fresh_row(weights, prefix)).max() < TOLERANCE
    assert model.feed([], 0).shape == (0, 320)
    assert model.feed([1], 0).shape == (0, 320)
    model.close()


def test_a_long_prompt_is_fed_in_parts(weights: LlamaWeights) -> None:
    tokens = random_tokens(np.random.default_rng(2), 515)
    whole, by_hand = open_model(weights), open_model(weights)
    rows = whole.feed(tokens, 5).copy()
    for begin in range(0, len(tokens), 103):
        last = by_hand.feed(tokens[begin : begin + 103], 1)[0].copy()
    assert whole.length == by_hand.length == 515
    assert np.abs(rows[-1] - last).max() < TOLERANCE
    assert np.abs(rows[0] - fresh_row(weights, tokens[:-4])).max() < TOLERANCE
    whole.close()
    by_hand.close()


def fuzz(weights: LlamaWeights, seed: int) -> None:
    """Feed, rewind and keep prefixes at random; the memory always equals a fresh one."""
    rng = np.random.default_rng(seed)
    can_rewind = weights.info.rollback == "exact"
    model = open_model(weights, context_size=160)
    held: list[int] = []
    for _ in range(40):
        action = rng.integers(4)
        if action <= 1 and len(held) < 120:
            tokens = random_tokens(rng, int(rng.integers(1, 10)))
            num_rows = int(rng.integers(1, min(len(tokens), MAX_ROWS) + 1))
            row = model.feed(tokens, num_rows)[-1].copy()
            held += tokens
            if rng.random() < 0.3:
                assert np.abs(row - fresh_row(weights, held)).max() < TOLERANCE
        elif action == 2:
            length = int(rng.integers(max(len(held) - 6, 0), len(held) + 1))
            if can_rewind or length in (0, len(held)):
                model.rewind(length)
                del held[length:]
            else:
                with pytest.raises(BackendError, match="cannot forget"):
                    model.rewind(length)
        else:
            num_common = int(rng.integers(0, len(held) + 1))
            other = held[:num_common] + random_tokens(rng, int(rng.integers(0, 3)))
            common = 0
            while common < min(len(other), len(held)) and other[common] == held[common]:
                common += 1
            if common < len(held) and not can_rewind:
                common = 0
            assert model.keep_prefix(other) == common
            del held[common:]
        assert model.length == len(held)
    row = model.feed([7], 1)[0].copy()
    assert np.abs(row - fresh_row(weights, [*held, 7])).max() < TOLERANCE
    model.close()


@pytest.mark.parametrize("seed", range(2))
def test_memory_equals_a_fresh_one(weights: LlamaWeights, seed: int) -> None:
    fuzz(weights, seed)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(2, 32))
def test_memory_equals_a_fresh_one_at_length(weights: LlamaWeights, seed: int) -> None:
    fuzz(weights, seed)


def test_a_second_turn_feeds_only_new_tokens(attention: LlamaWeights) -> None:
    """A turn that goes on where the last one ended keeps all of it."""
    rng = np.random.default_rng(3)
    turn, reply = random_tokens(rng, 200), random_tokens(rng, 30)
    model = open_model(attention)
    model.feed(turn, 0)
    model.feed(reply, 1)
    following = turn + reply + random_tokens(rng, 20)
    assert model.keep_prefix(following) == 230
    assert model.length == 230
    row = model.feed(following[230:], 1)[0].copy()
    assert np.abs(row - fresh_row(attention, following)).max() < TOLERANCE
    model.close()


def test_a_sliding_window_can_be_rewound_beyond_its_size(tmp_path: Path) -> None:
    """A memory that kept only the window would give another row, without any error."""
    path = write_tiny_gguf(tmp_path / "gemma3.gguf", architecture="gemma3")
    weights = LlamaWeights(path)
    tokens = random_tokens(np.random.default_rng(7), 1400)
    model = open_model(weights, context_size=1500)
    model.feed(tokens, 1)
    model.rewind(300)
    row = model.feed(tokens[300:310], 1)[0].copy()
    assert np.abs(row - fresh_row(weights, tokens[:310])).max() < TOLERANCE
    weights.close()


def test_seconds_inside_grow_with_every_feed(attention: LlamaWeights) -> None:
    inside = Stopwatch()
    model = open_model(attention, inside=inside)
    seen = [inside.seconds]
    for num_rows in (1, 0, 1):
        model.feed([5], num_rows)
        seen.append(inside.seconds)
    assert seen[0] == 0.0
    assert np.all(np.diff(seen) > 0)
    model.close()


def test_a_full_context_takes_nothing_more(weights: LlamaWeights) -> None:
    tokens = random_tokens(np.random.default_rng(4), 100)
    model = open_model(weights, context_size=100)
    model.feed(tokens[:97], 1)
    with pytest.raises(ContextFull, match="4 tokens after 97 exceed the context of 100"):
        model.feed([1, 2, 3, 4], 1)
    assert model.length == 97
    row = model.feed(tokens[97:], 1)[0].copy()
    assert np.abs(row - fresh_row(weights, tokens)).max() < TOLERANCE
    with pytest.raises(ContextFull):
        model.feed([1], 1)
    model.close()


def test_a_stop_inside_a_call_can_be_resumed_exactly(weights: LlamaWeights) -> None:
    rng = np.random.default_rng(5)
    tokens = random_tokens(rng, 60)
    interrupt = Interrupt()
    model = open_model(weights, interrupt=interrupt)
    model.feed(tokens[:40], 1)
    interrupt.set()
    with pytest.raises(Cancelled):
        model.feed(tokens[40:], 1)
    assert model.length == (40 if weights.info.rollback == "exact" else 0)
    interrupt.clear()
    row = model.feed(tokens[model.length :], 1)[0].copy()
    assert np.abs(row - fresh_row(weights, tokens)).max() < TOLERANCE
    model.close()


def test_a_stop_from_another_thread_ends_a_long_prompt(tmp_path: Path) -> None:
    """The memory holds a prefix afterwards, and the rest can be fed."""
    weights = LlamaWeights(write_tiny_gguf(tmp_path / "wide.gguf", width=256, num_layers=4))
    interrupt = Interrupt()
    model = open_model(weights, context_size=6000, interrupt=interrupt)
    tokens = random_tokens(np.random.default_rng(6), 6000)
    timer = threading.Timer(0.05, interrupt.set)
    timer.start()
    with pytest.raises(Cancelled):
        while True:
            model.feed(tokens, 1)
            model.rewind(0)
    timer.join()
    interrupt.clear()
    length = model.length
    assert length % 512 == 0
    assert length < 6000
    tail = tokens[length : length + 50]
    row = model.feed(tail, 1)[0].copy()
    model.rewind(0)
    again = model.feed(tokens[: length + 50], 1)[0]
    assert np.abs(row - again).max() < TOLERANCE
    weights.close()


def test_the_log_reaches_logging_and_error_messages(
    tiny_model_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="metasd_local.backend.library"):
        LlamaWeights(tiny_model_path).close()
    assert any("general.architecture" in record.message for record in caplog.records)
    assert {record.levelno for record in caplog.records} >= {logging.INFO}
    path = tmp_path / "unknown.gguf"
    path.write_bytes(tiny_model_path.read_bytes().replace(b"\0\0\0llama", b"\0\0\0lxama"))
    with pytest.raises(ModelError, match="unknown model architecture: 'lxama'"):
        LlamaWeights(path)


def test_loading_reports_progress_and_can_be_stopped(tiny_model_path: Path) -> None:
    shares: list[float] = []

    def note(share: float) -> bool:
        shares.append(share)
        return True

    LlamaWeights(tiny_model_path, on_progress=note).close()
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    with pytest.raises(Cancelled):
        LlamaWeights(tiny_model_path, on_progress=lambda _: False)

    def fail(_: float) -> bool:
        raise LookupError("raised while loading")

    with pytest.raises(LookupError):
        LlamaWeights(tiny_model_path, on_progress=fail)


def test_devices_name_the_cpu() -> None:
    found = devices()
    assert [device.kind for device in found].count("cpu") == 1
    assert all(device.name for device in found)
    assert max(device.memory_bytes for device in found) > 2**26
