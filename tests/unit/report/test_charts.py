"""Charts: well-formed, escaped, gaps for missing values, nothing for nothing."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from everypoint.report import plots
from everypoint.report.charts import MOST_POINTS, Series, _ticks, bar_chart, line_chart, number
from tests.unit.report.made import metrics

SLOTS = {"chain": 0, "cpu": 1}


def _parsed(markup: str) -> ElementTree.Element:
    return ElementTree.fromstring(f"<div>{markup}</div>")


def _points(markup: str) -> list[tuple[float, float]]:
    """All points of all lines, in SVG units."""
    paths = "".join(re.findall(r'class="line" d="([^"]*)"', markup.split("<ul")[0]))
    return [(float(x), float(y)) for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", paths)]


def test_a_line_is_drawn_to_scale() -> None:
    chart = line_chart("t", [Series("a", [0, 5, 10], [0, 50, 100])], "x", "y", y_range=(0, 100))
    (x0, y0), (x1, y1), (x2, y2) = _points(chart)
    assert x1 - x0 == pytest.approx(x2 - x1)
    assert y0 - y1 == pytest.approx(y1 - y2)
    assert y0 > y2  # upwards


def test_missing_values_are_gaps_and_lonely_values_dots() -> None:
    chart = line_chart("t", [Series("a", range(6), [1, 2, None, 4, math.nan, 5])], "x", "y")
    assert len(_points(chart)) == 2
    assert chart.count("<circle") == 2


def test_log_axis_leaves_out_what_it_cannot_show() -> None:
    chart = line_chart("t", [Series("a", range(4), [1.0, 10.0, 0.0, -3.0])], "x", "y", log_y=True)
    assert len(_points(chart)) == 2
    _parsed(chart)
    _parsed(line_chart("t", [Series("a", range(3), [2.0, 2.0, 2.0])], "x", "y", log_y=True))


@pytest.mark.parametrize("values", [[], [None, None], [math.nan], [math.inf]])
def test_no_values_no_chart(values: list[float | None]) -> None:
    assert line_chart("t", [Series("a", range(len(values)), values)], "x", "y") == ""
    assert bar_chart("t", ["l"] * len(values), [Series("a", [], values)], "x", "y") == ""


def test_long_series_are_averaged() -> None:
    steps = range(10_000)
    chart = line_chart("t", [Series("a", steps, [step % 2 for step in steps])], "x", "y", y_range=(0, 1))
    points = _points(chart)
    assert len(points) == MOST_POINTS
    assert max(y for _, y in points) - min(y for _, y in points) < 8


def test_names_are_escaped_everywhere() -> None:
    name = "<script>alert(1)</script>\"'&"
    series = [Series(name, [0, 1], [1, 2], 0), Series("b" + name, [0], [1], 9)]
    for chart in (line_chart(name, series, name, name), bar_chart(name, [name, "b"], series, name, name)):
        assert "<script" not in chart
        tree = _parsed(chart)
        assert name in tree.find(".//figcaption").text
        assert name in tree.find("figure/svg").get("aria-label")


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 0.003), (3, 1234567), (-5, 5), (0, 31), (99, 100)])
def test_ticks_are_round_few_and_cover_the_range(low: float, high: float) -> None:
    ticks = _ticks(low, high)
    assert 3 <= len(ticks) <= 8
    assert ticks[0] <= low
    assert ticks[-1] >= high


def test_numbers_are_short() -> None:
    assert [number(value) for value in (0, 0.5, 12.5, 1500, 20000, 3.2e6, 0.00012)] == [
        "0",
        "0.5",
        "12.5",
        "1500",
        "20k",
        "3.2M",
        "0.00012",
    ]


def test_figures_of_the_report() -> None:
    scores = {"chain": metrics(0.3), "cpu": metrics(0.5)}
    charts = plots.over_time(scores, "strided", SLOTS) + plots.delta_by_threshold(scores, "strided", SLOTS)
    tree = _parsed(charts)
    assert len(tree.findall("figure")) == 3
    assert charts.count('class="bar series') == 10  # 2 presets x 5 thresholds
    assert plots.over_time({"chain": None}, "strided", SLOTS) == ""
    assert plots.over_time({"chain": {"per_frame": {"strided": {}}}}, "strided", SLOTS) == ""


def test_gap_shares_reads_every_spelling_and_refuses_nonsense() -> None:
    table = {"1": 0.9, "16": {"kept": 25, "total": 100}, "2": {"kept": 0.8, "pairs": 31}, "4": {"kept_share": 0.5}}
    assert plots.gap_shares({"by_gap": table}) == {1: 0.9, 2: 0.8, 4: 0.5, 16: 0.25}
    assert (
        plots.gap_shares({"by_gap": {"a": 1, "2": "x", "3": None, "4": {"kept": 3, "total": 0}, "5": math.nan}}) == {}
    )
    assert plots.gap_shares({}) == {}
    assert plots.gap_shares({"by_gap": [1, 2]}) == {}


def test_kept_by_gap_has_bars_for_few_gaps_and_a_line_for_many() -> None:
    few = {"chain": None, "cpu": {"by_gap": {"1": 0.9, "2": 0.5}}}
    assert plots.kept_by_gap(few, SLOTS).count('class="bar series') == 2
    many = {"cpu": {"by_gap": {str(gap): 1 / gap for gap in range(1, 40)}}}
    assert len(_points(plots.kept_by_gap(many, SLOTS))) == 39
    assert plots.kept_by_gap({"chain": None}, SLOTS) == ""


def test_loss_curve_survives_nan_and_odd_rows() -> None:
    rows = [{"step": step, "loss": 10 / (step + 1)} for step in range(50)]
    rows[7] = {"step": 7, "loss": math.nan}
    rows += [{"step": 60, "loss": None}, {"event": "resumed"}, {"step": "x", "loss": 1}]
    chart = plots.loss_curve({"chain": (), "cpu": rows}, SLOTS)
    assert len(_points(chart)) == 49
    assert plots.loss_curve({"cpu": ()}, SLOTS) == ""
