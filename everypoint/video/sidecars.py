"""What lies beside a video: ground truth, masks and queries, all in coordinates of the source.

Sources count frames from 0 as stored; the frames in use are ``start + stride * k`` of :class:`VideoMeta`.
"""

from __future__ import annotations

import csv
import io
import logging
import math
from pathlib import Path

import cv2
import numpy as np

from everypoint.artifacts.atomic import load_npz
from everypoint.artifacts.video import VideoMeta
from everypoint.errors import ArtifactError, InputError
from everypoint.video.discover import Entry
from everypoint.video.ffmpeg import probe
from everypoint.video.images import read_image
from everypoint.video.paths import image_files, shown
from everypoint.video.tapvid import check_annotations, load_item

log = logging.getLogger(__name__)


def used_frames(meta: VideoMeta) -> np.ndarray:
    """Source frame numbers of the frames in use, int64 [T]."""
    return meta.start + meta.stride * np.arange(meta.frames)


def read_annotations(entry: Entry, meta: VideoMeta) -> tuple[np.ndarray, np.ndarray]:
    """Ground truth at the frames in use.

    Returns:
        points float32 [N, T, 2], raster (x, y) divided by the frame's (width, height); occluded bool [N, T].
        N = 0 when the entry has none.

    Raises:
        InputError: the arrays are damaged, of another shape, or cover fewer frames than are in use.
    """
    if entry.kind == "tapvid":
        item = load_item(entry.path, entry.key)
        name, points, occluded = f"entry {shown(entry.key)} of {shown(entry.path.name)}", item.points, item.occluded
    elif entry.annotations is not None:
        name = shown(entry.annotations.name)
        points, occluded = _load_annotations(entry.annotations, name)
    else:
        return np.zeros((0, meta.frames, 2), np.float32), np.zeros((0, meta.frames), bool)
    used = used_frames(meta)
    if points.shape[1] <= used[-1]:
        why = f"it covers {points.shape[1]} frames and frame {used[-1]} of the video is in use"
        raise InputError(f"{name} does not fit its video", why, "annotate every frame of the source")
    return np.ascontiguousarray(points[:, used]), np.ascontiguousarray(occluded[:, used])


def _load_annotations(path: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        arrays = load_npz(path)
    except ArtifactError as error:
        cure = "write points and occluded with numpy.savez"
        raise InputError(f"{name} cannot be read", error.why or "it is missing", cure) from error
    missing = {"points", "occluded"} - arrays.keys()
    if missing:
        raise InputError(f"{name} cannot be used", f"it has no array {' and no array '.join(sorted(missing))}")
    return check_annotations(name, arrays["points"], arrays["occluded"])


def read_mask(entry: Entry, t: int, size: tuple[int, int]) -> np.ndarray | None:
    """The foreground at source frame ``t`` (not the index among the frames in use), bool [H, W] of ``size``.

    One mask image holds for every frame. In a folder the image with the frame's own name counts; for videos, the t-th
    when there is more than one. None when there is no mask for the frame. Any pixel that is not black is foreground.
    """
    if entry.mask is None:
        return None
    path = _mask_file(entry, entry.mask, t) if entry.mask.is_dir() else entry.mask
    if path is None:
        return None
    image = read_image(path)
    foreground = (image[..., :3] > 0).any(axis=2).astype(np.uint8)
    return cv2.resize(foreground, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT) > 0


def _mask_file(entry: Entry, folder: Path, t: int) -> Path | None:
    masks = image_files(folder)
    if entry.kind == "images":
        frames = image_files(entry.path)
        stem = frames[t].stem if t < len(frames) else None
        named = [mask for mask in masks if mask.stem == stem]
        if named or len(masks) != len(frames):
            return named[0] if named else None
    return masks[t] if t < len(masks) else None


# ------------------------------------------------------------------------------------------------ queries


def read_queries_csv(entry: Entry, meta: VideoMeta) -> tuple[np.ndarray, list[str]]:
    """The queries of ``NAME.queries.csv``, a table with the columns t, x, y, id (others are ignored).

    In the file t is a source frame number; x and y are raster pixels of the original size. Rows whose frame is not
    in use are left out with a warning.

    Returns:
        queries float32 [N, 3] (t, x, y) with t an index among the frames in use, and their ids; N = 0 without a file.

    Raises:
        InputError: naming the line of the first row that is malformed, outside the frame or outside the video.
    """
    if entry.queries is None:
        return np.zeros((0, 3), np.float32), []
    name = shown(entry.queries.name)
    last = _last_frame(entry, meta)
    index = {int(frame): k for k, frame in enumerate(used_frames(meta))}
    queries: list[tuple[float, float, float]] = []
    ids: list[str] = []
    seen: set[str] = set()
    unused = 0
    for line, row in _rows(entry.queries, name):
        t, x, y, label = _query(row, f"line {line} of {name}", meta, last)
        if label in seen:
            raise InputError(f"line {line} of {name} is wrong", f"the id {shown(label)!r} is used twice")
        seen.add(label)
        if t not in index:
            unused += 1
            continue
        queries.append((index[t], x, y))
        ids.append(label)
    if not seen:
        raise InputError(f"{name} holds no queries", cure="add rows t,x,y,id or remove the file")
    if unused:
        log.warning("%s: %d of %d queries are left out: their frames are not in use", name, unused, len(seen))
    return np.array(queries, np.float32).reshape(-1, 3), ids


def _rows(path: Path, name: str) -> list[tuple[int, dict[str, str]]]:
    """(line number, cells by column) of every row that is not blank."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{name} cannot be opened", error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not text in UTF-8", cure="save it as CSV in UTF-8") from error
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        header = [cell.strip().lower() for cell in next(reader, [])]
        if not {"t", "x", "y"} <= set(header):
            raise InputError(f"{name} has no header", "its first line must name the columns t,x,y,id, with commas")
        rows = []
        for cells in reader:
            if any(cell.strip() for cell in cells):
                if len(cells) < len(header):
                    why = f"it has {len(cells)} cells and the header {len(header)}"
                    raise InputError(f"line {reader.line_num} of {name} is wrong", why)
                rows.append((reader.line_num, dict(zip(header, (cell.strip() for cell in cells), strict=False))))
    except csv.Error as error:
        raise InputError(f"line {reader.line_num} of {name} is wrong", str(error)) from error
    return rows


def _query(row: dict[str, str], where: str, meta: VideoMeta, last: int | None) -> tuple[int, float, float, str]:
    numbers = {}
    for column in ("t", "x", "y"):
        try:
            numbers[column] = float(row[column])
        except ValueError:
            numbers[column] = math.nan
        if not math.isfinite(numbers[column]):
            raise InputError(f"{where} is wrong", f"{column} is {shown(row[column])[:40]!r}, which is not a number")
    t, x, y = numbers["t"], numbers["x"], numbers["y"]
    if t != int(t) or t < 0:
        raise InputError(f"{where} is wrong", f"t is {t:g} and must be a frame number from 0 on")
    if last is not None and t > last:
        raise InputError(f"{where} is wrong", f"t is {t:g} and the last frame of the video is {last}")
    if not (0 <= x <= meta.original_width and 0 <= y <= meta.original_height):
        why = f"({x:g}, {y:g}) lies outside the frame of {meta.original_width}x{meta.original_height} pixels"
        raise InputError(f"{where} is wrong", why, "x and y are pixels of the original size")
    return int(t), x, y, row.get("id") or where.split()[1]


def _last_frame(entry: Entry, meta: VideoMeta) -> int | None:
    """The last frame number of the source; for video files, where it is only estimated, with a margin of 5 %."""
    if entry.kind == "images":
        return len(image_files(entry.path)) - 1
    if entry.kind == "tapvid":
        return len(load_item(entry.path, entry.key).video) - 1
    expected = probe(entry.path).expected_frames
    return None if expected is None else max(int(used_frames(meta)[-1]), round(expected * 1.05) + 1)
