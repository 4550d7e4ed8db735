"""Steps that slip: a point at an occluder's edge is carried on with the occluder.

Near an edge a flow network gives what is about to be covered the motion of what covers it. There and back it agrees
with itself, since what moves so is the occluder, and from then on the track follows that. Only its looks tell: they
fall away from those of the query in one step, in the features and in the pixels. Either alone also happens to points
that are seen (features to thin and turning parts, pixels to fine texture half a pixel off), so both are asked.
"""

from __future__ import annotations

import numpy as np

from everypoint.track.boundary import contrast, difference, patches

ALIKE = 0.6  # cosine with its query's features from which a point has not slipped
OF_CONTRAST = 0.5  # share of a patch's own contrast by which the landing's differs, at least ...
NOISE = 15.0  # ... with so much added to that contrast, for patches that have hardly any


def slipped(
    image_i: np.ndarray,
    image_j: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    similarity: np.ndarray,
    fall: np.ndarray,
    least_fall: float,
) -> np.ndarray:
    """Whether steps of points [N, 2] from frame i to j [N, 2] ended on another surface, bool [N].

    Args:
        image_i, image_j: uint8 [H, W, 3].
        before, after: finite index points.
        similarity: cosine [N] with the queries after the step, by features.
        fall: by how much [N] that is less than before it.
        least_fall: by how much it has to be.
    """
    found = (fall > least_fall) & (similarity < ALIKE)
    rows = np.flatnonzero(found)
    if len(rows):
        start = patches(image_i, before[rows])
        differs = difference(start, patches(image_j, after[rows]))
        found[rows] = differs > OF_CONTRAST * (contrast(start) + NOISE)
    return found
