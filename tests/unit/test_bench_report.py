"""Every figure of a bench document is shown where a reader looks for it, in any form."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest

from metasd_local.bench.report import (
    COLUMNS,
    UNKNOWN,
    report_block,
    table_lines,
)
from tests.publish import bench_table, replace_block


def bench_result(policy: str, domain: str, **figures: Any) -> dict[str, Any]:
    """Return a row of results whose other figures are unknown."""
    names = (
        "tokens_per_second speedup interval acceptance_rate mean_accepted_length overhead_share "
        "loop_share best_arm_share possible_speedup of_possible"
    )
    nothing = {**dict.fromkeys(names.split()), "prompts": 0, "is_valid": None}
    known = {"prompts": 9, "emitted": 2304, "seconds_decode": 2.0, "is_valid": True}
    place = {"policy": policy, "domain": domain, "short": nothing}
    return nothing | known | place | figures


def short_figures(**figures: Any) -> dict[str, Any]:
    """Return the figures of short answers in a row of results."""
    short: dict[str, Any] = bench_result("", "")["short"]
    return short | figures


def bench_document(*results: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a bench document with these results and nothing said by default."""
    return {
        "commit": "abc1234",
        "command": "metasd bench --policies plain,auto",
        "pool": "starter",
        "device": "CPU",
        "machine": {"cpu": "Z80", "cores": 1, "memory_bytes": 3 << 29, "system": "CP/M 2.2"},
        "llama_cpp": "0.3.36",
        "threads": 1,
        "scheme": "greedy",
        "temperature": 0.0,
        "max_tokens": 256,
        "prompts_hash": "0123456789abcdef" * 4,
        "idle": True,
        "idle_detail": "repeated plain runs differ by 1%",
        "warnings": [],
        "emulated": False,
        "cost_curve": None,
        "curve_depth": 128,
        "drafter_costs": None,
        "results": list(results),
        "best": [],
        "summary": {},
        "ceiling": None,
    } | changes


def cells(line: str) -> list[str]:
    return re.split(r"\s{2,}", line)


def rows_under(document: dict[str, Any], title: str) -> list[list[str]]:
    """Return the cells of the lines between a title and the next empty line."""
    lines = table_lines(document)
    start = lines.index(title) + 1
    end = lines.index("", start)
    return [cells(line) for line in lines[start:end]]


def test_speed_ups_stand_by_policy_and_domain_with_half_their_interval() -> None:
    """Unknown figures are a dash, looping domains bear a star that is explained."""
    document = bench_document(
        bench_result("plain", "code", speedup=1.0, interval=[1.0, 1.0]),
        bench_result("plain", "maths", speedup=1.0, loop_share=0.11, is_valid=False),
        bench_result("auto", "code", speedup=1.253, interval=[1.1, 1.4]),
        bench_result("auto", "maths", loop_share=0.11, is_valid=False),
        summary={"auto": {"speedup": 1.2, "interval": [1.1, 1.32]}},
    )
    assert rows_under(document, "Speed-up over plain") == [
        ["policy", "code", "maths", "all"],
        ["answers", "9", "9"],
        ["loops", UNKNOWN, "11%"],
        ["plain", "1.00±0.00", "1.00*", UNKNOWN],
        ["auto", "1.25±0.15", f"{UNKNOWN}*", "1.20±0.11"],
    ]
    assert any("10 % of the tokens are loops" in line for line in table_lines(document))


def test_details_are_means_over_the_domains_that_have_them() -> None:
    """Shares of the best and the worst domain come from the summary."""
    shares = {"overhead_share": 0.04, "of_possible": 0.8, "possible_speedup": 1.5}
    document = bench_document(
        bench_result("auto", "code", acceptance_rate=0.5, mean_accepted_length=3.0, **shares),
        bench_result("auto", "maths", acceptance_rate=0.3, mean_accepted_length=2.0),
        summary={"auto": {"of_oracle": 0.9, "of_oracle_interval": [0.8, 1], "of_plain_worst": 0.7}},
    )
    header, row = rows_under(document, "Details")
    assert dict(zip(header, row, strict=True)) == {
        "policy": "auto",
        "of best": "0.90±0.10",
        "worst": "0.70",
        "length": "2.50",
        "accepted": "40%",
        "overhead": "4%",
        "possible": "80% of 1.50",
        "best arm": UNKNOWN,
    }


def test_short_answers_and_the_best_in_hindsight_have_tables_of_their_own() -> None:
    """Tables without content are left out."""
    short = short_figures(prompts=5, speedup=0.5)
    document = bench_document(
        bench_result("auto", "code", prompts=0, is_valid=None, short=short),
        bench_result("auto", "maths"),
        best=[
            {
                "domain": "maths",
                "arm": "ngram",
                "window": 3,
                "tokens_per_second": 812.34,
                "speedup": None,
            }
        ],
    )
    assert rows_under(document, "Speed-up over plain, answers under 128 tokens") == [
        ["policy", "code", "all"],
        ["answers", "5"],
        ["loops", UNKNOWN],
        ["auto", "0.50", UNKNOWN],
    ]
    assert rows_under(document, "Best in hindsight")[1] == ["maths", "ngram", "3", "812.3", UNKNOWN]
    assert not any("loops are" in line or "not valid" in line for line in table_lines(document))
    plain = table_lines(bench_document(bench_result("auto", "maths")))
    assert "Best in hindsight" not in plain
    assert "Speed-up over plain, answers under 128 tokens" not in plain


def test_a_bench_without_results_still_reports_its_machine() -> None:
    """An interrupted one may have none."""
    assert "machine Z80" in table_lines(bench_document())[0]
    assert "- machine: Z80" in report_block(bench_document())


def test_a_wide_table_goes_on_below_itself() -> None:
    """No line is wider than a terminal, the first column is repeated."""
    domains = [f"domain{number:02}" for number in range(15)]
    results = [bench_result("fixed:general", domain, speedup=1.0) for domain in domains]
    lines = table_lines(bench_document(*results))
    assert max(map(len, lines)) <= COLUMNS
    headings = [cells(line) for line in lines if line.startswith("policy")]
    assert [name for row in headings for name in row if name in domains] == domains
    assert sum(line.startswith("fixed:general  ") for line in lines) >= 4


def test_seven_domains_take_two_blocks_and_five_take_one() -> None:
    """The usual tables stay compact."""
    names = ["code", "maths", "translation", "dialogue", "questions", "copying", "mixed"]
    for count, blocks in ((5, 1), (7, 2)):
        results = [
            bench_result("fixed:general", name, speedup=1.0, interval=[0.9, 1.1])
            for name in names[:count]
        ]
        lines = table_lines(bench_document(*results))
        assert (
            sum(line.startswith("policy") and "answers" in after for line, after in pairwise(lines))
            == blocks
        )


def test_what_makes_figures_doubtful_is_said_everywhere() -> None:
    """A busy machine, warnings, emulation, the curve behind the possible speed-up."""
    document = bench_document(
        idle=False,
        idle_detail="other processes used 0.40 cores",
        warnings=["two prompts were left out"],
        emulated=True,
        cost_curve={"1": 0.00085, "9": 0.0029},
        drafter_costs={"general": 6e-5},
        ceiling=1.084,
    )
    texts = [" ".join(table_lines(document)), report_block(document)]
    for text in texts:
        for said in (
            "Warning: the machine was not idle: other processes used 0.40 cores",
            "Warning: two prompts were left out",
            "EMULATED",
            "verify n tokens, 128 before them: 1: 0.85, 9: 2.9.",
            "draft a token: general: 0.06.",
            "1.08 times",
            "starts every answer from nothing",
        ):
            assert said in text


def test_names_cannot_steer_a_terminal_or_break_a_table() -> None:
    """They may come from a file somebody else wrote."""
    document = bench_document(
        bench_result("a|b", "c*d\x1b[2J", speedup=1.0), warnings=["x\n| y |"], command="a `b`"
    )
    assert not any("\x1b" in line for line in table_lines(document))
    text = report_block(document)
    assert "\x1b" not in text
    assert f"| a\\|b | 1.00 | {UNKNOWN} |" in text
    assert "c\\*d" in text
    assert "`a 'b'`" in text
    assert "Warning: x \\| y \\|" in text


def test_markdown_rows_have_as_many_cells_as_their_heading() -> None:
    """And the block says how to repeat the measurement."""
    text = report_block(
        bench_document(bench_result("plain", "code", short=short_figures(prompts=1, speedup=1.0)))
    )
    for table in text.split("\n\n"):
        rows = [line for line in table.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in rows}) <= 1
    assert text.count("\n|---") == 4
    assert "`metasd bench --policies plain,auto`, commit `abc1234`, prompts `0123456789ab`" in text


README = "a\n<!-- bench: one -->\nold\n<!-- end -->\nb\n<!-- bench: two -->\n<!-- end -->\n"


def test_a_block_is_replaced_and_nothing_around_it() -> None:
    """Doing it again changes nothing; a backslash in the block is only a backslash."""
    once = replace_block(README, "one", "new \\1\n")
    assert once == README.replace("old\n", "new \\1\n")
    assert replace_block(once, "one", "new \\1\n") == once
    assert replace_block(README, "two", "x\n").endswith("<!-- bench: two -->\nx\n<!-- end -->\n")


@pytest.mark.parametrize("text", ["", "<!-- bench: one -->\nno end", README + README])
def test_markers_must_be_there_exactly_once(text: str) -> None:
    """A table that would silently stay old is an error."""
    with pytest.raises(AssertionError, match="places for the table 'one', expected one"):
        replace_block(text, "one", "new\n")


def test_the_readme_shows_long_answers_or_short_ones_whichever_are_more() -> None:
    """One table with the speed-ups and what explains them, and where it was measured."""
    long = bench_result("auto", "code", speedup=1.5, acceptance_rate=0.5, overhead_share=0.04)
    short = short_figures(prompts=2, speedup=0.5)
    summary = {"speedup": 1.5, "of_oracle": 0.9, "short": {"speedup": 0.5}}
    text = bench_table(bench_document({**long, "short": short}, summary={"auto": summary}))
    assert "| auto | 1.50 | 1.50 | 0.90 | 50% | 4% |" in text
    assert "machine Z80" in text
    assert "Emulated" not in text
    document = bench_document(
        {**long, "prompts": 1, "short": short}, summary={"auto": summary}, emulated=True
    )
    text = bench_table(document)
    assert text.startswith("Emulated acceptance, real compute: ")
    assert "answers under 128 tokens" in text
    assert "| auto | 0.50 | 0.50 |" in text
