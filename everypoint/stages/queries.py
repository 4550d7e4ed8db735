"""Stage queries: which points are tracked, and the ground truth of the frames used, where there is one."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from everypoint.artifacts import atomic
from everypoint.artifacts.video import VideoMeta, load_meta
from everypoint.config.options import EvaluateOptions, QueryOptions
from everypoint.errors import InputError
from everypoint.stages.frames import entry_from
from everypoint.video.discover import Entry

VERSION = 1

logger = logging.getLogger(__name__)

Queries = tuple[np.ndarray, np.ndarray, np.ndarray]  # (t, x, y) float32 [N, 3]; ids str [N]; sets str [N]


def grid_shape(size: tuple[int, int], count: int) -> tuple[int, int]:
    """Rows and columns of the grid of :func:`grid_points`."""
    cell = max(size) / count
    return tuple(max(1, round(side / cell)) for side in size)


def grid_points(size: tuple[int, int], count: int) -> np.ndarray:
    """Centres of the cells of a regular grid over a frame of ``size`` (H, W), raster (x, y), float32 [N, 2].

    ``count`` cells lie along the longer side; the other side gets as many as keep the cells closest to square.
    """
    height, width = size
    rows, columns = grid_shape(size, count)
    xs = (np.arange(columns) + 0.5) * width / columns
    ys = (np.arange(rows) + 0.5) * height / rows
    return np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2).astype(np.float32)


def inside_mask(points: np.ndarray, mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Whether raster points [N, 2] of a frame of ``size`` lie on a nonzero cell of ``mask`` [h, w], bool [N]."""
    h, w = mask.shape
    columns = np.clip((points[:, 0] * w / size[1]).astype(int), 0, w - 1)
    rows = np.clip((points[:, 1] * h / size[0]).astype(int), 0, h - 1)
    return mask[rows, columns] > 0


def grid_queries(entry: Entry, meta: VideoMeta, options: QueryOptions) -> Queries:
    """Queries on a regular grid of one frame, inside the video's mask where it has one."""
    from everypoint.video.sidecars import read_mask

    if options.query_frame >= meta.frames:
        raise InputError(
            f"{entry.name} has no frame {options.query_frame} to query", f"{meta.frames} are used", "lower query_frame"
        )
    points = grid_points(meta.original_size, options.grid)
    frame = meta.start + options.query_frame * meta.stride
    mask = read_mask(entry, frame, meta.original_size) if options.mask == "auto" else None
    if mask is not None:
        points = points[inside_mask(points, mask, meta.original_size)]
        if not len(points):
            raise InputError(f"no grid point of {entry.name} lies in its mask", cure="use a finer grid or mask: ignore")
    elif entry.mask is not None and options.mask == "auto":
        logger.warning("%s has no mask for frame %d; the whole frame is tracked", entry.name, frame)
    queries = np.column_stack([np.full(len(points), options.query_frame), points]).astype(np.float32)
    return queries, np.array([f"grid-{n}" for n in range(len(points))]), np.full(len(points), "grid")


def csv_queries(entry: Entry, meta: VideoMeta, *, shot: bool) -> list[Queries]:
    """The queries of the file beside the video; none is an error, except for a shot, whose frames may have none."""
    from everypoint.video.sidecars import read_queries_csv

    queries, ids = read_queries_csv(entry, meta)
    if len(queries):
        return [(queries, np.array(ids), np.full(len(ids), "csv"))]
    if entry.queries is not None and not shot:
        raise InputError(
            f"{entry.queries.name} holds no query at a frame that is used", cure="check start, stride and max_frames"
        )
    return []


def annotated_queries(
    meta: VideoMeta, points: np.ndarray, occluded: np.ndarray, options: EvaluateOptions
) -> list[Queries]:
    """TAP-Vid's queries of ground truth, all modes together; none when no point is visible in a query frame."""
    from everypoint.evaluate.protocol import queries_from_annotations

    modes, stride = options.query_modes, options.query_stride
    found = queries_from_annotations(points, occluded, modes, stride, meta.original_size)
    return [found] if len(found[0]) else []


def collect(
    entry: Entry, meta: VideoMeta, options: QueryOptions, evaluate: EvaluateOptions, *, shot: bool = False
) -> tuple[Queries, tuple[np.ndarray, np.ndarray]]:
    """The queries of a video (its file and its ground truth, else a grid) and its annotations (N may be 0)."""
    from everypoint.video.sidecars import read_annotations

    points, occluded = read_annotations(entry, meta)
    parts = csv_queries(entry, meta, shot=shot) + annotated_queries(meta, points, occluded, evaluate)
    return _joined(parts or [grid_queries(entry, meta, options)]), (points, occluded)


def _joined(parts: Sequence[Queries]) -> Queries:
    queries, ids, sets = (np.concatenate(column) for column in zip(*parts, strict=True))
    return queries.astype(np.float32), ids.astype(np.str_), sets.astype(np.str_)


def run(
    *,
    entry: Mapping[str, Any],
    options: Mapping[str, Any],
    evaluate: Mapping[str, Any],
    frames: str,
    output: str,
    shot: int = 0,
) -> None:
    """Write ``queries.npz``, ``annotations.npz`` and ``query_frames.json`` into the folder of ``output``."""
    folder = Path(output).parent
    atomic.sweep_stale(folder)
    meta = load_meta(Path(frames).parent)
    chosen = QueryOptions.model_validate(dict(options)), EvaluateOptions.model_validate(dict(evaluate))
    (queries, ids, sets), (points, occluded) = collect(entry_from(entry), meta, *chosen, shot=shot > 0)
    logger.info("%d queries, %d annotated tracks", len(queries), len(points))
    atomic.save_npz(folder / "queries.npz", queries=queries, query_ids=ids, query_sets=sets)
    atomic.save_npz(folder / "annotations.npz", points=points, occluded=occluded)
    atomic.write_json(folder / "query_frames.json", sorted({int(t) for t in queries[:, 0]}))
