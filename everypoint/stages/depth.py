"""Stage depth: a depth prior of every frame, and which of its pixels can be relied on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everypoint.artifacts import atomic
from everypoint.artifacts.video import load_frames, load_meta
from everypoint.config.options import DepthOptions

if TYPE_CHECKING:
    import numpy as np

VERSION = 1


def run(
    *, frames: str, options: Mapping[str, Any], output: str, device: str, threads: int, place: str | None = None
) -> None:
    """Write ``depth.npy`` float16 [T, h, w], whose cells tile the frame, its outlier mask and what made them.

    ``place`` is the folder that the back-end ``file`` reads.
    """
    from everypoint.depth.run import compute_depth
    from everypoint.stages.device import prepare
    from everypoint.stages.places import place_of

    atomic.sweep_stale(Path(output).parent)
    folder = Path(frames).parent
    compute_depth(
        load_frames(folder),
        load_meta(folder),
        DepthOptions.model_validate(dict(options)),
        Path(output),
        prepare(device, threads),
        place_of(place, "depth.folder"),
    )


def depth_mask(depth: str | None) -> np.ndarray | None:
    """The outlier mask bool [T, h, w] that lies beside a depth prior; None without one."""
    if depth is None:
        return None
    from everypoint.depth.run import load_depth

    return load_depth(Path(depth))[1]
