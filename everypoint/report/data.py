"""What a report is made from: one :class:`VideoReport` a video, plain values and paths only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Failure:
    """Why a stage of a video failed: the sentence its error printed, and where the log is."""

    stage: str
    sentence: str
    log: str = ""


@dataclass(frozen=True)
class StageTime:
    """What one finished job cost. ``key`` is its preset or back-end key, empty for stages that have none."""

    rule: str
    key: str
    seconds: float | None
    max_rss_mb: float | None


@dataclass(frozen=True)
class PresetReport:
    """One preset on one video.

    Attributes:
        metrics: content of ``metrics.json``; None without ground truth.
        overlay: the overlay video.
        trails: the trails video.
        filter_stats: content of ``filter.json``.
        train_rows: rows of ``train.jsonl``.
        failure: why this preset did not finish.
    """

    metrics: Mapping[str, Any] | None = None
    overlay: Path | None = None
    trails: Path | None = None
    filter_stats: Mapping[str, Any] | None = None
    train_rows: Sequence[Mapping[str, Any]] = ()
    failure: Failure | None = None


@dataclass(frozen=True)
class VideoReport:
    """One video. ``meta`` is the content of its ``video.json`` (None when the video could not be read at all)."""

    name: str
    meta: Mapping[str, Any] | None = None
    results: Mapping[str, PresetReport] = field(default_factory=dict)
    stages: Sequence[StageTime] = ()
    warnings: Sequence[str] = ()
    failure: Failure | None = None

    @property
    def failures(self) -> list[tuple[str, Failure]]:
        """(preset, failure), the video's own under the empty name."""
        found = [("", self.failure)] if self.failure else []
        return found + [(preset, one.failure) for preset, one in self.results.items() if one.failure]

    @property
    def all_warnings(self) -> list[str]:
        """The warnings of the video file and of its stages, each once; shot cuts are said even without a warning."""
        meta = self.meta or {}
        found = [*(meta.get("warnings") or []), *self.warnings]
        cuts = meta.get("cuts") or []
        if cuts and not any("cut" in text.lower() for text in found):
            found.append(f"shot cut at frame {', '.join(str(cut) for cut in cuts)}: tracks that cross it mean nothing")
        return list(dict.fromkeys(found))


def presets_of(videos: Sequence[VideoReport]) -> list[str]:
    """All presets, in order of first appearance."""
    return list(dict.fromkeys(preset for video in videos for preset in video.results))


def modes_of(videos: Sequence[VideoReport]) -> list[str]:
    """All query modes that were measured, in order of first appearance."""
    return list(
        dict.fromkeys(mode for video in videos for one in video.results.values() for mode in scores_by_mode(one))
    )


def scores_by_mode(result: PresetReport | None) -> Mapping[str, Mapping[str, Any]]:
    """The scores of a preset by mode; empty without metrics."""
    return ((result.metrics if result else None) or {}).get("modes") or {}
