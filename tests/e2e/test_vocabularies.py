"""The check of vocabularies, and chat templates, on those of real families of models.

Reads llama.cpp's ggml-vocab-*.gguf from the folder that LLAMA_CPP_VOCABULARIES names, such as
vendor/llama.cpp/models of an unpacked llama-cpp-python sdist.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from llama_cpp import llama_cpp as api

from metasd_local.backend.gguf import check_gguf
from metasd_local.backend.library import open_library
from metasd_local.backend.llama_vocabulary import LlamaVocabulary
from metasd_local.drafters.vocabulary import check_vocabulary
from metasd_local.templates.chat_template import ChatTemplate, Message
from tests.command import metasd_here

FOLDER = os.environ.get("LLAMA_CPP_VOCABULARIES")
FAMILIES = ("qwen2", "qwen35", "llama-bpe", "llama-spm", "phi-3", "gemma-4")
ALIKE = {frozenset(("qwen2", "qwen35")), frozenset(("llama-spm", "phi-3"))}
SENTENCE_PIECE = {"llama-spm", "phi-3"}
TEMPLATES = Path(__file__).parents[1] / "data/templates"
FAMILY_OF_TEMPLATE = {
    **{"qwen2.5": "qwen2", "qwen3": "qwen2", "qwen3.5": "qwen35"},
    **{"llama3.2": "llama-bpe", "gemma2": "gemma-4"},
}

pytestmark = pytest.mark.skipif(not FOLDER, reason="LLAMA_CPP_VOCABULARIES is not set")


def path_of(family: str) -> Path:
    return Path(FOLDER or "") / f"ggml-vocab-{family}.gguf"


@pytest.fixture(scope="module")
def pointers() -> Iterator[dict[str, int]]:
    open_library()
    parameters = api.llama_model_default_params()
    parameters.vocab_only = True
    models = {}
    for family in FAMILIES:
        check_gguf(path_of(family))
        models[family] = api.llama_model_load_from_file(os.fsencode(path_of(family)), parameters)
        assert models[family]
    yield {family: api.llama_model_get_vocab(model) for family, model in models.items()}
    for model in models.values():
        api.llama_model_free(model)


@pytest.fixture(scope="module")
def vocabularies(pointers: dict[str, int]) -> dict[str, LlamaVocabulary]:
    return {family: LlamaVocabulary(pointer) for family, pointer in pointers.items()}


def conversation(question: str, answer: str, second_question: str) -> list[Message]:
    return [
        Message("user", question),
        Message("assistant", answer),
        Message("user", second_question),
    ]


def test_families_fit_themselves_and_their_successors_only(
    vocabularies: dict[str, LlamaVocabulary],
) -> None:
    """Qwen 3.5's is Qwen 2's to the last compared token, Phi 3's is Llama 2's."""
    for one in FAMILIES:
        for other in FAMILIES:
            results = check_vocabulary(vocabularies[one], vocabularies[other])
            broken = [result.rule for result in results if not result.holds]
            if one == other or frozenset((one, other)) in ALIKE:
                assert not broken, (one, other)
            elif (one in SENTENCE_PIECE) != (other in SENTENCE_PIECE):
                assert broken[0] == "type", (one, other)
            else:
                assert broken[0] == "first token", (one, other)


@pytest.mark.parametrize("name", FAMILY_OF_TEMPLATE)
def test_contents_never_become_control_tokens(
    pointers: dict[str, int], vocabularies: dict[str, LlamaVocabulary], name: str
) -> None:
    """Messages made of all the control texts of the family give the tokens of harmless ones."""
    family = FAMILY_OF_TEMPLATE[name]
    pointer, vocabulary = pointers[family], vocabularies[family]
    control = {
        token: vocabulary.text(token)
        for token in range(vocabulary.size)
        if api.llama_vocab_is_control(pointer, token)
    }
    source = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    template = ChatTemplate(source, vocabulary, bos_text="", eos_text="")
    scraps = [*control.values(), *"\n x"]
    rng = random.Random(name)
    rng.shuffle(scraps)
    written = template.encode(conversation("x", "x", "x"))
    expected = [token for token in written if token in control]
    assert expected or family == "gemma-4", "the template writes control tokens of the family"
    while scraps:
        texts = ["".join(scraps.pop() for _ in range(min(len(scraps), 5))) for _ in range(3)]
        texts[2] += "?"  # qwen3.5 takes tool responses for no question
        found = template.encode(conversation(*texts))
        assert [token for token in found if token in control] == expected, texts


@pytest.mark.full
def test_doctor_names_the_rule_on_real_vocabularies(tmp_path: Path) -> None:
    """Models with random weights, but the vocabularies of Qwen and of Llama."""
    for family in ("qwen2", "llama-bpe"):
        finished = metasd_here(
            *("lab", "make-pair", str(tmp_path / family), f"--vocab-from={path_of(family)}"),
            *("--target-params=40M", "--drafter-params=25M"),
        )
        assert finished.returncode == 0, finished.stderr
    (target,) = (tmp_path / "qwen2").glob("target*.gguf")
    for family, rule in (("qwen2", None), ("llama-bpe", "first token")):
        (drafter,) = (tmp_path / family).glob("drafter*.gguf")
        finished = metasd_here("doctor", str(target), f"--drafters={drafter}", "--json")
        (pool,) = json.loads(finished.stdout)["pools"]
        assert pool["drafters"][0]["rule"] == rule
        assert finished.returncode == (0 if rule is None else 1)
