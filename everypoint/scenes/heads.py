"""A small data set in the layout of HT21 (CroHD): moving discs as heads, each with a box in every frame.

``ROOT/HT21/train/HT21-NN/img1/%06d.jpg`` (numbered from 1) and ``gt/gt.txt`` with rows
``frame,id,left,top,width,height,conf,class,visibility``.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from everypoint.artifacts import atomic
from everypoint.errors import InputError
from everypoint.scenes.motion import Curve, Pose
from everypoint.scenes.render import render
from everypoint.scenes.scene import Layer, Scene, at
from everypoint.scenes.shapes import Disc, Plane
from everypoint.scenes.textures import make_texture
from everypoint.scenes.truth import project

WALL = 4.0  # distance of the wall
RADIUS = 0.09  # of a head


def write_heads(
    root: Path, sequences: int, frames: int, size: tuple[int, int], *, heads: int = 8, seed: int = 0
) -> None:
    """Render ``sequences`` videos of ``heads`` discs each into ``root``. Equal arguments give equal files.

    Every third head has no rows in a sixth of its frames (as heads that leave are annotated), and heads behind others
    have visibility 0. Raises :class:`InputError` for no sequence, head or second frame.
    """
    if sequences < 1 or frames < 2 or heads < 1:
        raise InputError(f"{sequences} sequences of {frames} frames with {heads} heads are impossible")
    for n in range(sequences):
        scene = head_scene(frames, size, heads, seed + n)
        folder = Path(root) / "HT21" / "train" / f"HT21-{n + 1:02d}"
        for t, picture in enumerate(render(scene, samples=2)):
            done, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
            if not done:
                raise RuntimeError("OpenCV cannot encode JPEG")
            atomic.write_bytes(folder / "img1" / f"{t + 1:06d}.jpg", data.tobytes())
        atomic.write_text(folder / "gt" / "gt.txt", gt_text(scene, heads))


def head_scene(frames: int, size: tuple[int, int], heads: int, seed: int) -> Scene:
    """A wall and ``heads`` discs that swing before it, each at a distance of its own, seen by a still camera."""
    rng = np.random.default_rng(seed)
    layers = [Layer("wall", Plane(), make_texture(seed * 100 + 1, 4.5, hue=0.55), Pose(at(0, 0, WALL)))]
    reach = 0.7 * size[1] / size[0]
    for n in range(heads):
        distance = 2.4 + 0.9 * n / heads
        start = (rng.uniform(-reach, reach) * 0.5, rng.uniform(-0.45, 0.45), distance)
        swing = (reach * rng.uniform(0.35, 0.6), rng.uniform(0.1, 0.3), 0.0)
        curve = Curve(start, (), swing, cycles=frames / 60 * rng.uniform(0.8, 1.2), phase=rng.uniform(0, 1))
        texture = make_texture(seed * 100 + 2 + n, 1.2, hue=rng.uniform())
        layers.append(Layer(f"head{n}", Disc(RADIUS), texture, Pose(curve)))
    return Scene(tuple(layers), size=size, frames=frames)


def gt_text(scene: Scene, heads: int) -> str:
    """The rows of ``gt.txt``, ordered by frame; the last row is of the last frame."""
    rows = []
    layer = np.arange(1, heads + 1)
    for t in range(scene.frames):
        xy, visible = project(scene, t, layer, np.zeros((heads, 2)))
        depth = np.array([scene.layers[n].pose.at(0.0)[0][2] for n in layer])
        side = 2 * RADIUS * scene.camera.focal * scene.size[0] / depth
        for n in range(heads):
            away = n % 3 == 2 and scene.frames // 2 <= t < scene.frames // 2 + scene.frames // 6
            if not away:
                left, top = xy[n] - side[n] / 2
                rows.append(f"{t + 1},{n + 1},{left:.2f},{top:.2f},{side[n]:.2f},{side[n]:.2f},1,1,{int(visible[n])}")
    return "\n".join(rows) + "\n"
