"""The README and what it speaks of cannot drift apart."""

from __future__ import annotations

import re
from pathlib import Path

from metasd_local.options import OPTIONS, SCHEMES
from metasd_local.selection import POLICIES
from metasd_local.stats import ArmCounts, Snapshot
from tests.publish import DOCUMENTS, published

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CHECKS = (ROOT / ".ci/run").read_text(encoding="utf-8")

OTHER_TOOLS_FLAGS = {"--verbose", "--prefer-binary", "--extra-index-url", "--no-binary", "--check"}


def code_lines() -> list[str]:
    """Return the lines of the README's shell blocks."""
    return [
        line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.split("\n")
    ]


def section(title: str) -> str:
    """Return the text under a heading, up to the next one."""
    return re.split(r"^#+ ", README.partition(f" {title}\n")[2], maxsplit=1, flags=re.M)[0]


def test_the_readme_can_be_read_in_one_go() -> None:
    """No more than 300 lines besides the generated tables."""
    written = re.sub(r"<!-- bench:.*?<!-- end -->", "", README, flags=re.S)
    assert len(written.splitlines()) <= 300


def test_checks_run_the_test_command_of_the_readme() -> None:
    """The same steps in the same order, in a virtual environment of their own."""
    (command,) = [line for line in code_lines() if "pytest" in line]
    steps = [step.replace(".venv/", '"$venv"/') for step in command.split(" && ")]
    assert len(steps) == 2
    assert "\n".join(steps) in CHECKS


def test_install_and_test_are_one_line_each() -> None:
    """Two commands lead from a clone to an answer and to a passed test."""
    lines = code_lines()
    assert sum("python3 -m venv" in line and "metasd run" in line for line in lines) == 1
    assert sum("pytest" in line for line in lines) == 1


def test_every_option_is_in_the_readme_and_no_other() -> None:
    """The table of options there is the table in the program."""
    flags = {f"--{option.name}" for option in OPTIONS if option.commands}
    switches = {f"--no-{option.name}" for option in OPTIONS if option.is_switch}
    mentioned = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", README))
    assert flags <= mentioned
    assert mentioned - flags - switches <= OTHER_TOOLS_FLAGS


def test_every_policy_and_scheme_has_its_row() -> None:
    """In the order of the program."""
    rows = re.compile(r"^\| `([^`-][^`]*)`", re.M)
    assert rows.findall(section("Policies")) == [policy.name for policy in POLICIES]
    assert rows.findall(section("Schemes")) == list(SCHEMES)


def test_every_statistic_of_the_json_is_explained() -> None:
    """A reader of the README knows every key of the stats object."""
    mentioned = set(re.findall(r"`(\w+)`", section("JSON")))
    stats = Snapshot(arms={"code": ArmCounts()}).to_json()
    assert {*stats, *stats["arms"]["code"]} <= mentioned


def test_every_table_of_figures_is_that_of_a_kept_document() -> None:
    """No figure is typed by hand: see tests/publish.py."""
    names = re.findall(r"<!-- bench: ([\w-]+) -->", README)
    assert sorted(names) == sorted(path.stem for path in DOCUMENTS.glob("*.json"))
    assert published(README) == README


def test_every_file_the_readme_names_exists() -> None:
    """Renaming one is noticed here."""
    for name in re.findall(
        r"`((?:metasd_local/|tests/|\.ci/)[\w/.]*|LICENSE|models\.toml)`", README
    ):
        assert (ROOT / name).exists(), name
