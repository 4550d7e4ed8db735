"""The page of a training: its curves, self-contained, names escaped."""

from __future__ import annotations

import json

from everypoint.report.training import training_page, write_training_page

ROWS = [{"step": n, "loss": 10 / n, "d_t": 5.0 * n, "learning_rate": 1e-4} for n in range(1, 11)]
ROWS[4] |= {"v_d_avg": 20.0, "v_survival_16": 50.0, "v_median_l2": None}
ROWS[9] |= {"v_d_avg": 40.0, "v_survival_16": 60.0, "v_median_l2": 3.0}


def test_holds_one_chart_a_quantity_that_was_measured():
    page = training_page(ROWS, "run")
    assert page.count("<figure") == 5
    assert "10 steps" in page
    assert page.count("validation") > 0
    without = training_page([{"step": 1, "loss": 2.0}], "run")
    assert without.count("<figure") == 1
    assert "validation" not in without


def test_fetches_nothing_and_escapes_names():
    page = str(training_page(ROWS, "<script>alert(1)</script>"))
    assert "<script>" not in page
    assert "default-src 'none'" in page.replace("&#39;", "'")
    assert "http" not in page.replace("http-equiv", "")


def test_a_training_without_steps_has_a_page(tmp_path):
    rows = tmp_path / "train.jsonl"
    rows.write_text("")
    write_training_page(tmp_path / "train.html", rows, "empty")
    assert "0 steps" in (tmp_path / "train.html").read_text()


def test_is_written_from_its_rows(tmp_path):
    rows = tmp_path / "train.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    write_training_page(tmp_path / "train.html", rows, "run")
    assert (tmp_path / "train.html").read_text() == str(training_page(ROWS, "run"))
