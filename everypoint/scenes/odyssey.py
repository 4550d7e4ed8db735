"""Rendered scenes as a small data set in PointOdyssey's layout, with exact tracks, depth, masks, normals and cameras.

``ROOT/{train,val,test}/SEQ/`` with ``rgbs/rgb_%05d.jpg``, ``depths/depth_%05d.png`` (uint16, 65535 = 1000 m),
``masks/mask_%05d.png`` (one grey value an object), ``normals/normal_%05d.jpg``, ``anno.npz`` and ``info.npz``.
Positions in ``anno.npz`` are index pixels (the first pixel's centre is 0), as PointOdyssey's readers use them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from everypoint.artifacts import atomic
from everypoint.errors import InputError
from everypoint.geometry import raster_to_index
from everypoint.scenes.presets import PRESETS, preset
from everypoint.scenes.render import render
from everypoint.scenes.scene import Scene, hits, surface_at
from everypoint.scenes.truth import ground_truth, sample_points

FAR = 1000.0  # metres of the largest depth value
SPLITS = ("train", "val", "test")
JPEG_QUALITY = 95


def write_odyssey(
    root: Path,
    sequences: int,
    frames: int,
    size: tuple[int, int],
    *,
    points: int = 512,
    seed: int = 0,
    layout: Literal["v1.2", "v1.0"] = "v1.2",
) -> dict[str, list[str]]:
    """Render ``sequences`` scenes into ``root``; returns the names of the sequences of each split.

    One sequence in six goes to ``val`` and one to ``test``, at least one each when there are three or more. Sequence n
    is the n-th named scene, with textures and points of ``seed + n``; equal arguments give equal files.

    Args:
        root: the folder of the data set.
        sequences: how many scenes.
        frames: frames of each.
        size: (H, W) of the frames.
        points: tracks of each sequence.
        seed: of the first sequence.
        layout: ``v1.0`` writes ``visibilities`` (0 hidden, 1 seen, 2 invalid) in place of ``visibs`` and ``valids``.

    Raises:
        InputError: fewer than one sequence, two frames, one point or 16 pixels a side.
    """
    if sequences < 1 or frames < 2 or points < 1 or min(size) < 16:
        raise InputError(
            f"{sequences} sequences of {frames} frames at {size[0]}x{size[1]} with {points} points are impossible",
            cure="ask for at least 1 sequence, 2 frames, 16 pixels a side and 1 point",
        )
    split_of = _splits(sequences)
    names = list(PRESETS)
    written: dict[str, list[str]] = {split: [] for split in SPLITS}
    for n in range(sequences):
        name = names[n % len(names)]
        scene = preset(name, size, frames, seed + n)
        sequence = f"{name}_{n:02d}"
        write_sequence(Path(root) / split_of[n] / sequence, scene, points, seed + n, layout)
        written[split_of[n]].append(sequence)
    return written


def _splits(sequences: int) -> list[str]:
    """The split of each sequence: the last ones test, those before val, the first ones train."""
    share = max(1, sequences // 6) if sequences >= 3 else 0
    return ["train"] * (sequences - 2 * share) + ["val"] * share + ["test"] * share


def write_sequence(folder: Path, scene: Scene, points: int, seed: int, layout: str = "v1.2") -> None:
    """One scene as one sequence folder; ``anno.npz`` comes last, so a folder that has it is whole."""
    objects = list(dict.fromkeys(layer.name for layer in scene.layers))
    # Grey values far apart and never zero, which stands for fog
    greys = np.array([1 + round(254 * (objects.index(layer.name) + 1) / len(objects)) for layer in scene.layers])
    greys = np.minimum(greys, 255)
    for t, picture in enumerate(render(scene)):
        layer, depth = _surfaces(scene, t)
        _write(folder / "rgbs" / f"rgb_{t:05d}.jpg", picture[..., ::-1])
        _write(folder / "depths" / f"depth_{t:05d}.png", np.rint(np.clip(depth / FAR, 0, 1) * 65535).astype(np.uint16))
        _write(folder / "masks" / f"mask_{t:05d}.png", np.where(layer < 0, 0, greys[layer]).astype(np.uint8))
        _write(folder / "normals" / f"normal_{t:05d}.jpg", _normals(scene, t)[layer][..., ::-1])
    arrays = annotations(scene, points, seed, layout)
    atomic.save_npz(folder / "info.npz", **{name: np.array(array.shape) for name, array in arrays.items()})
    atomic.save_npz(folder / "anno.npz", **arrays)


def annotations(scene: Scene, points: int, seed: int, layout: str = "v1.2") -> dict[str, np.ndarray]:
    """The arrays of ``anno.npz``.

    ``trajs_2d`` float32 [T, N, 2], index pixels, nan behind the camera; ``trajs_3d`` float32 [T, N, 3], world;
    ``intrinsics`` float32 [T, 3, 3] and ``extrinsics`` float32 [T, 4, 4] (camera from world), so that
    K (R X + t) / z is ``trajs_2d``; and visibility: ``visibs`` and ``valids`` bool [T, N], or ``visibilities``.
    """
    queries = sample_points(scene, points, seed)
    tracks, visible = ground_truth(scene, queries)
    valid = np.isfinite(tracks).all(axis=-1)
    world, intrinsics, extrinsics = _world(scene, queries), *_cameras(scene)
    arrays = {
        "trajs_2d": raster_to_index(tracks).astype(np.float32),
        "trajs_3d": world.astype(np.float32),
        "intrinsics": intrinsics.astype(np.float32),
        "extrinsics": extrinsics.astype(np.float32),
    }
    if layout == "v1.0":
        return arrays | {"visibilities": np.where(valid, visible.astype(np.uint8), np.uint8(2))}
    return arrays | {"visibs": visible & valid, "valids": valid}


def _surfaces(scene: Scene, t: int) -> tuple[np.ndarray, np.ndarray]:
    """The layer int [H, W] and the depth float64 [H, W] seen at every pixel's centre; -1 and 0 where none is."""
    height, width = scene.size
    y, x = np.mgrid[:height, :width] + 0.5
    layer, _, nearness = surface_at(scene, t, np.column_stack([x.ravel(), y.ravel()]))
    depth = np.divide(1.0, nearness, out=np.zeros_like(nearness), where=nearness > 0)
    return layer.reshape(scene.size), depth.reshape(scene.size)


def _normals(scene: Scene, t: int) -> np.ndarray:
    """The normal of every layer in the camera's axes as a colour, uint8 [L, 3]; towards the camera."""
    _, axes = scene.camera.pose.at(t / max(scene.frames - 1, 1))
    normals = np.empty((len(scene.layers), 3))
    for index, layer in enumerate(scene.layers):
        _, basis = layer.pose.at(t / max(scene.frames - 1, 1))
        normal = axes.T @ np.cross(*(basis @ layer.place)[:, :2].T)
        normals[index] = normal / np.linalg.norm(normal) * (-1 if normal[2] > 0 else 1)
    return np.rint((normals + 1) * 127.5).astype(np.uint8)


def _world(scene: Scene, queries: np.ndarray) -> np.ndarray:
    """World positions float64 [T, N, 3] of the surface points seen at the queries."""
    layer, uv = np.zeros(len(queries), np.int64), np.zeros((len(queries), 2))
    for t in np.unique(queries[:, 0]).astype(int):
        asked = queries[:, 0] == t
        layer[asked] = surface_at(scene, t, queries[asked, 1:])[0]
        for index in np.unique(layer[asked]):
            of_layer = asked & (layer == index)
            uv[of_layer] = hits(scene, t, index, queries[of_layer, 1:])[0]
    world = np.empty((scene.frames, len(queries), 3))
    for t in range(scene.frames):
        for index in np.unique(layer):
            of_layer = layer == index
            origin, basis = scene.layers[index].pose.at(t / max(scene.frames - 1, 1))
            place = scene.layers[index].place
            world[t, of_layer] = origin + (uv[of_layer] @ place[:, :2].T + place[:, 2]) @ basis.T
    return world


def _cameras(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Intrinsics [T, 3, 3] for index pixels and extrinsics [T, 4, 4] (camera from world), float64."""
    height, width = scene.size
    focal = scene.camera.focal * height
    centre = raster_to_index(np.array([width, height]) / 2)
    intrinsics = np.array([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1]])
    extrinsics = np.tile(np.eye(4), (scene.frames, 1, 1))
    for t in range(scene.frames):
        eye, axes = scene.camera.pose.at(t / max(scene.frames - 1, 1))
        extrinsics[t, :3, :3] = axes.T
        extrinsics[t, :3, 3] = -axes.T @ eye
    return np.tile(intrinsics, (scene.frames, 1, 1)), extrinsics


def _write(path: Path, image: np.ndarray) -> None:
    """An image (blue first) in the format of its suffix."""
    parameters = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if path.suffix == ".jpg" else []
    done, data = cv2.imencode(path.suffix, image, parameters)
    if not done:
        raise RuntimeError(f"OpenCV cannot encode {path.suffix}")
    atomic.write_bytes(path, data.tobytes())
