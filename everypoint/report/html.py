"""``report.html``: one page that opens from disk, and ``metrics.csv`` beside it.

The page fetches nothing: style, script, charts and small videos are inside it, and its content security policy allows
no other style or script than these (by hash) and no network. Names reach the page as escaped text only; the script is
a constant that reads them back from the page's elements.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from everypoint.artifacts import atomic
from everypoint.config.options import ReportOptions
from everypoint.report import plots, tables
from everypoint.report.data import Failure, PresetReport, StageTime, VideoReport, modes_of, presets_of, scores_by_mode
from everypoint.report.media import Clip, plan_clips
from everypoint.report.scores import MAIN
from everypoint.report.table import metrics_csv

__all__ = ["Failure", "PresetReport", "StageTime", "VideoReport", "write_report"]

TEMPLATES = Path(__file__).with_name("templates")
OPEN_UP_TO = 3  # with more videos than this their sections start closed


def write_report(
    out_html: str | os.PathLike[str],
    out_csv: str | os.PathLike[str],
    videos: Sequence[VideoReport],
    options: ReportOptions,
    software: Mapping[str, Any],
) -> None:
    """Write the page and the table of a folder of videos; both are whole or absent.

    Args:
        out_html: the page; videos that are not embedded are linked relative to it.
        out_csv: the table, see :func:`everypoint.report.table.metrics_csv`.
        videos: in the order of the page; may be empty.
        options: heading and the size up to which videos are embedded.
        software: see :func:`everypoint.report.software.software_used`: ``versions`` (rows of name, version, licence),
            ``weights`` (rows of name, licence, used_by, sha256, note), ``presets`` (name -> description), ``machine``
            (text). Every key may be missing.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    context = page_context(Path(out_html), videos, options, software)
    template = environment.get_template("report.html.j2")

    def write(file: Any) -> None:
        for piece in template.generate(context):  # piece by piece: embedded videos are read one at a time
            file.write(piece.encode("utf-8", "replace"))

    table = metrics_csv(videos).encode("utf-8", "replace")  # a file name may hold bytes that are no text
    atomic.write_bytes(out_csv, table)
    atomic.write_with(out_html, write)


def page_context(
    page: Path, videos: Sequence[VideoReport], options: ReportOptions, software: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything the template shows."""
    presets, modes = presets_of(videos), modes_of(videos)
    slots = {preset: slot for slot, preset in enumerate(presets)}
    overlays = [one.overlay for video in videos for one in video.results.values() if one.overlay]
    trails = [one.trails for video in videos for one in video.results.values() if one.trails]
    clips = plan_clips([*overlays, *trails], page, options.max_video_mb)
    style, script = (Markup((TEMPLATES / name).read_text()) for name in ("report.css", "report.js"))
    return {
        "title": options.title,
        "csp": policy(style, script),
        "style": style,
        "script": script,
        "metrics": MAIN,
        "facts": tables.facts(videos, presets, modes),
        "legend": [(preset, slots[preset] % 8, (software.get("presets") or {}).get(preset, "")) for preset in presets],
        "presets": presets,
        "slots": slots,
        "means": tables.mean_table(videos, presets, modes),
        "mean_notes": tables.mean_notes(videos, presets, modes),
        "choices": tables.choices(videos, modes),
        "matrix": tables.matrix(videos, presets, modes),
        "stage_sums": tables.stage_rows(tables.summed(videos)),
        "videos": [_video(k, video, clips, slots) for k, video in enumerate(videos)],
        "open_videos": len(videos) <= OPEN_UP_TO,
        "versions": list(software.get("versions") or []),
        "weights": list(software.get("weights") or []),
        "machine": software.get("machine") or "",
    }


def policy(style: str, script: str) -> str:
    """A content security policy that forbids the network and every style and script but ours."""
    return (
        "default-src 'none'; img-src data:; media-src data: file: 'self'; base-uri 'none'; form-action 'none'; "
        f"style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _video(number: int, video: VideoReport, clips: Mapping[Path, Clip], slots: Mapping[str, int]) -> dict[str, Any]:
    """One section of the page."""
    modes = modes_of([video])
    players = []
    for preset, result in video.results.items():
        for kind, path in (("Overlay", result.overlay), ("Trails", result.trails)):
            if path in clips:
                players.append({"preset": preset, "kind": kind, "clip": clips[path]})
    return {
        "id": f"video-{number}",
        "name": video.name,
        "headline": tables.headline(video),
        "details": tables.video_facts(video),
        "status": tables.status(video),
        "failures": video.failures,
        "warnings": video.all_warnings,
        "players": players,
        "scores": tables.score_rows(video, modes),
        "thresholds": tables.threshold_rows(video, modes),
        "charts": _charts(video, modes, slots),
        "stages": tables.stage_rows(video.stages),
    }


def _charts(video: VideoReport, modes: Sequence[str], slots: Mapping[str, int]) -> Markup:
    metrics = {preset: one.metrics for preset, one in video.results.items() if scores_by_mode(one)}
    figures = Markup("")
    for mode in modes:
        figures += plots.over_time(metrics, mode, slots) + plots.delta_by_threshold(metrics, mode, slots)
    figures += plots.kept_by_gap({preset: one.filter_stats for preset, one in video.results.items()}, slots)
    return figures + plots.loss_curve({preset: one.train_rows for preset, one in video.results.items()}, slots)
