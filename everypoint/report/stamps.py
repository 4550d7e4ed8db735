"""Discs and rings at sub-pixel positions, with exact soft edges.

OpenCV's anti-aliased circles are off by up to 0.13 px when they are small; here the coverage of a pixel follows from
its distance to the centre, so a mark lies where its track says. All coverages of a frame are computed at once.
"""

from __future__ import annotations

import numpy as np

RIM = (16, 16, 20)


def draw_discs(picture: np.ndarray, centres: np.ndarray, colours: np.ndarray, radius: float, rim: float) -> None:
    """Draw discs with a dark rim into ``picture`` uint8 [H, W, 3], later ones over earlier ones.

    Args:
        picture: changed in place.
        centres: [N, 2], finite index coordinates (x, y).
        colours: uint8 [N, 3].
        radius: of the coloured part, in pixels.
        rim: width of the rim outside of it.
    """
    corners, distance = _patches(centres, radius + rim + 1)
    outer, inner = (np.clip(edge + 0.5 - distance, 0, 1)[..., None] for edge in (radius + rim, radius))
    colour = inner * colours[:, None, None].astype(np.float32) + (outer - inner) * np.array(RIM, np.float32)
    _blend(picture, corners, outer, colour)


def draw_rings(
    picture: np.ndarray, centres: np.ndarray, colours: np.ndarray, radius: float, width: float, strength: float
) -> None:
    """Draw hollow rings whose line has this ``width`` and opacity ``strength``; arguments as :func:`draw_discs`."""
    corners, distance = _patches(centres, radius + width + 1)
    cover = strength * np.clip(width / 2 + 0.5 - np.abs(distance - radius), 0, 1)[..., None]
    _blend(picture, corners, cover, cover * colours[:, None, None].astype(np.float32))


def _patches(centres: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Upper left pixels int [N, 2] (x, y) of the squares around the centres; distances float32 [N, k, k] to these."""
    corners = np.floor(centres - reach).astype(np.int64)
    offset = np.arange(int(np.ceil(2 * reach)) + 2, dtype=np.float32)
    x, y = ((corners - centres)[:, axis, None].astype(np.float32) + offset for axis in (0, 1))
    return corners, np.hypot(x[:, None, :], y[:, :, None])


def _blend(picture: np.ndarray, corners: np.ndarray, cover: np.ndarray, colour: np.ndarray) -> None:
    """Lay patches [N, k, k, 3], premultiplied with their cover [N, k, k, 1], over the picture, cut at its borders."""
    height, width = picture.shape[:2]
    side = cover.shape[1]
    keep = 1 - cover
    for n, (x, y) in enumerate(corners.tolist()):
        left, top, right, bottom = max(x, 0), max(y, 0), min(x + side, width), min(y + side, height)
        if left < right and top < bottom:
            part = slice(top - y, bottom - y), slice(left - x, right - x)
            under = picture[top:bottom, left:right]
            under[...] = under * keep[n][part] + (colour[n][part] + 0.5)
