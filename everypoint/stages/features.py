"""Stage features: one feature map a frame, for the appearance check; of long videos in parts that are joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from everypoint.artifacts import atomic
from everypoint.artifacts.video import load_frames, load_meta
from everypoint.config.options import FeatureOptions
from everypoint.stages.shards import shard_of, shard_range

VERSION = 1


def run(
    *,
    frames: str,
    options: Mapping[str, Any],
    output: str,
    device: str,
    threads: int,
    place: str | None = None,
    shard: str = "1of1",
    parts: Sequence[str] = (),
) -> None:
    """Write ``features.npy``, float16 [T, h, w, C], covering the frame.

    ``place`` is the folder that the back-end ``processed`` reads. ``shard`` says which part of the frames is meant;
    with ``parts``, the files of all shards, these are joined and nothing is computed.
    """
    from everypoint.features.run import compute_features, join_features
    from everypoint.stages.device import prepare
    from everypoint.stages.places import place_of

    atomic.sweep_stale(Path(output).parent)
    if parts:
        join_features(parts, output)
        return
    folder = Path(frames).parent
    pictures = load_frames(folder)
    chosen = shard_range(len(pictures), *shard_of(shard))
    compute_features(
        pictures[chosen.start : chosen.stop],
        FeatureOptions.model_validate(dict(options)),
        Path(output),
        prepare(device, threads),
        place_of(place, "features.folder"),
        load_meta(folder),
    )
