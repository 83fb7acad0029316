"""Calls that would abort or crash llama.cpp end in an error of this package, and harm nothing."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from metasd_local.backend.llama import LlamaModel, LlamaWeights
from metasd_local.errors import BackendError, ContextFull, MetasdError, ModelError
from metasd_local.interrupt import Interrupt
from tests.tiny_gguf import END, write_tiny_gguf

CONTEXT_SIZE = 600
MAX_ROWS = 4


@pytest.fixture
def weights(tiny_model_path: Path) -> Iterator[LlamaWeights]:
    opened = LlamaWeights(tiny_model_path)
    yield opened
    opened.close()


@pytest.fixture
def model(weights: LlamaWeights) -> LlamaModel:
    return open_model(weights)


def open_model(
    weights: LlamaWeights,
    *,
    context_size: int = CONTEXT_SIZE,
    max_rows: int = MAX_ROWS,
    num_threads: int = 1,
) -> LlamaModel:
    return LlamaModel(
        weights,
        context_size=context_size,
        max_rows=max_rows,
        num_threads=num_threads,
        interrupt=Interrupt(),
    )


@pytest.mark.parametrize(
    "tokens",
    [
        pytest.param([-1], id="negative"),
        pytest.param([320], id="beyond the vocabulary"),
        pytest.param([1, 2, 2**31], id="beyond 32 bits"),
        pytest.param([5] * 99 + [320], id="in a longer list"),
        pytest.param([5] * 520 + [-1], id="in a later part"),
        pytest.param([2**70] + [5] * 99, id="beyond 64 bits"),
    ],
)
def test_foreign_token_ids_are_refused(model: LlamaModel, tokens: list[int]) -> None:
    model.feed([1, 2, 3], 1)
    with pytest.raises(BackendError, match=r"expected 0\.\.319"):
        model.feed(tokens, 1)
    assert model.length == 3
    assert model.feed([4], 1).shape == (1, 320)


@pytest.mark.parametrize(
    ("num_tokens", "num_rows"), [(1, 2), (0, 1), (5, MAX_ROWS + 1), (3, -1), (550, MAX_ROWS + 1)]
)
def test_more_rows_than_there_are_is_refused(
    model: LlamaModel, num_tokens: int, num_rows: int
) -> None:
    with pytest.raises(BackendError, match="number of logits rows"):
        model.feed([5] * num_tokens, num_rows)
    assert model.length == 0


@pytest.mark.parametrize("num_tokens", [CONTEXT_SIZE + 1, 5000])
def test_more_tokens_than_the_context_are_refused(model: LlamaModel, num_tokens: int) -> None:
    with pytest.raises(ContextFull):
        model.feed([5] * num_tokens, 1)
    assert model.length == 0


def test_a_batch_of_every_size_around_the_limit_is_fed(model: LlamaModel) -> None:
    for num_tokens in (511, 512, 513, 516):
        model.rewind(0)
        assert model.feed([5] * num_tokens, MAX_ROWS).shape == (MAX_ROWS, 320)
        assert model.length == num_tokens


@pytest.mark.parametrize("length", [-1, 4, 10**6])
def test_rewinding_to_what_never_was_is_refused(model: LlamaModel, length: int) -> None:
    model.feed([1, 2, 3], 1)
    with pytest.raises(BackendError, match="length to rewind to"):
        model.rewind(length)
    assert model.length == 3


@pytest.mark.parametrize(
    "options",
    [
        {"context_size": 0},
        {"context_size": -5},
        {"context_size": 2**40},
        {"max_rows": 0},
        {"max_rows": 512},
        {"num_threads": 0},
        {"num_threads": 10**6},
    ],
    ids=str,
)
def test_impossible_memories_are_refused(weights: LlamaWeights, options: dict[str, int]) -> None:
    with pytest.raises(BackendError, match="expected"):
        open_model(weights, **options)


def test_the_largest_number_of_rows_works(weights: LlamaWeights) -> None:
    rows = open_model(weights, max_rows=511).feed([5] * 512, 511)
    assert rows.shape == (511, 320)
    assert np.isfinite(rows).all()


@pytest.mark.parametrize("token", [-1, 320, 2**31, -(2**40)])
def test_ids_outside_the_vocabulary_have_no_text(weights: LlamaWeights, token: int) -> None:
    vocabulary = weights.vocabulary
    for call in (vocabulary.piece, vocabulary.text, vocabulary.is_end):
        with pytest.raises(BackendError, match=r"expected 0\.\.319"):
            call(token)


@pytest.mark.parametrize("unit", ["a", " ", "7", "!", "aA", "中", "\n", "a "])
def test_long_runs_do_not_exhaust_the_stack(tmp_path: Path, unit: str) -> None:
    """llama.cpp splits by recursive regular expressions for some vocabularies, such as this."""
    weights = LlamaWeights(write_tiny_gguf(tmp_path / "model.gguf", pre_tokenizer="tekken"))
    vocabulary = weights.vocabulary
    text = unit * 60_000
    tokens = vocabulary.encode(text, special=False)
    assert b"".join(map(vocabulary.piece, tokens)).decode() == text
    short = unit * 1000 + " <|end|>"
    assert vocabulary.encode(short, special=True)[-1] == END
    if unit != "a ":
        with pytest.raises(BackendError, match="more than 4000"):
            vocabulary.encode(text, special=True)
    weights.close()


USES: dict[str, Callable[[LlamaModel], object]] = {
    "feed": lambda model: model.feed([1], 1),
    "rewind": lambda model: model.rewind(0),
    "keep_prefix": lambda model: model.keep_prefix([1]),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_a_closed_model_refuses(model: LlamaModel, use: Callable[[LlamaModel], object]) -> None:
    model.feed([1, 2], 1)
    model.close()
    model.close()
    with pytest.raises(BackendError, match="closed"):
        use(model)


def test_closed_weights_take_everything_with_them(tiny_model_path: Path) -> None:
    weights = LlamaWeights(tiny_model_path)
    first, second = open_model(weights), open_model(weights)
    first.feed([1], 1)
    first.close()
    vocabulary = weights.vocabulary
    weights.close()
    weights.close()
    for call in (
        lambda: second.feed([1], 1),
        lambda: open_model(weights),
        lambda: vocabulary.encode("a", special=False),
        lambda: vocabulary.piece(1),
        lambda: vocabulary.text(1),
        lambda: vocabulary.is_end(1),
    ):
        with pytest.raises(BackendError, match="closed"):
            call()
    first.close()
    second.close()


def test_an_interrupt_outlives_its_owner(weights: LlamaWeights) -> None:
    """llama.cpp keeps its address: it must stay valid though nobody else keeps the interrupt."""
    interrupt = Interrupt()
    alive = weakref.ref(interrupt)
    model = LlamaModel(weights, context_size=64, max_rows=1, num_threads=1, interrupt=interrupt)
    del interrupt
    gc.collect()
    assert alive() is not None
    assert model.feed([1, 2, 3], 1).shape == (1, 320)


@pytest.mark.parametrize("architecture", ["t5encoder", "bert", "clip"])
def test_models_that_do_not_generate_are_refused(
    tiny_model_path: Path, tmp_path: Path, architecture: str
) -> None:
    raw = tiny_model_path.read_bytes()
    old, new = b"llama", architecture.encode()
    key = b"general.architecture\x08\0\0\0"
    altered = raw.replace(
        key + len(old).to_bytes(8, "little") + old, key + len(new).to_bytes(8, "little") + new
    )
    assert altered != raw
    path = tmp_path / "model.gguf"
    path.write_bytes(altered)
    with pytest.raises(ModelError, match="expected"):
        LlamaWeights(path)


def test_a_vocabulary_alone_is_refused(tiny_model_path: Path, tmp_path: Path) -> None:
    """A file whose tokeniser llama.cpp does not load has no text to offer."""
    raw = tiny_model_path.read_bytes()
    old, new = (
        b"tokenizer.ggml.model\x08\0\0\0" + len(name).to_bytes(8, "little") + name
        for name in (b"gpt2", b"none")
    )
    path = tmp_path / "model.gguf"
    path.write_bytes(raw.replace(old, new))
    with pytest.raises(ModelError, match="expected"):
        LlamaWeights(path)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.gguf"
    text.write_text("not a model " * 100, encoding="ascii")
    for path in (text, tmp_path, tmp_path / "missing.gguf"):
        with pytest.raises(ModelError, match="expected"):
            LlamaWeights(path)


def test_recurrent_models_cannot_forget_a_part(tmp_path: Path) -> None:
    weights = LlamaWeights(write_tiny_gguf(tmp_path / "mamba.gguf", architecture="mamba"))
    assert weights.info.rollback == "none"
    model = open_model(weights)
    model.feed([1, 2, 3], 1)
    with pytest.raises(BackendError, match="rewind to 0 instead"):
        model.rewind(2)
    assert model.length == 3
    assert model.keep_prefix([1, 2, 3, 4]) == 3
    assert model.keep_prefix([1, 2, 4]) == 0
    assert model.length == 0
    weights.close()


def test_every_error_says_what_to_do(model: LlamaModel) -> None:
    model.feed([1, 2, 3], 1)
    for call in (
        lambda: model.feed([-1], 1),
        lambda: model.feed([1], 2),
        lambda: model.feed([1] * 1000, 1),
        lambda: model.rewind(9),
    ):
        with pytest.raises(MetasdError) as caught:
            call()
        assert len(str(caught.value)) > 40
