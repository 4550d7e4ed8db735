"""A scene: flat textured layers moving in space before a moving pinhole camera.

Each layer and frame has one homography H that takes a layer's (u, v, 1) to depth * (x, y, 1), (x, y) raster pixels.
Its inverse therefore takes (x, y, 1) to (u, v, 1) / depth: inverse depth is affine in the picture, and both rendering
and ground truth are exact algebra on the same matrices.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace

import numpy as np

from everypoint.errors import InputError
from everypoint.scenes.motion import STILL, Curve, Pose, rotation
from everypoint.scenes.shapes import Rectangle, Shape
from everypoint.scenes.textures import Texture

NEAR = 0.05  # nothing closer to the camera than this is seen


@dataclass(frozen=True, eq=False)
class Layer:
    """A flat textured shape, part of an object.

    Attributes:
        name: the object's name; layers of one name form one object (the faces of a box).
        shape: which part of the plane is there.
        texture: its colours.
        pose: motion of the object.
        place: [3, 3] columns (u axis, v axis, origin) of the plane in the object's coordinates.
    """

    name: str
    shape: Shape
    texture: Texture
    pose: Pose = STILL
    place: np.ndarray = field(default_factory=lambda: np.diag([1.0, 1.0, 0.0]))


@dataclass(frozen=True)
class Camera:
    """A pinhole camera.

    Attributes:
        pose: its motion; at rest it looks along +z.
        focal: focal length in frame heights, so that the view does not depend on the resolution.
    """

    pose: Pose = STILL
    focal: float = 1.2


FIXED = Camera()


@dataclass(frozen=True, eq=False)
class Scene:
    """Layers, a camera, and the raster they are seen in.

    Attributes:
        layers: in any order; the nearest is seen. Some layer must fill the view where ground truth is asked for.
        camera: the camera.
        size: (H, W) of the frames.
        frames: number of frames; motion is spread over them.
    """

    layers: tuple[Layer, ...]
    camera: Camera = FIXED
    size: tuple[int, int] = (256, 256)
    frames: int = 24

    def __post_init__(self) -> None:
        if self.frames < 1 or min(self.size) < 1 or not self.layers:
            raise InputError(
                f"a scene of {len(self.layers)} layers, {self.frames} frames and size {self.size} is impossible"
            )

    def resized(self, size: tuple[int, int]) -> Scene:
        """The same scene seen in another raster (H, W)."""
        return replace(self, size=size)

    @functools.cached_property
    def homographies(self) -> np.ndarray:
        """H of every layer and frame, float64 [T, L, 3, 3]: H (u, v, 1) = depth * (x, y, 1), raster."""
        return np.stack([[self._homography(layer, t) for layer in self.layers] for t in range(self.frames)])

    @functools.cached_property
    def inverses(self) -> np.ndarray:
        """Inverse of :attr:`homographies`, float64 [T, L, 3, 3]: (x, y, 1) -> (u, v, 1) / depth.

        Zero, and with it an inverse depth of zero everywhere, for a layer seen exactly from its edge.
        """
        singular = np.abs(np.linalg.det(self.homographies)) < 1e-12
        inverses = np.linalg.inv(np.where(singular[..., None, None], np.eye(3), self.homographies))
        return np.where(singular[..., None, None], 0.0, inverses)

    def _homography(self, layer: Layer, t: int) -> np.ndarray:
        s = t / max(self.frames - 1, 1)
        height, width = self.size
        eye, axes = self.camera.pose.at(s)
        origin, basis = layer.pose.at(s)
        world = basis @ layer.place  # columns: u axis, v axis, origin of the plane
        world[:, 2] += origin - eye
        focal = self.camera.focal * height
        intrinsics = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        return intrinsics @ axes.T @ world


def surface_at(scene: Scene, t: int, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is seen at raster points ``xy`` float64 [N, 2] of frame ``t``.

    Returns the layer int64 [N] (-1: none), its (u, v) float64 [N, 2] and the inverse depth float64 [N] (0: none).
    """
    layer = np.full(len(xy), -1)
    uv, nearness = np.zeros((len(xy), 2)), np.zeros(len(xy))
    for index in range(len(scene.layers)):
        here, there = hits(scene, t, index, xy)
        closer = there > nearness
        layer[closer], uv[closer], nearness[closer] = index, here[closer], there[closer]
    return layer, uv, nearness


def hits(scene: Scene, t: int, index: int, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where rays through raster points ``xy`` [N, 2] of frame ``t`` meet one layer, whatever lies before it.

    Returns (u, v) float64 [N, 2] and inverse depth float64 [N], which is 0 where the ray misses.
    """
    inverse = scene.inverses[t, index]
    scaled = xy @ inverse[:, :2].T + inverse[:, 2]  # [N, 3]: (u, v, 1) / depth
    nearness = scaled[:, 2]
    ahead = (nearness > 0) & (nearness < 1 / NEAR)
    uv = scaled[:, :2] / np.where(ahead, nearness, 1.0)[:, None]
    return uv, np.where(ahead & scene.layers[index].shape.inside(uv[:, 0], uv[:, 1]), nearness, 0.0)


def box(name: str, half: tuple[float, float, float], textures: tuple[Texture, ...], pose: Pose) -> tuple[Layer, ...]:
    """The six faces of a box of half sizes (x, y, z) around the pose's origin; textures are used in turn."""
    hx, hy, hz = half
    quarter = np.pi / 2
    faces = [  # turn of the face that looks to the camera, half sizes of the turned face, distance from the centre
        ((0, 0, 0), (hx, hy), hz),
        ((0, 2 * quarter, 0), (hx, hy), hz),
        ((0, quarter, 0), (hz, hy), hx),
        ((0, -quarter, 0), (hz, hy), hx),
        ((quarter, 0, 0), (hx, hz), hy),
        ((-quarter, 0, 0), (hx, hz), hy),
    ]
    layers = []
    for n, (angles, (hu, hv), distance) in enumerate(faces):
        turned = rotation(*angles)
        place = np.column_stack([turned[:, 0], turned[:, 1], -distance * turned[:, 2]])
        layers.append(Layer(name, Rectangle(hu, hv), textures[n % len(textures)], pose, place))
    return tuple(layers)


def at(x: float, y: float, z: float) -> Curve:
    """A position that does not change."""
    return Curve((x, y, z))
