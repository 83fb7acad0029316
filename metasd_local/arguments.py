"""From the words of the command line to a request; prints nothing and does nothing.

Built from the option table, so that `metasd --help` needs nothing slow.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from metasd_local import __version__
from metasd_local.errors import UsageError
from metasd_local.options import OPTIONS, Option, nearest_hint
from metasd_local.selection import FOR_STUDY, FOR_USE, POLICIES

HELP = """\
usage: metasd [COMMAND] [OPTIONS] ...

Local chat on llama.cpp. Small models draft ahead, the best of them chosen
round by round; the answer stays the large model's own.

  chat [POOL]         talk in the terminal; also what `metasd` alone does
  run [POOL] PROMPT   answer once: text to stdout, a line of figures to stderr
  download POOL       fetch a pool's files, or user/repo:QUANT, from the Hub
  ls, show, add, rm   list the pools, look at one, add one of yours, remove one
  doctor [POOL]       say what works on this machine, and what does not
  bench [POOL]        measure what each drafter and policy gains on this machine
  verify [POOL]       check that drafting leaves the answers as they were
  lab                 simulate and emulate policies, without trained models

A POOL is one large model and its drafters: a name from `metasd ls`, a .gguf
file or user/repo:QUANT. If none is named, the last one used.

examples:
  metasd run "Explain recursion to a child."
  metasd run ~/big.gguf --drafters ~/small.gguf "Write a haiku about rain."
  git diff | metasd run --temperature 0 "Summarise this change."

`metasd COMMAND --help` lists the options, `metasd --version` the version.
Options can also stand in ~/.config/metasd/config.toml or be METASD_* variables.
"""


@dataclass(frozen=True, slots=True)
class Command:
    """What runs a command, and what it takes."""

    runs: str
    """MODULE:FUNCTION inside `metasd_local.cli`; empty for the chat, which stands above it."""
    num_words: tuple[int, ...]
    """How many words it takes that are no options."""
    usage: str
    """These words, as `metasd COMMAND --help` shows them."""
    description: str
    advice: str = ""
    """For who gave it another number of words; empty: to read the help."""


ALIASES = {"list": "ls", "info": "show", "pull": "download", "get": "download"}
COMMANDS: Mapping[str, Command] = {
    "chat": Command(
        "",
        (0, 1),
        "[POOL]",
        "Talk in the terminal, and see which drafter says what and what it gains. F1 helps.",
    ),
    "run": Command(
        "run:run",
        (0, 1, 2),
        "[POOL] PROMPT",
        "Answer PROMPT once. What comes through a pipe is appended to the prompt; it is the prompt "
        "if there is none, or if PROMPT is `-`.",
        advice="put the prompt in quotes",
    ),
    "bench": Command(
        "bench:bench",
        (0, 1),
        "[POOL]",
        "Decode prompts of several domains with every policy, interleaved, and compare tokens per "
        "second with plain decoding. Target, drafters and index start every answer empty; auto "
        "keeps what it learned of drafters and costs, as it does for a user. Samplers and schemes "
        "of config.toml do not count here.",
    ),
    "verify": Command(
        "verify:verify",
        (0, 1),
        "[POOL]",
        "Check that the pool's answers with drafts are those without: token for token, or by their "
        "law. The exit status is 1 if they are not.",
    ),
    "doctor": Command(
        "doctor:doctor",
        (0, 1),
        "[POOL]",
        "Say what llama.cpp can use of this machine, and of a pool whether its files are sound, "
        "its drafters fit the target, its memory suffices and drafting can pay; without POOL, of "
        "all pools that are here, with what was measured before. The exit status is 1 if "
        "something is broken.",
    ),
    "download": Command(
        "download:download_models",
        (0, 1),
        "[POOL | user/repo[:QUANT] | user/repo/file.gguf]",
        "Fetch the missing files of a pool, or one model, from the Hugging Face Hub into its "
        "cache. A download that was stopped goes on where it ended when it is started again.",
    ),
    "ls": Command(
        "models:ls",
        (0,),
        "",
        "List the pools: those shipped and those of your own models.toml.",
        advice="for one pool: metasd show POOL",
    ),
    "show": Command(
        "models:show", (1,), "POOL", "Show all that is known of a pool and where its files are."
    ),
    "add": Command(
        "own:add",
        (1,),
        "NAME --target FILE [--drafter FILE]...",
        "Write a pool of your own to models.toml. A drafter's name is made of its file's.",
    ),
    "rm": Command(
        "own:rm",
        (1,),
        "POOL",
        "Remove a pool's files from the Hugging Face cache, and the pool from your own "
        "models.toml. Files of other pools that are here and files given by path stay.",
    ),
    "lab simulate": Command(
        "lab:run_simulation",
        (0,),
        "",
        "Compare policies on drawn traces of acceptance; needs no models.",
    ),
    "lab emulate": Command(
        "lab:run_emulation",
        (1, 2),
        "PROFILE [POOL]",
        "Bench with real models and emulated acceptance: whether a drafter's token matches is "
        "drawn from PROFILE, a name or a .toml file. Every answer starts from nothing, auto too.",
    ),
    "lab make-pair": Command(
        "lab:write_pair",
        (1,),
        "DIR",
        "Write a target and a drafter with random weights, to be used by `lab emulate`.",
    ),
}


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asks for."""

    arguments: Sequence[str]
    """All of it, as typed."""
    command: str = ""
    words: tuple[str, ...] = ()
    """What follows the command and is no option; as many as the command takes."""
    typed: Mapping[str, Any] = field(default_factory=dict)
    """Parsed options by field of Options; only those that were typed."""
    text: str | None = None
    """A text to print instead of running the command: help, policies or the version."""

    @property
    def first_word(self) -> str | None:
        """Return it, None if there is none."""
        return next(iter(self.words), None)


def parse_arguments(arguments: Sequence[str]) -> Request:
    """Return the request; options may stand anywhere before a `--`. Raise UsageError."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    command, rest = _split_command(arguments[:end])
    if {"-V", "--version"} & set(rest):
        return Request(arguments, text=f"metasd {__version__}\n")
    if command == "help" or (command is None and {"-h", "--help"} & set(rest)):
        return Request(arguments, text=HELP)
    command = command or "chat"
    if command == "lab":
        part, rest = _split_command(rest)
        command = f"lab {part}" if part else command
    command = ALIASES.get(command, command)
    if command not in COMMANDS:
        if command == "lab":
            return Request(arguments, text=_lab_help())
        hint = nearest_hint(command, COMMANDS)
        if hint or any(character.isspace() for character in command):
            hint = hint or f'; to ask it, type: metasd run "{command}"'
            raise UsageError(f"no command is named {command!r}{hint}")
        command, rest = "chat", [command, *rest]  # the name of a pool
    parser = _parser(command)
    said, unknown = parser.parse_known_intermixed_args(rest)
    typed = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(said).items()
    }
    words = (*typed.pop("words"), *arguments[end + 1 :])
    if typed.pop("help"):
        return Request(arguments, text=parser.format_help())
    if unknown:
        name = unknown[0].partition("=")[0]
        known = [f"--{option.name}" for option in OPTIONS if command in option.commands]
        hint = nearest_hint(name, known)
        raise UsageError(f"{command} has no option {name!r}{hint} (see metasd {command} --help)")
    if typed.get("policy") == "help" or typed.get("policies") == ("help",):
        return Request(arguments, text=_policies())
    entry, num_words = COMMANDS[command], len(words)
    if num_words not in entry.num_words:
        raise UsageError(
            f"found {num_words} word{'s' * (num_words != 1)}, expected {entry.usage or 'no word'}"
            + (f"; {entry.advice}" if entry.advice else f" (see metasd {command} --help)")
        )
    return Request(arguments, command, words, typed)


def _split_command(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Take the first word that is neither an option nor its value out of the arguments."""
    takes_value = {f"--{option.name}" for option in OPTIONS if not option.is_switch}
    is_value = False
    for index, argument in enumerate(arguments):
        if is_value:
            is_value = False
        elif argument in takes_value:
            is_value = True
        elif not argument.startswith("-"):
            return argument, [*arguments[:index], *arguments[index + 1 :]]
    return None, list(arguments)


class _Parser(argparse.ArgumentParser):
    """Raises where argparse would print and exit."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(f"{message} (see {self.prog} --help)")


def _lab_help() -> str:
    lines = ["usage:"]
    for name, command in COMMANDS.items():
        if name.startswith("lab "):
            lines.append(f"  metasd {name} {command.usage}".rstrip())
            lines.append(textwrap.indent(textwrap.fill(command.description, 75), "    "))
    return "\n".join(lines) + "\n"


def _policies() -> str:
    lines = []
    width = max(len(policy.name) for policy in POLICIES)
    for title, policies in (("for use", FOR_USE), ("for study", FOR_STUDY)):
        lines.append(f"{title}:")
        lines += [f"  {policy.name:{width}}  {policy.summary}" for policy in policies]
    return "\n".join(lines) + "\n"


def _parser(command: str) -> _Parser:
    parser = _Parser(
        prog=f"metasd {command}",
        usage=f"metasd {command} {COMMANDS[command].usage} [OPTIONS]".replace("  ", " "),
        description=f"{COMMANDS[command].description} In brackets: what holds if nothing is said.",
        allow_abbrev=False,
        add_help=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("words", nargs="*", default=[], help=argparse.SUPPRESS)
    parser.add_argument("-h", "--help", action="store_true", default=False, help="show this")
    for option in OPTIONS:
        if command in option.commands:
            _add_option(parser, option, option.defaults.get(command, option.default))
    return parser


def _add_option(parser: argparse.ArgumentParser, option: Option, default: str) -> None:
    flag = f"--{option.name}"
    # argparse expands % in help texts.
    text = (option.help + (f" ({default})" if default else "")).replace("%", "%%")
    if option.is_switch:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=text)
        return

    def parse(value: str) -> object:
        return option.parse_text(flag, value)

    action = "extend" if option.is_repeatable else "store"
    parser.add_argument(flag, type=parse, action=action, metavar=option.metavar, help=text)
