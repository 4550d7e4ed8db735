"""Stage overlay: the tracks drawn over the frames."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from everypoint.artifacts import atomic
from everypoint.artifacts.tracks import load_tracks
from everypoint.artifacts.video import load_frames
from everypoint.config.options import OverlayOptions

VERSION = 1


def run(*, frames: str, tracks: str, options: Mapping[str, Any], overlay: str, trails: str) -> None:
    """Write ``overlay.mp4`` and ``trails.mp4`` of one video and preset."""
    from everypoint.report.overlay import draw_overlay, draw_trails

    atomic.sweep_stale(Path(overlay).parent)
    images, found = load_frames(Path(frames).parent), load_tracks(tracks)
    chosen = OverlayOptions.model_validate(dict(options))
    draw_overlay(images, found, chosen, overlay)
    draw_trails(images, found, chosen, trails)
