"""What the benchmarks of whole runs share: overrides on their command lines, errors of tracks, time of training."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from everypoint.artifacts import atomic
from everypoint.artifacts.tracks import load_tracks
from everypoint.config.load import deep_merge
from everypoint.evaluate.queries import sample_queries


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """The argument ``--overrides``."""
    parser.add_argument(
        "--overrides",
        nargs="*",
        default=[],
        metavar="YAML",
        help="as overrides: in the configuration; files or text, later ones on top of earlier ones",
    )


def read_overrides(given: list[str], methods: list[str]) -> dict[str, Any]:
    """What is given, merged; presets that do not run are left out."""
    merged: dict[str, Any] = {}
    for one in given:
        text = Path(one).read_text(encoding="utf-8") if one.endswith((".yaml", ".yml")) else one
        merged = deep_merge(merged, yaml.safe_load(text) or {})
    return {name: options for name, options in merged.items() if name in ("all", *methods)}


def training_seconds(video: Path, method: str) -> str:
    """Seconds that the optimisation of a video took, all tries together; empty for presets without one."""
    path = video / "optimize" / method / "train.jsonl"
    if not path.exists():
        return ""
    return f"{json.loads(path.read_text().splitlines()[-1])['seconds']:.0f}"


def median_error(tracks: Path, annotations: Path, width: int) -> float:
    """Median distance to the truth over all points and frames of the strided queries that show the point.

    The queries' own frames are left out. In pixels of a frame that is ``width`` wide and high.
    """
    truth, found = atomic.load_npz(annotations), load_tracks(tracks)
    asked = sample_queries(truth["points"] * width, truth["occluded"], "strided", 5)
    place = {name: row for row, name in enumerate(map(str, found.query_ids))}
    rows = [place[name] for name in map(str, asked.ids)]
    height, original = found.frame_size
    scaled = found.tracks[:, rows].transpose(1, 0, 2) * [width / original, width / height]  # [N, T, 2]
    distance = np.linalg.norm(scaled - asked.gt_tracks, axis=-1)
    counted = ~asked.gt_occluded & (np.arange(distance.shape[1]) != asked.query_points[:, :1])
    return float(np.median(distance[counted]))
