"""Seeded, tileable textures that trackers can hold on to: noise of many scales, checker patches, dots."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np

TEXELS = 1024  # side of a tile


@dataclass(frozen=True, eq=False)
class Texture:
    """A periodic image laid on a plane.

    Attributes:
        image: float32 [h, w, 3] RGB in 0..255, tileable; sides are powers of two.
        extent: size of one tile in units of the plane.
    """

    image: np.ndarray
    extent: float

    @functools.cached_property
    def levels(self) -> list[np.ndarray]:
        """The image, then each half the size of the one before (mean of 2x2), down to 8 texels."""
        levels = [self.image]
        while levels[-1].shape[0] > 8:
            h, w = levels[-1].shape[:2]
            levels.append(cv2.resize(levels[-1], (w // 2, h // 2), interpolation=cv2.INTER_AREA))
        return levels

    def sample(self, u: np.ndarray, v: np.ndarray, step: float) -> np.ndarray:
        """Colours float32 [h, w, 3] at plane points float32 [h, w].

        ``step`` is the distance between neighbouring samples in the plane: the two levels nearest to it are blended,
        so that a plane far away does not flicker. Positions are rounded to 1/32 texel (OpenCV's remap).
        """
        level = np.log2(max(step / self.extent * self.image.shape[0], 1.0))
        low = min(int(level), len(self.levels) - 1)
        colours = self._bilinear(u, v, low)
        share = level - low
        if share > 1e-3 and low + 1 < len(self.levels):
            colours = cv2.addWeighted(colours, 1 - share, self._bilinear(u, v, low + 1), share, 0.0)
        return colours

    def _bilinear(self, u: np.ndarray, v: np.ndarray, level: int) -> np.ndarray:
        image = self.levels[level]
        scale = image.shape[0] / self.extent
        x, y = u * np.float32(scale) - np.float32(0.5), v * np.float32(scale) - np.float32(0.5)  # centres of texels
        # Whole tiles are taken off because remap holds positions in 16 bits.
        x -= np.float32(np.floor(x.min() / image.shape[1]) * image.shape[1])
        y -= np.float32(np.floor(y.min() / image.shape[0]) * image.shape[0])
        return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def make_texture(seed: int, extent: float, *, hue: float, checker: float = 0.9) -> Texture:
    """A tile of ``extent`` units made from ``seed``.

    ``hue`` (0..1) is the colour that dominates, ``checker`` (0..1) the contrast of the checker patches. The finest
    detail is 8 texels wide: at 1,024 texels a frame height, 2 pixels of a frame 256 pixels high.
    """
    rng = np.random.default_rng(seed)
    shade = _noise(rng, (8, 16, 32, 64, 128), 0.4) + checker * _checkers(rng)
    tint = _noise(rng, (64, 128, 256), 1.0)
    shade = _dots(rng, shade, count=220)
    hsv = np.stack(
        [
            (hue + 0.05 * tint) % 1.0 * 360.0,
            np.clip(0.45 + 0.25 * _noise(rng, (32, 64, 128), 1.0), 0.05, 0.95),
            np.clip(0.52 + 0.2 * shade, 0.06, 0.98),
        ],
        axis=-1,
    ).astype(np.float32)
    return Texture(255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), extent)


def _noise(rng: np.random.Generator, cells: tuple[int, ...], power: float, texels: int = TEXELS) -> np.ndarray:
    """Tileable noise of unit variance, float32 [texels, texels].

    Octaves with cells of these texels, each twice the one before, weighted by (cell / largest)^power.
    """
    total = np.zeros((texels // cells[-1],) * 2, np.float32)
    for cell in reversed(cells):
        total = total if cell == cells[-1] else _enlarge(total, 2)
        weight = np.float32((cell / cells[-1]) ** power)
        total = total + weight * rng.standard_normal(total.shape).astype(np.float32)
    total = _enlarge(total, cells[0])
    return (total - total.mean()) / total.std()


def _enlarge(lattice: np.ndarray, factor: int) -> np.ndarray:
    """Cubic enlargement of a periodic lattice, [n, n] -> [n * factor, n * factor]."""
    border = 3
    padded = np.pad(lattice, border, mode="wrap")
    side = padded.shape[0] * factor
    large = cv2.resize(padded, (side, side), interpolation=cv2.INTER_CUBIC)
    return large[border * factor : -border * factor, border * factor : -border * factor]


def _checkers(rng: np.random.Generator) -> np.ndarray:
    """Patches of diagonal squares of 16 and 32 texels with soft edges, tileable, within about -1..1."""
    coarse = 4  # texels of one value; enlarging softens the edges
    y, x = np.mgrid[: TEXELS // coarse, : TEXELS // coarse]
    patches = np.zeros(x.shape, np.float32)
    for cell, weight in ((32 // coarse, 0.6), (16 // coarse, 0.4)):
        n = x.shape[0] // cell
        table = rng.choice(np.float32([-1, 1]), (n, n))
        patches += np.float32(weight) * table[((x + y) // cell) % n, ((x - y) // cell) % n]
    where = _noise(rng, (128 // coarse, 256 // coarse), 1.0, texels=x.shape[0])
    return _enlarge(patches * np.clip(0.6 + where, 0, 1), coarse)


def _dots(rng: np.random.Generator, shade: np.ndarray, count: int) -> np.ndarray:
    """``shade`` with soft round dots, bright or dark, that wrap around the tile."""
    margin = 32
    layer = np.zeros((TEXELS + 2 * margin, TEXELS + 2 * margin), np.float32)
    for x, y, radius, value in zip(
        rng.uniform(0, TEXELS, count),
        rng.uniform(0, TEXELS, count),
        rng.uniform(5, 14, count),
        rng.choice([-1.6, 1.6], count),
        strict=True,
    ):
        for dx in (-TEXELS, 0, TEXELS):
            for dy in (-TEXELS, 0, TEXELS):
                centre = (round(x + dx) + margin, round(y + dy) + margin)
                cv2.circle(layer, centre, round(radius), float(value), -1, cv2.LINE_8)
    return shade + cv2.GaussianBlur(layer, (0, 0), 1.5)[margin:-margin, margin:-margin]
