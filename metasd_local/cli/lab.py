"""`metasd lab`: policies without trained models."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metasd_local.arguments import Request
from metasd_local.bench.prompts import select_domains
from metasd_local.cli.measurement import MAX_BENCH_TOKENS, measurement
from metasd_local.cli.surroundings import DONE, Surroundings
from metasd_local.costs import RunningCosts
from metasd_local.drafters.model import EVALUATED_ROWS
from metasd_local.errors import UsageError
from metasd_local.lab.emulate import Emulation, emulated_prompts
from metasd_local.lab.pair import make_pair
from metasd_local.lab.profile import Profile, find_profile
from metasd_local.lab.simulate import DEFAULT_CURVE, NUMBERS_OF_DRAFTERS, simulate
from metasd_local.lab.traces import arm_names
from metasd_local.options import MAX_WINDOW, QUANTISATIONS, VOCABULARY_SIZES, Options
from metasd_local.protocols import Policy
from metasd_local.selection import COMPARED
from metasd_local.selection.factory import choose_policy

if TYPE_CHECKING:
    from metasd_local.compose import OpenPool

NUM_EMULATED_PROMPTS = 12


def run_simulation(options: Options, _: Request, around: Surroundings) -> int:
    """Compare policies on drawn traces."""
    factories = {}
    only_arms = {}
    for text in options.policies or COMPARED:
        factories[text] = partial(_simulated_policy, text)
        chosen = choose_policy(text)
        chosen.check_arm(arm_names(max(NUMBERS_OF_DRAFTERS)))
        if chosen.arm is not None:
            only_arms[text] = chosen.arm
    found = simulate(
        factories,
        seed=options.seed or 0,
        only_arms=only_arms,
        on_progress=partial(around.output.progress, "simulating"),
    )
    around.output.report(found.to_json(), found.lines(), as_json=options.json)
    return DONE


def _simulated_policy(text: str, rng: np.random.Generator) -> Policy:
    seed = int(rng.integers(2**32))
    return choose_policy(text, seed=seed, costs=RunningCosts(DEFAULT_CURVE)).policy


def run_emulation(options: Options, request: Request, around: Surroundings) -> int:
    """Bench real models with the acceptance of a profile."""
    profile = find_profile(request.words[0])
    pool_name = next(iter(request.words[1:]), None)
    if options.ctx is None:
        max_tokens = request.typed.get("max_tokens", MAX_BENCH_TOKENS)
        options = dataclasses.replace(options, ctx=profile.prompt_tokens + max_tokens)
    prompts = emulated_prompts(profile, NUM_EMULATED_PROMPTS)
    if options.domains:
        prompts = select_domains(prompts, options.domains)
    with measurement(options, request, pool_name, around) as measuring:
        emulation = _emulation(measuring.pool, profile, measuring.options)
        return measuring.run(
            emulation, prompts, emulation.arms, emulation.make_policy, emulation.label
        )


def _emulation(pool: OpenPool, profile: Profile, options: Options) -> Emulation:
    """Return what decodes with the models of a pool and the acceptance of a profile.

    A drafter of the profile computes with the pool's drafter of that name, else with its first.
    Raises UsageError and BackendError.
    """
    weights = pool.models.drafter_weights
    if profile.drafters and not weights:
        raise UsageError(
            f"the pool has no model drafter, profile {profile.name} needs one; "
            "add --drafters FILE.gguf"
        )
    context_size = pool.target.context_size
    first = next(iter(weights), "")
    models = {
        name: pool.loader.open(
            weights[name if name in weights else first], context_size, max_rows=EVALUATED_ROWS
        )
        for name in profile.drafters
    }
    return Emulation(
        profile,
        target=pool.target,
        models=models,
        # With overlaps, for the policies that look at them.
        scheme=pool.scheme(dataclasses.replace(options, policy="ucb", window=MAX_WINDOW)),
        interrupt=pool.interrupt,
        inside=pool.loader.inside,
        costs=pool.kept.costs,
        watch=pool.watch,
        seed=options.seed or 0,
    )


def write_pair(options: Options, request: Request, around: Surroundings) -> int:
    """Write a target and a drafter with random weights."""
    vocabulary = VOCABULARY_SIZES[options.vocab or "32k"]
    paths = make_pair(
        Path(request.words[0]),
        target_params=options.target_params or 350_000_000,
        drafter_params=options.drafter_params or 30_000_000,
        vocabulary=Path(options.vocab_from) if options.vocab_from else vocabulary,
        quantisation=options.quantisation or QUANTISATIONS[0],
        seed=options.seed or 0,
    )
    around.stdout.writelines(f"{path}\n" for path in paths)
    return DONE
