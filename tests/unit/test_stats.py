"""The fold of events into figures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from metasd_local.events import FinishReason, GenerationDone, PromptRead, RoundDone, TextPiece
from metasd_local.stats import ArmCounts, LoopFinder, Snapshot, Stats, answer_line


def round_done(
    arm: str, emitted: tuple[int, ...], *, drafted: int = 0, accepted: int = 0, index: int = 0
) -> RoundDone:
    """Return a round of 0.25 + 0.5 + 1.25 seconds."""
    return RoundDone(
        index=index,
        arm=arm,
        window=drafted,
        drafted=drafted,
        accepted=accepted,
        emitted=emitted,
        next_kind="bonus",
        catch_up_s=0.25,
        draft_s=0.5,
        verify_s=1.25,
        own_s=0.125,
        reward=0.0,
    )


def done(reason: FinishReason = "stop") -> GenerationDone:
    """Return an end after 8 seconds of decoding, 6 of them inside llama.cpp."""
    return GenerationDone(reason, seconds_to_first_token=2.0, seconds_decode=8.0, seconds_inside=6)


def finished_stats() -> Stats:
    """Return the statistics of two rounds of `code` and one of `plain`."""
    stats = Stats()
    stats.begin([1, 2, 3])
    for event in (
        PromptRead(prompt_tokens=3, reused_tokens=1, seconds=0.5),
        round_done("code", (5, 6, 7), drafted=4, accepted=2),
        TextPiece("text"),
        round_done("plain", (8,), index=1),
        round_done("code", (9, 9, 9, 9, 9), drafted=4, accepted=4, index=2),
        done(),
    ):
        stats.observe(event)
    return stats


def test_counters_add_up_to_the_stats_object() -> None:
    """Every event is counted where `run --json` promises it, and nothing else is there."""
    assert finished_stats().snapshot.to_json() == {
        "prompt_tokens": 3,
        "prompt_tokens_reused": 1,
        "emitted": 9,
        "rounds": 3,
        "drafted": 8,
        "accepted": 6,
        "seconds_prompt": 0.5,
        "seconds_to_first_token": 2.0,
        "seconds_decode": 8.0,
        "tokens_per_second": 9 / 8,
        "overhead_share": 0.25,
        "loop_share": 0.0,
        "arms": {
            "code": {"rounds": 2, "drafted": 8, "accepted": 6, "emitted": 8, "seconds": 4.0},
            "plain": {"rounds": 1, "drafted": 0, "accepted": 0, "emitted": 1, "seconds": 2.0},
        },
    }


def test_rates_are_ratios_of_counters() -> None:
    """Rates the JSON does not carry follow the same counters."""
    snapshot = finished_stats().snapshot
    assert snapshot.acceptance_rate == 6 / 8
    assert snapshot.arms["code"].acceptance_rate == 6 / 8
    assert snapshot.arms["plain"].acceptance_rate is None


def test_no_rate_is_known_before_the_first_round() -> None:
    """A rate that is not known is None, neither 0 nor NaN."""
    empty = Snapshot()
    assert empty.tokens_per_second is None
    assert empty.acceptance_rate is None
    assert empty.overhead_share is None
    assert empty.loop_share is None


def test_a_running_generation_has_a_speed_and_no_overhead_yet() -> None:
    """Until the engine reports its own time, decoding is the sum of the rounds."""
    stats = Stats()
    stats.observe(round_done("code", (5, 6, 7), drafted=4, accepted=2))
    assert stats.snapshot.tokens_per_second == 3 / 2.0
    assert stats.snapshot.overhead_share is None


def test_a_snapshot_does_not_change_when_more_events_come() -> None:
    """A reader in another thread may keep one."""
    stats = Stats()
    empty = stats.snapshot
    stats.observe(round_done("code", (5,)))
    one_round = stats.snapshot
    stats.observe(round_done("code", (6, 7)))
    assert empty == Snapshot()
    assert one_round.arms["code"].emitted == one_round.emitted == 1


def test_begin_forgets_the_last_generation() -> None:
    """Counters and loops belong to one answer."""
    stats = finished_stats()
    stats.begin([])
    assert stats.snapshot == Snapshot()


PHRASE = list(range(10, 18))
LOOPS = {
    "twice is no loop": ([*PHRASE, 1, *PHRASE], 0),
    "three times, the first is free": ([*PHRASE, 1, *PHRASE, 2, *PHRASE], 16),
    "four times": ([*PHRASE, 1, *PHRASE, 2, *PHRASE, 3, *PHRASE], 24),
    "seven tokens are too short": ([*PHRASE[:7], 1, *PHRASE[:7], 2, *PHRASE[:7], 3], 0),
    "one token 23 times": ([7] * 23, 0),
    "one token 24 times": ([7] * 24, 16),
    "a cycle of nine": ([*PHRASE, 1] * 3, 18),
}


@pytest.mark.parametrize(("answer", "num_looping"), LOOPS.values(), ids=LOOPS)
def test_loops_are_eight_grams_that_stand_three_times(answer: list[int], num_looping: int) -> None:
    """Occurrences do not overlap, and each but the first counts its tokens once."""
    loops = LoopFinder(())
    loops.add(answer)
    assert loops.num_looping == num_looping


@pytest.mark.parametrize("answer", [answer for answer, _ in LOOPS.values()], ids=LOOPS)
def test_loops_do_not_depend_on_how_rounds_cut_the_answer(answer: list[int]) -> None:
    """Token by token gives what one round gives."""
    at_once, one_by_one = LoopFinder(()), LoopFinder(())
    at_once.add(answer)
    for token in answer:
        one_by_one.add([token])
    assert at_once.num_looping == one_by_one.num_looping


def test_copying_the_prompt_is_no_loop() -> None:
    """What stands in the prompt may be said any number of times."""
    answer = [*PHRASE, 1, *PHRASE, 2, *PHRASE]
    copying, looping = LoopFinder([3, *PHRASE, 4]), LoopFinder(PHRASE[1:])
    copying.add(answer)
    looping.add(answer)
    assert copying.num_looping == 0
    assert looping.num_looping == 16


def test_stats_take_the_prompt_into_account() -> None:
    """The share is over all emitted tokens, and `begin` carries the prompt."""
    answer = (*PHRASE, 1, *PHRASE, 2, *PHRASE, 3, 4, 5, 6, 7, 8)
    stats = Stats()
    stats.begin([])
    stats.observe(round_done("code", answer))
    assert stats.snapshot.loop_share == 16 / 32
    stats.begin(PHRASE)
    stats.observe(round_done("code", answer))
    assert stats.snapshot.loop_share == 0.0


def test_the_answer_line_names_as_many_arms_as_fit_a_line() -> None:
    """All that is known, in less than 80 columns where that is possible."""
    snapshot = finished_stats().snapshot
    line = "9 tokens · 1.1 tok/s · 75% acc. · code 67%, plain 33% · first 2.00 s"
    assert answer_line(snapshot) == line
    assert answer_line(snapshot, plain_s=1.0, seed=987654) == (
        "9 tokens · 1.1 tok/s · ~+12% · 75% acc. · code 67%, plain 33% · seed 987654"
    )
    counts = {"general": (56, 300), "maths": (23, 160), "code": (21, 50)}
    arms = {
        name: ArmCounts(rounds, 5 * rounds, 3 * rounds, n) for name, (rounds, n) in counts.items()
    }
    long = replace(snapshot, emitted=510, seconds_decode=5.0, rounds=100, arms=arms)
    assert answer_line(long, 0.011) == (
        "510 tokens · 102 tok/s · ~+12% · 75% acc. · general 56%, maths 23%, code 21%"
    )


def test_the_answer_line_leaves_out_what_is_not_known() -> None:
    """Nothing emitted, nothing claimed."""
    assert answer_line(Snapshot()) == "0 tokens"


@pytest.mark.parametrize(
    ("reason", "start"),
    [
        ("stop", "1 token · "),
        ("length", "1 token (limit) · "),
        ("cancelled", "1 token (stopped) · "),
    ],
)
def test_the_answer_line_says_why_the_answer_ended_early(reason: FinishReason, start: str) -> None:
    """A complete answer needs no remark."""
    stats = Stats()
    stats.observe(round_done("plain", (1,)))
    stats.observe(done(reason))
    assert answer_line(stats.snapshot).startswith(start)
