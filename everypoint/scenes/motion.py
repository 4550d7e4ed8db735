"""Smooth motion of cameras and objects as functions of the progress s of a scene: 0 at its first frame, 1 at its last.

World axes: x right, y down, z away from the camera at rest: an unrotated camera sees the world as a raster does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Curve:
    """start + drift * s + swing * sin(2 pi (cycles * s + phase)), one value for each component.

    ``drift`` and ``swing`` may be empty for zero.
    """

    start: tuple[float, ...]
    drift: tuple[float, ...] = ()
    swing: tuple[float, ...] = ()
    cycles: float = 1.0
    phase: float = 0.0

    def at(self, s: float) -> np.ndarray:
        """The value at progress ``s``, float64 [len(start)]."""
        value = np.array(self.start, np.float64)
        if self.drift:
            value += np.array(self.drift) * s
        if self.swing:
            value += np.array(self.swing) * np.sin(2 * np.pi * (self.cycles * s + self.phase))
        return value


ZERO = Curve((0.0, 0.0, 0.0))
UNIT = Curve((1.0,))


@dataclass(frozen=True)
class Pose:
    """Position, rotation and uniform scale over time.

    Attributes:
        position: world position of the object's origin.
        angles: (rx, ry, rz) in radians; see :func:`rotation`.
        scale: uniform scale about the origin.
    """

    position: Curve = ZERO
    angles: Curve = ZERO
    scale: Curve = UNIT

    def at(self, s: float) -> tuple[np.ndarray, np.ndarray]:
        """Origin [3] and axes [3, 3] (columns: the object's axes in the world, scaled) at progress ``s``."""
        return self.position.at(s), rotation(*self.angles.at(s)) * self.scale.at(s)


STILL = Pose()


def rotation(rx: float, ry: float, rz: float) -> np.ndarray:
    """Rotation matrix Ry Rx Rz, float64 [3, 3]: first about z (in the plane), then x, then y."""
    (cx, cy, cz), (sx, sy, sz) = np.cos([rx, ry, rz]), np.sin([rx, ry, rz])
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_y @ about_x @ about_z
