"""`metasd lab`: policies without trained models."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from metasd_local.bench.prompts import select_domains
from metasd_local.bench.schedule import Wishes
from metasd_local.cli.bench import DEFAULT_MINUTES, MAX_BENCH_TOKENS, choose_policies, own_options
from metasd_local.cli.measurement import Measurement
from metasd_local.cli.output import Output
from metasd_local.cli.surroundings import DONE, Surroundings
from metasd_local.costs import RunningCosts
from metasd_local.errors import UsageError
from metasd_local.lab.emulate import emulated_prompts
from metasd_local.lab.pair import VOCABULARY_SIZES, make_pair
from metasd_local.lab.profile import find_profile
from metasd_local.lab.simulate import DEFAULT_CURVE, simulate
from metasd_local.lab.traces import arm_names
from metasd_local.options import Options
from metasd_local.protocols import PLAIN, Policy
from metasd_local.selection import COMPARED
from metasd_local.selection.factory import make_policy, policy_window
from metasd_local.selection.specification import parse_policy

NUM_EMULATED_PROMPTS = 12
NUM_SIMULATED_DRAFTERS = (2, 4, 8, 16)


def run_simulation(options: Options, words: Sequence[str], around: Surroundings) -> int:
    """Compare policies on drawn traces."""
    if words:
        raise UsageError(f"found {words[0]!r}, expected no word (see metasd lab simulate --help)")
    output = Output(around, streams=False)
    factories = {}
    for text in options.policies or COMPARED:
        factory = partial(_seeded_policy, text)
        factory(np.random.default_rng(0))  # what cannot be is said first
        factories[text] = factory
    found = simulate(
        factories,
        arms=NUM_SIMULATED_DRAFTERS,
        seed=options.seed or 0,
        on_progress=partial(output.progress, "simulating"),
    )
    output.end()
    text = json.dumps(found.to_json(), indent=1) if options.json else "\n".join(found.lines())
    around.stdout.write(text + "\n")
    return DONE


def _seeded_policy(text: str, rng: np.random.Generator) -> Policy:
    specification = parse_policy(text)
    known = arm_names(max(NUM_SIMULATED_DRAFTERS))
    if specification.drafter not in (None, *known):
        raise UsageError(
            f"--policies {text}: no simulated drafter is named {specification.drafter!r}; "
            f"expected one of {', '.join(known)}"
        )
    window = policy_window(specification, None)
    return make_policy(specification, window, int(rng.integers(2**32)), RunningCosts(DEFAULT_CURVE))


def run_emulation(
    options: Options, words: Sequence[str], typed: Mapping[str, Any], around: Surroundings
) -> int:
    """Bench real models with the acceptance of a profile."""
    if not 1 <= len(words) <= 2:
        raise UsageError("expected PROFILE [POOL] (see metasd lab emulate --help)")
    profile = find_profile(words[0])
    options = own_options(options, typed)
    max_tokens = options.max_tokens or MAX_BENCH_TOKENS
    if options.ctx is None:
        options = dataclasses.replace(options, ctx=profile.prompt_tokens + max_tokens)
    prompts = emulated_prompts(profile, NUM_EMULATED_PROMPTS)
    if options.domains:
        prompts = select_domains(prompts, options.domains)
    with ExitStack() as stack:
        measurement = stack.enter_context(Measurement(options, around))
        pool = measurement.load(partial(around.open_pool, options, *words[1:]))
        stack.callback(pool.close)
        emulation = pool.emulation(profile, options)
        policies = choose_policies(options, emulation.arms)
        for policy in policies:
            emulation.make_policy(policy)
        setup = pool.session(dataclasses.replace(options, policy=PLAIN)).setup
        return measurement.run(
            emulation,
            pool,
            Wishes(
                prompts=prompts,
                policies=policies,
                arms=emulation.arms,
                max_tokens=max_tokens,
                budget_s=60 * (options.minutes or DEFAULT_MINUTES),
                repeats=options.repeats,
            ),
            dataclasses.replace(setup, pool=f"{setup.pool}, {emulation.label}"),
            emulated=True,
        )


def write_pair(options: Options, words: Sequence[str], around: Surroundings) -> int:
    """Write a target and a drafter with random weights."""
    if len(words) != 1:
        raise UsageError("expected DIR, where to write to (see metasd lab make-pair --help)")
    vocabulary = VOCABULARY_SIZES[options.vocab or "32k"]
    paths = make_pair(
        Path(words[0]),
        target_params=options.target_params or 350_000_000,
        drafter_params=options.drafter_params or 30_000_000,
        vocabulary=Path(options.vocab_from) if options.vocab_from else vocabulary,
        seed=options.seed or 0,
    )
    around.stdout.writelines(f"{path}\n" for path in paths)
    return DONE
