"""Videos inside TAP-Vid pickles: a dict (DAVIS, RoboTAP), a list (RGB-Stacking), or shards of either (Kinetics)."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from everypoint.artifacts.atomic import read_json, write_json
from everypoint.artifacts.pickles import load_arrays_pickle
from everypoint.errors import ArtifactError, InputError
from everypoint.video.image_header import image_size
from everypoint.video.paths import shown


class Item(NamedTuple):
    """One video of a TAP-Vid file with its ground truth."""

    video: Any  # uint8 [T, H, W, 3], or T encoded images (bytes)
    points: np.ndarray  # float32 [N, T, 2], raster (x, y) divided by the frame's (width, height)
    occluded: np.ndarray  # bool [N, T]

    def source_hash(self) -> str:
        """sha256 of frames and annotations."""
        digest = hashlib.sha256()
        for part in (*(self.video if not _is_frames(self.video) else [self.video]), self.points, self.occluded):
            if isinstance(part, np.ndarray):
                digest.update(f"{part.dtype} {part.shape};".encode())
                part = np.ascontiguousarray(part)
            digest.update(part)
        return digest.hexdigest()


def pickles_of(dataset: Path) -> list[Path]:
    """The pickle itself, or a folder's in order: its shards ``*_of_*.pkl``, or where none is so named all ``*.pkl``."""
    if dataset.is_file():
        return [dataset]
    if not dataset.is_dir():
        raise InputError(f"the data set {shown(dataset)} does not exist", cure="check the path given as dataset")
    pickles = sorted(path for path in dataset.glob("*.pkl") if not path.name.startswith("."))
    shards = [path for path in pickles if "_of_" in path.name] or pickles
    if not shards:
        raise InputError(f"the data set folder {shown(dataset)} holds no shards", "no file in it is named *.pkl")
    return shards


def index_of(path: Path, cache_folder: Path | None = None) -> list[str]:
    """The keys of a TAP-Vid pickle: those of a dict in its order, or "0", "1", ... of a list.

    Opening such a file reads all of it, so the keys (and sizes) are kept in ``cache_folder`` (when given) for as long
    as the file's size and modification time stay the same.
    """
    return list(sizes_of(path, cache_folder))


def sizes_of(path: Path, cache_folder: Path | None = None) -> dict[str, list[int] | None]:
    """[T, H, W] of every video of a TAP-Vid pickle by its key, remembered as by :func:`index_of`; None if damaged."""
    path = Path(path)
    stamp = _stamp(path)
    cache = None
    if cache_folder is not None:
        cache = Path(cache_folder) / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]}.json"
        try:
            known = read_json(cache)
            if known["stamp"] == list(stamp):
                return {str(key): size for key, size in known["sizes"]}
        except (ArtifactError, KeyError, TypeError, ValueError):
            pass  # not there yet, or not ours: read the pickle
    data = load_arrays_pickle(path)
    sizes = {key: _size(data[key] if isinstance(data, dict) else data[int(key)]) for key in _keys(path, data)}
    if cache is not None:
        write_json(cache, {"stamp": list(stamp), "sizes": list(sizes.items())})
    return sizes


def _size(entry: Any) -> list[int] | None:
    """[T, H, W] of a video as stored; None where it is no video."""
    video = entry.get("video") if isinstance(entry, dict) else None
    if _is_frames(video):
        return [int(side) for side in video.shape[:3]]
    first = video[0] if isinstance(video, (list, tuple, np.ndarray)) and len(video) else None
    size = image_size(first) if isinstance(first, bytes) else None
    return [len(video), *size] if size else None


def load_item(path: Path, key: str) -> Item:
    """One video of a TAP-Vid pickle, checked; raises :class:`InputError` naming what does not fit."""
    return _load_item(path, key, _stamp(path))


@functools.lru_cache(maxsize=1)  # frames and annotations of one entry are read one after the other
def _load_item(path: Path, key: str, stamp: tuple[int, int]) -> Item:
    data = load_arrays_pickle(path)
    if key not in _keys(path, data):
        raise InputError(f"{shown(path.name)} has no entry {shown(key)}")
    entry = data[key] if isinstance(data, dict) else data[int(key)]
    return _checked(f"entry {shown(key)} of {shown(path.name)}", entry)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise InputError(f"{shown(path)} cannot be opened", error.strerror or str(error)) from error
    return status.st_size, status.st_mtime_ns


def _keys(path: Path, data: Any) -> list[str]:
    if isinstance(data, dict) and data and all(isinstance(key, str) for key in data):
        return list(data)
    if isinstance(data, (list, tuple)) and data:
        return [str(index) for index in range(len(data))]
    raise InputError(f"{shown(path.name)} is not a TAP-Vid file", "it is neither a dict nor a list of videos")


def _is_frames(video: Any) -> bool:
    return isinstance(video, np.ndarray) and video.dtype == np.uint8 and video.ndim == 4 and video.shape[3] == 3


def _checked(name: str, entry: Any) -> Item:
    if not isinstance(entry, dict) or not {"video", "points", "occluded"} <= entry.keys():
        raise InputError(f"{name} is not a TAP-Vid video", "it needs video, points and occluded")
    video = entry["video"]
    if not _is_frames(video):
        video = list(video) if isinstance(video, (list, tuple, np.ndarray)) else []
        if not video or not all(isinstance(frame, bytes) for frame in video):
            raise InputError(f"{name} cannot be used", "its video is neither uint8 [T, H, W, 3] nor encoded images")
    points, occluded = check_annotations(name, entry["points"], entry["occluded"])
    if points.shape[1] != len(video):
        raise InputError(f"{name} cannot be used", f"it has {len(video)} frames and points for {points.shape[1]}")
    return Item(video, points, occluded)


def check_annotations(name: str, points: Any, occluded: Any) -> tuple[np.ndarray, np.ndarray]:
    """(float32 [N, T, 2], bool [N, T]) of ground truth from outside; raises :class:`InputError` for other shapes."""
    points, occluded = np.asarray(points), np.asarray(occluded)
    if points.ndim != 3 or points.shape[2] != 2 or points.dtype.kind not in "fiu":
        raise InputError(f"{name} cannot be used", f"points are {points.dtype} {points.shape}, not [N, T, 2]")
    if occluded.shape != points.shape[:2] or occluded.dtype.kind not in "biu":
        raise InputError(f"{name} cannot be used", f"occluded is {occluded.dtype} {occluded.shape}, not [N, T]")
    points, occluded = points.astype(np.float32), occluded.astype(bool)
    if not np.isfinite(points[~occluded]).all():
        raise InputError(f"{name} cannot be used", "a visible point is not a finite number")
    return points, occluded
