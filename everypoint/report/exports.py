"""Tracks in the formats of compositors (Nuke, After Effects, Blender), as a table, and in TAP-Vid's order.

Every y-flip of an export is here. ``tracks`` are raster coordinates with y down; Nuke's origin is the lower left corner
of the frame and Blender divides by width and height besides, so in both a pixel's centre lies at 0.5 as in a raster.

Frames are numbered as in the source video: frame t of the tracks is frame ``start + t * stride`` of it, which becomes
``first`` plus that.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from everypoint.artifacts import atomic
from everypoint.artifacts.folder import MANIFEST, FolderWriter, check_folder
from everypoint.artifacts.tracks import Tracks, save_tracks_csv
from everypoint.errors import ArtifactError, InputError
from everypoint.report.blender import script

LIMIT = 500  # tracks that an export holds unless it is told otherwise
LONGEST_NAME = 80


class Format(NamedTuple):
    """Of a format: the suffix of its files, and the number of the source's first frame (None: it has no numbers)."""

    suffix: str
    first: int | None
    per_track: bool = False  # a folder with one file a track


FORMATS = {
    "nuke": Format(".txt", 1, per_track=True),
    "after-effects": Format(".txt", 0, per_track=True),
    "blender": Format(".py", 1),
    "csv": Format(".csv", None),
    "tapvid": Format(".annotations.npz", None),
}


class Written(NamedTuple):
    """What an export holds: tracks in it, tracks that there were, and how many of them are never visible."""

    count: int
    total: int
    unseen: int


# ---------------------------------------------------------------------------------------------- pure functions


def frame_numbers(tracks: Tracks, first: int) -> np.ndarray:
    """Numbers of the T frames in the source video when its first frame is number ``first``, int64 [T].

    Tracks that do not say which frames of the source they are of count as those of all frames.
    """
    start, stride = int(tracks.meta.get("start", 0)), int(tracks.meta.get("stride", 1))
    return first + start + stride * np.arange(len(tracks.tracks))


def seen(tracks: Tracks) -> np.ndarray:
    """Where a track is visible and its position is a number, bool [T, N]."""
    return tracks.visibility & np.isfinite(tracks.tracks).all(axis=-1)


def nuke(tracks: Tracks, column: int, first: int = 1) -> str:
    """One track as Nuke's time and value ASCII: a line ``frame,x,y`` for each visible frame, pixels, y upward."""
    height = tracks.frame_size[0]
    rows = _rows(tracks, column, first)
    return "".join(f"{frame},{x:.4f},{height - y:.4f}\n" for frame, x, y in rows)


def after_effects(tracks: Tracks, column: int, first: int = 0) -> str:
    """One track as After Effects' keyframe data: the position of a layer at each visible frame, pixels, y downward."""
    height, width = tracks.frame_size
    rate = tracks.fps * int(tracks.meta.get("stride", 1))  # frames are numbered as in the source
    head = {
        "Units Per Second": f"{rate:.5f}".rstrip("0").rstrip("."),
        "Source Width": width,
        "Source Height": height,
        "Source Pixel Aspect Ratio": 1,
        "Comp Pixel Aspect Ratio": 1,
    }
    lines = ["Adobe After Effects 8.0 Keyframe Data", "", *(f"\t{key}\t{value}" for key, value in head.items()), ""]
    lines += ["Transform\tPosition", "\tFrame\tX pixels\tY pixels\tZ pixels\t"]
    lines += [f"\t{frame}\t{x:.4f}\t{y:.4f}\t0\t" for frame, x, y in _rows(tracks, column, first)]
    return "\n".join([*lines, "", "End of Keyframe Data", ""])


def _rows(tracks: Tracks, column: int, first: int) -> Iterator[tuple[int, float, float]]:
    """Frame number, x and y (raster) of the frames where a track is seen."""
    numbers, there = frame_numbers(tracks, first), seen(tracks)[:, column]
    for frame, (x, y) in zip(numbers[there].tolist(), tracks.tracks[there, column].tolist(), strict=True):
        yield frame, x, y


def blender(tracks: Tracks, first: int = 1) -> str:
    """All tracks as a script for Blender's text editor: markers in parts of the frame, y upward, muted where hidden."""
    numbers, there = frame_numbers(tracks, first), seen(tracks)
    height, width = tracks.frame_size
    finite = np.isfinite(tracks.tracks).all(axis=-1)
    markers: list[tuple[str, list[tuple[int, float, float, bool]]]] = []
    for column, name in enumerate(tracks.query_ids):
        rows = np.flatnonzero(finite[:, column])
        x, y = tracks.tracks[rows, column].astype(np.float64).T
        hidden = (~there[rows, column]).tolist()
        placed = zip(numbers[rows].tolist(), (x / width).tolist(), (1 - y / height).tolist(), hidden, strict=True)
        markers.append((str(name), list(placed)))
    return script(markers, tracks.frame_size)


def tapvid(tracks: Tracks) -> dict[str, np.ndarray]:
    """Arrays in TAP-Vid's order: ``points`` float32 [N, T, 2], (x, y) divided by (W, H), and ``occluded`` bool [N, T].

    ``query_points`` [N, 3] are (t, y, x) in pixels, as TAP-Vid's evaluators take them.
    """
    height, width = tracks.frame_size
    points = tracks.tracks.astype(np.float64) / (width, height)
    return {
        "points": np.ascontiguousarray(points.swapaxes(0, 1), np.float32),
        "occluded": np.ascontiguousarray(~tracks.visibility.T),
        "query_points": np.ascontiguousarray(tracks.queries[:, [0, 2, 1]], np.float32),
        "query_ids": np.asarray(tracks.query_ids, np.str_),
        "frame_size": np.array(tracks.frame_size, np.int64),
    }


def file_names(ids: Iterable[str]) -> list[str]:
    """A name for the file of each track, without suffix: plain ASCII, different also where case does not count."""
    taken: set[str] = set()
    names = []
    for each in ids:
        plain = unicodedata.normalize("NFKD", str(each)).encode("ascii", "ignore").decode()
        base = "track-" + (re.sub(r"[^A-Za-z0-9_-]+", "_", plain)[:LONGEST_NAME] or "_")
        name, number = base, 2
        while name.lower() in taken:
            name, number = f"{base}-{number}", number + 1
        taken.add(name.lower())
        names.append(name)
    return names


# ------------------------------------------------------------------------------------------------- which tracks


def chosen(tracks: Tracks, ids: Iterable[str] = ()) -> Tracks:
    """The tracks of some queries, in their order; all of them without ``ids``. Raises :class:`InputError`."""
    wanted = list(ids)
    if not wanted:
        return tracks
    columns = {str(name): column for column, name in enumerate(tracks.query_ids)}
    missing = [name for name in wanted if name not in columns]
    if missing:
        known = ", ".join(list(columns)[:8])
        raise InputError(f"there is no track {missing[0]!r}", f"of {len(columns)} tracks the first are {known}")
    return _part(tracks, np.array([columns[name] for name in wanted]))


def _part(tracks: Tracks, columns: np.ndarray) -> Tracks:
    return dataclasses.replace(
        tracks,
        tracks=tracks.tracks[:, columns],
        visibility=tracks.visibility[:, columns],
        confidence=tracks.confidence[:, columns],
        queries=tracks.queries[columns],
        query_ids=np.asarray(tracks.query_ids)[columns],
    )


def _evenly(tracks: Tracks, limit: int) -> tuple[Tracks, int]:
    """At most ``limit`` tracks among those that are visible somewhere, and how many are nowhere."""
    columns = np.flatnonzero(seen(tracks).any(axis=0))
    unseen = tracks.tracks.shape[1] - len(columns)
    if len(columns) > limit:
        columns = columns[np.linspace(0, len(columns) - 1, limit).round().astype(int)]
    return _part(tracks, columns), unseen


# ------------------------------------------------------------------------------------------------------ writing


def write(
    tracks: Tracks, out: str | os.PathLike[str], kind: str, *, first: int | None = None, limit: int = LIMIT
) -> Written:
    """Write ``tracks`` to ``out`` in a format of :data:`FORMATS`: a folder with a file a track, or one file.

    Args:
        first: number of the source's first frame; None: the format's own.
        limit: most tracks of a format for compositors; of more, evenly chosen ones are written.

    Raises :class:`InputError` when there is no visible track, or when ``out`` is a folder with files of others.
    """
    out, known, total = Path(out), FORMATS[kind], tracks.tracks.shape[1]
    if known.first is None:
        if kind == "csv":
            save_tracks_csv(out, tracks)
        else:
            atomic.save_npz(out, **tapvid(tracks))
        return Written(total, total, 0)
    tracks, unseen = _evenly(tracks, limit)
    if not len(tracks.query_ids):
        raise InputError(f"there is nothing to export to {out}", "no track is visible in any frame")
    number = known.first if first is None else first
    if known.per_track:
        _write_folder(tracks, out, kind, number)
    else:
        atomic.write_text(out, blender(tracks, number))
    return Written(len(tracks.query_ids), total, unseen)


def _write_folder(tracks: Tracks, out: Path, kind: str, first: int) -> None:
    """A folder with one file a track, published whole."""
    check_replaceable(out)
    make = {"nuke": nuke, "after-effects": after_effects}[kind]
    folder = FolderWriter(out, {"format": kind, "first": first, "tracks": _digest(tracks)})
    for column, name in enumerate(file_names(tracks.query_ids)):
        file = name + FORMATS[kind].suffix
        if not folder.has(file):
            folder.add(file, lambda path, column=column: atomic.write_text(path, make(tracks, column, first)))
    folder.publish()


def _digest(tracks: Tracks) -> str:
    """Hex sha256 of all that the files of a folder hold."""
    digest = hashlib.sha256()
    for array in (tracks.tracks, tracks.visibility, np.asarray(tracks.query_ids, np.str_)):
        digest.update(np.ascontiguousarray(array).tobytes())
    rest: list[Any] = [tracks.frame_size, tracks.fps, tracks.meta.get("start"), tracks.meta.get("stride")]
    digest.update(repr(rest).encode())
    return digest.hexdigest()


def check_replaceable(folder: Path) -> None:
    """Refuse a folder that holds more than an earlier export, which publishing would take away."""
    if not folder.exists():
        return
    cure = "give the name of a new folder"
    if not folder.is_dir():
        raise InputError(f"{folder} is a file", "this format is a folder with one file a track", cure)
    present = {path.name for path in folder.iterdir()}
    try:
        own = {MANIFEST, *check_folder(folder)["items"]} if present else set()
    except ArtifactError:
        own = set()
    if present - own:
        raise InputError(f"{folder} is not empty", f"it holds {sorted(present - own)[0]}", cure)
