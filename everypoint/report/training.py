"""A page with the curves of one training of PIPs++, like the report in looks and as self-contained."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from everypoint.artifacts import atomic
from everypoint.report.charts import Series, line_chart
from everypoint.report.html import TEMPLATES, policy

SCRIPT = ""
CURVES = (  # heading, unit, factor of the values, (name, key of a row) of each line
    ("Loss", "px", 1, (("training", "loss"),)),
    ("d_avg", "%", 1, (("training", "d_t"), ("validation", "v_d_avg"))),
    ("Survival", "%", 1, (("validation", "v_survival_16"),)),
    ("Median error", "px of 256 x 256", 1, (("validation", "v_median_l2"),)),
    ("Learning rate", "1e-4", 1e4, (("training", "learning_rate"),)),
)


def write_training_page(path: str | os.PathLike[str], rows_path: str | os.PathLike[str], name: str) -> None:
    """Write the page of a training's ``train.jsonl``; ``name`` is its heading."""
    rows = [json.loads(line) for line in Path(rows_path).read_text(encoding="utf-8").splitlines()]
    atomic.write_text(path, str(training_page(rows, name)))


def training_page(rows: Sequence[Mapping[str, Any]], name: str) -> Markup:
    """The page: one chart a quantity that the rows hold."""
    style = Markup((TEMPLATES / "report.css").read_text(encoding="utf-8"))
    charts = Markup("").join(chart for heading in CURVES if (chart := _chart(rows, *heading)))
    last = rows[-1]["step"] if rows else 0
    return Markup(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="{}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<title>{}</title>\n<style>{}</style>\n</head>\n<body>\n'
        '<main>\n<h1>{}</h1>\n<p>{} steps</p>\n<div class="charts">{}</div>\n</main>\n</body>\n</html>\n'
    ).format(policy(style, SCRIPT), name, style, name, last, charts)


def _chart(
    rows: Sequence[Mapping[str, Any]], title: str, unit: str, factor: float, lines: Sequence[tuple[str, str]]
) -> Markup | None:
    """A chart of what the rows hold of it; None if that is nothing."""
    series = []
    for slot, (name, key) in enumerate(lines):
        known = [row for row in rows if row.get(key) is not None]
        if known:
            series.append(Series(name, [row["step"] for row in known], [factor * row[key] for row in known], slot))
    return line_chart(title, series, "step", f"{title} ({unit})") if series else None
