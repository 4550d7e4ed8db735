"""Long-range matches that OmniTrackFast's preprocessing left on disk (``match/match*.npz``).

Each file holds ``match``, float [M, 7], rows (frame, x, y, frame, x, y, similarity). Frames count all images of the
folder from 0 in the order of their names; coordinates are raster pixels of the images (centres of patches).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from everypoint.artifacts.matches import LONG_RANGE, MatchRows
from everypoint.config.options import Preset
from everypoint.correspond.sparse import SparseVideo
from everypoint.errors import InputError
from everypoint.geometry import raster_to_index, scale_raster
from everypoint.video.paths import natural_key, shown
from everypoint.video.processed_folder import AGAIN, MATCHES, ProcessedFolder, read_array

if TYPE_CHECKING:
    from pathlib import Path

    import torch

COLUMNS = 7


class ProcessedMatches:
    """The matches between working frames out of a processed folder, flagged long-range."""

    def __init__(self, preset: Preset, device: torch.device | str = "cpu") -> None:
        pass

    def describe(self) -> dict[str, Any]:
        return {"source": "processed"}

    def rows(self, video: SparseVideo, seed: int) -> MatchRows:
        """See :class:`everypoint.correspond.sparse.SparseSource`; the score is the similarity, cut to 0..1.

        Raises :class:`InputError` when there is no such folder, it is another video's, or it holds no matches.
        """
        folder = ProcessedFolder(video.place, video.meta, video.frames, "sparse.processed.folder")
        names = [name for name in folder.listing(MATCHES) if name.startswith("match") and name.endswith(".npz")]
        if not names:
            raise folder.missing(MATCHES, "match00000.npz", "remove processed from sparse.sources")
        tables = [read_table(folder.place / MATCHES / name) for name in sorted(names, key=natural_key)]
        # in one direction and each once, whatever the files repeat; the order of the files does not matter
        table = np.unique(np.concatenate([_forward(table) for table in tables]), axis=0)
        i, j = (folder.working_frames(table[:, column].astype(np.int64)) for column in (0, 3))
        chosen = (i >= 0) & (j >= 0) & (i != j)
        size = folder.image_size()
        xy_i, xy_j = (raster_to_index(scale_raster(table[chosen, at : at + 2], size, video.meta.size)) for at in (1, 4))
        return MatchRows(
            frame_i=i[chosen].astype(np.int32),
            frame_j=j[chosen].astype(np.int32),
            xy_i=xy_i.astype(np.float32),
            xy_j=xy_j.astype(np.float32),
            score=table[chosen, 6].clip(0, 1).astype(np.float32),
            flags=np.full(chosen.sum(), LONG_RANGE, np.uint8),
        )


def read_table(path: Path) -> np.ndarray:
    """The rows float32 [M, 7] of a file; rows that are not finite are left out.

    Raises :class:`InputError` when it is damaged or of another shape.
    """
    table = read_array(path, "match")
    if table.size == 0:
        return np.empty((0, COLUMNS), np.float32)
    if table.ndim != 2 or table.shape[1] != COLUMNS:
        raise InputError(f"{shown(path)} cannot be used", f"match is of shape {table.shape}, not M x {COLUMNS}", AGAIN)
    table = table[np.isfinite(table).all(axis=1)]
    frames = table[:, [0, 3]]
    if (frames != np.round(frames)).any():
        raise InputError(f"{shown(path)} cannot be used", "columns 0 and 3 of match are not frame numbers", AGAIN)
    return table


def _forward(table: np.ndarray) -> np.ndarray:
    """The rows with the earlier frame first."""
    swapped = table[:, [3, 4, 5, 0, 1, 2, 6]]
    return np.where((table[:, 0] > table[:, 3])[:, None], swapped, table)


SOURCE = ProcessedMatches
