"""From a results folder to :class:`VideoReport` objects.

A report is made of whatever is there: a file that is missing is left out, a damaged one becomes a warning on its
video, so that no single file can keep the page from being written.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everypoint.artifacts import atomic
from everypoint.errors import ArtifactError
from everypoint.report.data import Failure, PresetReport, StageTime, VideoReport
from everypoint.report.scores import finite

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Benchmark:
    """A job's benchmark file (Snakemake's, ``.jsonl`` or tab-separated) and how it is listed."""

    rule: str
    key: str
    path: Path


def collect(
    results: str | os.PathLike[str],
    videos: Sequence[str],
    presets: Mapping[str, str | None],
    *,
    benchmarks: Mapping[str, Sequence[Benchmark]] | None = None,
    failures: Mapping[str, Mapping[str, Failure]] | None = None,
) -> list[VideoReport]:
    """Read what the stages wrote for each video.

    Args:
        results: the folder that holds a folder a video.
        videos: their names, in the order of the report.
        presets: preset -> the key of its matches (``matches/<key>/filter.json``); None for presets without matches.
        benchmarks: video -> benchmark files of its jobs; those that do not exist are left out.
        failures: video -> preset -> why it failed; the empty preset stands for the video as a whole.
    """
    return [
        _video(Path(results) / name, presets, (benchmarks or {}).get(name, ()), (failures or {}).get(name, {}))
        for name in videos
    ]


def _video(
    folder: Path,
    presets: Mapping[str, str | None],
    benchmarks: Iterable[Benchmark],
    failures: Mapping[str, Failure],
) -> VideoReport:
    warnings: list[str] = []
    found = {preset: _preset(folder, preset, key, failures.get(preset), warnings) for preset, key in presets.items()}
    return VideoReport(
        name=folder.name,
        meta=_json(folder / "frames" / "video.json", warnings),
        results={preset: one for preset, one in found.items() if one != PresetReport()},
        stages=stage_times(benchmarks),
        warnings=warnings,
        failure=failures.get(""),
    )


def _preset(folder: Path, preset: str, key: str | None, failure: Failure | None, warnings: list[str]) -> PresetReport:
    overlay, trails = (folder / "overlay" / preset / name for name in ("overlay.mp4", "trails.mp4"))
    return PresetReport(
        metrics=_metrics(_json(folder / "evaluate" / preset / "metrics.json", warnings)),
        overlay=overlay if overlay.is_file() else None,
        trails=trails if trails.is_file() else None,
        filter_stats=_json(folder / "matches" / key / "filter.json", warnings) if key else None,
        train_rows=_rows(folder / "optimize" / preset / "train.jsonl", warnings),
        failure=failure,
    )


def _metrics(found: dict[str, Any] | None) -> dict[str, Any] | None:
    """Metrics that measured something: a file without modes says that there was no ground truth."""
    return found if found and found.get("modes") else None


def _json(path: Path, warnings: list[str]) -> dict[str, Any] | None:
    """A JSON object, None when the file is missing; damage is noted."""
    if not path.is_file():
        return None
    try:
        found = atomic.read_json(path)
        if not isinstance(found, dict):
            raise ArtifactError(f"{path} holds no JSON object", cure="delete it and run the workflow again")
    except ArtifactError as error:
        _note(path, str(error), warnings)
        return None
    return found


def _rows(path: Path, warnings: list[str]) -> tuple[dict[str, Any], ...]:
    """Rows of a JSONL file; a last line cut short by a killed job is dropped in silence, other damage is noted."""
    if not path.is_file():
        return ()
    rows, lines = [], path.read_text(errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:
            if number < len(lines):
                _note(path, f"{path.name}: line {number} is damaged and left out.", warnings)
            continue
        if isinstance(row, dict):
            rows.append(row)
    return tuple(rows)


def _note(path: Path, sentence: str, warnings: list[str]) -> None:
    logger.warning("%s: %s", path, sentence)
    warnings.append(sentence)


def stage_times(benchmarks: Iterable[Benchmark]) -> tuple[StageTime, ...]:
    """Time and peak memory of jobs; jobs of equal rule and key (shards) are added, their largest memory counts."""
    groups: dict[tuple[str, str], list[tuple[float | None, float | None]]] = {}
    for one in benchmarks:
        measured = read_benchmark(one.path)
        if measured is not None:
            groups.setdefault((one.rule, one.key), []).append(measured)
    found = []
    for (rule, key), jobs in groups.items():
        seconds = [value for value, _ in jobs if value is not None]
        memory = [value for _, value in jobs if value is not None]
        found.append(StageTime(rule, key, sum(seconds) if seconds else None, max(memory, default=None)))
    return tuple(found)


def read_benchmark(path: Path) -> tuple[float | None, float | None] | None:
    """(seconds, largest resident memory in MB) of a benchmark file; None when it is missing or not readable.

    A job too short for Snakemake to sample has no memory (``NA``).
    """
    try:
        text = path.read_text()
        if path.suffix == ".jsonl":
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            rows = list(csv.DictReader(io.StringIO(text), delimiter="\t"))
        row = rows[-1]
        return _measure(row.get("s")), _measure(row.get("max_rss"))
    except (OSError, ValueError, IndexError, AttributeError):
        logger.debug("no benchmark in %s", path, exc_info=True)
        return None


def _measure(value: object) -> float | None:
    try:
        return finite(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
