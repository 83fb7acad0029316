"""What the target's answers are worth: greedy answers to prompts that no training text shows.

Owns the scores and their table; answers come from `answers`.
"""

import ast
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from tokenizers import Tokenizer

from metasd_local.starter.train.answers import Generator, loop_start
from metasd_local.starter.train.config import AnswerSettings
from metasd_local.starter.train.data import ASSISTANT, encode_prompt

MAX_ORDER = 6
RECALL_WEIGHT = 2.0
NUM_SAMPLES = 2
CODE_BEGINNINGS = ("def ", "from ", "import ", "class ", "@")


def read_questions(folder: Path, max_prompts: int) -> dict[str, list[tuple[str, str]]]:
    """Return the first prompts of every FOLDER/NAME.jsonl with their references, by name."""
    questions = {}
    for path in sorted(folder.glob("*.jsonl")):
        lines = path.read_text(encoding="utf-8").splitlines()[:max_prompts]
        fields = [json.loads(line) for line in lines]
        questions[path.stem] = [(str(one["prompt"]), str(one["reference"])) for one in fields]
    return questions


def measure(
    target: Path,
    tokenizer: Tokenizer,
    questions: Mapping[str, Sequence[tuple[str, str]]],
    settings: AnswerSettings,
    num_threads: int,
) -> str:
    """Answer every question greedily; return scores and the first samples as Markdown."""
    greedy = replace(settings, temperature=0.0)
    rows, samples = [], []
    with closing(Generator(target, greedy, num_threads, seed=0)) as generator:
        for name, pairs in questions.items():
            asked = {tuple(encode_prompt(tokenizer, pair[0])): pair for pair in pairs}
            scores: dict[str, list[float]] = {}
            loops: list[bool] = []
            lengths: list[int] = []
            for part in generator.answer(asked):
                tokens = part.tokens.tolist()
                begin = tokens.index(ASSISTANT) + 1
                prompt, reference = asked[tuple(tokens[:begin])]
                answer = tokenizer.decode(tokens[begin:])
                kind, value = score(prompt, reference, answer)
                scores.setdefault(kind, []).append(value)
                loops.append(loop_start(part) is not None)
                lengths.append(len(tokens) - begin)
                if len(loops) <= NUM_SAMPLES:
                    samples.append(f"**{name}**\n```\n{prompt}\n----\n{answer}\n```\n")
            if loops:
                means = ", ".join(f"{kind} {fmean(found):.2f}" for kind, found in scores.items())
                facts = (
                    name,
                    len(loops),
                    means,
                    f"{1 - fmean(loops):.2f}",
                    f"{fmean(lengths):.0f}",
                )
                rows.append(f"| {' | '.join(map(str, facts))} |")
    head = "| | answers | score | without loop | mean tokens |\n|---|---|---|---|---|\n"
    return head + "\n".join(rows) + "\n\n" + "\n".join(samples)


def score(prompt: str, reference: str, answer: str) -> tuple[str, float]:
    """Return name and value of the score that fits the question."""
    if prompt.startswith("Translate"):
        return "chrF", 100 * chrf(answer, reference)
    if "#### " in reference:
        found, wanted = (text.rpartition("#### ")[2].strip() for text in (answer, reference))
        return "right", float("#### " in answer and found == wanted)
    if prompt.startswith(CODE_BEGINNINGS):
        try:
            ast.parse(f"{prompt}\n{answer}")
        except (SyntaxError, ValueError):
            return "parses", 0.0
        return "parses", 1.0
    return "unscored", 0.0


def chrf(answer: str, reference: str) -> float:
    """Return the character n-gram F-score, in [0, 1]; white space does not count.

    Source: Popović, chrF, WMT 2015: n-grams up to 6, recall twice as heavy as precision.
    """
    texts = ["".join(text.split()) for text in (answer, reference)]
    total, orders = 0.0, 0
    for order in range(1, MAX_ORDER + 1):
        found, wanted = (
            Counter(text[start : start + order] for start in range(len(text) - order + 1))
            for text in texts
        )
        if not wanted:
            break
        orders += 1
        common = (found & wanted).total()
        precision, recall = common / max(1, found.total()), common / wanted.total()
        square = RECALL_WEIGHT**2
        if common:
            total += (1 + square) * precision * recall / (square * precision + recall)
    return total / max(1, orders)
