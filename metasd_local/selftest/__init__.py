"""The self-test behind `metasd verify`: does this machine decode this pool losslessly.

Runs the sessions a user runs. Greedy, `coupled` and `match` must give plain decoding's tokens,
`rejection` the target's own law.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from metasd_local.errors import Cancelled
from metasd_local.options import Options
from metasd_local.protocols import PLAIN
from metasd_local.selftest.identity import (
    NUM_LAYERS,
    PROMPTS,
    STOPPED,
    Comparison,
    all_policies,
    answer,
    compare_all,
    tokens_of,
    variants,
)
from metasd_local.selftest.rejection import LawTest, sample_laws
from metasd_local.selftest.report import SelfTest
from metasd_local.session import Session

if TYPE_CHECKING:
    from metasd_local.compose import OpenPool

_SHARE_OF_IDENTITY = 0.6
_FEWEST_SEEDS = 100
"""With fewer answers the chi-squared test would overlook almost anything."""
_FEWEST_TOKENS, _MOST_TOKENS = 8, 64


def verify_pool(
    pool: OpenPool,
    options: Options,
    *,
    minutes: float = 3.0,
    clock: Callable[[], float] = time.perf_counter,
    on_progress: Callable[[float], bool] = lambda _: True,
) -> SelfTest:
    """Compare as much as about `minutes` allow.

    Of `options` policy, scheme, system prompt and stops are replaced.
    on_progress: told the share of the time that is over, in [0, 1]; the test is cancelled when it
    returns False.
    Raises UsageError, BackendError and Cancelled.
    """
    began_s = clock()

    def is_over(share: float) -> bool:
        passed = (clock() - began_s) / (60 * minutes)
        if not on_progress(min(passed, 1.0)):
            raise Cancelled(STOPPED)
        return passed >= share

    seed = options.seed or 0
    schemes = variants(pool, dataclasses.replace(options, policy=PLAIN, stop=None, system=None))
    policies = options.policies or all_policies(pool)
    num_cases = len(schemes) * len(policies)
    case_s = 60 * minutes * _SHARE_OF_IDENTITY / num_cases
    max_tokens = _affordable_tokens(pool.session(schemes["greedy"]), case_s, clock)
    comparisons: list[Comparison] = []
    for comparison in compare_all(pool, schemes, policies, seed=seed, max_tokens=max_tokens):
        comparisons.append(comparison)
        if is_over(_SHARE_OF_IDENTITY):
            break
    laws: list[LawTest] = []
    for grown in sample_laws(pool, list(schemes.values())[-1], seed=seed):
        laws = grown
        if is_over(1.0):
            break
    setup = pool.session(schemes["greedy"]).setup
    return SelfTest(
        pool=setup.pool,
        seed=seed,
        seconds=clock() - began_s,
        max_tokens=max_tokens,
        comparisons=comparisons,
        laws=laws,
        left_out=(
            *setup.notices,
            *_left_out(comparisons, laws, schemes, policies),
        ),
    )


def _left_out(
    comparisons: Sequence[Comparison],
    laws: Sequence[LawTest],
    schemes: Collection[str],
    policies: Collection[str],
) -> Iterator[str]:
    """Yield in words what was not tested, each reason once."""
    num_answers = len(schemes) * len(policies) * NUM_LAYERS
    if num_left := num_answers - len(comparisons):
        yield f"{num_left:,} of {num_answers:,} answers, for want of time"
    drafted: Counter[str] = Counter()
    for c in comparisons:
        drafted.update({c.scheme: c.drafted, c.policy: c.drafted})
    has_law = [law for law in laws if law.laws]
    few = [law for law in has_law if law.seeds < _FEWEST_SEEDS]
    silent = [law for law in has_law if law not in few and not law.drafted]
    for text, names in (
        ("{}, for want of time", [n for n in (*schemes, *policies) if n not in drafted]),
        ("{}, which drafted nothing", [n for n in policies if drafted.get(n) == 0]),
        ("rejection with {}, for want of a prompt", [x.drafter for x in laws if not x.laws]),
        (
            f"rejection with {{}}, for want of time: fewer than {_FEWEST_SEEDS} answers",
            [law.drafter for law in few],
        ),
        ("rejection with {}, which drafted nothing", [law.drafter for law in silent]),
    ):
        if names:
            yield text.format(", ".join(names))


def _affordable_tokens(session: Session, seconds: float, clock: Callable[[], float]) -> int:
    """Return how long an answer may be to take `seconds`, by the time of a short one."""
    began_s = clock()
    tokens = tokens_of(answer(session, PROMPTS[0], 0, _FEWEST_TOKENS))
    token_s = max(clock() - began_s, 1e-9) / len(tokens)
    return max(_FEWEST_TOKENS, min(_MOST_TOKENS, int(seconds / token_s)))
