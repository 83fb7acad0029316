"""The self-test on scripted models: it passes what is sound and finds what is broken."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Generator, Iterator
from itertools import count
from typing import TYPE_CHECKING, cast

import pytest

from metasd_local.backend.scripted import ScriptedModel
from metasd_local.cli.surroundings import DONE, FAILED
from metasd_local.drafters.model import ModelDrafter
from metasd_local.drafters.ngram import NgramDrafter
from metasd_local.errors import Cancelled
from metasd_local.events import Event
from metasd_local.options import Options
from metasd_local.protocols import Logits
from metasd_local.selection import POLICIES
from metasd_local.selftest import verify_pool
from metasd_local.selftest.identity import Comparison, all_policies
from metasd_local.selftest.report import SelfTest
from metasd_local.session import Session
from tests.broken_pool import (
    SIZE,
    Coarse,
    Forgetful,
    Rounding,
    SchemeMaker,
    ScriptedPool,
    WrongRejection,
    drafter_rule,
    lenient,
    target_rule,
)
from tests.scripted_session import Shell

if TYPE_CHECKING:
    from metasd_local.compose import OpenPool

LONG, SHORT = 120.0, 60.0
"""Seconds of a clock that advances by one whenever it is read: about once per answer."""
FOUR = Options(policies=("fixed:code", "fixed:ngram", "ucb", "random"))


def ticking() -> Callable[[], float]:
    """Return a clock that advances by a second whenever it is read."""
    ticks: Iterator[int] = count()
    return lambda: float(next(ticks))


def opened(pool: ScriptedPool) -> OpenPool:
    """Return the pool as what the self-test asks for."""
    return cast("OpenPool", pool)


def check(pool: ScriptedPool, seconds: float = SHORT, options: Options | None = None) -> SelfTest:
    found = verify_pool(opened(pool), options or FOUR, minutes=seconds / 60, clock=ticking())
    assert all(len(line) <= 79 for line in found.lines())
    json.dumps(found.to_json(), allow_nan=False)
    return found


def test_a_sound_pool_passes_and_says_what_was_compared() -> None:
    shares: list[float] = []

    def note(share: float) -> bool:
        shares.append(share)
        return True

    pool = ScriptedPool()
    found = verify_pool(opened(pool), FOUR, minutes=SHORT / 60, clock=ticking(), on_progress=note)
    record = found.to_json()
    assert set(record) == {
        *("ok", "checked_tokens", "identical", "near_ties", "failures", "pool", "seed", "seconds"),
        *("answers", "max_tokens", "rejection", "left_out"),
    }
    assert record["ok"]
    assert record["failures"] == record["near_ties"] == []
    assert record["checked_tokens"] == record["identical"] > 500
    assert {c.scheme for c in found.comparisons} == {"greedy", "coupled at 0.8", "match at 0.8"}
    assert {c.policy for c in found.comparisons} == set(FOUR.policies or ())
    assert {c.window for c in found.comparisons} == {None, 16, 1}
    assert len({c.seed for c in found.comparisons}) > 1
    for law in record["rejection"]:
        assert set(law) == {"drafter", "seeds", "drafted", "accepted", "p_value"}
        assert 0 < law["accepted"] < law["drafted"]
        assert law["p_value"] > 1e-4
    assert any("answers, for want of time" in line for line in found.lines())
    assert found.lines()[-1].startswith("scripted: nothing wrong in what was compared")
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    heads, *rows = (line.split() for line in found.lines())
    assert heads == ["answers", "drafted", "accepted", "tokens", "identical", "near", "ties"]
    cells = {row[0]: row[1:] for row in rows if len(row) == 7}
    for policy in FOUR.policies or ():
        mine = [c for c in found.comparisons if c.policy == policy]
        counts = (len(mine), sum(c.drafted for c in mine), sum(c.accepted for c in mine))
        assert cells[policy][:3] == [f"{count:,}" for count in counts]


@pytest.mark.parametrize("name", ["greedy", "coupled", "match"])
def test_a_scheme_that_accepts_too_much_in_one_round_of_a_hundred_is_found(name: str) -> None:
    found = check(ScriptedPool(makers={name: lenient(name)})).to_json()
    assert not found["ok"]
    assert {failure["scheme"].split()[0] for failure in found["failures"]} == {name}
    for failure in found["failures"]:
        assert failure["gap"] is None or failure["gap"] > failure["gap_change"]
        assert "is not plain decoding's and no tie" in failure["text"]


def test_a_target_that_forgets_too_few_tokens_is_found() -> None:
    found = check(ScriptedPool(target=Forgetful(target_rule, vocab_size=SIZE))).to_json()
    assert not found["ok"]
    assert {"greedy", "coupled at 0.8"} <= {failure["scheme"] for failure in found["failures"]}


@pytest.mark.parametrize("mistake", ["leniency", "residual"])
def test_a_rejection_that_bends_the_law_is_found(mistake: str) -> None:
    makers: dict[str, SchemeMaker] = {
        "leniency": lenient("rejection"),
        "residual": lambda settings, window: WrongRejection(settings, SIZE, window),
    }
    found = check(ScriptedPool(makers={"rejection": makers[mistake]}), LONG).to_json()
    assert [f["scheme"] for f in found["failures"]] == ["rejection"] * len(found["failures"])
    assert "code" in {failure["drafter"] for failure in found["failures"]}
    assert "do not follow the target's law" in found["failures"][0]["text"]


def test_ties_between_batch_widths_are_explained_with_their_gaps() -> None:
    found = check(ScriptedPool(target=Rounding(target_rule, vocab_size=SIZE))).to_json()
    assert found["ok"]
    assert found["near_ties"]
    assert found["identical"] == found["checked_tokens"] - len(found["near_ties"])
    for tie in found["near_ties"]:
        assert set(tie) == {
            *("scheme", "policy", "window", "seed", "prompt", "checked_tokens", "drafted"),
            *("accepted", "notices", "position", "gap", "gap_change"),
        }
        assert 0.0 <= tie["gap"] <= tie["gap_change"] < 0.01
        assert isinstance(tie["position"], int)


def test_a_device_on_which_everything_is_a_tie_does_not_pass() -> None:
    found = check(ScriptedPool(target=Coarse(target_rule, vocab_size=SIZE))).to_json()
    assert any("ties among" in failure["text"] for failure in found["failures"])


def test_a_drafter_that_fails_is_reported() -> None:
    model = ScriptedModel(drafter_rule, vocab_size=SIZE, fails_at=120)
    drafter = ModelDrafter("code", model, target_vocab_size=SIZE)
    found = check(ScriptedPool(drafters=[drafter])).to_json()
    assert any("scripted failure" in failure["text"] for failure in found["failures"])


def test_a_busy_machine_is_no_failure() -> None:
    """Threads are given up with a notice; the text is none the worse for it."""
    assert check(ScriptedPool(complaint="going on with 1 of 2 threads"), SHORT).to_json()["ok"]


@pytest.mark.parametrize("notices", [(), ("drafter code failed",)])
def test_the_exit_status_says_whether_something_is_wrong(
    notices: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = Comparison("greedy", "ucb", None, 0, 0, 64, 32, 16, None, notices)
    found = SelfTest("scripted", 0, 1.0, 64, [compared], (), ())
    monkeypatch.setattr("metasd_local.cli.verify.verify_pool", lambda *_, **__: found)
    shell = Shell()
    assert shell.run("verify", "--json") == (FAILED if notices else DONE)
    assert json.loads(shell.out)["ok"] is not bool(notices)


def test_what_the_pool_and_the_time_leave_out_is_said() -> None:
    """What was never tested is not called sound, whatever the reason."""
    found = check(ScriptedPool(drafters=[], notices=("drafter big is not used",)), 4.0)
    record = found.to_json()
    assert record["ok"]
    assert record["rejection"] == []
    assert record["left_out"] == [
        "drafter big is not used",
        "287 of 288 answers, for want of time",
        "coupled at 0.8, match at 0.8, fixed:ngram, ucb, random, for want of time",
        "fixed:code, which drafted nothing",
    ]
    shown = " ".join(line.strip() for line in found.lines())
    assert all(f"left out: {what}" in shown for what in record["left_out"])
    assert "nothing wrong in what was compared" in found.lines()[-1]


def test_a_drafter_with_too_few_answers_is_not_one_that_drafted_nothing() -> None:
    """Time and silence are told apart."""
    left_out = check(ScriptedPool(), 10.0).to_json()["left_out"]
    assert "rejection with code, ngram, for want of time: fewer than 100 answers" in left_out
    assert "rejection with ngram, which drafted nothing" not in left_out
    left_out = check(ScriptedPool(drafters=[NgramDrafter("ngram", orders=(99,))])).to_json()[
        "left_out"
    ]
    assert "rejection with ngram, which drafted nothing" in left_out


def test_prompts_have_seeds_of_their_own() -> None:
    """With the same seeds the samples that the p-value adds would not be independent."""
    drawn: list[tuple[str, str, int]] = []

    class Noting(ScriptedPool):
        def session(self, options: Options) -> Session:
            session = super().session(options)
            send = session.send

            def noted(text: str, *, seed: int, max_tokens: int | None = None) -> Generator[Event]:
                if (max_tokens or 0) > 1 and options.scheme == "rejection":
                    drawn.append((options.policy or "", text, seed))
                return send(text, seed=seed, max_tokens=max_tokens)

            session.send = noted  # type: ignore[method-assign]
            return session

    check(Noting(), 20.0)
    assert len({text for _, text, _ in drawn}) == 2
    assert len({(policy, seed) for policy, _, seed in drawn}) == len(drawn)


def test_a_pool_that_recommends_another_temperature_is_tried_at_both() -> None:
    found = check(ScriptedPool(), SHORT, dataclasses.replace(FOUR, temperature=0.5))
    schemes = {comparison.scheme for comparison in found.comparisons}
    assert schemes == {
        "greedy",
        *("coupled at 0.5", "coupled at 0.8", "match at 0.5", "match at 0.8"),
    }


def test_the_user_can_end_it_within_an_answer_and_between_two() -> None:
    pool = ScriptedPool()
    with pytest.raises(Cancelled):
        verify_pool(opened(pool), Options(), clock=ticking(), on_progress=lambda share: share < 0.1)

    def interrupted(tokens: tuple[int, ...]) -> Logits:
        pool.interrupt.set()
        return target_rule(tokens)

    pool.target = ScriptedModel(interrupted, vocab_size=SIZE, interrupt=pool.interrupt)
    with pytest.raises(Cancelled):
        verify_pool(opened(pool), Options(), clock=ticking())


def test_all_policies_that_draft_are_compared_unless_some_are_named() -> None:
    pool = ScriptedPool()
    listed = {each.name for each in POLICIES if each.name != "plain" and ":" not in each.name}
    assert set(all_policies(opened(pool))) == {"fixed:code", "fixed:ngram", *listed}
    found = check(pool, 10.0, Options(policies=("auto",)))
    assert {comparison.policy for comparison in found.comparisons} == {"auto"}
