"""The embedded pool keeps what its card says, and its training text what is held out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metasd_local.pools.local import find_pool
from metasd_local.starter import train
from metasd_local.starter.train.config import DomainSettings
from metasd_local.starter.train.forms import WORD, read_groups
from metasd_local.starter.train.matrix import Cell, measure
from metasd_local.starter.train.records import is_held_out, read_records

POOL = find_pool("starter")
SPECIALISTS = ("code", "maths", "translation", "dialogue")
MAX_POOL_BYTES = 62_000_000
SAMPLE = Path(train.__file__).parent / "sample"


def read_prompts(domain: str, count: int) -> list[str]:
    lines = (Path(__file__).parents[1] / "data" / "prompts.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    # Open questions are called dialogue too, but no drafter is at home in them.
    chosen = [r for r in records if r["domain"] == domain and "dolly" not in r["source"]]
    return [record["prompt"] for record in chosen[:count]]


def matrix(num_prompts: int) -> dict[str, dict[str, Cell]]:
    prompts = {domain: read_prompts(domain, num_prompts) for domain in SPECIALISTS}
    drafters = {d.name: d.path for d in POOL.drafters if d.name in SPECIALISTS}
    return measure(POOL.target, drafters, prompts, lambda _: None)


def check_specialists_lead_at_home(num_prompts: int) -> None:
    cells = matrix(num_prompts)
    for domain in SPECIALISTS:
        rates = {name: cells[name][domain].acceptance_rate or 0.0 for name in SPECIALISTS}
        assert max(rates, key=rates.__getitem__) == domain, rates


@pytest.mark.full
def test_each_specialist_accepts_more_at_home_than_every_other_one() -> None:
    check_specialists_lead_at_home(30)


def test_the_pool_is_small_enough_to_be_embedded() -> None:
    paths = (POOL.target, *(drafter.path for drafter in POOL.drafters))
    assert sum(path.stat().st_size for path in paths) <= MAX_POOL_BYTES


@pytest.mark.parametrize("form", ["single", "joined"])
def test_no_training_text_shows_a_held_out_record(form: str) -> None:
    settings = DomainSettings(form=form)
    groups = read_groups(SAMPLE, "translation", settings, 1, held_out=False)
    shown = "\n".join(record.response for group in groups for record in group)
    kept = [
        record.response for record in read_records(SAMPLE, "translation") if is_held_out(record)
    ]
    # Short sentences stand in several records.
    long = [text for text in kept if len(text) > 40]
    assert long
    assert not [text for text in long if text in shown]


def test_a_copied_answer_has_every_word_from_its_prompt() -> None:
    files = ("code", "dialogue", "maths", "stories")
    settings = DomainSettings(form="copied", files=files, max_characters=3000)
    groups = list(read_groups(SAMPLE, "copying", settings, 1, held_out=False))
    assert len(groups) > 100
    for (record,) in groups:
        assert set(WORD.findall(record.response)) <= set(WORD.findall(record.prompt))
