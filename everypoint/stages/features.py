"""Stage features: one feature map a frame, for the appearance check."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from everypoint.artifacts import atomic
from everypoint.artifacts.video import load_frames, load_meta
from everypoint.config.options import FeatureOptions

VERSION = 1


def run(
    *, frames: str, options: Mapping[str, Any], output: str, device: str, threads: int, place: str | None = None
) -> None:
    """Write ``features.npy``, float16 [T, h, w, C], covering the frame.

    ``place`` is the folder that the back-end ``processed`` reads.
    """
    from everypoint.features.run import compute_features
    from everypoint.stages.device import prepare
    from everypoint.stages.places import place_of

    atomic.sweep_stale(Path(output).parent)
    folder = Path(frames).parent
    compute_features(
        load_frames(folder),
        FeatureOptions.model_validate(dict(options)),
        Path(output),
        prepare(device, threads),
        place_of(place, "features.folder"),
        load_meta(folder),
    )
