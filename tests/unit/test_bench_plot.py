"""The picture shows every known figure where the axis says it is, and stays valid XML."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from metasd_local.bench.plot import check_writable, plot_svg, write_plot
from metasd_local.errors import UsageError
from tests.unit.test_bench_report import bench_document, bench_result

SVG = "{http://www.w3.org/2000/svg}"
DOCUMENT = bench_document(
    bench_result("plain", "code", speedup=1.0),
    bench_result("plain", "maths", speedup=1.0),
    bench_result("ucb", "code", speedup=2.0, interval=[1.5, 2.25]),
    bench_result("ucb", "maths", speedup=0.5),
    bench_result("auto", "code"),
    bench_result("auto", "maths", speedup=1.0, loop_share=0.2, is_valid=False),
)


def labels(root: ElementTree.Element) -> dict[str, tuple[float, float]]:
    """Return where each text stands."""
    return {
        text.text or "": (float(text.attrib["x"]), float(text.attrib["y"]))
        for text in root.iter(f"{SVG}text")
    }


def marks(root: ElementTree.Element) -> dict[str, list[str]]:
    """Return the paths of every mark by its caption: whiskers, then the shape."""
    return {
        group.findtext(f"{SVG}title", ""): [path.attrib["d"] for path in group.iter(f"{SVG}path")]
        for group in root.iter(f"{SVG}g")
    }


def test_marks_and_whiskers_stand_at_their_figures() -> None:
    """On the scale the labels of the axis give; unknown figures have no mark."""
    root = ElementTree.fromstring(plot_svg(DOCUMENT))
    places, drawn = labels(root), marks(root)
    zero, one = places["0"][1] - 4, places["1"][1] - 4
    assert set(drawn) == {
        "ucb, code: 2.00 (1.50 to 2.25)",
        "ucb, maths: 0.50",
        "auto, maths: 1.00",
        "ucb",
        "auto",
    }
    whiskers, shape = drawn["ucb, code: 2.00 (1.50 to 2.25)"]
    numbers = [float(number) for number in re.findall(r"(?<=[ V])\d+\.\d", whiskers + " " + shape)]
    heights = [(zero - y) / (zero - one) for y in numbers]
    assert heights == pytest.approx([1.5, 2.25, 1.5, 2.25, 2.0], abs=0.01)
    assert drawn["ucb, maths: 0.50"][0] == ""


def test_marks_stand_in_the_column_of_their_domain_in_the_order_of_the_policies() -> None:
    """Left and right of its middle."""
    root = ElementTree.fromstring(plot_svg(DOCUMENT))
    drawn, middle = marks(root), labels(root)["maths"][0]
    left, right = (
        float(drawn[name][1][1:].split()[0]) for name in ("ucb, maths: 0.50", "auto, maths: 1.00")
    )
    assert left < middle < right
    assert right - left == pytest.approx(16, abs=0.2)


def test_looping_domains_are_hatched_and_named() -> None:
    """Not those whose share of loops is unknown because all answers were short."""
    text = plot_svg(DOCUMENT)
    assert text.count('fill="url(#loops)"') == text.count("loops: invalid") == 1
    short = bench_document(bench_result("auto", "code", prompts=0, is_valid=None))
    assert "url(#loops)" not in plot_svg(short)


def test_names_are_escaped() -> None:
    """Markup and control characters of a name stay text."""
    document = bench_document(bench_result("<b>&", 'x"\x00\x1b', speedup=1.0), pool="</svg>")
    root = ElementTree.fromstring(plot_svg(document))
    assert "<b>&" in labels(root)
    assert 'x"��' in labels(root)


@pytest.mark.parametrize("speedup", [0.01, 1.3, 3.9999999999999996, 167.0, 1e6])
def test_every_mark_and_label_lies_inside_the_picture(speedup: float) -> None:
    """Under the highest line, however high; long names and many policies widen the picture."""
    policies = [f"ucb:reward=be,window={number}" for number in range(1, 17)]
    document = bench_document(
        *(bench_result(policy, "code", speedup=speedup) for policy in policies)
    )
    root = ElementTree.fromstring(plot_svg(document))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for text, (x, y) in labels(root).items():
        assert 0 <= x <= width - 5 * len(text) * (x > 100), text
        assert 0 <= y <= height
    for caption, (_, shape) in marks(root).items():
        x, y = map(float, re.findall(r"\d+\.\d", shape)[:2])
        assert 0 < x < width, caption
        assert 60 <= y < height
    assert 5 <= len(re.findall('text-anchor="end"', plot_svg(document))) <= 12


def test_emulated_acceptance_is_said_in_the_title() -> None:
    """A picture travels without its caption."""
    assert "EMULATED" in plot_svg(DOCUMENT | {"emulated": True})
    assert "EMULATED" not in plot_svg(DOCUMENT)


def test_a_bench_without_results_has_a_picture_too() -> None:
    """Interrupted before the first figure."""
    assert labels(ElementTree.fromstring(plot_svg(bench_document())))["plain"]


def test_the_plot_is_written_as_utf_8(tmp_path: Path) -> None:
    """What is in the way is replaced."""
    path = tmp_path / "plot.svg"
    path.write_text("old", encoding="utf-8")
    check_writable(path)
    assert path.read_text(encoding="utf-8") == "old"
    write_plot(path, DOCUMENT | {"pool": "größe"})
    assert "größe" in path.read_text(encoding="utf-8")


def test_a_check_leaves_no_file_behind(tmp_path: Path) -> None:
    """A bench may be interrupted before it has anything to draw."""
    check_writable(tmp_path / "plot.svg")
    assert list(tmp_path.iterdir()) == []


def test_a_plot_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """A missing folder, a folder in its place, a place that takes no files."""
    for path in (tmp_path / "no" / "plot.svg", tmp_path, Path("/proc/plot.svg")):
        with pytest.raises(UsageError, match=re.escape(f"{path}: the plot cannot be written: ")):
            check_writable(path)
        with pytest.raises(UsageError, match="name another file"):
            write_plot(path, DOCUMENT)
