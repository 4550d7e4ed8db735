"""The tables of the page as plain rows: means, video by preset, scores of one video, time and memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from everypoint.report.data import StageTime, VideoReport, scores_by_mode
from everypoint.report.scores import (
    BY_THRESHOLD,
    MAIN,
    Mean,
    Metric,
    common_protocol,
    finite,
    flat_protocol,
    mean_scores,
    protocol_short,
)

Cell = dict[str, Any]


def _cells(metrics: Sequence[Metric], rows: Sequence[Mapping[str, Any]]) -> list[list[Cell]]:
    """Shown cells of rows of scores: text, value to sort by, whether it is the best of its column."""
    table = [
        [{"text": metric.text(row.get(metric.key)), "value": finite(row.get(metric.key))} for metric in metrics]
        for row in rows
    ]
    for column, metric in enumerate(metrics):
        shown = [float(row[column]["text"]) for row in table if row[column]["value"] is not None]
        best = max(shown, key=lambda value: metric.better * value) if len(shown) > 1 and metric.better else None
        for row in table:
            row[column]["missing"] = 0
            row[column]["best"] = row[column]["value"] is not None and float(row[column]["text"]) == best
    return table


def score_rows(video: VideoReport, modes: Sequence[str], metrics: Sequence[Metric] = MAIN) -> list[dict[str, Any]]:
    """A row a preset and mode that was measured; the best of a column is found within its mode."""
    rows = []
    for mode in modes:
        found = [(preset, one) for preset, one in video.results.items() if mode in scores_by_mode(one)]
        for (preset, one), cells in zip(
            found, _cells(metrics, [scores_by_mode(one)[mode] for _, one in found]), strict=True
        ):
            protocol = (one.metrics or {}).get("protocol") or {}
            rows.append({"preset": preset, "mode": mode, "protocol": protocol_short(protocol, mode), "cells": cells})
    return rows


def threshold_rows(video: VideoReport, modes: Sequence[str]) -> dict[str, Any]:
    """The same for each threshold on its own."""
    return {"metrics": BY_THRESHOLD, "rows": score_rows(video, modes, BY_THRESHOLD)}


def _means(videos: Sequence[VideoReport], presets: Sequence[str], mode: str) -> dict[str, Mean]:
    """Preset -> means over the videos that were measured in this mode."""
    measured = {
        preset: [one for video in videos if mode in (one := scores_by_mode(video.results.get(preset)))]
        for preset in presets
    }
    return {preset: mean_scores([one[mode] for one in found]) for preset, found in measured.items() if found}


def mean_table(videos: Sequence[VideoReport], presets: Sequence[str], modes: Sequence[str]) -> list[dict[str, Any]]:
    """A row a mode and preset: means over videos, with how many videos lack a value, and the protocol."""
    rows = []
    for mode in modes:
        means = _means(videos, presets, mode)
        for (preset, mean), cells in zip(
            means.items(), _cells(MAIN, [one.values for one in means.values()]), strict=True
        ):
            for cell, metric in zip(cells, MAIN, strict=True):
                cell["missing"] = mean.missing(metric.key) if metric.key in mean.values else 0
            row = {"preset": preset, "mode": mode, "videos": mean.videos, "cells": cells}
            rows.append(row | {"protocol": _mean_protocol(videos, preset, mode)})
    return rows


def _mean_protocol(videos: Sequence[VideoReport], preset: str, mode: str) -> list[str]:
    """The protocol the averaged numbers share; what differs between videos is said to be mixed."""
    found = [
        video.results[preset].metrics or {} for video in videos if mode in scores_by_mode(video.results.get(preset))
    ]
    protocols = [one.get("protocol") or {} for one in found]
    mixed = [key for key, value in common_protocol(flat_protocol(one) for one in protocols).items() if value == "mixed"]
    common = {key: value for key, value in protocols[0].items() if key not in mixed}
    words = {
        "frames": "frames",
        "working_size": "working size",
        "query_stride": "query stride",
        "scored_size": "scored size",
    }
    differing = [word for key, word in words.items() if key in mixed]
    return protocol_short(common, mode) + ([f"mixed: {', '.join(differing)}"] if differing else [])


def mean_notes(videos: Sequence[VideoReport], presets: Sequence[str], modes: Sequence[str]) -> list[str]:
    """What a reader must know before comparing means: values left out, presets measured on different videos."""
    notes = []
    for mode in modes:
        means = _means(videos, presets, mode)
        for preset, mean in means.items():
            labels = {metric.key: metric.label for metric in MAIN}
            short = [f"{labels[key]} over {n}" for key, n in mean.counted.items() if key in labels and n < mean.videos]
            if short:
                notes.append(
                    f"{preset} ({mode}): of {mean.videos} videos some have no value; mean of {', '.join(short)}."
                )
        measured = {preset: _measured(videos, preset, mode) for preset in means}
        if len({frozenset(names) for names in measured.values()}) > 1:
            counts = ", ".join(f"{preset} {len(names)}" for preset, names in measured.items())
            notes.append(f"Presets were measured on different videos ({counts}): compare them video by video.")
    return list(dict.fromkeys(notes))


def _measured(videos: Sequence[VideoReport], preset: str, mode: str) -> list[str]:
    """Names of the videos on which a preset was measured."""
    return [video.name for video in videos if mode in scores_by_mode(video.results.get(preset))]


def choices(videos: Sequence[VideoReport], modes: Sequence[str]) -> list[dict[str, Any]]:
    """What the video-by-preset table can show: every main metric in every mode that some video has."""
    found = []
    for mode in modes:
        present = {
            key for video in videos for one in video.results.values() for key in scores_by_mode(one).get(mode, ())
        }
        for metric in MAIN:
            if metric.key in present:
                unit = f", {metric.unit}" if metric.unit else ""
                found.append({"metric": metric, "mode": mode, "label": f"{metric.label}{unit}, {mode}"})
    return found


def matrix(videos: Sequence[VideoReport], presets: Sequence[str], modes: Sequence[str]) -> dict[str, Any]:
    """Video by preset: the mean row and a row a video; a cell holds one (text, value) a choice."""
    shown = choices(videos, modes)
    means = {mode: _means(videos, presets, mode) for mode in modes}
    top = []
    for preset in presets:
        values = [means[one["mode"]][preset].values if preset in means[one["mode"]] else {} for one in shown]
        top.append({"values": _choice_values(shown, values), "state": ""})
    rows = []
    for number, video in enumerate(videos):
        cells = []
        for preset in presets:
            result = video.results.get(preset)
            values = [scores_by_mode(result).get(one["mode"], {}) for one in shown]
            failed = bool(video.failure or (result and result.failure))
            state = "" if scores_by_mode(result) else "failed" if failed else "–" if result else ""  # noqa: RUF001
            cells.append({"values": _choice_values(shown, values), "state": state})
        row = {"id": f"video-{number}", "name": video.name, "headline": headline(video), "status": status(video)}
        rows.append(row | {"cells": cells})
    return {"mean": top if shown else [], "rows": rows}


def _choice_values(
    shown: Sequence[dict[str, Any]], values: Sequence[Mapping[str, Any]]
) -> list[tuple[str, float | None]]:
    return [
        (one["metric"].text(row.get(one["metric"].key)), finite(row.get(one["metric"].key)))
        for one, row in zip(shown, values, strict=True)
    ]


def summed(videos: Sequence[VideoReport]) -> list[StageTime]:
    """Stages over all videos: times added, the largest peak memory."""
    groups: dict[tuple[str, str], list[StageTime]] = {}
    for video in videos:
        for stage in video.stages:
            groups.setdefault((stage.rule, stage.key), []).append(stage)
    return [
        StageTime(
            rule,
            key,
            sum(one.seconds or 0.0 for one in group),
            max((one.max_rss_mb for one in group if one.max_rss_mb is not None), default=None),
        )
        for (rule, key), group in groups.items()
    ]


def stage_rows(stages: Iterable[StageTime]) -> list[dict[str, Any]]:
    """Rows for the table of time and memory; ``share`` is 0..100 of the longest."""
    stages = list(stages)
    longest = max((stage.seconds or 0.0 for stage in stages), default=0.0)
    return [
        {
            "rule": stage.rule,
            "key": stage.key,
            "seconds": stage.seconds,
            "time": duration(stage.seconds),
            "share": round(100 * (stage.seconds or 0.0) / longest, 1) if longest else 0,
            "memory_mb": stage.max_rss_mb,
            "memory": memory(stage.max_rss_mb),
        }
        for stage in stages
    ]


def duration(seconds: float | None) -> str:
    """Seconds as people say them."""
    if seconds is None:
        return "–"  # noqa: RUF001
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def memory(megabytes: float | None) -> str:
    """Megabytes as people say them."""
    if megabytes is None:
        return "–"  # noqa: RUF001
    return f"{megabytes / 1024:.1f} GB" if megabytes >= 1024 else f"{megabytes:.0f} MB"


def headline(video: VideoReport) -> str:
    """Size, frames and rate of a video in a line."""
    meta = video.meta or {}
    parts = []
    if meta.get("width") and meta.get("height"):
        parts.append(f"{meta['width']}×{meta['height']}")  # noqa: RUF001
    if meta.get("frames"):
        parts.append(f"{meta['frames']} frames")
    if meta.get("fps"):
        parts.append(f"{meta['fps']:.4g} fps")
    return " · ".join(parts)


def video_facts(video: VideoReport) -> list[tuple[str, str]]:
    """Where the frames come from, for the section of a video."""
    meta = video.meta or {}
    found = []
    if meta.get("source"):
        found.append(("Source", PurePath(str(meta["source"])).name))
    original, working = [(meta.get(f"{kind}width"), meta.get(f"{kind}height")) for kind in ("original_", "")]
    if all(original) and original != working:
        found.append(("Original size", "{}×{}".format(*original)))  # noqa: RUF001
    if meta.get("frames"):
        start, stride = meta.get("start") or 0, meta.get("stride") or 1
        last = start + (meta["frames"] - 1) * stride
        found.append(("Frames used", f"{start} to {last}" + (f", every {stride}th" if stride > 1 else "")))
    return found


def status(video: VideoReport) -> str:
    """``failed`` (nothing came out), ``partly failed``, ``warning`` or ``ok``."""
    if video.failure:
        return "failed"
    if video.failures:
        return "partly failed"
    return "warning" if video.all_warnings else "ok"


def facts(videos: Sequence[VideoReport], presets: Sequence[str], modes: Sequence[str]) -> list[tuple[str, str, str]]:
    """The tiles on top: (number, what, remark)."""
    failed = sum(bool(video.failures) for video in videos)
    warned = sum(status(video) == "warning" for video in videos)
    remark = ", ".join(text for n, text in ((failed, f"{failed} failed"), (warned, f"{warned} with warnings")) if n)
    tiles = [(str(len(videos)), "video" if len(videos) == 1 else "videos", remark)]
    tiles.append((str(len(presets)), "preset" if len(presets) == 1 else "presets", ", ".join(presets)))
    if modes:
        jaccards = {
            preset: mean.values.get("average_jaccard") for preset, mean in _means(videos, presets, modes[0]).items()
        }
        known = {preset: value for preset, value in jaccards.items() if value is not None}
        if known:
            best = max(known, key=known.__getitem__)
            tiles.append((f"{100 * known[best]:.1f}", "best mean AJ, %", f"{best}, {modes[0]}"))
    seconds = sum(stage.seconds or 0.0 for video in videos for stage in video.stages)
    if seconds:
        peak = max((stage.max_rss_mb or 0.0 for video in videos for stage in video.stages), default=0.0)
        tiles.append((duration(seconds), "of computing", f"peak memory {memory(peak)}" if peak else ""))
    return tiles
