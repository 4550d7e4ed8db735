"""Stage evaluate: one video's tracks measured against its ground truth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from everypoint.artifacts import atomic
from everypoint.artifacts.tracks import load_tracks
from everypoint.artifacts.video import load_meta
from everypoint.config.options import EvaluateOptions

VERSION = 1


def run(
    *, tracks: str, annotations: str, frames: str, options: Mapping[str, Any], video: str, preset: str, output: str
) -> None:
    """Write ``metrics.json``: the scores of every query mode with the protocol they were measured under."""
    from everypoint.evaluate.protocol import evaluate_tracks

    atomic.sweep_stale(Path(output).parent)
    chosen = EvaluateOptions.model_validate(dict(options))
    truth, meta = atomic.load_npz(annotations), load_meta(Path(frames).parent)
    scores = evaluate_tracks(
        load_tracks(tracks),
        truth["points"],
        truth["occluded"],
        chosen.query_modes,
        chosen.query_stride,
        working_size=meta.size,
    )
    atomic.write_json(output, {"video": video, "preset": preset, **scores})
