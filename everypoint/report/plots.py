"""The figures of the report, each a function of what the stages wrote: scores, filter statistics, training log."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from everypoint.report.charts import Series, bar_chart, line_chart

THRESHOLDS = (1, 2, 4, 8, 16)
Slots = Mapping[str, int]  # preset -> colour


def over_time(metrics: Mapping[str, Mapping[str, Any] | None], mode: str, slots: Slots) -> Markup:
    """AJ and median error by frame, one line a preset, from the ``metrics.json`` of each."""
    jaccard, error = [], []
    for preset, scores in metrics.items():
        curves = ((scores or {}).get("per_frame") or {}).get(mode) or {}
        values = [_percent(value) for value in curves.get("average_jaccard") or []]
        jaccard.append(Series(preset, range(len(values)), values, slots[preset]))
        values = curves.get("error_median") or []
        error.append(Series(preset, range(len(values)), values, slots[preset]))
    return line_chart(f"AJ by frame ({mode})", jaccard, "frame", "AJ, %", y_range=(0, 100)) + line_chart(
        f"Median error by frame ({mode})", error, "frame", "px at 256x256"
    )


def delta_by_threshold(metrics: Mapping[str, Mapping[str, Any] | None], mode: str, slots: Slots) -> Markup:
    """Share of visible points within 1, 2, 4, 8, 16 px."""
    bars = []
    for preset, scores in metrics.items():
        values = ((scores or {}).get("modes") or {}).get(mode) or {}
        shares = [_percent(values.get(f"pts_within_{threshold}")) for threshold in THRESHOLDS]
        bars.append(Series(preset, [], shares, slots[preset]))
    labels = [f"{threshold} px" for threshold in THRESHOLDS]
    return bar_chart(
        f"Points within a threshold ({mode})", labels, bars, "error below", "visible points, %", y_range=(0, 100)
    )


def kept_by_gap(filters: Mapping[str, Mapping[str, Any] | None], slots: Slots) -> Markup:
    """Share of flow pixels kept as matches, by the gap |j - i| in frames, from the ``filter.json`` of each preset."""
    series = []
    for preset, statistics in filters.items():
        shares = gap_shares(statistics or {})
        series.append(Series(preset, list(shares), [100 * share for share in shares.values()], slots[preset]))
    gaps = sorted({gap for one in series for gap in one.x})
    if len(gaps) <= 12:  # few gaps, often powers of two: bars side by side
        bars = [
            Series(one.name, [], [dict(zip(one.x, one.y, strict=True)).get(gap) for gap in gaps], one.slot)
            for one in series
        ]
        return bar_chart(
            "Matches kept by the filter", [str(gap) for gap in gaps], bars, "gap in frames", "kept, %", y_range=(0, 100)
        )
    return line_chart("Matches kept by the filter", series, "gap in frames", "kept, %", y_range=(0, 100))


def gap_shares(statistics: Mapping[str, Any]) -> dict[int, float]:
    """Gap -> share kept (0..1), ascending, from ``by_gap`` of a ``filter.json``.

    Each gap holds a share, or a dict with ``kept_share`` or ``share``, or with ``kept`` and ``total`` (or ``pixels``).
    """
    table = statistics.get("by_gap")
    if not isinstance(table, Mapping):
        return {}
    shares = {}
    for gap, entry in table.items():
        share = _share(entry)
        if share is not None and re.fullmatch(r"-?\d+", str(gap)):
            shares[abs(int(gap))] = share
    return dict(sorted(shares.items()))


def _share(entry: object) -> float | None:
    if isinstance(entry, Mapping):
        for key in ("kept_share", "share"):
            if key in entry:
                return _share(entry[key])
        kept, total = entry.get("kept"), entry.get("total", entry.get("pixels"))
        if isinstance(kept, (int, float)) and isinstance(total, (int, float)) and total > 0:
            return _share(kept / total)
        return _share(kept) if total is None else None
    if isinstance(entry, (int, float)) and math.isfinite(entry) and 0 <= entry <= 1:
        return float(entry)
    return None


def loss_curve(training: Mapping[str, Sequence[Mapping[str, Any]]], slots: Slots) -> Markup:
    """The training loss of each preset that was optimised, on a logarithmic axis when it spans more than a factor 5."""
    series, values = [], []
    for preset, rows in training.items():
        known = [row for row in rows if isinstance(row.get("step"), (int, float)) and "loss" in row]
        series.append(Series(preset, [row["step"] for row in known], [row["loss"] for row in known], slots[preset]))
        values += [row["loss"] for row in known if isinstance(row["loss"], (int, float)) and math.isfinite(row["loss"])]
    log_y = bool(values) and min(values) > 0 and max(values) > 5 * min(values)
    return line_chart("Training loss", series, "step", "loss", log_y=log_y)


def _percent(value: float | None) -> float | None:
    return 100 * value if isinstance(value, (int, float)) and math.isfinite(value) else None
