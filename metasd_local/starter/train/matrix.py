"""The acceptance matrix: every drafter on every domain, through the project's own engine.

Owns choosing the prompts, counting and the table; models are reached through `compose` only.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from metasd_local.compose import open_pool
from metasd_local.errors import ContextFull
from metasd_local.events import RoundDone
from metasd_local.options import Options
from metasd_local.stats import LoopFinder

WINDOW = 5
MAX_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Cell:
    """What one drafter did on one domain."""

    accepted: int = 0
    drafted: int = 0
    emitted: int = 0

    @property
    def acceptance_rate(self) -> float | None:
        """Return accepted / drafted."""
        return self.accepted / self.drafted if self.drafted else None

    def __add__(self, other: "Cell") -> "Cell":
        return Cell(
            self.accepted + other.accepted,
            self.drafted + other.drafted,
            self.emitted + other.emitted,
        )


def read_prompts(folder: Path, max_prompts: int) -> dict[str, list[str]]:
    """Return the first prompts of every FOLDER/NAME.jsonl, by name.

    Raises: FileNotFoundError when the folder holds none.
    """
    prompts = {}
    for path in sorted(folder.glob("*.jsonl")):
        lines = path.read_text(encoding="utf-8").splitlines()
        prompts[path.stem] = [str(json.loads(line)["prompt"]) for line in lines[:max_prompts]]
    if not prompts:
        raise FileNotFoundError(f"{folder} holds no NAME.jsonl with prompts")
    return prompts


def measure(
    target: Path,
    drafters: Mapping[str, Path],
    prompts: Mapping[str, Sequence[str]],
    report: Callable[[str], None],
) -> dict[str, dict[str, Cell]]:
    """Decode every prompt greedily with every drafter; return cells by drafter, then domain.

    Prompts that do not fit the context are passed over.
    """
    cells: dict[str, dict[str, Cell]] = {}
    for drafter, path in drafters.items():
        cells[drafter] = {
            domain: sum(_count_answers(target, path, texts), Cell())
            for domain, texts in prompts.items()
        }
        report(f"matrix: {drafter} done")
    return cells


def accepted_and_drafted(prompt: Sequence[int], rounds: Sequence[RoundDone]) -> Cell:
    """Count the rounds of one answer up to where it starts to loop."""
    loops = LoopFinder(prompt)
    for done in rounds:
        loops.add(done.emitted)
    total, position = Cell(), 0
    for done in rounds:
        if loops.start is not None and position >= loops.start:
            break
        total += Cell(done.accepted, done.drafted, len(done.emitted))
        position += len(done.emitted)
    return total


def as_markdown(cells: Mapping[str, Mapping[str, Cell]]) -> str:
    """Return the table, domains as rows, the best drafter of a row in bold."""
    drafters = list(cells)
    lines = [f"| | {' | '.join(drafters)} |", f"|---|{'---|' * len(drafters)}"]
    for domain in next(iter(cells.values())):
        rates = [cells[drafter][domain].acceptance_rate for drafter in drafters]
        best = max((rate for rate in rates if rate is not None), default=None)
        texts = ["" if rate is None else f"{rate:.3f}" for rate in rates]
        marked = [
            f"**{text}**" if rate is not None and rate == best else text
            for rate, text in zip(rates, texts, strict=True)
        ]
        lines.append(f"| {domain} | {' | '.join(marked)} |")
    return "\n".join(lines) + "\n"


def _count_answers(target: Path, drafter: Path, texts: Sequence[str]) -> Iterator[Cell]:
    options = Options(
        policy=f"fixed:{drafter.stem}",
        drafters=(str(drafter),),
        window=WINDOW,
        temperature=0.0,
        repeat_penalty=1.0,
        seed=0,
        threads=1,
    )
    with closing(open_pool(options, str(target))) as pool:
        session = pool.session(options)
        for text in texts:
            session.clear()
            try:
                events = list(session.send(text, seed=0, max_tokens=MAX_TOKENS))
            except ContextFull:
                continue
            rounds = [event for event in events if isinstance(event, RoundDone)]
            yield accepted_and_drafted(session.prompt_tokens, rounds)
