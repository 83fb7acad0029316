"""GGUF files that are on this machine already, whichever tool brought them, and what pairs up.

Source of the folders: the documentation of LM Studio and of Ollama.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from metasd_local.backend.gguf import read_header
from metasd_local.drafters.vocabulary import MAX_SIZE_DIFFERENCE, check_vocabulary
from metasd_local.errors import MetasdError, ModelError
from metasd_local.hub.cache import paths_in
from metasd_local.hub.repository import is_model
from metasd_local.model_files import part_paths, size_of_parts

if TYPE_CHECKING:
    from metasd_local.backend.llama_vocabulary import LlamaVocabulary

OLLAMA_SERVICE = Path("/usr/share/ollama/.ollama/models")
"""Where Ollama keeps models if it runs as a service of Linux."""
_OLLAMA_MODEL = "application/vnd.ollama.image.model"
_LARGEST_MANIFEST_BYTES = 1_000_000


_HUB = "Hugging Face"


@dataclass(frozen=True, slots=True)
class FoundModel:
    """One model, of as many files as it has parts."""

    path: Path
    """Of its first file."""
    tool: str
    """Whose folder it lies in."""
    name: str
    """As that tool calls it."""
    size_bytes: int
    architecture: str = ""
    vocabulary: tuple[str, int] = ("", 0)
    """Kind and number of its tokens; none if it is no language model."""
    problem: str = ""
    """Why it cannot be used."""

    @property
    def text(self) -> str:
        """Return what can be typed for it."""
        return self.name if self.tool == _HUB else str(self.path)


Pair: TypeAlias = tuple[FoundModel, FoundModel]


class _Vocabulary:
    """What is compared of a model, kept when its file is closed."""

    def __init__(
        self,
        found: LlamaVocabulary,
        shared: dict[tuple[str, ...], tuple[str, ...]],
        *,
        can_draft: bool,
    ) -> None:
        self.type, self.size = found.type, found.size
        self.adds_bos, self.bos = found.adds_bos, found.bos
        self.adds_eos, self.eos = found.adds_eos, found.eos
        texts = tuple(map(found.text, range(found.size)))
        self._texts = shared.setdefault(texts, texts)
        self.can_draft = can_draft

    def text(self, token: int) -> str:
        return self._texts[token]


def find_models(environment: Mapping[str, str], cache: Path) -> list[FoundModel]:
    """Return the models in the Hugging Face `cache` and in the folders of other tools.

    A file that several names lead to is listed once.
    """
    home = Path(os.path.expanduser("~"))
    named = environment.get("OLLAMA_MODELS")
    ollama = [Path(os.path.expanduser(named))] if named else [home / ".ollama/models"]
    files = [
        *_hub_files(cache),
        *_plain_files(home / ".lmstudio/models", "LM Studio"),
        *_plain_files(home / ".cache/lm-studio/models", "LM Studio"),
        *(file for folder in (*ollama, OLLAMA_SERVICE) for file in _ollama_files(folder)),
    ]
    found = {os.path.realpath(path): (path, tool, name) for path, tool, name in reversed(files)}
    return sorted((_look_at(*each) for each in found.values()), key=lambda m: (m.tool, m.name))


def find_pairs(
    models: Sequence[FoundModel], on_share: Callable[[float], None] = lambda _: None
) -> list[Pair]:
    """Return every target with every drafter of less than half its size that llama.cpp accepts.

    on_share: told which share of the files was read, in [0, 1].
    """
    likely = [(target, drafter) for target in models for drafter in models if _fit(target, drafter)]
    paths = list(dict.fromkeys(model.path for pair in likely for model in pair))
    shared: dict[tuple[str, ...], tuple[str, ...]] = {}
    known: dict[Path, _Vocabulary | None] = {}
    for path in paths:
        on_share(len(known) / len(paths))
        known[path] = _read_vocabulary(path, shared)
    pairs = []
    for pair in likely:
        target, drafter = (known[model.path] for model in pair)
        if not target or not drafter or not drafter.can_draft:
            continue
        if all(rule.holds for rule in check_vocabulary(target, drafter)):
            pairs.append(pair)
    return pairs


def _fit(target: FoundModel, drafter: FoundModel) -> bool:
    """Tell what can be told without llama.cpp."""
    (kind, num_tokens), (other_kind, num_other_tokens) = target.vocabulary, drafter.vocabulary
    return (
        2 * drafter.size_bytes < target.size_bytes
        and kind == other_kind != ""
        and abs(num_tokens - num_other_tokens) <= MAX_SIZE_DIFFERENCE
    )


def _hub_files(cache: Path) -> Iterator[tuple[Path, str, str]]:
    for path in _models_in(cache, "models--*/snapshots/*/**/*.gguf"):
        folder, _, _, *inside = path.relative_to(cache).parts
        repo = folder.removeprefix("models--").replace("--", "/", 1)
        yield path, _HUB, "/".join((repo, *inside))


def _plain_files(folder: Path, tool: str) -> Iterator[tuple[Path, str, str]]:
    for path in _models_in(folder, "**/*.gguf"):
        yield path, tool, path.relative_to(folder).as_posix()


def _models_in(folder: Path, pattern: str) -> list[Path]:
    return [path for path in paths_in(folder, pattern) if is_model(path.name)]


def _ollama_files(folder: Path) -> Iterator[tuple[Path, str, str]]:
    for manifest in paths_in(folder / "manifests", "*/*/*/*"):
        try:
            if manifest.stat().st_size > _LARGEST_MANIFEST_BYTES:
                continue
            layers = json.loads(manifest.read_text(encoding="utf-8"))["layers"]
            digests = [each["digest"] for each in layers if each["mediaType"] == _OLLAMA_MODEL]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        _, user, model, tag = manifest.parts[-4:]
        name = f"{model}:{tag}" if user == "library" else f"{user}/{model}:{tag}"
        for digest in digests:
            blob = folder / "blobs" / Path(str(digest).replace(":", "-")).name
            if os.path.isfile(blob):
                yield blob, "Ollama", name


def _look_at(path: Path, tool: str, name: str) -> FoundModel:
    size = size_of_parts(path)
    try:
        header = read_header(path)
    except ModelError as error:
        return FoundModel(path, tool, name, size, problem=str(error))
    missing = [part.name for part in part_paths(path) if not os.path.isfile(part)]
    return FoundModel(
        path,
        tool,
        name,
        size,
        architecture=str(header.scalars.get("general.architecture", "")),
        vocabulary=(
            str(header.scalars.get("tokenizer.ggml.model", "")),
            len(header.arrays.get("tokenizer.ggml.tokens", ())),
        ),
        problem=f"{missing[0]} is missing" if missing else "",
    )


def _read_vocabulary(
    path: Path, shared: dict[tuple[str, ...], tuple[str, ...]]
) -> _Vocabulary | None:
    """Return what llama.cpp reads, None if it refuses the file; equal texts are kept once."""
    # Imported when needed: it loads llama.cpp.
    from metasd_local.backend.llama import LlamaWeights

    try:
        with closing(LlamaWeights(path, is_simulated=True)) as weights:
            can_draft = weights.info.rollback != "none"
            return _Vocabulary(weights.vocabulary, shared, can_draft=can_draft)
    except MetasdError:
        return None
