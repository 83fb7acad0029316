"""Settings of a training run: one TOML file read into frozen dataclasses.

Owns names, defaults and checks of every setting; must not read data or models.
"""

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar


class SettingsError(ValueError):
    """A setting is missing, unknown or out of range; the message names file, table and key."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of one llama-architecture network."""

    vocab_size: int
    num_layers: int
    hidden_size: int
    num_heads: int
    intermediate_size: int
    context_length: int
    """Declared in the GGUF; tokens."""
    rms_norm_eps: float
    rope_theta: float
    tied_embeddings: bool
    """The output matrix is the embedding matrix; halves a small model."""

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads or (self.hidden_size // self.num_heads) % 2:
            raise SettingsError("hidden_size / num_heads must be an even whole number")


@dataclass(frozen=True, slots=True)
class FitSettings:
    """One training loop."""

    learning_rate: float
    """Highest rate, reached after the warm-up."""
    num_steps: int
    warmup_steps: int
    hold: float
    """Share of the steps, in [0, 1], before the rate falls linearly."""
    final: float
    """Rate at the last step as a share of learning_rate."""
    weight_decay: float
    parts: int
    """Batches per step, of about equal numbers of tokens, on one core each."""
    batch_size: int
    """Windows per part."""
    window: int
    """Tokens per training window."""
    long_share: float
    """Share of the parts, in [0, 1], that are drawn in windows of long_window tokens."""
    long_window: int
    prompt_weight: float
    """Weight of a prompt's tokens in the loss, in [0, 1]; an answer's weigh 1."""
    bfloat16: bool
    """Autocast matrix products to bfloat16."""


@dataclass(frozen=True, slots=True)
class DomainSettings:
    """What is taken of the text, and in which form."""

    share: float = 1.0
    """Weight of the domain in the target's mixture."""
    sources: tuple[str, ...] = ()
    """Keep only records whose source contains one of these; empty keeps all."""
    files: tuple[str, ...] = ()
    """Names of the .jsonl.gz files it is taken from; empty: the domain's own name."""
    form: str = "single"
    """How records become prompts and answers: a function of forms.py."""
    max_characters: int = 1_000_000
    """Keep only records with at most this many characters, prompt and response together."""
    running_text: float = 1.0
    """Share of the records without a prompt to keep, in [0, 1]."""
    max_tokens: int = 8_000_000
    """Training tokens at most; records are shuffled first."""


@dataclass(frozen=True, slots=True)
class DrafterSettings:
    """One drafter of the pool."""

    name: str
    shape: ModelShape
    mixture: Mapping[str, float]
    """Domain to weight; need not sum to 1."""
    start_from: str = ""
    """An earlier drafter whose weights it starts from, grown if smaller; empty: random."""
    num_steps: int = 0
    """Steps on text; 0: the common number."""
    num_distil_steps: int = 0
    """Steps on the target's answers; 0: the common number."""


@dataclass(frozen=True, slots=True)
class AnswerSettings:
    """The target's own answers to training prompts, which drafters are trained on last."""

    max_tokens: int
    """Answer tokens of all domains together; 0: none."""
    temperature: float
    """Of the second answer to a prompt, the first is greedy; 0: one answer only."""
    max_prompt: int
    """Longer prompts are passed over; tokens."""
    max_new: int
    """Tokens per answer at most."""
    batch_size: int
    """Answers in the making at once."""


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """Training the target against its own loops."""

    num_rounds: int
    """Times that looping answers are collected and trained on, all rounds' together; 0: none."""
    max_prompts: int
    """Prompts answered per domain and round."""
    max_answers: int
    """Looping answers per domain and round at most."""
    weight: float
    """Weight of the part of a step that shows loops; a part that shows text weighs 1."""


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """The GGUF files."""

    target_type: str
    """F16, BF16 or Q8_0."""
    drafter_type: str
    licence: str
    """SPDX name written into the files."""


@dataclass(frozen=True, slots=True)
class Config:
    """Everything a run is told, besides its folders."""

    seed: int
    num_threads: int
    checkpoint_s: float
    """Seconds between checkpoints."""
    tokenizer_bytes: int
    """Text bytes per domain shown to the tokeniser's training."""
    matrix_prompts: int
    """Prompts per domain of the acceptance matrix."""
    quality_prompts: int
    """Prompts per domain whose answers are scored."""
    target_start: str
    """A drafter, trained on text, that the target is grown from; empty: random or warm start."""
    target: ModelShape
    fit_target: FitSettings
    fit_loops: FitSettings
    """Further training of the target, with loops in the last part of every step."""
    fit_drafter: FitSettings
    distil_drafter: FitSettings
    """Second training of a drafter, on the target's answers."""
    loops: LoopSettings
    answers: AnswerSettings
    export: ExportSettings
    domains: Mapping[str, DomainSettings]
    drafters: tuple[DrafterSettings, ...]

    def __post_init__(self) -> None:
        known: set[str] = set()
        for drafter in self.drafters:
            unknown = set(drafter.mixture) - set(self.domains)
            if unknown:
                raise SettingsError(f"drafters.{drafter.name}: no such domain {sorted(unknown)}")
            if drafter.start_from and drafter.start_from not in known:
                raise SettingsError(f"drafters.{drafter.name}: start_from must be listed earlier")
            if drafter.shape.vocab_size != self.target.vocab_size:
                raise SettingsError("target and drafters must have one vocab_size")
            known.add(drafter.name)
        if self.target_start and self.target_start not in known:
            raise SettingsError("target_start must be a drafter")


def load_config(path: Path, *, has_cuda: bool) -> Config:
    """Read a configuration file; its table `cuda` overrides the others where there is such a GPU.

    Raises: SettingsError for an unknown, missing or unusable key; OSError; TOMLDecodeError.
    """
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    on_cuda = tables.pop("cuda", {})
    if has_cuda:
        tables = _overridden(tables, on_cuda)
    model = tables.pop("model", {})
    fit = tables.pop("fit", {})
    try:
        return _build(
            Config,
            str(path),
            {
                **tables.pop("run", {}),
                "target": _build(
                    ModelShape,
                    f"{path}: model.target",
                    {**model.get("common", {}), **model.get("target", {})},
                ),
                "fit_target": _build(FitSettings, f"{path}: fit.target", fit.get("target", {})),
                "fit_loops": _build(FitSettings, f"{path}: fit.loops", fit.get("loops", {})),
                "fit_drafter": _build(FitSettings, f"{path}: fit.drafter", fit.get("drafter", {})),
                "distil_drafter": _build(FitSettings, f"{path}: fit.distil", fit.get("distil", {})),
                "loops": _build(LoopSettings, f"{path}: loops", tables.pop("loops", {})),
                "answers": _build(AnswerSettings, f"{path}: answers", tables.pop("answers", {})),
                "export": _build(ExportSettings, f"{path}: export", tables.pop("export", {})),
                "domains": {
                    name: _build(DomainSettings, f"{path}: domains.{name}", _with_tuples(fields))
                    for name, fields in tables.pop("domains", {}).items()
                },
                "drafters": tuple(
                    _drafter(f"{path}: drafters.{name}", name, fields, model)
                    for name, fields in tables.pop("drafters", {}).items()
                ),
                **tables,
            },
        )
    except SettingsError as error:
        message = str(error)
        raise SettingsError(message if str(path) in message else f"{path}: {message}") from error


def _drafter(
    place: str, name: str, fields: Mapping[str, Any], model: Mapping[str, Any]
) -> DrafterSettings:
    """Build a drafter; its table `model` overrides the common shape of drafters."""
    own = {**model.get("common", {}), **model.get("drafter", {}), **fields.get("model", {})}
    others = {key: value for key, value in fields.items() if key != "model"}
    shape = _build(ModelShape, f"{place}.model", own)
    return _build(DrafterSettings, place, {"name": name, "shape": shape, **others})


def _overridden(tables: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    changed = {
        key: _overridden(tables.get(key, {}), value) if isinstance(value, dict) else value
        for key, value in others.items()
    }
    return {**tables, **changed}


Built = TypeVar("Built")


def _build(kind: type[Built], place: str, fields: Mapping[str, Any]) -> Built:
    known = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in fields:
        if name not in known:
            raise SettingsError(f"{place}: unknown key {name!r}; known: {', '.join(known)}")
    for name, field in known.items():
        if name not in fields and field.default is dataclasses.MISSING:
            raise SettingsError(f"{place}: key {name!r} is missing")
    return kind(**fields)


def _with_tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
