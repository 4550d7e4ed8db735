"""Small made-up inputs of the report: tracks, frames, metrics, videos."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from everypoint.artifacts.tracks import Tracks
from everypoint.report.data import PresetReport, VideoReport

PROTOCOL = {
    "query_modes": ["strided"],
    "query_stride": 5,
    "frames": 8,
    "working_size": [48, 64],
    "scored_size": [256, 256],
    "outside_frame": "counted as predicted occluded",
}


def tracks_of(
    positions: np.ndarray, size: tuple[int, int], visible: np.ndarray | None = None, fps: float = 10.0
) -> Tracks:
    """Tracks from raster positions [T, N, 2], queried at frame 0."""
    frames, points = positions.shape[:2]
    visible = np.ones((frames, points), bool) if visible is None else visible
    queries = np.column_stack([np.zeros(points), positions[0]]).astype(np.float32)
    names = np.array([str(n) for n in range(points)], dtype=np.str_)
    return Tracks(positions.astype(np.float32), visible, visible.astype(np.float32), queries, names, size, fps)


def metrics(value: float | None = 0.5, mode: str = "strided", **scores: Any) -> dict[str, Any]:
    """The content of a metrics.json."""
    base = {
        "average_jaccard": value,
        "average_pts_within_thresh": 0.6,
        "occlusion_accuracy": 0.9,
        "temporal_coherence": 1.5,
        "d_avg": 61.0,
        "survival_16": 92.5,
        "median_l2": 1.25,
        "queries": 12,
        **{f"pts_within_{x}": 0.1 * k for k, x in enumerate((1, 2, 4, 8, 16), 1)},
        **{f"jaccard_{x}": 0.05 * k for k, x in enumerate((1, 2, 4, 8, 16), 1)},
    }
    curves = {"average_jaccard": [None, 0.5, 0.4, value], "error_median": [0.0, 1.0, None, 2.0]}
    return {"protocol": dict(PROTOCOL), "modes": {mode: base | scores}, "per_frame": {mode: curves}}


def meta(name: str = "clip", **changes: Any) -> dict[str, Any]:
    """The content of a video.json."""
    known = {"name": name, "source": f"videos/{name}.mp4", "fps": 24.0, "frames": 8, "height": 48, "width": 64}
    return known | {"original_height": 48, "original_width": 64, "cuts": [], "warnings": []} | changes


def video(name: str = "clip", presets: Iterable[str] = ("chain", "cpu"), **changes: Any) -> VideoReport:
    """A video on which every preset was measured."""
    results = {preset: PresetReport(metrics=metrics(0.4 + 0.1 * k)) for k, preset in enumerate(presets)}
    return VideoReport(**({"name": name, "meta": meta(name), "results": results} | changes))


def small_mp4(path: Path, frames: int = 6, size: tuple[int, int] = (48, 64)) -> Path:
    """A real little H.264 file."""
    from everypoint.video.encode import write_mp4

    path.parent.mkdir(parents=True, exist_ok=True)
    write_mp4(path, [np.full((*size, 3), 40 * t, np.uint8) for t in range(frames)], 10.0, size)
    return path
