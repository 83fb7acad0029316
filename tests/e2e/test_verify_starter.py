"""The self-test on the starter pool: sound as it is, and a broken scheme does not pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import numpy as np
import pytest

from metasd_local.compose import OpenPool, open_pool
from metasd_local.options import Options
from metasd_local.protocols import Draft, Logits, Verdict
from metasd_local.selftest import verify_pool
from metasd_local.verify import Coupled, Rejection


def ticking() -> Callable[[], float]:
    """Return a clock that advances by a second whenever it is read: about once per answer."""
    ticks: Iterator[int] = count()
    return lambda: float(next(ticks))


@pytest.fixture(scope="module")
def pool() -> Iterator[OpenPool]:
    opened = open_pool(Options(threads=1), "starter")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def small_pool() -> Iterator[OpenPool]:
    opened = open_pool(Options(threads=1, drafters=("general",)), "starter")
    yield opened
    opened.close()


def check(pool: OpenPool, answers: int, *choosing: str) -> None:
    """Compare every drafter and some policies that choose; all of them if none is named."""
    fixed = [f"fixed:{drafter.name}" for drafter in pool.drafters]
    options = Options(policies=(*fixed, *choosing) if choosing else None)
    found = verify_pool(pool, options, minutes=answers / 36, clock=ticking())
    record = found.to_json()
    assert record["ok"], record["failures"]
    assert {c.scheme for c in found.comparisons} == {"greedy", "coupled at 0.8", "match at 0.8"}
    assert {*fixed, *choosing} <= {c.policy for c in found.comparisons}
    assert record["checked_tokens"] > 4 * answers
    assert sum(c.accepted for c in found.comparisons) > 0
    assert all(law["drafted"] > 0 for law in record["rejection"])
    assert len(record["rejection"]) == len(pool.drafters)


def test_the_starter_pool_decodes_losslessly(pool: OpenPool) -> None:
    check(pool, 24, "ucb", "auto")


@pytest.mark.full
def test_the_starter_pool_decodes_losslessly_in_full(pool: OpenPool) -> None:
    check(pool, 600)


class BentCoupled(Coupled):
    """Keeps a draft token too many now and then."""

    def verify(self, rows: Logits, draft: Draft) -> Verdict:
        """Judge by the rows, and be lenient where the next token id is even."""
        verdict = super().verify(rows, draft)
        if verdict.accepted == len(draft.tokens) or verdict.next_token % 2:
            return verdict
        return Verdict(verdict.accepted + 1, verdict.next_token, "recovered")


class BentRejection(Rejection):
    """Accepts one per cent of what it should reject."""

    def begin(self, seed: int, context: list[int]) -> None:
        """Seed the leniency too."""
        super().begin(seed, context)
        self._lenient = np.random.default_rng(seed)

    def verify(self, rows: Logits, draft: Draft) -> Verdict:
        """Judge by the rows, mostly."""
        verdict = super().verify(rows, draft)
        if verdict.next_kind == "bonus" or self._lenient.random() > 0.01:
            return verdict
        return Verdict(verdict.accepted + 1, verdict.next_token, "recovered")


@pytest.mark.full
def test_a_coupling_that_depends_on_the_draft_does_not_pass(
    small_pool: OpenPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metasd_local.compose.Coupled", BentCoupled)
    found = verify_pool(small_pool, Options(), minutes=0.5, clock=ticking())
    assert not found.ok
    assert {failure["scheme"] for failure in found.failures} == {"coupled at 0.8"}


@pytest.mark.full
def test_a_rejection_too_lenient_by_one_per_cent_does_not_pass(
    small_pool: OpenPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metasd_local.compose.Rejection", BentRejection)
    found = verify_pool(small_pool, Options(), minutes=2.0, clock=ticking())
    assert not found.ok
    assert {failure["scheme"] for failure in found.failures} == {"rejection"}
