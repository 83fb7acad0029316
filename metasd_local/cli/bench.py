"""`metasd bench`: measure and report."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from metasd_local.arguments import Request
from metasd_local.bench.prompts import Prompt, read_prompts, select_domains
from metasd_local.cli.measurement import measurement
from metasd_local.cli.surroundings import Surroundings
from metasd_local.events import Event
from metasd_local.options import Options

if TYPE_CHECKING:
    from metasd_local.compose import OpenPool
    from metasd_local.session import Session


def bench(options: Options, request: Request, around: Surroundings) -> int:
    """Compare policies on a pool."""
    prompts = read_prompts(Path(options.prompts) if options.prompts else None)
    if options.domains:
        prompts = select_domains(prompts, options.domains)
    prompts = tuple(dict.fromkeys(prompts))  # a prompt decoded twice would count twice
    with measurement(options, request, request.first_word, around) as measuring:
        pool = measuring.pool
        decoder = _PoolDecoder(pool, measuring.options)
        arms = [drafter.name for drafter in pool.drafters]
        return measuring.run(decoder, prompts, arms, decoder.session)


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
