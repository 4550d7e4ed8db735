"""Ground truth once more, by casting rays in world space: no homographies, one point at a time."""

from __future__ import annotations

import numpy as np

from everypoint.scenes.scene import Scene


def progress(scene: Scene, t: int) -> float:
    return t / max(scene.frames - 1, 1)


def camera(scene: Scene, t: int):
    """Eye, axes (columns) and focal length in pixels."""
    eye, axes = scene.camera.pose.at(progress(scene, t))
    return eye, axes, scene.camera.focal * scene.size[0]


def ray(scene: Scene, t: int, x: float, y: float):
    """Eye and world direction through a raster point, of unit depth along the camera's axis."""
    eye, axes, focal = camera(scene, t)
    height, width = scene.size
    return eye, axes @ np.array([(x - width / 2) / focal, (y - height / 2) / focal, 1.0])


def to_local(scene: Scene, t: int, index: int, point: np.ndarray) -> np.ndarray:
    """World point in the layer's own (u, v, distance from its plane)."""
    layer = scene.layers[index]
    origin, basis = layer.pose.at(progress(scene, t))
    in_object = np.linalg.solve(basis, point - origin)
    u_axis, v_axis, place = layer.place.T
    return np.linalg.solve(np.column_stack([u_axis, v_axis, np.cross(u_axis, v_axis)]), in_object - place)


def to_world(scene: Scene, t: int, index: int, u: float, v: float) -> np.ndarray:
    layer = scene.layers[index]
    origin, basis = layer.pose.at(progress(scene, t))
    u_axis, v_axis, place = layer.place.T
    return origin + basis @ (u * u_axis + v * v_axis + place)


def first_hit(scene: Scene, t: int, x: float, y: float):
    """(depth, layer, u, v) of what is seen at a raster point, or None."""
    eye, direction = ray(scene, t, x, y)
    best = None
    for index, layer in enumerate(scene.layers):
        start, end = (to_local(scene, t, index, eye + step * direction) for step in (0.0, 1.0))
        if start[2] == end[2]:
            continue
        depth = start[2] / (start[2] - end[2])
        u, v, _ = start + depth * (end - start)
        if depth > 0.05 and layer.shape.inside(np.array(u), np.array(v)) and (best is None or depth < best[0]):
            best = (depth, index, u, v)
    return best


def cast_track(scene: Scene, t: int, x: float, y: float):
    """Positions [T, 2] and visibility [T] of the point seen at (x, y) of frame t."""
    _, index, u, v = first_hit(scene, t, x, y)
    height, width = scene.size
    positions, visible = [], []
    for s in range(scene.frames):
        eye, axes, focal = camera(scene, s)
        px, py, depth = axes.T @ (to_world(scene, s, index, u, v) - eye)
        at_x, at_y = width / 2 + focal * px / depth, height / 2 + focal * py / depth
        positions.append((at_x, at_y))
        inside = 0 <= at_x <= width and 0 <= at_y <= height
        visible.append(inside and first_hit(scene, s, at_x, at_y)[0] > depth * (1 - 1e-7))
    return np.array(positions), np.array(visible)
