"""Options: one table for the command line, the environment and config.toml.

Knows what may be said and what it means as a value; applies nothing. Loads no model and no numpy,
so that `metasd --help` is quick.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from metasd_local.errors import ConfigError, UsageError
from metasd_local.values import (
    COUNT,
    DOMAINS,
    NAMES,
    PATH,
    PATHS,
    POLICY_LIST,
    SWITCH,
    TEXT,
    TEXTS,
    Kind,
    one_of,
    real,
    whole,
)

SCHEMES = ("greedy", "coupled", "match", "rejection")
VOCABULARIES = ("32k", "152k")
MAX_WINDOW = 16
MAX_RUN_TOKENS = 512
"""Most tokens of an answer of `metasd run` if the user names no number."""
# llama.cpp takes seeds of 32 bits and reads the largest of them as "draw one at random".
MAX_SEED = 2**32 - 2


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for, wherever it was said; None where it was not said anywhere.

    Only a pool, a model or a command can fill the gaps, so they stay visible.
    """

    pool: str | None = None
    policy: str | None = None
    """As typed: NAME[:key=value,...]."""
    drafters: tuple[str, ...] | None = None
    """Names in the pool or paths; at least one."""
    window: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    scheme: str | None = None
    """One of SCHEMES."""
    seed: int | None = None
    """0 to MAX_SEED."""
    fresh: bool | None = None
    system: str | None = None
    stop: tuple[str, ...] | None = None
    """At least one, none of them empty."""
    think: bool | None = None
    ctx: int | None = None
    """Tokens."""
    gpu_layers: int | None = None
    threads: int | None = None
    json: bool | None = None
    trace: str | None = None
    """Path of a file."""
    lines: bool | None = None
    replay: str | None = None
    """Path of a file."""
    policies: tuple[str, ...] | None = None
    """As typed, each NAME[:key=value,...]."""
    prompts: str | None = None
    """Path of a file."""
    domains: tuple[str, ...] | None = None
    minutes: float | None = None
    repeats: int | None = None
    plot: str | None = None
    """Path of a file."""
    report: bool | None = None
    target_params: int | None = None
    drafter_params: int | None = None
    vocab: str | None = None
    """One of VOCABULARIES."""
    vocab_from: str | None = None
    """Path of a file."""
    found: bool | None = None
    target: str | None = None
    """Path of a file, or user/repo/file.gguf."""
    drafter: tuple[str, ...] | None = None
    """Paths of files, or user/repo/file.gguf each."""
    yes: bool | None = None
    offline: bool | None = None
    verify: bool | None = None


ANSWERS = ("run", "chat")
"""Commands that answer somebody."""


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the table."""

    name: str
    """As typed after `--`; with `_` for `-` it is the field of Options."""
    kind: Kind
    metavar: str
    help: str
    default: str = ""
    """What holds if nothing is said, in words; empty if that is nothing at all."""
    commands: tuple[str, ...] = ANSWERS
    """Commands that take it; none if it can only be configured."""
    defaults: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """By command, where `default` does not hold."""

    @property
    def field(self) -> str:
        """Return the name of the field of Options, also the key in config.toml."""
        return self.name.replace("-", "_")

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

    def parse_value(self, where: str, value: object) -> object:
        """Return the value of a TOML value; raise ConfigError that begins with `where`."""
        try:
            return self.kind.check(value)
        except ValueError:
            message = f"{where}: found {value!r}, expected {self.kind.expected}"
            raise ConfigError(message) from None


MODELS = (*ANSWERS, "bench", "verify", "doctor", "lab emulate")
"""Commands that open models."""
CATALOGUE = ("ls", "show", "add", "rm")
"""Commands that read or change the catalogue."""

OPTIONS = (
    Option("pool", PATH, "POOL", "the pool to use if none is named", "the last one used", ()),
    Option("policy", TEXT, "P", "who drafts; `--policy help` lists them", "auto"),
    Option(
        "drafters",
        NAMES,
        "A,B",
        "only these drafters: names or .gguf paths",
        "the pool's",
        commands=MODELS,
    ),
    Option(
        "window",
        whole(1, MAX_WINDOW),
        "N",
        "most tokens drafted in a round",
        "8 for `auto`, else 5",
        commands=(*ANSWERS, "bench"),
    ),
    Option(
        "max-tokens",
        whole(1),
        "N",
        "most tokens of the answer",
        str(MAX_RUN_TOKENS),
        commands=(*ANSWERS, "bench", "lab emulate"),
        defaults={"chat": "to the context's end", "bench": "256", "lab emulate": "256"},
    ),
    Option(
        "temperature",
        real("a number of at least 0", lambda value: value >= 0),
        "T",
        "0 takes the likeliest token",
        "the pool's, else 0.8",
        commands=(*ANSWERS, "bench", "lab emulate"),
        defaults={"bench": "0", "lab emulate": "0"},
    ),
    Option(
        "top-k",
        whole(0),
        "N",
        "keep the N likeliest, 0 = all",
        "the pool's, else 40",
        commands=(*ANSWERS, "bench"),
    ),
    Option(
        "top-p",
        real("a number above 0, at most 1", lambda value: 0 < value <= 1),
        "P",
        "keep the likeliest up to P",
        "the pool's, else 0.95",
        commands=(*ANSWERS, "bench"),
    ),
    Option(
        "min-p",
        real("a number from 0 to 1", lambda value: 0 <= value <= 1),
        "P",
        "drop below P of the likeliest",
        "the pool's, else 0.05",
        commands=(*ANSWERS, "bench"),
    ),
    Option(
        "repeat-penalty",
        real("a number above 0", lambda value: value > 0),
        "X",
        "shun recent tokens, 1 = off",
        "the pool's, else 1",
        commands=(*ANSWERS, "bench"),
    ),
    Option(
        "scheme",
        one_of(SCHEMES),
        "NAME",
        ", ".join(SCHEMES),
        "greedy at temperature 0, else coupled",
        commands=(*ANSWERS, "bench"),
    ),
    Option(
        "seed",
        whole(0, MAX_SEED),
        "N",
        "same seed, same answer",
        "random, and shown",
        commands=(*ANSWERS, "bench", "verify", "lab simulate", "lab emulate", "lab make-pair"),
        defaults=dict.fromkeys(
            ("bench", "verify", "lab simulate", "lab emulate", "lab make-pair"), "0"
        ),
    ),
    Option("fresh", SWITCH, "", "forget what was learned of the pool in earlier sessions"),
    Option("system", TEXT, "TEXT", "system prompt"),
    Option("stop", TEXTS, "TEXT", "end before this text; may be repeated"),
    Option("think", SWITCH, "", "ask for reasoning, or for none", "the model's own habit"),
    Option("ctx", whole(1), "N", "tokens of context", "what fits, at most 8192", commands=MODELS),
    Option(
        "gpu-layers",
        whole(0),
        "N",
        "layers kept on the GPU",
        "all, if there is one",
        commands=MODELS,
    ),
    Option("threads", whole(1), "N", "CPU threads", "one per usable core", commands=MODELS),
    Option(
        "json",
        SWITCH,
        "",
        "print one JSON object instead",
        commands=(
            *("run", "bench", "verify", "doctor", "lab simulate", "lab emulate", "download"),
            *CATALOGUE,
        ),
    ),
    Option(
        "trace",
        PATH,
        "FILE",
        "append every event to FILE, one JSON object a line",
        commands=(*ANSWERS, "bench", "lab emulate"),
    ),
    Option(
        "lines",
        SWITCH,
        "",
        "talk in lines of text, for pipes and screen readers",
        "where there is no terminal",
        ("chat",),
    ),
    Option("replay", PATH, "FILE", "show what a trace recorded; needs no model", "", ("chat",)),
    Option(
        "policies",
        POLICY_LIST,
        "A,B",
        "policies to compare; `--policy help` lists them",
        "all, and every drafter",
        ("bench", "verify", "lab simulate", "lab emulate"),
    ),
    Option("prompts", PATH, "FILE", "JSON lines with domain and prompt", "built in", ("bench",)),
    Option("domains", DOMAINS, "A,B", "only these domains", "all", ("bench", "lab emulate")),
    Option(
        "minutes",
        real("a number above 0", lambda value: value > 0),
        "N",
        "time to spend; what does not fit is left out",
        "5",
        ("bench", "verify", "lab emulate"),
        {"verify": "3"},
    ),
    Option(
        "repeats",
        whole(1),
        "N",
        "how often a prompt is decoded by each policy",
        "what fits",
        ("bench", "lab emulate"),
    ),
    Option("plot", PATH, "FILE", "draw the speed-ups as SVG", commands=("bench", "lab emulate")),
    Option(
        "report",
        SWITCH,
        "",
        "print a block to paste into an issue",
        commands=("bench", "lab emulate"),
    ),
    Option("target-params", COUNT, "N", "size, as 350M", "350M", ("lab make-pair",)),
    Option("drafter-params", COUNT, "N", "size, as 30M", "30M", ("lab make-pair",)),
    Option("vocab", one_of(VOCABULARIES), "SIZE", "32k or 152k", "32k", ("lab make-pair",)),
    Option("vocab-from", PATH, "FILE", "copy this .gguf's vocabulary", "", ("lab make-pair",)),
    Option("found", SWITCH, "", "GGUF files of other tools too, and what pairs up", "", ("ls",)),
    Option("target", PATH, "FILE", "the large model: a path or user/repo/file.gguf", "", ("add",)),
    Option("drafter", PATHS, "FILE", "a drafter, likewise; may be repeated", "", ("add",)),
    Option("yes", SWITCH, "", "do not ask", "", ("rm",)),
    Option("offline", SWITCH, "", "never ask the network", "", (*ANSWERS, "download")),
    Option(
        "verify",
        SWITCH,
        "",
        "hash what is here, and fetch again what is damaged",
        commands=("download",),
    ),
)


def nearest_hint(word: str, known: Collection[str]) -> str:
    """Return `; did you mean 'x'?` for the known word nearest to `word`, else nothing."""
    longer = [each for each in known if each.startswith(word)]
    nearest = longer or difflib.get_close_matches(word, known, 1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
