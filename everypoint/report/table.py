"""``metrics.csv``: one row a video, preset and query mode, then the means over videos."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from everypoint.report.data import VideoReport, modes_of, presets_of, scores_by_mode
from everypoint.report.scores import BY_THRESHOLD, MAIN, common_protocol, finite, flat_protocol, mean_scores

FIRST = ("kind", "video", "preset", "mode", "status", "videos")
KNOWN = tuple(metric.key for metric in (*MAIN, *BY_THRESHOLD))


def metrics_csv(videos: Sequence[VideoReport]) -> str:
    """The table as text. Values are those of ``metrics.json`` (TAP-Vid's are fractions); an empty cell is no value.

    ``status`` is ``ok``, ``no ground truth`` or ``failed``, with the reason under ``note``. Text that a spreadsheet
    would run as a formula is quoted with an apostrophe.
    """
    rows = _video_rows(videos) + _mean_rows(videos)
    scores = {key for row in rows for key in row["scores"]}
    columns = [key for key in KNOWN if key in scores] + sorted(scores.difference(KNOWN))
    protocol = sorted({key for row in rows for key in row["protocol"]})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*FIRST, *columns, *(f"protocol_{key}" for key in protocol), "note"])
    for row in rows:
        cells = [spreadsheet_safe(str(row[key])) for key in FIRST]
        cells += [_number(row["scores"].get(key)) for key in columns]
        cells += [spreadsheet_safe(row["protocol"].get(key, "")) for key in protocol]
        writer.writerow([*cells, spreadsheet_safe(row["note"])])
    return text.getvalue()


def _video_rows(videos: Sequence[VideoReport]) -> list[dict[str, Any]]:
    rows = []
    for video in videos:
        if video.failure and not video.results:
            rows.append(_row("video", video.name, status="failed", note=video.failure.sentence))
        for preset, result in video.results.items():
            failure = result.failure or video.failure
            modes = scores_by_mode(result)
            if not modes:
                status = "failed" if failure else "no ground truth"
                rows.append(_row("video", video.name, preset, status=status, note=failure.sentence if failure else ""))
            for mode, scores in modes.items():
                protocol = flat_protocol((result.metrics or {}).get("protocol") or {})
                rows.append(_row("video", video.name, preset, mode, "ok", 1, scores, protocol))
    return rows


def _mean_rows(videos: Sequence[VideoReport]) -> list[dict[str, Any]]:
    rows = []
    for mode in modes_of(videos):
        for preset in presets_of(videos):
            measured = [video.results[preset] for video in videos if mode in scores_by_mode(video.results.get(preset))]
            if measured:
                mean = mean_scores([scores_by_mode(one)[mode] for one in measured])
                protocol = common_protocol(flat_protocol((one.metrics or {}).get("protocol") or {}) for one in measured)
                note = "; ".join(mean.notes)
                rows.append(_row("mean", "", preset, mode, "ok", mean.videos, mean.values, protocol, note))
    return rows


def _row(
    kind: str,
    video: str,
    preset: str = "",
    mode: str = "",
    status: str = "ok",
    videos: int | str = "",
    scores: Mapping[str, Any] | None = None,
    protocol: Mapping[str, str] | None = None,
    note: str = "",
) -> dict[str, Any]:
    named = {"kind": kind, "video": video, "preset": preset, "mode": mode, "status": status, "videos": videos}
    return named | {"scores": scores or {}, "protocol": protocol or {}, "note": note}


def _number(value: object) -> str:
    number = finite(value)
    return "" if number is None else f"{number:.8g}"


def spreadsheet_safe(text: str) -> str:
    """Text for a cell: what a spreadsheet would run as a formula gets an apostrophe in front.

    Carriage returns and NUL become blanks: the csv module does not quote them, so they would end the row.
    """
    formula = text.lstrip(" ")[:1] in ("=", "+", "-", "@", "\t", "\r", "\n")
    return ("'" if formula else "") + text.replace("\r", " ").replace("\0", " ")
