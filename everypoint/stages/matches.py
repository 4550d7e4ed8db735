"""Stage matches: all that is known of which point lies where, in the bounded table that optimisers read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everypoint.artifacts import atomic
from everypoint.artifacts.flows import FlowStore
from everypoint.artifacts.matches import Matches, load_matches, save_matches
from everypoint.artifacts.video import VideoMeta, load_frames, load_meta
from everypoint.config.options import MatchOptions
from everypoint.stages.depth import depth_mask

if TYPE_CHECKING:
    import numpy as np
    import torch

VERSION = 2


def run(
    *,
    meta: str,
    options: Mapping[str, Any],
    seed: int,
    output: str,
    statistics: str,
    device: str,
    threads: int,
    flow: Sequence[str] = (),
    features: str | None = None,
    frames: str | None = None,
    depth: str | None = None,
    sparse: Sequence[str] = (),
) -> None:
    """Write ``matches.npz`` and, as ``filter.json``, what share of the pixels was kept at each gap.

    Args:
        meta: ``video.json`` of the frames.
        options: ``matches`` (see :class:`MatchOptions`) and ``appearance_threshold`` of sparse rows.
        seed: of the draws.
        output: the table.
        statistics: the JSON file.
        device: where the arithmetic runs.
        threads: of torch.
        flow: the shards of the flows; none where matches come from sparse sources alone.
        features: feature maps of the appearance check.
        frames: the video's frames, for chaining.
        depth: the depth prior whose mask counts.
        sparse: tables of sparse sources.
    """
    from everypoint.features.run import load_features
    from everypoint.match.rows import join_tables
    from everypoint.match.table import build_matches
    from everypoint.stages.device import prepare

    atomic.sweep_stale(Path(output).parent)
    video, place = load_meta(Path(meta).parent), prepare(device, threads)
    maps = load_features(features) if features else None
    tables = [load_matches(path) for path in sparse]
    kept: dict[str, Any] = {"options": dict(options["matches"])}
    if flow:
        dense, kept = build_matches(
            FlowStore([Path(folder) for folder in flow]),
            maps,
            MatchOptions.model_validate(dict(options["matches"])),
            seed,
            place,
            frames=video.frames,
            images=load_frames(Path(frames).parent) if frames else None,
            depth_mask=depth_mask(depth),
            taken=sum(map(len, tables)),
        )
        tables = [dense, *tables]
    threshold = options["appearance_threshold"]
    if threshold is not None and maps is not None:
        first = 1 if flow else 0
        tables[first:] = [_alike(table, maps, threshold, video, place) for table in tables[first:]]
    sources = ["flow"] * bool(flow) + [Path(path).parent.name for path in sparse]
    table = tables[0] if flow and not sparse else join_tables(tables, video.size, video.frames)
    atomic.write_json(statistics, kept | {"sources": dict(zip(sources, map(len, tables), strict=True))})
    save_matches(output, table)


def _alike(table: Matches, maps: np.ndarray, threshold: float, video: VideoMeta, device: torch.device) -> Matches:
    """The rows of a table whose ends look alike."""
    from everypoint.match.rows import alike_rows, chosen_rows
    from everypoint.match.video import FeatureMaps

    return chosen_rows(table, alike_rows(table, FeatureMaps(maps, video.size, device), threshold))
