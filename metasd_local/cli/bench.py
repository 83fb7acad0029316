"""`metasd bench`: measure and report."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metasd_local.arguments import Request
from metasd_local.bench.prompts import Prompt, read_prompts, select_domains
from metasd_local.bench.schedule import Wishes
from metasd_local.cli.measurement import measurement
from metasd_local.cli.surroundings import Surroundings
from metasd_local.events import Event
from metasd_local.options import Options
from metasd_local.protocols import PLAIN
from metasd_local.selection import COMPARED

if TYPE_CHECKING:
    from metasd_local.compose import OpenPool
    from metasd_local.session import Session

MAX_BENCH_TOKENS = 256
DEFAULT_MINUTES = 5.0
SAID_HERE = (
    *("policy", "window", "max_tokens", "scheme", "seed", "json", "trace", "system", "stop"),
    *("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "think"),
)
"""Options that count only if they are typed: a chat's settings must not change a measurement."""


def bench(options: Options, request: Request, around: Surroundings) -> int:
    """Compare policies on a pool."""
    options = own_options(options, request.typed)
    prompts = read_prompts(Path(options.prompts) if options.prompts else None)
    if options.domains:
        prompts = select_domains(prompts, options.domains)
    prompts = tuple(dict.fromkeys(prompts))  # a prompt decoded twice would count twice
    with measurement(options, request, request.first_word, around) as measuring:
        pool = measuring.pool
        decoder = _PoolDecoder(pool, options)
        arms = [drafter.name for drafter in pool.drafters]
        policies = choose_policies(options, arms)
        for policy in policies:
            decoder.session(policy)  # what cannot be is said before anything is measured
        return measuring.run(
            decoder,
            Wishes(
                prompts=prompts,
                policies=policies,
                arms=arms,
                max_tokens=options.max_tokens or MAX_BENCH_TOKENS,
                budget_s=60 * (options.minutes or DEFAULT_MINUTES),
                repeats=options.repeats,
            ),
            decoder.session(PLAIN).setup,
            emulated=False,
        )


def own_options(options: Options, typed: Mapping[str, Any]) -> Options:
    """Return the options without what a chat was configured to, at temperature 0 if not typed."""
    unsaid: dict[str, Any] = {name: None for name in SAID_HERE if name not in typed}
    options = dataclasses.replace(options, **unsaid)
    return dataclasses.replace(options, temperature=options.temperature or 0.0, fresh=True)


def choose_policies(options: Options, arms: Sequence[str]) -> Sequence[str]:
    """Return the policies to compare, always with `plain`, each once."""
    chosen = options.policies or (*(f"fixed:{arm}" for arm in arms), *COMPARED)
    return list(dict.fromkeys((PLAIN, *chosen)))


class _PoolDecoder:
    """Decode with one session per policy, all on the same models."""

    def __init__(self, pool: OpenPool, options: Options) -> None:
        self._pool = pool
        self._options = options
        self._sessions: dict[str, Session] = {}
        self.prompt_tokens: Sequence[int] = ()

    def session(self, policy: str) -> Session:
        """Return the session of a policy."""
        if policy not in self._sessions:
            options = dataclasses.replace(self._options, policy=policy)
            self._sessions[policy] = self._pool.session(options)
        return self._sessions[policy]

    def decode(self, policy: str, prompt: Prompt, max_tokens: int) -> Iterator[Event]:
        """Yield the events of one generation from empty memories."""
        session = self.session(policy)
        session.forget()
        yield from session.send(prompt.text, seed=self._options.seed or 0, max_tokens=max_tokens)
        self.prompt_tokens = session.prompt_tokens
