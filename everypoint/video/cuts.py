"""Hard shot cuts, told from fast motion, occlusions and flashes.

Two frames are compared on thumbnails by two kinds of evidence:

* *structure*: one frame is warped onto the other by dense optical flow (DIS) and compared by local normalised
  correlation, which does not care about exposure. The flow explains most motion, however fast, but no other shot.
* *colour*: the share of a joint Lab histogram that the frames do not have in common. Motion hardly changes it.

Both are measured against their own median in the neighbouring frames, so that a shaky or blurred shot does not
count as a row of cuts; and a cut must also hold one frame further on either side, so that a flash or one damaged
frame is not a cut. Dissolves and fades are not hard cuts and are not reported.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

THUMBNAIL = 96  # longer side in pixels
NEIGHBOURS = 3  # frames on either side that say what is usual here
FULL_COLOUR = 0.15  # a colour change of this size (above the usual) counts in full
SUSPECT = 0.2  # below this much structural change a pair of neighbours is no cut whatever the rest says
NOISE = 9.0  # variance in grey levels squared that counts as flat


class CutDetector:
    """Finds cuts in frames that arrive one by one; keeps two thumbnails and a few numbers a frame."""

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._flow.setUseSpatialPropagation(False)  # with it the result depends on OpenCV's number of threads
        self._thumbnails: list[_Thumbnail] = []  # of the last two frames
        self._step: list[tuple[float, float]] = []  # (structure, colour) between frames t - 1 and t
        self._skip: list[tuple[float, float]] = []  # the same between frames t - 2 and t

    def add(self, frame: np.ndarray) -> None:
        """Take the next frame, uint8 [H, W, 3] RGB. All frames have one size."""
        now = _Thumbnail(frame)
        before = self._thumbnails
        step = self._compare(before[-1], now) if before else (0.0, 0.0)
        suspect = bool(self._step) and max(step[0], self._step[-1][0]) >= SUSPECT
        self._skip.append(self._compare(before[0], now) if suspect and len(before) == 2 else step)
        self._step.append(step)
        self._thumbnails = [*before[-1:], now]

    def scores(self) -> np.ndarray:
        """How much each frame so far looks like the first of a new shot, float64 [T] in 0..1."""
        count = len(self._step)
        step = np.array(self._step, dtype=np.float64).reshape(count, 2)
        skip = np.array(self._skip, dtype=np.float64).reshape(count, 2)
        scores = np.zeros(count)
        for t in np.flatnonzero(step[:, 0] >= SUSPECT):
            change = step[t]
            if t >= 2:
                change = np.minimum(change, skip[t])
            if t + 1 < count:
                change = np.minimum(change, skip[t + 1])
            around = [s for s in range(max(1, t - NEIGHBOURS), min(count, t + NEIGHBOURS + 1)) if s != t]
            usual = np.median(step[around], axis=0) if around else np.zeros(2)
            structure = (change[0] - usual[0]) / max(1 - usual[0], 1e-6)
            colour = (change[1] - usual[1]) / FULL_COLOUR
            scores[t] = np.clip(structure, 0, 1) * (1 + np.clip(colour, 0, 1)) / 2
        return scores

    def cuts(self, threshold: float) -> list[int]:
        """First frames of new shots among the frames so far (never 0)."""
        return [int(t) for t in np.flatnonzero(self.scores() > threshold)]

    def _compare(self, a: _Thumbnail, b: _Thumbnail) -> tuple[float, float]:
        structure = min(self._structure(a.grey, b.grey), self._structure(b.grey, a.grey))
        colour = 1.0 - float(np.minimum(a.histogram, b.histogram).sum())
        return structure, max(colour, 0.0)

    def _structure(self, a: np.ndarray, b: np.ndarray) -> float:
        """1 - mean local correlation of ``a`` with ``b`` warped onto it, weighted by contrast, inside the frame."""
        flow = self._flow.calc(a, b, None)  # [h, w, 2]
        height, width = a.shape
        x = np.arange(width, dtype=np.float32)[None] + flow[..., 0]
        y = np.arange(height, dtype=np.float32)[:, None] + flow[..., 1]
        warped = cv2.remap(b, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
        correlation, contrast = _local_correlation(a.astype(np.float32), warped.astype(np.float32))
        weight = inside * (contrast + 1e-3)
        total = float(weight.sum())
        return 1.0 if total <= 0 else 1.0 - float((correlation.clip(0, 1) * weight).sum()) / total


class _Thumbnail:
    """What is kept of a frame: grey uint8 [h, w] and a smoothed Lab histogram that sums to 1."""

    def __init__(self, frame: np.ndarray) -> None:
        height, width = frame.shape[:2]
        scale = THUMBNAIL / max(height, width)
        size = (max(24, round(width * scale)), max(24, round(height * scale)))  # DIS needs patches of 8 on two scales
        small = cv2.resize(np.ascontiguousarray(frame), size, interpolation=cv2.INTER_AREA)
        self.grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        lab = cv2.cvtColor(small, cv2.COLOR_RGB2Lab)
        bins = cv2.calcHist([lab], [0, 1, 2], None, [8, 16, 16], [0, 256, 64, 192, 64, 192])
        smooth = np.stack([cv2.GaussianBlur(plane, (3, 3), 0.8) for plane in bins])
        self.histogram = smooth / max(float(smooth.sum()), 1e-9)


def _local_correlation(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Correlation in Gaussian windows (flat against flat is 1) and the larger local standard deviation."""
    mean_a, mean_b = _blur(a), _blur(b)
    variance_a = np.maximum(_blur(a * a) - mean_a**2, 0)
    variance_b = np.maximum(_blur(b * b) - mean_b**2, 0)
    covariance = _blur(a * b) - mean_a * mean_b
    correlation = (covariance + NOISE) / np.sqrt((variance_a + NOISE) * (variance_b + NOISE))
    return correlation, np.sqrt(np.maximum(variance_a, variance_b))


def _blur(image: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), 2.0)


def find_cuts(frames: np.ndarray | Iterable[np.ndarray], threshold: float = 0.5) -> list[int]:
    """First frame of every new shot (never 0), in order.

    Args:
        frames: uint8 [T, H, W, 3] RGB, or an iterable of frames (never all in memory).
        threshold: 0 (everything suspicious is a cut) to 1 (nothing is).
    """
    detector = CutDetector()
    for frame in frames:
        detector.add(frame)
    return detector.cuts(threshold)


def split_shots(cuts: Sequence[int], count: int) -> list[tuple[int, int]]:
    """Shots [a, b) that cover frames 0 .. count - 1, from the first frames of new shots."""
    edges = [0, *sorted({int(cut) for cut in cuts if 0 < cut < count}), count]
    return [(a, b) for a, b in itertools.pairwise(edges) if b > a]
