"""Options: one table for the command line, the environment and config.toml.

Knows what may be said and what it means as a value; applies nothing. Loads no model and no numpy,
so that `metasd --help` is quick.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from metasd_local.errors import UsageError
from metasd_local.values import (
    ANY_TEXT,
    COUNT,
    DOMAINS,
    NAMES,
    PATH,
    PATHS,
    POLICY_LIST,
    POSITIVE,
    SHARE,
    SWITCH,
    TEXT,
    TEXTS,
    Kind,
    one_of,
    real,
    whole,
)

SCHEMES = ("greedy", "coupled", "match", "rejection")
VOCABULARY_SIZES = {"32k": 32_000, "152k": 151_936}
"""As of Llama 2 and of Qwen 2.5."""
QUANTISATIONS = ("Q8_0", "BF16")
"""That random weights are written in."""
MAX_WINDOW = 16
MAX_RUN_TOKENS = 512
"""Most tokens of an answer of `metasd run` if the user names no number."""
# llama.cpp takes seeds of 32 bits and reads the largest of them as "draw one at random".
MAX_SEED = 2**32 - 2

ANSWERS = ("run", "chat")
"""Commands that answer somebody."""
DECODERS = (*ANSWERS, "bench")
"""Commands that say how tokens are drawn."""
MODELS = (*DECODERS, "verify", "doctor", "lab emulate")
"""Commands that open models."""
INSTRUMENTS = ("bench", "lab emulate")
"""Commands that measure."""
SEEDED = (*INSTRUMENTS, "verify", "lab simulate", "lab make-pair")
"""Commands that always draw the same."""
COMPARED_TEXT = "random, ucb, ucb:reward=be, hedge, auto"
"""Policies that are compared if none is named: `selection.COMPARED`."""
CATALOGUE = ("ls", "show", "add", "rm")
"""Commands that read or change the catalogue."""
FILING = {*CATALOGUE, "download", "lab make-pair"}
"""Commands whose own options must be typed: configured, `--yes` would remove files unasked."""


@dataclass(frozen=True, slots=True)
class Option:
    """What may be said of one field of Options, and how."""

    field: str
    """Its name there, also the key in config.toml."""
    kind: Kind
    metavar: str
    help: str
    default: str
    """What holds if nothing is said, in words; empty if that is nothing at all."""
    commands: tuple[str, ...]
    """Commands that take it; none if it can only be configured."""
    defaults: Mapping[str, str]
    """By command, where `default` does not hold."""

    @property
    def name(self) -> str:
        """Return what is typed after `--`."""
        return self.field.replace("_", "-")

    @property
    def is_switch(self) -> bool:
        """Tell whether it is typed as `--name` or `--no-name`, without a value."""
        return self.kind is SWITCH

    @property
    def is_repeatable(self) -> bool:
        """Tell whether it may be typed several times, every time adding to a tuple."""
        return self.kind in (TEXTS, PATHS)

    def parse_text(self, where: str, text: str) -> object:
        """Return the value of a text; raise UsageError that begins with `where`."""
        try:
            return self.kind.check(self.kind.from_text(text))
        except ValueError:
            raise UsageError(f"{where}: found {text!r}, expected {self.kind.expected}") from None


def _option(
    kind: Kind,
    metavar: str,
    text: str,
    default: str = "",
    commands: tuple[str, ...] = ANSWERS,
    defaults: Mapping[str, str] = MappingProxyType({}),
) -> Any:
    """Return a field of Options that is None where nothing is said, with its row in OPTIONS."""

    def make(name: str) -> Option:
        return Option(name, kind, metavar, text, default, commands, defaults)

    return field(default=None, metadata={Option: make})


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for, wherever it was said; None where it was not said anywhere.

    Only a pool, a model or a command can fill the gaps, so they stay visible.
    """

    pool: str | None = _option(
        PATH, "POOL", "the pool to use if none is named", "the last one used", ()
    )
    policy: str | None = _option(TEXT, "P", "who drafts; `--policy help` lists them", "auto")
    drafters: tuple[str, ...] | None = _option(
        NAMES, "A,B", "only these drafters: names or .gguf paths", "the pool's", MODELS
    )
    window: int | None = _option(
        whole(1, MAX_WINDOW),
        "N",
        "most tokens drafted in a round",
        "8 for `auto`, else 5",
        DECODERS,
    )
    max_tokens: int | None = _option(
        whole(1),
        "N",
        "most tokens of the answer",
        str(MAX_RUN_TOKENS),
        (*DECODERS, "lab emulate"),
        {"chat": "to the context's end", **dict.fromkeys(INSTRUMENTS, "256")},
    )
    temperature: float | None = _option(
        real("a number of at least 0", lambda value: value >= 0),
        "T",
        "0 takes the likeliest token",
        "the pool's, else 0.8",
        (*DECODERS, "lab emulate"),
        dict.fromkeys(INSTRUMENTS, "0"),
    )
    top_k: int | None = _option(
        whole(0), "N", "keep the N likeliest, 0 = all", "the pool's, else 40", DECODERS
    )
    top_p: float | None = _option(
        real("a number above 0, at most 1", lambda value: 0 < value <= 1),
        "P",
        "keep the likeliest up to P",
        "the pool's, else 0.95",
        DECODERS,
    )
    min_p: float | None = _option(
        SHARE, "P", "drop below P of the likeliest", "the pool's, else 0.05", DECODERS
    )
    repeat_penalty: float | None = _option(
        real("a number above 0, at most 100", lambda value: 0 < value <= 100),
        "X",
        "shun recent tokens, 1 = off",
        "the pool's, else 1",
        DECODERS,
    )
    scheme: str | None = _option(
        one_of(SCHEMES),
        "NAME",
        ", ".join(SCHEMES),
        "greedy at temperature 0, else coupled",
        DECODERS,
    )
    seed: int | None = _option(
        whole(0, MAX_SEED),
        "N",
        "same seed, same answer",
        "random, and shown",
        (*ANSWERS, *SEEDED),
        dict.fromkeys(SEEDED, "0"),
    )
    fresh: bool | None = _option(SWITCH, "", "neither use nor keep what is learned of the pool")
    system: str | None = _option(ANY_TEXT, "TEXT", "system prompt")
    stop: tuple[str, ...] | None = _option(TEXTS, "TEXT", "end before this text; may be repeated")
    think: bool | None = _option(
        SWITCH, "", "ask for reasoning, or for none", "the model's own habit"
    )
    ctx: int | None = _option(whole(1), "N", "tokens of context", "what fits, at most 8192", MODELS)
    gpu_layers: int | None = _option(
        whole(0), "N", "layers kept on the GPU", "all, if there is one", MODELS
    )
    threads: int | None = _option(whole(1), "N", "CPU threads", "one per usable core", MODELS)
    json: bool | None = _option(
        SWITCH,
        "",
        "print one JSON object instead",
        "",
        (
            *("run", "bench", "verify", "doctor", "lab simulate", "lab emulate", "download"),
            *CATALOGUE,
        ),
    )
    trace: str | None = _option(
        PATH,
        "FILE",
        "append every event to FILE, one JSON object a line",
        "",
        (*DECODERS, "lab emulate"),
    )
    lines: bool | None = _option(
        SWITCH,
        "",
        "talk in lines of text, for pipes and screen readers",
        "where there is no terminal",
        ("chat",),
    )
    replay: str | None = _option(
        PATH, "FILE", "show what a trace recorded; needs no model", "", ("chat",)
    )
    policies: tuple[str, ...] | None = _option(
        POLICY_LIST,
        "A,B",
        "policies to compare; `--policy help` lists them",
        f"every drafter, {COMPARED_TEXT}",
        (*INSTRUMENTS, "verify", "lab simulate"),
        {"verify": "all, and every drafter", "lab simulate": COMPARED_TEXT},
    )
    prompts: str | None = _option(
        PATH, "FILE", "JSON lines with domain and prompt", "built in", ("bench",)
    )
    domains: tuple[str, ...] | None = _option(
        DOMAINS, "A,B", "only these domains", "all", INSTRUMENTS
    )
    minutes: float | None = _option(
        POSITIVE,
        "N",
        "time to spend; what does not fit is left out",
        "5",
        (*INSTRUMENTS, "verify"),
        {"verify": "3"},
    )
    repeats: int | None = _option(
        whole(1), "N", "how often a prompt is decoded by each policy", "what fits", INSTRUMENTS
    )
    plot: str | None = _option(PATH, "FILE", "draw the speed-ups as SVG", "", INSTRUMENTS)
    report: bool | None = _option(
        SWITCH, "", "print a block to paste into an issue", "", INSTRUMENTS
    )
    target_params: int | None = _option(COUNT, "N", "size, as 350M", "350M", ("lab make-pair",))
    drafter_params: int | None = _option(COUNT, "N", "size, as 30M", "30M", ("lab make-pair",))
    vocab: str | None = _option(
        one_of(tuple(VOCABULARY_SIZES)),
        "SIZE",
        " or ".join(VOCABULARY_SIZES),
        "32k",
        ("lab make-pair",),
    )
    vocab_from: str | None = _option(
        PATH, "FILE", "copy this .gguf's vocabulary", "", ("lab make-pair",)
    )
    quantisation: str | None = _option(
        one_of(QUANTISATIONS), "NAME", " or ".join(QUANTISATIONS), "Q8_0", ("lab make-pair",)
    )
    found: bool | None = _option(
        SWITCH, "", "GGUF files of other tools too, and what pairs up", "", ("ls",)
    )
    target: str | None = _option(
        PATH, "FILE", "the large model: a path or user/repo/file.gguf", "", ("add",)
    )
    drafter: tuple[str, ...] | None = _option(
        PATHS, "FILE", "a drafter, likewise; may be repeated", "", ("add",)
    )
    yes: bool | None = _option(SWITCH, "", "do not ask", "", ("rm",))
    offline: bool | None = _option(
        SWITCH, "", "never ask the network", "", (*MODELS, *CATALOGUE, "download")
    )
    verify: bool | None = _option(
        SWITCH, "", "hash what is here, and fetch again what is damaged", "", ("download",)
    )


OPTIONS: tuple[Option, ...] = tuple(entry.metadata[Option](entry.name) for entry in fields(Options))
"""One for every field of Options, in its order."""
CONFIGURABLE: Mapping[str, Option] = {
    option.field: option
    for option in OPTIONS
    if not option.commands or not FILING.issuperset(option.commands)
}
"""Those that may stand in config.toml and the environment, by field of Options."""


def nearest_hint(word: str, known: Collection[str]) -> str:
    """Return `; did you mean 'x'?` for the known word nearest to `word`, else nothing."""
    longer = [each for each in known if each.startswith(word)]
    nearest = longer or difflib.get_close_matches(word, known, 1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
