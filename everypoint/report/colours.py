"""Colours of points by where their query lies, and an even choice of points when there are too many to draw."""

from __future__ import annotations

import numpy as np

from everypoint.artifacts.tracks import Tracks


def query_colours(queries: np.ndarray, frame_size: tuple[int, int]) -> np.ndarray:
    """Colours uint8 [N, 3] RGB of queries [N, 3] (t, x, y): hue runs along x, lightness along y.

    The map is smooth, so neighbours stay alike and a point that drifts off stands out by its colour. It spans the
    box of the queries, not the frame, so that a small object shows all of it. Colours come from OKLCh
    (B. Ottosson, 2020), whose equal steps look equal.
    """
    height, width = frame_size
    xy = queries[:, 1:].astype(np.float64)
    u, v = (_spread(xy[:, axis], least) for axis, least in ((0, width / 20), (1, height / 20)))
    hue = 2 * np.pi * (0.04 + 0.84 * (0.86 * u + 0.14 * v))
    return _oklch_to_srgb(0.84 - 0.22 * v, np.full_like(u, 0.19), hue)


def _spread(values: np.ndarray, least: float) -> np.ndarray:
    """Values as 0..1 over their own range, or over ``least`` pixels when the range is smaller."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return np.zeros_like(values)
    low, high = finite.min(), finite.max()
    middle, span = (low + high) / 2, max(high - low, least)
    return np.nan_to_num(np.clip((values - middle) / span + 0.5, 0, 1), nan=0.5)


def _oklch_to_srgb(lightness: np.ndarray, chroma: np.ndarray, hue: np.ndarray) -> np.ndarray:
    """OKLCh (hue in radians) to uint8 sRGB [N, 3]; out of gamut, the largest chroma that fits (by bisection)."""
    low, high = np.zeros_like(chroma), chroma
    for _ in range(12):
        middle = (low + high) / 2
        fits = _in_gamut(lightness, middle, hue)
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    linear = np.clip(_oklab_to_linear(lightness, low * np.cos(hue), low * np.sin(hue)), 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(255 * srgb).astype(np.uint8)


def _in_gamut(lightness: np.ndarray, chroma: np.ndarray, hue: np.ndarray) -> np.ndarray:
    linear = _oklab_to_linear(lightness, chroma * np.cos(hue), chroma * np.sin(hue))
    return ((linear > -1e-4) & (linear < 1 + 1e-4)).all(axis=-1)


def _oklab_to_linear(lightness: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """OKLab to linear sRGB [N, 3], the published matrices."""
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return np.stack(
        [
            4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
        ],
        axis=-1,
    )


def choose_points(queries: np.ndarray, max_points: int) -> np.ndarray:
    """Indices (ascending) of at most ``max_points`` queries [N, 3], spread evenly over the plane.

    Farthest-point sampling from the query nearest to the middle: deterministic, O(N * max_points), and of queries
    at the same place only one is taken as long as other places are left.
    """
    points = len(queries)
    if points <= max_points:
        return np.arange(points)
    xy = np.nan_to_num(queries[:, 1:].astype(np.float32))
    chosen = np.empty(max_points, np.int64)
    chosen[0] = np.argmin(((xy - np.median(xy, axis=0)) ** 2).sum(axis=1))
    distance = np.full(points, np.inf, np.float32)
    for k in range(1, max_points):
        last = chosen[k - 1]
        np.minimum(distance, ((xy - xy[last]) ** 2).sum(axis=1), out=distance)
        distance[last] = -1  # never again, even among duplicates
        chosen[k] = np.argmax(distance)
    return np.sort(chosen)


def subset(tracks: Tracks, index: np.ndarray) -> Tracks:
    """The tracks of some queries."""
    return Tracks(
        tracks=tracks.tracks[:, index],
        visibility=tracks.visibility[:, index],
        confidence=tracks.confidence[:, index],
        queries=tracks.queries[index],
        query_ids=np.asarray(tracks.query_ids)[index],
        frame_size=tracks.frame_size,
        fps=tracks.fps,
        meta=tracks.meta,
    )
