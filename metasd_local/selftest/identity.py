"""Whether a session with drafts says, token for token, what plain decoding says."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from metasd_local.errors import Cancelled
from metasd_local.events import Event, GenerationDone, Notice, RoundDone
from metasd_local.options import Options
from metasd_local.protocols import PLAIN
from metasd_local.selection import POLICIES
from metasd_local.selftest.near_ties import Divergence, explain
from metasd_local.session import Session

if TYPE_CHECKING:
    from metasd_local.compose import OpenPool

PROMPTS = (
    "Count from one to ten, then count from one to ten again.",
    "Write a Python function that returns the sum of the squares of a list of numbers.",
    "Translate into German: The train to the harbour leaves at nine, the bus at ten.",
    "A box holds 24 eggs. How many eggs do 17 boxes hold? Show your steps.",
    'Repeat word for word: "red fish, blue fish, green fish, red fish, blue fish, green fish"',
    "My neighbour plays the drums at night. What could I say to her?",
    "for row in table:\n    for cell in row:\n        print(cell)\nfor row in table:\n    for",
    "Tell me a very short story about a lighthouse.",
)
WINDOWS = (None, 16, 1)
"""None is the policy's own. Their number has no factor in common with that of the prompts."""
STOPPED = "the self-test was stopped"
NUM_LAYERS = len(PROMPTS) * len(WINDOWS)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One answer beside the plain one."""

    scheme: str
    """With its temperature."""
    policy: str
    window: int | None
    """None if it was the policy's own."""
    seed: int
    prompt: int
    """Number of the built-in prompt, from 0."""
    checked_tokens: int
    """Up to and including the first one that differs."""
    drafted: int
    accepted: int
    divergence: Divergence | None
    notices: tuple[str, ...]
    """What went wrong during the answer, such as a drafter that failed."""

    @property
    def is_near_tie(self) -> bool:
        """Tell whether the texts differ, and rounding explains it."""
        return self.divergence is not None and self.divergence.is_near_tie


def variants(pool: OpenPool, options: Options) -> dict[str, Options]:
    """Return greedy, and `coupled` and `match` at temperature 0.8 and as the pool recommends."""
    found = {"greedy": dataclasses.replace(options, scheme="greedy", temperature=0.0)}
    for scheme in ("coupled", "match"):
        for temperature in (options.temperature, 0.8):
            asked = dataclasses.replace(options, scheme=scheme, temperature=temperature)
            setup = pool.session(asked).setup
            if setup.scheme == scheme:
                found.setdefault(f"{scheme} at {setup.sampling.temperature:g}", asked)
    return found


def all_policies(pool: OpenPool) -> list[str]:
    """Return every policy that drafts, `fixed` once for every drafter."""
    fixed = [f"fixed:{drafter.name}" for drafter in pool.drafters]
    return [*fixed, *(p.name for p in POLICIES if p.name != PLAIN and ":" not in p.name)]


def compare_all(
    pool: OpenPool,
    schemes: Mapping[str, Options],
    policies: Sequence[str],
    *,
    seed: int,
    max_tokens: int,
) -> Iterator[Comparison]:
    """Compare every policy with every scheme: all once, then again with other prompts and windows.

    Every prompt meets every window. Each time round has a seed of its own, from `seed` on.
    """
    for layer in range(NUM_LAYERS):
        window, prompt = WINDOWS[layer % len(WINDOWS)], layer % len(PROMPTS)
        for scheme, variant in schemes.items():
            session = pool.session(dataclasses.replace(variant, policy=PLAIN))
            session.forget()
            plain = tokens_of(answer(session, PROMPTS[prompt], seed + layer, max_tokens))
            for policy in policies:
                chosen = dataclasses.replace(
                    variant, policy=policy, window=window or variant.window
                )
                session = pool.session(chosen)
                events = answer(session, PROMPTS[prompt], seed + layer, max_tokens)
                rounds = [event for event in events if isinstance(event, RoundDone)]
                divergence = None
                if tokens_of(events) != plain:
                    chooser, tokens = pool.scheme(chosen), session.prompt_tokens
                    divergence = explain(pool.target, chooser, seed + layer, tokens, plain, rounds)
                yield Comparison(
                    scheme=scheme,
                    policy=policy,
                    window=chosen.window,
                    seed=seed + layer,
                    prompt=prompt,
                    checked_tokens=len(plain) if divergence is None else divergence.position + 1,
                    drafted=sum(done.drafted for done in rounds),
                    accepted=sum(done.accepted for done in rounds),
                    divergence=divergence,
                    notices=_troubles(events),
                )


def answer(session: Session, text: str, seed: int, max_tokens: int) -> list[Event]:
    """Return the events of an answer; raise Cancelled if it was interrupted."""
    events = list(session.send(text, seed=seed, max_tokens=max_tokens))
    if any(isinstance(e, GenerationDone) and e.finish_reason == "cancelled" for e in events):
        raise Cancelled(STOPPED)
    return events


def tokens_of(events: Sequence[Event]) -> list[int]:
    """Return what was emitted."""
    return list(chain.from_iterable(e.emitted for e in events if isinstance(e, RoundDone)))


def _troubles(events: Sequence[Event]) -> tuple[str, ...]:
    """Return what became of drafters that failed."""
    return tuple(event.text for event in events if isinstance(event, Notice) and event.dropped)
