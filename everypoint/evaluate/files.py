"""Reading predictions and ground truth of any origin for ``everypoint evaluate``."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from everypoint.artifacts.atomic import load_npz
from everypoint.artifacts.pickles import load_arrays_pickle
from everypoint.artifacts.tracks import Tracks, load_tracks
from everypoint.errors import InputError
from everypoint.video.tapvid import check_annotations

Order = Literal["auto", "tn", "nt"]

VISIBLE_KEYS = ("visibility", "visible", "visibs")
OCCLUDED_KEYS = ("occluded", "occlusion")
AGAIN = "copy or write it again"


@dataclass(frozen=True)
class GroundTruth:
    """Annotated tracks of one video: points [N, T, 2] normalised raster (x, y), occluded bool [N, T]."""

    name: str
    points: np.ndarray
    occluded: np.ndarray


@dataclass(frozen=True)
class Prediction:
    """Predicted tracks, and by what its rows are known: ``ids``, ``queries``, or the ``order`` of the protocol."""

    tracks: Tracks
    rows_known_by: Literal["ids", "queries", "order"]
    has_visibility: bool = True


def load_ground_truth(path: Path, video: str | None = None) -> list[GroundTruth]:
    """Annotations of a ``NAME.annotations.npz`` or of the videos of a TAP-Vid pickle (dict or list).

    Videos of a list are named by their position, ``0``, ``1``, ... ``video`` chooses one by name. Raises
    :class:`InputError` for a file of another kind or an unknown video.
    """
    if not path.is_file():
        raise InputError(f"{path} is not there", cure="give a TAP-Vid pickle or NAME.annotations.npz")
    if zipfile.is_zipfile(path) or path.suffix.lower() == ".npz":
        name = path.name.removesuffix(".npz").removesuffix(".annotations")
        entries: dict[str, Any] = {name: load_npz(path, cure=AGAIN)}
    else:
        content = load_arrays_pickle(path)
        if isinstance(content, (list, tuple)):
            content = {str(n): entry for n, entry in enumerate(content)}
        if not isinstance(content, dict):
            raise InputError(f"{path} holds no videos", cure="give a TAP-Vid pickle or NAME.annotations.npz")
        entries = content
    if video is not None:
        if video not in entries:
            known = ", ".join(sorted(map(str, entries))[:8])
            raise InputError(f"{path} has no video {video!r}", f"it has {len(entries)}: {known}")
        entries = {video: entries[video]}
    return [_ground_truth(path, str(name), entry) for name, entry in entries.items()]


def _ground_truth(path: Path, name: str, entry: Any) -> GroundTruth:
    if not isinstance(entry, dict) or "points" not in entry or "occluded" not in entry:
        raise InputError(f"{path}: {name!r} has no points and occluded", cure="give a TAP-Vid pickle or annotations")
    return GroundTruth(name, *check_annotations(f"{name!r} of {path}", entry["points"], entry["occluded"]))


def load_prediction(
    path: Path, frames: int, queries: int, *, order: Order = "auto", size: tuple[int, int] | None = None
) -> Prediction:
    """Tracks of a ``tracks.npz`` of ours, or of an npz with the keys

    * ``tracks``: [T, N, 2] or [N, T, 2] raster (x, y), one leading axis of length 1 allowed;
    * ``visibility`` (or ``visible``, ``visibs``), or ``occluded`` (or ``occlusion``): bool or 0/1 in the same order;
      without either, every point is taken as visible;
    * ``queries`` (optional): [N, 3], (t, x, y) raster; without, rows must follow the protocol's order of queries;
    * ``frame_size`` (optional): (H, W) that the coordinates belong to; ``size`` goes before it.

    ``frames`` and ``queries`` are those of the ground truth, by which the order of the axes is told. Raises
    :class:`InputError` saying both shapes when they do not fit.
    """
    if not path.is_file():
        raise InputError(f"{path} is not there", cure="give an npz with tracks")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is not an npz file", cure="save tracks with numpy.savez")
    data = load_npz(path, cure=AGAIN)
    if "tracks" not in data:
        raise InputError(f"{path} has no array 'tracks'", f"it has {', '.join(sorted(data)) or 'none'}")
    if "schema_version" in data:
        tracks = load_tracks(path)
        if size is not None and size != tracks.frame_size:
            raise InputError(
                f"{path} belongs to frames of {tracks.frame_size[0]}x{tracks.frame_size[1]}",
                cure="leave --size away",
            )
        by_ids = any(str(name).startswith(("first-", "strided-")) for name in tracks.query_ids)
        if len(tracks.tracks) != frames:
            raise InputError(f"{path}: tracks have shape {tracks.tracks.shape}, the ground truth has {frames} frames")
        return Prediction(tracks, "ids" if by_ids else "queries")
    return _foreign(path, data, frames, queries, order, size)


def _foreign(
    path: Path, data: dict[str, np.ndarray], frames: int, queries: int, order: Order, size: tuple[int, int] | None
) -> Prediction:
    tracks = data["tracks"]
    tracks = tracks[0] if tracks.ndim == 4 and len(tracks) == 1 else tracks
    given = data.get("queries")
    if given is not None and (given.ndim != 2 or given.shape[1] != 3):
        raise InputError(f"{path}: queries have shape {given.shape}", cure="give [N, 3], (t, x, y)")
    rows = queries if given is None else len(given)
    swap = _is_query_first(path, tracks, frames, rows, order)
    tracks = tracks.swapaxes(0, 1) if swap else tracks  # [T, N, 2]
    visibility = _visibility(path, data)
    has_visibility = visibility is not None
    if visibility is None:
        visibility = np.ones(tracks.shape[:2], bool)
    elif swap:
        visibility = visibility.T
    if visibility.shape != tracks.shape[:2]:
        raise InputError(f"{path}: visibility has shape {visibility.shape}, tracks have {tracks.shape}")
    return Prediction(
        Tracks(
            tracks=tracks,
            visibility=visibility,
            confidence=visibility.astype(np.float32),
            queries=np.zeros((rows, 3)) if given is None else given,
            query_ids=np.array([str(n) for n in range(rows)], dtype=np.str_),
            frame_size=_frame_size(path, data, size),
            fps=1.0,
        ),
        "order" if given is None else "queries",
        has_visibility,
    )


def _is_query_first(path: Path, tracks: np.ndarray, frames: int, rows: int, order: Order) -> bool:
    """Whether tracks are [N, T, 2] rather than [T, N, 2]; raises when they fit neither, or both without being told."""
    fits = {"tn": tracks.shape == (frames, rows, 2), "nt": tracks.shape == (rows, frames, 2)}
    allowed = {name: fit for name, fit in fits.items() if order in ("auto", name)}
    if tracks.dtype.kind not in "fiu" or not any(allowed.values()):
        wanted = " or ".join({"tn": str((frames, rows, 2)), "nt": str((rows, frames, 2))}[name] for name in allowed)
        raise InputError(
            f"{path}: tracks have shape {tracks.shape} where {wanted} is needed",
            f"{rows} queries over {frames} frames",
            "check the query mode, the stride and the frames",
        )
    if order == "auto" and all(fits.values()) and frames > 0:
        raise InputError(
            f"{path}: tracks have shape {tracks.shape}, which fits both orders", cure="say --order tn or --order nt"
        )
    return not allowed.get("tn", False)


def _visibility(path: Path, data: dict[str, np.ndarray]) -> np.ndarray | None:
    for keys, negate in ((VISIBLE_KEYS, False), (OCCLUDED_KEYS, True)):
        for key in keys:
            if key in data:
                flags = _as_bool(data[key], f"{path}: {key}")
                flags = flags[0] if flags.ndim == 3 and len(flags) == 1 else flags
                return ~flags if negate else flags
    return None


def _as_bool(values: np.ndarray, what: str) -> np.ndarray:
    if values.dtype == bool:
        return values
    if values.dtype.kind not in "fiu" or not np.isin(values, (0, 1)).all():
        raise InputError(f"{what} is neither boolean nor 0 and 1", cure="apply the method's own threshold first")
    return values.astype(bool)


def _frame_size(path: Path, data: dict[str, np.ndarray], size: tuple[int, int] | None) -> tuple[int, int]:
    if size is not None:
        return size
    if "frame_size" not in data:
        raise InputError(
            f"{path} does not say which frame size its coordinates belong to",
            cure="add --size HxW, 256x256 for TAP-Vid's official track and 1x1 for normalised coordinates",
        )
    if data["frame_size"].shape != (2,) or not (data["frame_size"] > 0).all():
        raise InputError(f"{path}: frame_size is not (height, width)")
    return int(data["frame_size"][0]), int(data["frame_size"][1])
