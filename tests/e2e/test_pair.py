"""Random pairs on a real llama.cpp: they open, they speak, and emulation runs on them."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from metasd_local.backend.gguf import check_gguf, read_header
from metasd_local.backend.llama import LlamaModel, LlamaWeights
from metasd_local.bench.prompts import Prompt
from metasd_local.compose import open_pool
from metasd_local.drafters.vocabulary import check_vocabulary
from metasd_local.errors import ModelError, UsageError
from metasd_local.events import GenerationDone, RoundDone
from metasd_local.interrupt import Interrupt
from metasd_local.lab.emulate import Emulation
from metasd_local.lab.pair import find_shape, make_pair
from metasd_local.lab.profile import find_profile
from metasd_local.options import VOCABULARY_SIZES, Options
from metasd_local.sampling import SamplerSettings
from metasd_local.stopwatch import Stopwatch
from metasd_local.verify import Greedy

VOCABULARY_SIZE = 1100
TEXT = "the rate of 7 ünïcode → 漢字"


def make_small(
    directory: Path,
    *,
    vocabulary: int | Path = VOCABULARY_SIZE,
    quantisation: str = "Q8_0",
    seed: int = 0,
) -> None:
    make_pair(
        directory,
        target_params=600_000,
        drafter_params=120_000,
        vocabulary=vocabulary,
        quantisation=quantisation,
        seed=seed,
    )


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a small pair: do not change it."""
    made = tmp_path_factory.mktemp("pairs") / "small"
    make_small(made)
    return made


def files_in(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


@contextmanager
def opened(path: Path) -> Iterator[LlamaWeights]:
    check_gguf(path)
    weights = LlamaWeights(path)
    try:
        yield weights
    finally:
        weights.close()


def open_model(
    weights: LlamaWeights, context_size: int = 1024, inside: Stopwatch | None = None
) -> LlamaModel:
    return LlamaModel(
        weights,
        context_size=context_size,
        max_rows=17,
        num_threads=1,
        interrupt=Interrupt(),
        inside=inside,
    )


def test_target_and_drafter_open_and_share_their_vocabulary(directory: Path) -> None:
    drafter_path, target_path = sorted(directory.iterdir())
    assert target_path.name == "target-0.6M-Q8_0.gguf"
    assert drafter_path.name == "drafter-0.12M-Q8_0.gguf"
    with opened(target_path) as target, opened(drafter_path) as drafter:
        assert all(rule.holds for rule in check_vocabulary(target.vocabulary, drafter.vocabulary))
        vocabulary = target.vocabulary
        assert vocabulary.size == VOCABULARY_SIZE
        tokens = vocabulary.encode(TEXT, special=False)
        assert b"".join(map(vocabulary.piece, tokens)) == TEXT.encode()
        assert len(tokens) < len(TEXT.encode())
        assert vocabulary.is_end(0)
        assert "emulation only" in target.info.name


def test_weights_in_bf16_are_those_in_q8_0(directory: Path, tmp_path: Path) -> None:
    """But for eight of their bits: what differs is only what computing with them costs."""
    make_small(tmp_path, quantisation="BF16")
    logits = []
    for path in (directory / "target-0.6M-Q8_0.gguf", tmp_path / "target-0.6M-BF16.gguf"):
        with opened(path) as weights:
            logits.append(open_model(weights).feed(range(16), 16).copy())
    assert np.corrcoef(logits[0].ravel(), logits[1].ravel())[0, 1] > 0.98


def test_logits_are_peaked_like_a_language_models_and_depend_on_the_text(directory: Path) -> None:
    """Their deviation decides how many tokens survive truncation, and so what sampling costs."""
    with opened(directory / "target-0.6M-Q8_0.gguf") as weights:
        model = open_model(weights)
        tokens = np.random.default_rng(0).integers(VOCABULARY_SIZE, size=16).tolist()
        rows = model.feed(tokens, 16).copy()
    assert 3 < rows.std(axis=1).mean() < 7
    assert len(set(rows.argmax(axis=1))) > 8


def test_a_pair_answers_like_any_pool(directory: Path) -> None:
    drafter = str(directory / "drafter-0.12M-Q8_0.gguf")
    options = Options(
        drafters=(drafter,), temperature=0.0, policy="fixed:drafter-0.12M-Q8_0", threads=1
    )
    with closing(open_pool(options, str(directory / "target-0.6M-Q8_0.gguf"))) as pool:
        events = list(pool.session(options).send("the rate", seed=0, max_tokens=24))
    rounds = [event for event in events if isinstance(event, RoundDone)]
    assert sum(done.drafted for done in rounds) > 0
    assert 1 <= sum(len(done.emitted) for done in rounds) <= 24


@pytest.mark.parametrize("policy", ["plain", "random", "fixed:ngram"])
def test_emulation_runs_on_a_pair(directory: Path, policy: str) -> None:
    """Every drafter has a memory of its own on the weights of one file."""
    profile = find_profile("metasd")
    inside = Stopwatch()
    with ExitStack() as stack:
        target = stack.enter_context(opened(directory / "target-0.6M-Q8_0.gguf"))
        drafter = stack.enter_context(opened(directory / "drafter-0.12M-Q8_0.gguf"))
        emulation = Emulation(
            profile,
            target=open_model(target, inside=inside),
            models={name: open_model(drafter, inside=inside) for name in profile.drafters},
            scheme=Greedy(SamplerSettings(temperature=0.0), VOCABULARY_SIZE, 16),
            interrupt=Interrupt(),
            inside=inside,
        )
        *events, last = emulation.decode(policy, Prompt("code", "0"), 64)
    assert sum(len(event.emitted) for event in events if isinstance(event, RoundDone)) == 64
    assert isinstance(last, GenerationDone)
    assert 0 < last.seconds_inside < last.seconds_decode


def test_the_same_seed_writes_the_same_bytes(directory: Path, tmp_path: Path) -> None:
    make_small(tmp_path / "same")
    make_small(tmp_path / "other", seed=1)
    assert files_in(tmp_path / "same") == files_in(directory)
    others = files_in(tmp_path / "other")
    assert all(others[name] != data for name, data in files_in(directory).items())
    drafter, target = files_in(directory).values()
    assert drafter[-4096:] != target[-4096:]  # weights


def test_a_tokenizer_is_copied(tiny_model_path: Path, tmp_path: Path) -> None:
    make_small(tmp_path, vocabulary=tiny_model_path)
    with opened(tmp_path / "target-0.6M-Q8_0.gguf") as made, opened(tiny_model_path) as source:
        assert all(rule.holds for rule in check_vocabulary(source.vocabulary, made.vocabulary))
        assert made.vocabulary.encode(TEXT, special=True) == source.vocabulary.encode(
            TEXT, special=True
        )
        assert made.info.chat_template == source.info.chat_template
    copied = read_header(tmp_path / "target-0.6M-Q8_0.gguf")
    original = read_header(tiny_model_path)
    for found, expected in ((copied.scalars, original.scalars), (copied.arrays, original.arrays)):
        assert {key for key in found if key.startswith("tokenizer.")} == {
            key for key in expected if key.startswith("tokenizer.")
        }


def test_nothing_is_overwritten(directory: Path) -> None:
    before = files_in(directory)
    with pytest.raises(UsageError, match=r"target-0\.6M-Q8_0\.gguf exists; choose another"):
        make_small(directory, seed=1)
    assert files_in(directory) == before


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot write to .*file/pair: Not a directory; expected"):
        make_small(tmp_path / "file" / "pair")


def test_a_full_disk_leaves_no_half_file(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UsageError, match=r"cannot write to .*; expected a writable"):
            make_small(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_made_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"151936 tokens has about 1M parameters; expected 10M"):
        make_pair(
            tmp_path / "pair",
            target_params=350_000_000,
            drafter_params=1_000_000,
            vocabulary=VOCABULARY_SIZES["152k"],
        )
    with pytest.raises(ModelError, match=r"nowhere\.gguf"):
        make_small(tmp_path / "pair", vocabulary=tmp_path / "nowhere.gguf")
    assert not (tmp_path / "pair").exists()


@pytest.mark.parametrize("size", VOCABULARY_SIZES.values())
@pytest.mark.parametrize("num_params", [30_000_000, 350_000_000, 1_500_000_000, 8_000_000_000])
def test_shapes_are_near_the_number_asked_for(num_params: int, size: int) -> None:
    shape = find_shape(num_params, size)
    assert shape.num_params == pytest.approx(num_params, rel=0.1)
    assert shape.num_heads % shape.num_kv_heads == 0


@pytest.mark.full
@pytest.mark.parametrize("size", VOCABULARY_SIZES.values())
def test_a_realistic_pair_opens_and_generates(tmp_path: Path, size: int) -> None:
    paths = make_pair(
        tmp_path, target_params=350_000_000, drafter_params=30_000_000, vocabulary=size
    )
    for path in paths:
        with opened(path) as weights:
            model = open_model(weights)
            assert weights.vocabulary.size == size
            row = model.feed([1, 2, 3], 1)[0]
            for _ in range(8):
                row = model.feed([int(row.argmax())], 1)[0]
            assert np.isfinite(row).all()
