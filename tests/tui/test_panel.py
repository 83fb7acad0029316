"""The figures on the screen are those of the events."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from metasd_local.events import GenerationDone, PromptRead, RoundDone
from metasd_local.replay import read_recordings, recording
from metasd_local.sampling import SamplerSettings
from metasd_local.session import Setup
from metasd_local.stats import answer_line, gain, gain_text, speed
from metasd_local.trace import TraceWriter
from tests.tui.scripted_pool import ScriptedPool, chat_on
from tui.figures import sparkline, stats_lines
from tui.live import Live
from tui.marks import Legend
from tui.panel import panel, status
from tui.worker import Step

SETUP = Setup("big", "ucb", "coupled", SamplerSettings(), "CPU", 2, ("code", "maths"), 100)


def round_of(arm: str, drafted: int, accepted: int, **scores: float) -> Step:
    event = RoundDone(
        index=0,
        arm=arm,
        window=5,
        drafted=drafted,
        accepted=accepted,
        emitted=tuple(range(accepted + 1)),
        next_kind="recovered",
        catch_up_s=0.0,
        draft_s=0.125,
        verify_s=0.125,
        own_s=0.0,
        reward=0.5,
        scores=scores,
    )
    return Step(event, plain_s=0.125)


def live_of(*steps: Step) -> Live:
    live = Live()
    live.observe(Step(PromptRead(20, 5, 0.5), prompt_tokens=(1, 2)))
    for step in steps:
        live.observe(step)
    return live


def told(live: Live, *, is_busy: bool = True) -> str:
    """Return what the panel says."""
    return panel(live, SETUP, Legend(), is_busy=is_busy).plain


def test_the_panel_shows_every_arm_and_marks_the_one_in_use() -> None:
    live = live_of(
        round_of("code", 5, 5, code=float("inf"), maths=float("inf")),
        round_of("maths", 4, 1, code=0.75, maths=float("inf")),
        round_of("code", 5, 0, code=0.75, maths=0.5),
    )
    lines = told(live).split("\n")
    assert lines[:4] == [
        "pool big · policy ucb · coupled",
        "CPU · 2 threads · context 29 of 100 (29 %)",
        "12.0 tok/s now · plain ~8.0 · gain ~+50 %",
        "prompt 20 (5 known), 0.50 s · first 0.75 s",
    ]
    assert lines[5:8] == [
        "  arm        used acc. len tok/s score recent",
        "▸¹code        67%  50% 3.5  14.0  0.75 █▁    ",
        " ²maths       33%  25% 2.0   8.0  0.50 ▃     ",
    ]
    assert lines[-2:] == ["¹²¹", "510"]


def test_without_colour_the_signs_remain() -> None:
    live = live_of(round_of("code", 5, 5), round_of("maths", 4, 1))
    assert {"¹", "²", "▸"} <= set(told(live))


def test_the_folded_panel_fits_80_columns() -> None:
    live = live_of(round_of("a-long-name-of-an-arm", 5, 0))
    line = status(live, SETUP, is_busy=True).plain
    assert line == (
        "▸a-long-name-of-an-arm · 4.0 tok/s · plain ~8.0 · ~-50 % · 0 % accepted · context 21 %"
    )
    assert len(status(live_of(round_of("dialogue", 5, 0)), SETUP, is_busy=True).plain) < 78


def test_a_full_context_is_full_and_no_more() -> None:
    """The last token is emitted, but never read."""
    live = live_of(*(round_of("code", 5, 5) for _ in range(14)))
    assert "context 100 %" in status(live, SETUP, is_busy=True).plain
    assert "context 100 of 100 (100 %)" in told(live)


def test_the_end_counts_the_whole_decoding() -> None:
    live = live_of(round_of("code", 5, 4))
    live.observe(Step(GenerationDone("stop", 0.5, seconds_decode=2.0, seconds_inside=1.0)))
    assert "2.5 tok/s · plain ~8.0 · gain ~-69 %" in told(live, is_busy=False)
    assert "2.5 tok/s · plain ~8.0 · ~-69 % · 8" in status(live, SETUP, is_busy=False).plain
    assert "2.5 tok/s · ~-69% · 8" in answer_line(live.snapshot, live.plain_s)


def test_the_speed_of_now_looks_back_a_second() -> None:
    live = live_of(*[round_of("code", 5, 0)] * 20, *[round_of("code", 5, 5)] * 4)
    assert "24.0 tok/s now" in told(live)
    assert live.snapshot.tokens_per_second == pytest.approx(44 / 6)


def test_what_is_not_known_is_not_invented() -> None:
    """Nor is anything gained by drafts where nothing was drafted."""
    assert "- tok/s now\n" in told(Live())
    assert gain(None, 0.1) is gain(5.0, None) is None
    assert speed(None) == "-"
    unknown = live_of(Step(round_of("code", 5, 5).event))
    undrafted = live_of(round_of("plain", 0, 0))
    for live, shown in ((unknown, "24.0 tok/s · 100"), (undrafted, "4.0 tok/s · plain ~8.0 · c")):
        assert shown in status(live, SETUP, is_busy=True).plain
        assert "gain" not in told(live)
        assert "~" not in answer_line(live.snapshot, live.plain_s)
    assert "plain ~" not in told(unknown)


def test_figures_that_an_older_version_did_not_keep_are_left_open() -> None:
    whole = {**live_of(round_of("code", 5, 4)).snapshot.to_json(), "pool": "big", "policy": "ucb"}
    lines = stats_lines({**whole, "seed": 7})
    assert lines[0] == "big · ucb · seed 7"
    assert lines[2] == "answer 5 tokens in 0.25 s, 20.0 tok/s"
    assert lines[4].split() == ["code", "1", "rounds", "80", "%", "accepted", "20.0", "tok/s"]
    for name in whole:
        assert len(stats_lines({key: whole[key] for key in whole if key != name})) >= 4
    assert stats_lines({"arms": {"code": {"rounds": 2}}})[-1].split()[:3] == ["code", "2", "rounds"]


@pytest.mark.parametrize(("value", "text"), [(0.5, "~+50 %"), (-0.25, "~-25 %"), (0.0, "~+0 %")])
def test_a_gain_has_its_sign(value: float, text: str) -> None:
    assert gain_text(value) == text


def test_a_sparkline_has_a_bar_for_every_round() -> None:
    assert sparkline([0.0, 0.5, 0.99, 1.0]) == "▁▅██"


@pytest.mark.parametrize(("size", "columns"), [((120, 40), 70), ((200, 60), 150)])
async def test_the_panel_folds_when_the_terminal_is_narrow(
    tmp_path: Path, size: tuple[int, int], columns: int
) -> None:
    """And leaves the text 70 columns where it does not, with no row of its own wrapped."""
    ticks = itertools.count()
    pool = ScriptedPool({"long": "x" * columns}, clock=lambda: next(ticks) / 50)
    async with chat_on(pool, tmp_path, size=size) as chat:
        await chat.ask("long")
        assert "x" * columns in chat.screen()
        shown = [row.partition("│ ")[2] for row in chat.screen().split("\n")]
        desk = chat.app.desk
        assert desk.setup is not None
        wanted = panel(desk.live, desk.setup, chat.app.legend, is_busy=False).plain.split("\n")
        assert shown[: len(wanted)] == [row.rstrip() for row in wanted]
        assert "last rounds" in chat.screen()
        await chat.pilot.press("f3")
        await chat.pilot.pause()
        assert "last rounds" not in chat.screen()
        await chat.pilot.press("f3")
        await chat.pilot.resize_terminal(80, 24)
        await chat.pilot.pause()
        assert "last rounds" not in chat.screen()
        assert "fixed:ngram · " in chat.screen()
        await chat.until(lambda: "f3 Panel" not in chat.screen())


async def test_the_figures_on_the_screen_are_those_of_the_trace(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    pool = ScriptedPool({"hi": "one two three one two three one two, three. " * 3})
    with TraceWriter(path) as trace:
        recorded = cast(ScriptedPool, SimpleNamespace(open=recording(pool.open, trace)))
        async with chat_on(recorded, tmp_path, size=(200, 40)) as chat:
            await chat.ask("hi")
            screen = chat.screen()
            setup = chat.app.desk.setup
    live = Live()
    assert setup is not None
    [answer] = read_recordings(path)
    for event, known in answer.steps:
        live.observe(Step(event, prompt_tokens=known.prompt_tokens, plain_s=known.plain_s))
    assert answer_line(live.snapshot, live.plain_s) in screen
    legend = Legend()
    for drafter in setup.drafters:
        legend.sign(drafter)
    shown = [row.partition("│")[2].strip() for row in screen.split("\n")]
    wanted = [row.strip() for row in panel(live, setup, legend, is_busy=False).plain.split("\n")]
    assert shown[: len(wanted)] == wanted
    counts = live.snapshot.arms["ngram"]
    assert 0 < counts.accepted < counts.drafted
    assert f"{100 * counts.accepted / counts.drafted:.0f}%" in wanted[6]
