"""A data set in PointOdyssey's layout that costs nothing to make: a sheet of noise slides behind the camera."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from everypoint.artifacts import atomic

SIZE, FRAMES, POINTS = (128, 184), 14, 200


def write_set(
    root: Path, *, sequences: int = 2, frames: int = FRAMES, layout: str = "v1.2", split: str = "train"
) -> Path:
    """``root`` with some sequences of one split."""
    for number in range(sequences):
        write_sequence(root / split / f"seq{number}", seed=number, frames=frames, layout=layout)
    return root


def write_sequence(
    folder: Path, *, seed: int = 0, frames: int = FRAMES, layout: str = "v1.2", points: int = POINTS
) -> None:
    """One sequence: the sheet slides by half pixels, the mask has two halves that slide with it."""
    rng = np.random.default_rng(seed)
    height, width = SIZE
    sheet = cv2.GaussianBlur(rng.integers(0, 256, (height + 60, width + 60, 3), np.uint8), (0, 0), 1.5)
    velocity = rng.uniform(-1, 1, 2)
    start = rng.uniform(0, [width - 1, height - 1], (points, 2))
    xy = np.empty((frames, points, 2), np.float32)
    for t in range(frames):
        shift = velocity * t
        matrix = np.array([[1, 0, shift[0] - 30], [0, 1, shift[1] - 30]])
        picture = cv2.warpAffine(sheet, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
        mask = np.where(np.arange(width) < width / 2 + shift[0], 80, 160)[None].repeat(height, 0).astype(np.uint8)
        put(folder / "rgbs" / f"rgb_{t:05d}.jpg", picture)
        put(folder / "masks" / f"mask_{t:05d}.png", mask)
        xy[t] = start + shift
    inside = ((xy >= 0) & (xy <= [width - 1, height - 1])).all(axis=-1)
    valid = np.ones((frames, points), bool)
    valid[frames // 2 :, ::7] = False
    write_annotations(folder, xy, inside & valid, valid, layout)


def write_annotations(folder: Path, xy: np.ndarray, seen: np.ndarray, valid: np.ndarray, layout: str = "v1.2") -> None:
    """``anno.npz`` of either layout."""
    if layout == "v1.2":
        arrays = {"visibs": seen, "valids": valid}
    else:
        arrays = {"visibilities": np.where(valid, seen.astype(np.uint8), np.uint8(2))}
    atomic.save_npz(folder / "anno.npz", trajs_2d=xy, **arrays)


def put(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
