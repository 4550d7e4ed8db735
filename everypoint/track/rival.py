"""Two networks' steps of the same points: which of the two a point takes.

Networks trained on different pictures fail in different places, the more so the further frames are apart. The first
network's step is taken, unless the landing of the other's looks clearly more like the start, patch by patch. How well
flows there and back agree says little here: what hides a point moves consistently too.
"""

from __future__ import annotations

import numpy as np

from everypoint.track.boundary import difference, patches

CLEARLY = 0.8  # share of the first's difference of patches below which the second's landing looks clearly better

Step = tuple[np.ndarray, np.ndarray]  # finite points float32 [N, 2], forward-backward error float32 [N] (inf: none)


def the_better(image_i: np.ndarray, image_j: np.ndarray, xy: np.ndarray, first: Step, second: Step) -> Step:
    """Of two steps of the points [N, 2] from frame i to j the better one, point by point; the first where in doubt.

    Args:
        image_i, image_j: uint8 [H, W, 3].
        xy: index points in frame i.
        first, second: where they land in frame j, and the forward-backward errors in px.
    """
    start = patches(image_i, xy)
    looks = [difference(start, patches(image_j, there)) for there, _ in (first, second)]
    (one, error), (other, rival_error) = first, second
    known, rival_known = np.isfinite(error), np.isfinite(rival_error)  # without a flow a point stays where it is
    take = rival_known & (~known | (looks[1] < CLEARLY * looks[0]))
    return np.where(take[:, None], other, one), np.where(take, rival_error, error)
