"""What one generation adds to a bench."""

from __future__ import annotations

import pytest

from metasd_local.bench.measure import fold_run
from metasd_local.bench.prompts import Prompt
from metasd_local.errors import Cancelled
from metasd_local.events import Event, Notice
from tests.bench_runs import generation, round_done

PROMPT = Prompt("code", "say something")


def test_counters_are_those_of_the_rounds() -> None:
    """Tokens, rounds by arm and outcome, drafting time, time outside llama.cpp."""
    rounds = [
        round_done(0),
        round_done(1),
        round_done(2, arm="ngram", drafted=5, accepted=5),
        round_done(3, arm="plain", drafted=0, accepted=0),
    ]
    run = fold_run("ucb", PROMPT, 1, (), generation(rounds, inside=0.75))
    assert (run.policy, run.prompt, run.repeat) == ("ucb", PROMPT, 1)
    assert run.rounds == {("code", 4, 2): 2, ("ngram", 5, 5): 1, ("plain", 0, 0): 1}
    assert run.emitted == run.length == 3 + 3 + 6 + 1
    assert run.looping == 0
    assert run.seconds_decode == pytest.approx(0.04)
    assert run.overhead_share == pytest.approx(0.25)
    assert run.draft_seconds["code"] == pytest.approx(0.005)


def test_notices_are_kept_but_for_those_of_the_setup() -> None:
    """These come before the prompt is read and are said already."""
    read, *others = generation([round_done(0)])
    run = fold_run(
        "ucb", PROMPT, 0, (), [Notice("hardly fits"), read, Notice("drafter failed"), *others]
    )
    assert run.notices == ("drafter failed",)


def test_what_follows_the_second_occurrence_of_a_loop_is_left_out() -> None:
    """Rounds and their share of the time go, the first occurrence stays."""
    phrase = tuple(range(8))
    rounds = [round_done(index, accepted=7, drafted=8, tokens=phrase) for index in range(5)]
    run = fold_run("ucb", PROMPT, 0, (), generation(rounds))
    assert run.length == 40
    assert run.looping == 32
    assert run.emitted == 8
    assert run.rounds == {("code", 8, 7): 1}
    assert run.seconds_decode == pytest.approx(0.01)


def test_repeating_the_prompt_is_no_loop() -> None:
    """Copying is what was asked for."""
    phrase = tuple(range(8))
    rounds = [round_done(index, accepted=7, drafted=8, tokens=phrase) for index in range(5)]
    run = fold_run("ucb", PROMPT, 0, 2 * phrase, generation(rounds))
    assert (run.looping, run.emitted) == (0, 40)


@pytest.mark.parametrize("events", [[], generation([round_done(0)], reason="cancelled")])
def test_an_interrupted_generation_does_not_count(events: list[Event]) -> None:
    """Half an answer has no speed."""
    with pytest.raises(Cancelled):
        fold_run("ucb", PROMPT, 0, (), events)
