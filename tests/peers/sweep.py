"""Finding the peer's best settings: successive halving on prompts that are scored nowhere else."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from heapq import nlargest
from statistics import fmean
from typing import TypeAlias

from tests.peers.server import PeerError, Reply, Server, Setting

WINDOWS = (1, 2, 3, 4, 7, 15)
P_MINS = (0.0, 0.4, 0.75)
RUNGS = ((0, 1, 48), (1, 3, 64), (3, 7, 1024))
"""Prompts of every domain, from and to, and the most tokens of an answer."""
NGRAM_SIZES = ((12, 48), (3, 8))
"""Tokens looked up and drafted: the peer's defaults, and what suits short repeats."""


@dataclass(frozen=True, slots=True)
class Case:
    """A prompt, and how far it is to be continued."""

    domain: str
    text: str
    prompt: tuple[int, ...]
    plain: tuple[int, ...]
    """Our plain greedy answer, cut where it begins to loop."""


Trials: TypeAlias = dict[Setting, list[tuple[str, Reply]]]
"""The answers of every setting, each with its domain."""


def score(replies: Sequence[tuple[str, Reply]], only: str | None = None) -> float:
    """Return the geometric mean over domains of tokens per second; 0 where nothing was drafted."""
    logs: dict[str, list[float]] = {}
    for domain, reply in replies:
        if only in (None, domain):
            logs.setdefault(domain, []).append(math.log(reply.steps / reply.decode_s))
    has_drafted = any(reply.drafted for domain, reply in replies if domain in logs)
    return math.exp(fmean(map(fmean, logs.values()))) if has_drafted else 0.0


def settings_to_try(drafters: Sequence[str]) -> list[Setting]:
    """Return the whole sweep, in the order in which a short time cuts it."""
    short = (("ngram-mod-n-match", 8), ("ngram-mod-n-min", 0), ("ngram-mod-n-max", 8))
    ngrams = [Setting(("ngram-mod",)), Setting(("ngram-mod",), sizes=short)] + [
        Setting((kind,), sizes=((f"{kind}-size-n", looked_up), (f"{kind}-size-m", drafted)))
        for kind in ("ngram-simple", "ngram-map-k", "ngram-map-k4v")
        for looked_up, drafted in NGRAM_SIZES
    ]
    models = [
        Setting(("draft-simple",), drafter, window, p_min)
        for p_min in P_MINS
        for window in WINDOWS
        for drafter in drafters
    ]
    first = len(models) // len(P_MINS)
    return [*models[:first], *ngrams, Setting(("ngram-cache",)), *models[first:]]


def find_matched(settings: Iterable[Setting]) -> Setting:
    """Return the first that speculates as a fixed drafter of ours does: no p-min, no chain."""
    return next(each for each in settings if each.types == ("draft-simple",) and not each.p_min)


def sweep(
    settings: Sequence[Setting],
    cases: Callable[[int, int], Sequence[Case]],
    start: Callable[[Setting], Server],
    deadline_s: float,
) -> tuple[Trials, dict[Setting, tuple[int, float]]]:
    """Return what is still in the race, best first, and all that ran: prompts and score.

    deadline_s: of time.monotonic(); what the first rung does not reach by then is left out, a
    later rung that is not finished does not count.
    """

    def run(setting: Setting, chosen: Sequence[Case], most: int) -> list[tuple[str, Reply]]:
        if not chosen or time.monotonic() > deadline_s:
            return []
        with start(setting) as server:
            asked = [server.ask(case.prompt, min(len(case.plain), most)) for case in chosen]
        return [(case.domain, reply) for case, reply in zip(chosen, asked, strict=True)]

    trials: Trials = {setting: [] for setting in settings}
    ran: dict[Setting, tuple[int, float]] = {}
    for first, last, most in RUNGS:
        chosen = cases(first, last)
        new = {setting: run(setting, chosen, most) for setting in trials}
        done = {setting: trials[setting] + replies for setting, replies in new.items() if replies}
        print(f"{len(done)} of {len(new)} settings, {len(chosen)} prompts", file=sys.stderr)
        if first and len(done) < len(trials):
            break
        if len(done) <= len(trials) // 2:
            raise PeerError(f"{len(done)} of {len(trials)} settings ran; give more --minutes")
        speeds = {setting: score(replies) for setting, replies in done.items()}
        ranked = sorted(speeds, key=speeds.__getitem__, reverse=True)
        if not first:
            # Types form a chain: the first with a draft wins, n-grams before a model.
            ngram = next(setting for setting in ranked if not setting.drafter)
            model = next(setting for setting in ranked if setting.drafter)
            chain = replace(model, types=(*ngram.types, *model.types), sizes=ngram.sizes)
            done[chain] = run(chain, chosen, most)
            ranked.insert(0, chain)
        ran |= {setting: (len(replies), score(replies)) for setting, replies in done.items()}
        # What is like ours stays, and whatever is good in some domain.
        kept = {*ranked[: len(ranked) // 4], find_matched(ranked)}
        for domain in {case.domain for case in chosen}:
            kept.update(nlargest(2, ranked, key=lambda setting: score(done[setting], domain)))
        trials = {setting: done[setting] for setting in ranked if setting in kept}
    return dict(sorted(trials.items(), key=lambda item: -score(item[1]))), ran
