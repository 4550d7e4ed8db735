"""Stage sparse: the matches of one source that yields single matches instead of flows, as a table."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from everypoint.artifacts import atomic
from everypoint.artifacts.matches import Matches, save_matches
from everypoint.artifacts.video import load_frames, load_meta
from everypoint.config.options import Preset
from everypoint.stages.depth import depth_mask

VERSION = 1

logger = logging.getLogger(__name__)


def run(
    *,
    frames: str,
    source: str,
    preset: Mapping[str, Any],
    seed: int,
    output: str,
    statistics: str,
    device: str,
    threads: int,
    features: str | None = None,
    depth: str | None = None,
    place: str | None = None,
) -> None:
    """Write ``matches.npz`` (``output``) of one source, and as ``statistics`` how many matches there are at each gap.

    Args:
        frames: the video's frames.
        source: the name in ``sparse.sources``.
        preset: the part of the preset that the source depends on.
        seed: of its draws.
        output: the table.
        statistics: the JSON file.
        device: where networks run.
        threads: of torch and OpenCV.
        features: the feature maps whose cells are matched.
        depth: the depth prior whose mask says where matches may lie.
        place: the user's file or folder.
    """
    from everypoint.correspond.sparse import SparseVideo, sparse_source
    from everypoint.features.run import load_features
    from everypoint.match.rows import table_of
    from everypoint.stages.device import prepare
    from everypoint.stages.places import place_of

    atomic.sweep_stale(Path(output).parent)
    folder, options = Path(frames).parent, Preset.model_validate(dict(preset))
    meta, found = load_meta(folder), sparse_source(source, options, prepare(device, threads))
    video = SparseVideo(
        load_frames(folder),
        meta,
        load_features(features) if features else None,
        depth_mask(depth),
        place_of(place, "sparse.tracks.file" if source == "tracks" else f"sparse.{source}.folder"),
    )
    rows = found.rows(video, seed)
    table = table_of(rows, meta.size, meta.frames, options.sparse.per_pair, seed)
    if not len(table):
        logger.warning("%s: the source %s found no match", meta.name, source)
    described = {"source": source, "made_by": found.describe(), "found": len(rows)}
    atomic.write_json(statistics, described | by_gap(table))
    save_matches(output, table)


def by_gap(table: Matches) -> dict[str, Any]:
    """Rows and pairs of a table, in all and by |i - j|."""
    gaps = np.abs(table.pairs[:, 0] - table.pairs[:, 1])
    rows = np.diff(table.offsets)
    counted = {int(gap): int(rows[gaps == gap].sum()) for gap in np.unique(gaps)}
    return {"rows": len(table), "pairs": len(table.pairs), "rows_by_gap": counted}
