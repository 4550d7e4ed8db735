"""Stage features: one feature map a frame, for the appearance check."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from everypoint.artifacts.video import load_frames
from everypoint.config.options import FeatureOptions

VERSION = 1


def run(*, frames: str, options: Mapping[str, Any], output: str, device: str, threads: int) -> None:
    """Write ``features.npy``, float16 [T, h, w, C], covering the frame."""
    from everypoint.features.run import compute_features
    from everypoint.stages.device import prepare

    images = load_frames(Path(frames).parent)
    compute_features(images, FeatureOptions.model_validate(dict(options)), Path(output), prepare(device, threads))
