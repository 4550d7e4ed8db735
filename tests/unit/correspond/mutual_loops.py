"""The eight rules of long-range matches in float64, one cell and one match at a time: what the source must equal."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

Cell = tuple[int, int]  # (y, x)
Match = tuple[Cell, Cell, float]


class PlainRules:
    """Matches of features [T, h, w, C] by frame pair; ``removed`` counts what each rule took away."""

    def __init__(self, features: np.ndarray, depth_mask: np.ndarray | None, size: tuple[int, int], options: dict):
        f = features.astype(np.float64)
        self.f = f / np.linalg.norm(f, axis=-1, keepdims=True)
        self.depth_mask, self.size, self.o = depth_mask, size, options
        self.grid = features.shape[1:3]
        self.cells = [(y, x) for y in range(self.grid[0]) for x in range(self.grid[1])]
        self.removed: Counter[int] = Counter()

    def all_pairs(self) -> dict[tuple[int, ...], float]:
        """Scores by (i, j, x_i, y_i, x_j, y_j)."""
        frames = range(0, len(self.f), self.o["stride"])
        result = {}
        for i in frames:
            for j in frames:
                if j - i >= self.o["gap"]:
                    for a, b, score in self.matches(i, j):
                        result[i, j, a[1], a[0], b[1], b[0]] = score
        return result

    def matches(self, i: int, j: int) -> list[Match]:
        found = self.nearest(i, j)
        found = self.keep(2, found, [m[2] > self.o["similarity"] for m in found])
        found = self.keep(3, found, [self.looks_unique(i, m[0]) and self.looks_unique(j, m[1]) for m in found])
        found = self.keep(4, found, [self.fits_around(i, m[0]) and self.fits_around(j, m[1]) for m in found])
        for _ in range(2):
            found = self.keep(5, found, self.supported(found, self.o["support_cells"], lambda cell: cell))
        if self.depth_mask is not None:
            found = self.keep(7, found, [self.reliable(i, m[0]) and self.reliable(j, m[1]) for m in found])
        return self.keep(8, found, self.supported(found, self.o["support_pixels"], self.pixel))

    def keep(self, rule: int, found: list[Match], good: list[bool]) -> list[Match]:
        self.removed[rule] += good.count(False)
        return [match for match, stays in zip(found, good, strict=True) if stays]

    def nearest(self, i: int, j: int) -> list[Match]:
        table = np.array([[self.f[i][a] @ self.f[j][b] for b in self.cells] for a in self.cells])
        found = []
        for a in range(len(self.cells)):
            b = int(table[a].argmax())
            if int(table[:, b].argmax()) == a:
                found.append((self.cells[a], self.cells[b], table[a, b]))
        self.removed[1] += len(self.cells) - len(found)
        return found

    def looks_unique(self, t: int, cell: Cell) -> bool:
        alike = [other for other in self.cells if self.f[t][cell] @ self.f[t][other] > self.o["lookalike"]]
        return len(alike) < self.o["lookalikes"]

    def fits_around(self, t: int, cell: Cell) -> bool:
        total = 0.0
        for y in range(cell[0] - 5, cell[0] + 5):
            for x in range(cell[1] - 5, cell[1] + 5):
                if (y, x) in self.cells:
                    total += self.f[t][cell] @ self.f[t, y, x]
        low, high = self.o["local_range"]
        return low < total < high

    def supported(self, found: list[Match], radius: float, place) -> list[bool]:
        return [all(self._near(m, found, end, radius, place) for end in (0, 1)) for m in found]

    def _near(self, match: Match, found: list[Match], end: int, radius: float, place) -> bool:
        here = place(match[end])
        distances = sorted(math.dist(here, place(other[end])) for other in found if other is not match)
        return len(distances) >= 2 and distances[1] < radius

    def pixel(self, cell: Cell) -> tuple[float, float]:
        """Raster position (y, x) of the centre of a cell."""
        return tuple((cell[axis] + 0.5) / self.grid[axis] * self.size[axis] for axis in (0, 1))

    def reliable(self, t: int, cell: Cell) -> bool:
        mask, pixel = self.depth_mask[t], self.pixel(cell)
        row, column = (math.floor(pixel[axis] / self.size[axis] * mask.shape[axis]) for axis in (0, 1))
        inside = [
            mask[y, x]
            for y in range(row - 1, row + 2)
            for x in range(column - 1, column + 2)
            if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1]
        ]
        return all(inside)
