"""Named scenes. Made for 24 frames at 256x256; motion is spread over whatever number of frames is asked for."""

from __future__ import annotations

from collections.abc import Callable

from everypoint.errors import InputError
from everypoint.scenes.motion import Curve, Pose
from everypoint.scenes.scene import Camera, Layer, Scene, at, box
from everypoint.scenes.shapes import Disc, Plane, Polygon, Rectangle, star
from everypoint.scenes.textures import make_texture


def two_planes(size: tuple[int, int] = (256, 256), frames: int = 24, seed: int = 0) -> Scene:
    """A slanted board slides in front of a slanted wall; the camera sways."""
    wall = Layer(
        "wall",
        Plane(),
        make_texture(seed * 100 + 1, 4.5, hue=0.58),
        Pose(at(0, 0, 4.4), Curve((0.12, -0.18, 0.1))),
    )
    board = Layer(
        "board",
        Rectangle(0.75, 0.6),
        make_texture(seed * 100 + 2, 2.6, hue=0.08),
        Pose(
            Curve((-0.55, 0.25, 2.7), (0.85, -0.35, 0.25)),
            Curve((0.0, 0.25, -0.12), (0.1, -0.4, 0.2)),
        ),
    )
    camera = Camera(Pose(Curve((0, 0, 0), (-0.25, 0.1, 0.15)), Curve((0, 0, 0), (), (0.02, 0.03, 0.02), 0.7)))
    return Scene((wall, board), camera, size, frames)


def occluder(size: tuple[int, int] = (256, 256), frames: int = 24, seed: int = 0) -> Scene:
    """A disc passes in front of a turning box and a wall; the camera moves along."""
    wall = Layer(
        "wall", Plane(), make_texture(seed * 100 + 1, 5.5, hue=0.33), Pose(at(0, 0, 5.4), Curve((-0.1, 0.15, 0)))
    )
    sides = tuple(make_texture(seed * 100 + 2 + n, 2.4, hue=hue) for n, hue in enumerate((0.0, 0.12, 0.9)))
    crate = box(
        "box",
        (0.55, 0.5, 0.5),
        sides,
        Pose(Curve((0.35, 0.2, 3.6), (-0.15, -0.1, 0)), Curve((0.35, -0.75, 0.05), (0.1, 0.55, 0))),
    )
    disc = Layer(
        "disc",
        Disc(0.42),
        make_texture(seed * 100 + 5, 2.2, hue=0.62),
        Pose(Curve((-0.95, 0.1, 2.3), (1.9, -0.1, 0)), Curve((0, 0, 0), (0, 0, 1.2))),
    )
    camera = Camera(Pose(Curve((-0.1, 0, 0), (0.25, -0.1, 0.1)), Curve((0, 0, 0), (), (0.015, 0.02, 0.02), 0.8)))
    return Scene((wall, *crate, disc), camera, size, frames)


def parallax(size: tuple[int, int] = (256, 256), frames: int = 24, seed: int = 0) -> Scene:
    """A still world at three depths; the camera travels sideways and forwards."""
    wall = Layer(
        "far", Plane(), make_texture(seed * 100 + 1, 7.0, hue=0.55), Pose(at(0, 0, 7.0), Curve((0.05, 0.1, 0.2)))
    )
    middle = make_texture(seed * 100 + 2, 4.0, hue=0.25)
    near = make_texture(seed * 100 + 3, 2.2, hue=0.02)
    l_shape = Polygon(((-0.6, -0.6), (0.1, -0.6), (0.1, 0.0), (0.6, 0.0), (0.6, 0.6), (-0.6, 0.6)))
    layers = (
        wall,
        Layer("middle", l_shape, middle, Pose(at(-0.75, -0.6, 4.2), Curve((0.1, 0.3, 0.1)))),
        Layer("middle", Rectangle(0.45, 0.7), middle, Pose(at(0.95, 0.35, 4.0), Curve((0, -0.35, -0.15)))),
        Layer("near", star(5, 0.42, 0.2), near, Pose(at(-0.3, 0.42, 2.3), Curve((0.2, 0.1, 0.3)))),
        Layer("near", Disc(0.24), near, Pose(at(0.5, -0.45, 2.1), Curve((-0.2, 0.2, 0)))),
    )
    camera = Camera(Pose(Curve((-0.5, 0.05, 0), (1.0, -0.1, 0.35)), Curve((0, 0.03, 0), (0, -0.06, 0))))
    return Scene(layers, camera, size, frames)


def rotation(size: tuple[int, int] = (256, 256), frames: int = 24, seed: int = 0) -> Scene:
    """A disc turns in the picture, a board grows and tilts, the camera rolls."""
    wall = Layer("wall", Plane(), make_texture(seed * 100 + 1, 4.5, hue=0.78), Pose(at(0, 0, 4.2)))
    disc = Layer(
        "disc",
        Disc(0.62),
        make_texture(seed * 100 + 2, 2.6, hue=0.12),
        Pose(Curve((-0.35, -0.2, 2.8), (0.2, 0.1, 0)), Curve((0, 0, 0), (0, 0, 2.1))),
    )
    board = Layer(
        "board",
        Rectangle(0.42, 0.42),
        make_texture(seed * 100 + 3, 2.6, hue=0.45),
        Pose(Curve((0.75, 0.5, 3.2), (-0.3, -0.1, 0)), Curve((0, 0.2, 0.3), (0.4, -0.5, -0.6)), Curve((0.75,), (0.6,))),
    )
    camera = Camera(Pose(Curve((0, 0, 0), (0.1, 0, 0)), Curve((0, 0, -0.12), (0, 0, 0.3))))
    return Scene((wall, disc, board), camera, size, frames)


PRESETS: dict[str, Callable[..., Scene]] = {
    "two_planes": two_planes,
    "occluder": occluder,
    "parallax": parallax,
    "rotation": rotation,
}


def preset(name: str, size: tuple[int, int] = (256, 256), frames: int = 24, seed: int = 0) -> Scene:
    """The scene of this name; ``seed`` changes its textures. Raises :class:`InputError` for an unknown name."""
    try:
        make = PRESETS[name.replace("-", "_")]
    except KeyError:
        raise InputError(f"there is no scene {name!r}", cure=f"choose one of {', '.join(PRESETS)}") from None
    return make(size=size, frames=frames, seed=seed)
