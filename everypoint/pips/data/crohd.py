"""CroHD (HT21): heads of crowds as tracks of their boxes' centres, in clips of 1,000 frames.

``ROOT/HT21/train/HT21-01/img1/%06d.jpg`` (numbered from 1) and ``gt/gt.txt`` with rows
``frame,id,left,top,width,height,conf,class,visibility``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from everypoint.errors import InputError
from everypoint.pips.clip import Sequence
from everypoint.video.images import read_image, to_rgb8

LENGTH, LEAST = 1000, 128  # frames of a clip
BORDER = 32.0  # pixels: heads nearer to the picture's border than this do not count
LEAST_PATH = 150.0  # pixels that a head moves over a clip
COLUMNS = 9

log = logging.getLogger(__name__)


class Heads(NamedTuple):
    """The annotations of one video."""

    xy: np.ndarray  # float32 [T, N, 2], centres; (0, 0) where a head has no row
    seen: np.ndarray  # bool [T, N]
    annotated: np.ndarray  # bool [T, N]: there is a row


def sequences(
    root: str | Path, corrected: bool = False, *, length: int = LENGTH, least: int = LEAST
) -> Iterator[Sequence]:
    """Clips of all annotated videos, as PIPs++ is tested on them.

    Clips start every ``length // 2`` frames and have ``length`` frames or what is left, at least ``least``. Heads
    within 32 pixels of the border are neither seen nor counted. Kept are heads that are seen and counted in the first
    two frames and whose path is longer than 150 pixels. A hidden head has the position of the frame before.

    The published reader counts hidden heads by that repeated position, and adds the way to (0, 0) and back to the path
    where a head has no row. With ``corrected`` a hidden head does not count, positions stay as annotated where there is
    a row, and a path is measured between neighbouring rows alone.

    Raises:
        InputError: no video, or annotations that cannot be read.
    """
    for folder in video_folders(root):
        heads = read_heads(folder / "gt" / "gt.txt")
        size = to_rgb8(read_image(_picture(folder, 0))).shape[:2]
        count = len(heads.xy)
        for start in range(0, count, max(length // 2, 1)):
            frames = slice(start, min(start + length, count))
            if frames.stop - start < least:
                continue
            part = Heads(*(array[frames] for array in heads))
            trajs, visibs, valids = (_corrected if corrected else _published)(part, size)
            name = f"{folder.name}_{start:06d}"
            if not trajs.shape[1]:
                log.warning("%s: no head moves enough, the clip is left out", name)
                continue
            yield Sequence(name, _loader(folder, start), len(trajs), size, trajs, visibs, valids)


def video_folders(root: str | Path) -> list[Path]:
    """Folders of the annotated videos, by name; ``root`` is the folder that holds HT21, or HT21 itself."""
    for base in (Path(root) / "HT21", Path(root)):
        found = sorted(path.parent.parent for path in base.glob("train/*/gt/gt.txt"))
        if found:
            return found
    raise InputError(
        f"{root} holds no video of HT21", "there is no HT21/train/*/gt/gt.txt", "name the folder that holds HT21"
    )


def read_heads(path: Path) -> Heads:
    """The rows of ``gt.txt``; the video has as many frames as the last row's number says."""
    try:
        rows = np.loadtxt(path, delimiter=",", ndmin=2, dtype=np.float64)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read", str(error), "get it anew") from error
    if not len(rows) or rows.shape[1] < COLUMNS or rows[:, :2].min() < 1 or rows[:, 0].max() > rows[-1, 0]:
        raise InputError(
            f"{path} cannot be used", f"its rows are not {COLUMNS} numbers ordered by frame", "get it anew"
        )
    frame, number = rows[:, 0].astype(np.int64) - 1, rows[:, 1].astype(np.int64) - 1
    shape = int(frame[-1]) + 1, int(number.max()) + 1
    heads = Heads(np.zeros((*shape, 2), np.float32), np.zeros(shape, bool), np.zeros(shape, bool))
    heads.xy[frame, number] = rows[:, 2:4] + rows[:, 4:6] / 2
    heads.seen[frame, number] = rows[:, 8] > 0
    heads.annotated[frame, number] = True
    return heads


def _inner(xy: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return ((xy >= BORDER) & (xy <= np.float32([size[1], size[0]]) - BORDER)).all(axis=-1)


def _published(heads: Heads, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, visibility and validity as published; a head without a row lies at (0, 0), so near the border."""
    known = _inner(heads.xy, size)
    seen = heads.seen & known
    steps = np.linalg.norm(np.diff(heads.xy, axis=0), axis=-1)
    kept = _starts(seen, known) & (steps.sum(axis=0) > LEAST_PATH)
    return _held(heads.xy[:, kept], seen[:, kept]), _float(seen[:, kept]), _float(known[:, kept])


def _corrected(heads: Heads, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    seen = heads.seen & heads.annotated & _inner(heads.xy, size)
    steps = np.linalg.norm(np.diff(heads.xy, axis=0), axis=-1)
    steps[~(heads.annotated[1:] & heads.annotated[:-1])] = 0
    kept = _starts(seen, seen) & (steps.sum(axis=0) > LEAST_PATH)
    return _held(heads.xy[:, kept], heads.annotated[:, kept]), _float(seen[:, kept]), _float(seen[:, kept])


def _starts(seen: np.ndarray, known: np.ndarray) -> np.ndarray:
    return (seen & known)[:2].all(axis=0)


def _held(xy: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Positions [T, N, 2] with those that are not ``good`` replaced by the last good one; the first frame stays."""
    number = np.arange(len(xy))[:, None]
    last = np.maximum.accumulate(np.where(good, number, 0), axis=0)
    return np.take_along_axis(xy, last[..., None], axis=0)


def _float(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32)


def _picture(folder: Path, t: int) -> Path:
    return folder / "img1" / f"{t + 1:06d}.jpg"


def _loader(folder: Path, start: int) -> Callable[[int], np.ndarray]:
    def load(t: int) -> np.ndarray:
        return to_rgb8(read_image(_picture(folder, start + t)))

    return load
