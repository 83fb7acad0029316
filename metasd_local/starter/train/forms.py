"""Forms of training text: records joined, cut into turns, or turned into copying tasks.

Owns the wording of every derived prompt; all contents come from the records, so a form of training
records shows nothing held out.
"""

import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from metasd_local.starter.train.config import DomainSettings
from metasd_local.starter.train.records import Record, is_held_out, read_records, select

Group = tuple[Record, ...]
"""Records that follow each other, turn after turn."""
Form = Callable[[Sequence[Record], np.random.Generator], Iterator[Group]]

NUM_SENTENCES = (8, 13)
NUM_SUMS = (2, 4)
INLINE_SHARE = 0.4
NUM_DRILLS = (6, 13)
MAX_CONTINUED_TURNS = 9
MAX_COPIED_CHARACTERS = 800
CALCULATION = re.compile(r"<<([^=<>]+=[^<>]+)>>")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=\S)")
FUNCTION_HEAD = re.compile(
    r'(?:async )?def (?P<name>\w+)\(.*?:\s*[rR]?["\']{1,3}\s*(?P<summary>[^\n"]{10,200})', re.DOTALL
)
WORD = re.compile(r"[A-Za-z_]{4,}")


def read_groups(
    folder: Path, name: str, settings: DomainSettings, seed: int, *, held_out: bool
) -> Iterator[Group]:
    """Yield one side of a domain's records in shuffled order, in the domain's form."""
    rng = np.random.default_rng((seed, zlib.crc32(name.encode())))
    records = [
        record
        for file in settings.files or (name,)
        for record in select(read_records(folder, file), settings)
        if is_held_out(record) == held_out
    ]
    order = rng.permutation(len(records))
    return FORMS[settings.form]([records[index] for index in order], rng)


def single(records: Sequence[Record], _rng: np.random.Generator) -> Iterator[Group]:
    """Yield every record as it is."""
    yield from ((record,) for record in records)


def joined(records: Sequence[Record], rng: np.random.Generator) -> Iterator[Group]:
    """Yield several translations or sums in one prompt, answered in order."""
    waiting: dict[str, list[tuple[str, str]]] = {}
    for record in records:
        instruction, body = _instruction(record.prompt)
        pairs = waiting.setdefault(instruction, [])
        pairs.append((body, record.response))
        is_translation = instruction.startswith("Translate")
        if len(pairs) < rng.integers(*(NUM_SENTENCES if is_translation else NUM_SUMS)):
            continue
        if is_translation and rng.random() < INLINE_SHARE:
            bodies, answers = (" ".join(texts) for texts in zip(*pairs, strict=True))
            yield (replace(record, prompt=f"{instruction} {bodies}", response=answers),)
            pairs.clear()
            continue
        numbered = rng.random() < (0.3 if is_translation else 0.7)
        marks = [f"{number}. " if numbered else "" for number in range(1, len(pairs) + 1)]
        asked, answered = (
            "\n".join(mark + pair[side] for mark, pair in zip(marks, pairs, strict=True))
            for side in (0, 1)
        )
        yield (replace(record, prompt=f"{instruction}\n{asked}", response=answered),)
        pairs.clear()


def drills(records: Sequence[Record], rng: np.random.Generator) -> Iterator[Group]:
    """Yield the calculations marked in worked sums, several in one prompt."""
    found: list[str] = []
    for record in records:
        found += CALCULATION.findall(record.response)
        count = int(rng.integers(*NUM_DRILLS))
        if len(found) < count:
            continue
        asked = [calculation.split("=")[0] for calculation in found[:count]]
        prompt = _pick(DRILL_REQUESTS, rng).format(", ".join(asked))
        lines = [
            f"{side}=<<{whole}>>{whole.split('=', 1)[1]}"
            for side, whole in zip(asked, found[:count], strict=True)
        ]
        yield (replace(record, prompt=prompt, response="\n".join(lines)),)
        found.clear()


def requested(records: Sequence[Record], rng: np.random.Generator) -> Iterator[Group]:
    """Yield requests for one to three functions in words; the answer has their heads too."""
    waiting: list[tuple[str, str, Record]] = []
    count = 1
    for record in records:
        head = FUNCTION_HEAD.match(record.prompt)
        if head is None:
            continue
        wish = " ".join(head["summary"].split()).rstrip(".")
        waiting.append((head["name"], wish[:1].lower() + wish[1:], record))
        if len(waiting) < count:
            continue
        name, wish, _ = waiting[0]
        prompt = _pick(FUNCTION_REQUESTS, rng).format(name=name, wish=wish)
        if count > 1:
            wishes = "\n".join(f"- {name}: {wish}" for name, wish, _ in waiting)
            prompt = f"{_pick(MODULE_REQUESTS, rng)}\n{wishes}"
        answers = [f"{one.prompt}\n{one.response}" for _, _, one in waiting]
        yield (replace(record, prompt=prompt, response="\n\n\n".join(answers)),)
        waiting.clear()
        count = int(rng.integers(1, 4))


def replied(records: Sequence[Record], rng: np.random.Generator) -> Iterator[Group]:
    """Yield dialogues cut before one of the assistant's turns: that turn is the answer."""
    for record, turns in _dialogues(records):
        cut = 1 + 2 * int(rng.integers(0, len(turns) // 2))
        prompt = "\n".join(turns[:cut])
        yield (replace(record, prompt=prompt, response=_said(turns[cut])),)


def continued(records: Sequence[Record], rng: np.random.Generator) -> Iterator[Group]:
    """Yield dialogues cut after one of the user's turns: the next turns are the answer."""
    for record, turns in _dialogues(records):
        cut = 1 + 2 * int(rng.integers(0, max(1, len(turns) // 2 - 2)))
        prompt = _pick(CONTINUE_REQUESTS, rng) + "\n" + "\n".join(turns[:cut])
        rest = turns[cut : cut + MAX_CONTINUED_TURNS]
        yield (replace(record, prompt=prompt, response="\n".join(rest)),)


def chatted(records: Sequence[Record], _rng: np.random.Generator) -> Iterator[Group]:
    """Yield dialogues turn by turn, each of the user's turns a prompt of its own."""
    for record, turns in _dialogues(records):
        pairs = zip(turns[0::2], turns[1::2], strict=False)
        yield tuple(
            replace(record, prompt=_said(asked), response=_said(answered))
            for asked, answered in pairs
        )


def copied(records: Sequence[Record], rng: np.random.Generator) -> Iterator[Group]:
    """Yield tasks answered with pieces of their prompt: repeat, quote, reorder, replace."""
    waiting: dict[str, list[str]] = {}
    for record in records:
        is_code = record.domain == "code"
        max_characters = int(rng.integers(40, MAX_COPIED_CHARACTERS))
        pieces = waiting.setdefault(record.domain, [])
        pieces.append(f"{record.prompt}\n{record.response}" if is_code else record.response)
        if sum(map(len, pieces)) < max_characters and not is_code:
            continue
        text = _shortened((" " if record.prompt else "\n").join(pieces).strip(), max_characters)
        pieces.clear()
        task = _pick(COPY_TASKS, rng)
        request, answer = task(text, is_code, rng)
        prompt = f"{request}\n{text}" if rng.random() < 0.7 else f"{text}\n\n{request}"
        yield (replace(record, prompt=prompt, response=answer),)


def _repeat(text: str, is_code: bool, rng: np.random.Generator) -> tuple[str, str]:
    return _pick(REPEAT_REQUESTS, rng).format("code" if is_code else "text"), text


def _quote(text: str, is_code: bool, rng: np.random.Generator) -> tuple[str, str]:
    parts = _parts(text, is_code)
    index = int(rng.integers(0, len(parts)))
    words = WORD.findall(parts[index])
    name = "line" if is_code else "sentence"
    if words and rng.random() < 0.6:
        word = _pick(words, rng)
        answer = "\n".join(part for part in parts if word in part)
        return _pick(QUOTE_REQUESTS, rng).format(name, word), answer
    if rng.random() < 0.5:
        count = index + 1
        return f"Quote the first {count} {name}s.", _together(parts[:count], is_code)
    return f"Quote the text from {name} {index + 1} on.", _together(parts[index:], is_code)


def _reorder(text: str, is_code: bool, rng: np.random.Generator) -> tuple[str, str]:
    parts = _parts(text, is_code)
    name = "line" if is_code else "sentence"
    if rng.random() < 0.3:
        return f"Write the {name}s in reverse order.", _together(parts[::-1], is_code)
    lines = [f"{number}. {part.strip()}" for number, part in enumerate(parts, start=1)]
    return _pick(LIST_REQUESTS, rng).format(name), "\n".join(lines)


def _replace(text: str, is_code: bool, rng: np.random.Generator) -> tuple[str, str]:
    words = WORD.findall(text)
    if not words:
        return _repeat(text, is_code, rng)
    old, new = _pick(words, rng), _pick(words, rng)
    new = new + "s" if new == old else new
    request = _pick(REPLACE_REQUESTS, rng).format(old=old, new=new)
    return request, re.sub(rf"\b{re.escape(old)}\b", new, text)


def _instruction(prompt: str) -> tuple[str, str]:
    head, _, body = prompt.partition(": ")
    if head.startswith("Translate"):
        return f"{head}:", body
    return "Solve each of these.", prompt


def _dialogues(records: Sequence[Record]) -> Iterator[tuple[Record, list[str]]]:
    for record in records:
        turns = record.response.split("\n")
        labels = [("User: ", "Assistant: ")[index % 2] for index in range(len(turns))]
        regular = all(map(str.startswith, turns, labels))
        if regular and len(turns) >= 2 and not record.prompt:
            yield record, turns


def _said(turn: str) -> str:
    return turn.partition(": ")[2]


def _shortened(text: str, max_characters: int) -> str:
    """Cut the text after a line or sentence, where there is one."""
    if len(text) <= max_characters:
        return text
    cut = text[:max_characters]
    end = max(cut.rfind("\n"), cut.rfind(". ") + 1, cut.rfind("? ") + 1, cut.rfind("! ") + 1)
    return cut[: end if end > 30 else cut.rfind(" ")].rstrip()


def _parts(text: str, is_code: bool) -> list[str]:
    return text.split("\n") if is_code else SENTENCE_END.split(text)


def _together(parts: Sequence[str], is_code: bool) -> str:
    return ("\n" if is_code else " ").join(parts)


Choice = TypeVar("Choice")


def _pick(choices: Sequence[Choice], rng: np.random.Generator) -> Choice:
    return choices[int(rng.integers(0, len(choices)))]


DRILL_REQUESTS = ("Work out: {}", "Calculate {}", "What is {}?", "Compute these: {}")
FUNCTION_REQUESTS = (
    "Write a Python function to {wish}.",
    "Write a Python function that does this: {wish}.",
    "Implement {name} in Python: {wish}.",
    "Python function `{name}`, please. It should {wish}.",
    "Write a Python class or function for this: {wish}.",
)
MODULE_REQUESTS = (
    "Write a Python module with these functions:",
    "Write these functions in Python:",
    "I need Python code with the following functions.",
)
CONTINUE_REQUESTS = (
    "Write a conversation that begins like this.",
    "Continue this conversation, writing both sides.",
    "Continue the conversation.",
    "Continue this dialogue for several turns.",
    "Write the next turns of the conversation.",
)
REPEAT_REQUESTS = (
    "Repeat this {}.",
    "Repeat the {} word for word.",
    "Copy the following {}:",
    "Write out the {} again, unchanged.",
    "Quote the {} exactly.",
    "Echo this {}:",
)
QUOTE_REQUESTS = (
    'Quote every {0} that contains "{1}".',
    "Which {0}s mention {1}? Quote them.",
    "Copy the {0}s with the word {1}.",
    "Find {1} and quote its {0}.",
)
LIST_REQUESTS = (
    "List the {0}s, numbered.",
    "Number the {0}s.",
    "Write each {0} on a line of its own, with its number.",
)
REPLACE_REQUESTS = (
    "Replace {old} with {new}.",
    'Rewrite this with "{new}" instead of "{old}".',
    "Change every {old} to {new} and leave the rest as it is.",
    "Rename {old} to {new}.",
)
COPY_TASKS = (_repeat, _repeat, _repeat, _repeat, _quote, _reorder, _replace, _replace)
FORMS: Mapping[str, Form] = {
    "single": single,
    "joined": joined,
    "drills": drills,
    "requested": requested,
    "replied": replied,
    "continued": continued,
    "chatted": chatted,
    "copied": copied,
}
