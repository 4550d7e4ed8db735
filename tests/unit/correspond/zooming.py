"""Videos whose motion is known and that the fake CoTracker follows exactly: red and green are linear in x, y."""

from __future__ import annotations

import numpy as np


class Zoom:
    """The picture grows by ``zoom`` a frame about its centre and moves by ``shift`` px a frame.

    Red and green are linear in the coordinates of the first frame. Blue is 0, but for occluders that a test paints.
    """

    def __init__(
        self,
        frames: int = 12,
        size: tuple[int, int] = (48, 64),
        zoom: float = 1.03,
        shift: tuple[float, float] = (0.5, -0.25),
    ) -> None:
        self.count, self.size, self.zoom, self.shift = frames, size, zoom, np.array(shift)
        self.centre = (np.array([size[1], size[0]]) - 1) / 2
        y, x = np.meshgrid(np.arange(size[0]), np.arange(size[1]), indexing="ij")
        pixels = np.stack([x, y], axis=-1).astype(np.float64)
        self.frames = np.zeros((frames, *size, 3), np.uint8)
        random = np.random.default_rng(0)  # rounded by chance: the error of plain rounding moves with the ramp
        for t in range(frames):
            first = self.carried(pixels, t, 0)  # [H, W, 2]
            red_green = 128 + (first - self.centre) * [150 / size[1], 150 / size[0]]
            assert red_green.min() >= 0
            assert red_green.max() <= 255
            self.frames[t, ..., :2] = np.floor(red_green + random.random(red_green.shape))

    def carried(self, xy: np.ndarray, i: np.ndarray | int, j: np.ndarray | int) -> np.ndarray:
        """Index points [..., 2] of frame(s) i in frame(s) j, float64."""
        i, j = np.asarray(i)[..., None], np.asarray(j)[..., None]
        still = (xy - self.centre - self.shift * i) / self.zoom**i
        return still * self.zoom**j + self.centre + self.shift * j

    def truth(self, queries: np.ndarray) -> np.ndarray:
        """True tracks [T, N, 2] of queries [N, 3] (t, x, y index)."""
        return np.stack([self.carried(queries[:, 1:].astype(float), queries[:, 0], t) for t in range(self.count)])

    def inside(self, xy: np.ndarray, margin: float = 0.0) -> np.ndarray:
        """Whether index points lie in the frame, ``margin`` px from its border."""
        limit = np.array([self.size[1], self.size[0]]) - 1 - margin
        return ((xy >= margin) & (xy <= limit)).all(-1)
