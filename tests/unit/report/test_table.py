"""metrics.csv and the means."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

import pytest

from everypoint.report.data import Failure, PresetReport, VideoReport
from everypoint.report.scores import MAIN, common_protocol, mean_scores, protocol_short
from everypoint.report.table import metrics_csv, spreadsheet_safe
from tests.unit.report.made import PROTOCOL, metrics, video


def _rows(videos: list[VideoReport]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(metrics_csv(videos))))


def test_a_row_a_video_preset_and_mode_then_means() -> None:
    both = metrics(0.2, "first")
    both["modes"]["strided"] = metrics(0.4)["modes"]["strided"]
    one = VideoReport("a", results={"chain": PresetReport(metrics=both)})
    two = VideoReport(
        "b", results={"chain": PresetReport(metrics=metrics(0.6)), "cpu": PresetReport(metrics=metrics(0.7))}
    )
    rows = _rows([one, two])
    head = [(row["kind"], row["video"], row["preset"], row["mode"], row["average_jaccard"]) for row in rows]
    assert head == [
        ("video", "a", "chain", "first", "0.2"),
        ("video", "a", "chain", "strided", "0.4"),
        ("video", "b", "chain", "strided", "0.6"),
        ("video", "b", "cpu", "strided", "0.7"),
        ("mean", "", "chain", "first", "0.2"),
        ("mean", "", "chain", "strided", "0.5"),
        ("mean", "", "cpu", "strided", "0.7"),
    ]
    assert rows[5]["videos"] == "2"
    assert rows[5]["queries"] == "24"  # counts are added
    assert rows[0]["protocol_working_size"] == "48x64"
    assert rows[0]["protocol_query_stride"] == "5"
    assert all(row["pts_within_16"] for row in rows)


def test_missing_values_are_empty_left_out_of_means_and_said() -> None:
    videos = [
        video("a", ["chain"], results={"chain": PresetReport(metrics=metrics(None))}),
        video("b", ["chain"], results={"chain": PresetReport(metrics=metrics(math.nan))}),
        video("c", ["chain"], results={"chain": PresetReport(metrics=metrics(0.25))}),
    ]
    rows = _rows(videos)
    assert [row["average_jaccard"] for row in rows] == ["", "", "0.25", "0.25"]
    assert rows[-1]["note"] == "average_jaccard: mean of 1 of 3 videos"


def test_videos_without_ground_truth_or_that_failed_have_rows_too() -> None:
    videos = [
        VideoReport("quiet", results={"chain": PresetReport()}),
        VideoReport("broken", failure=Failure("frames", "It is text.")),
        VideoReport("half", results={"cpu": PresetReport(failure=Failure("optimize", "Not finite."))}),
    ]
    status = [(row["video"], row["preset"], row["status"], row["note"]) for row in _rows(videos)]
    assert status == [
        ("quiet", "chain", "no ground truth", ""),
        ("broken", "", "failed", "It is text."),
        ("half", "cpu", "failed", "Not finite."),
    ]


def test_no_videos_is_a_table_without_rows() -> None:
    assert _rows([]) == []
    assert metrics_csv([]).startswith("kind,video,preset,mode")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "  =1"])
def test_formulas_are_quoted(text: str) -> None:
    assert spreadsheet_safe(text) == "'" + text.replace("\r", " ")
    scores = metrics(0.5)
    scores["protocol"] |= {"note": text}
    rows = _rows([VideoReport(text, results={text: PresetReport(metrics=scores, failure=None)})])
    for row in rows:
        for key in ("video", "preset", "protocol_note"):
            assert row[key].lstrip()[:1] not in ("=", "+", "-", "@")


def test_ordinary_text_and_numbers_are_left_alone() -> None:
    assert [spreadsheet_safe(text) for text in ("a=b", "", "3", "x-y")] == ["a=b", "", "3", "x-y"]
    rows = _rows([VideoReport("v", results={"p": PresetReport(metrics=metrics(-0.5))})])
    assert rows[0]["average_jaccard"] == "-0.5"


def test_new_lines_and_commas_stay_in_their_cell() -> None:
    rows = _rows([VideoReport('a,"b"\nc\r\0d', results={"p": PresetReport(metrics=metrics())})])
    assert rows[0]["video"] == 'a,"b"\nc  d'
    assert len(rows) == 2


def test_means_are_plain_means_of_finite_values() -> None:
    rows: list[dict[str, Any]] = [
        {"a": 1.0, "queries": 3},
        {"a": None, "b": 4},
        {"a": 3.0, "queries": 5, "b": math.inf},
    ]
    mean = mean_scores(rows)
    assert mean.values == {"a": 2.0, "queries": 8, "b": 4.0}
    assert [mean.missing(key) for key in ("a", "b", "queries", "c")] == [1, 2, 1, 3]
    assert mean_scores([]).videos == 0


def test_protocols_in_words_and_in_common() -> None:
    assert protocol_short(PROTOCOL, "strided") == ["strided/5", "8 frames", "worked at 64×48", "scored at 256×256"]  # noqa: RUF001
    assert protocol_short({}, "first") == ["first"]
    assert common_protocol([{"a": "1", "b": "2"}, {"a": "1", "b": "3"}]) == {"a": "1", "b": "mixed"}


def test_shown_numbers() -> None:
    shown = {
        metric.key: metric.text(value)
        for metric, value in zip(MAIN, [0.51234, None, 1.0, 1.236, 55.55, math.nan, 2, 12], strict=True)
    }
    assert list(shown.values()) == ["51.2", "–", "100.0", "1.24", "55.5", "–", "2.00", "12"]  # noqa: RUF001
