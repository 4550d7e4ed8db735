"""Exact ground truth of a scene: tracks, visibility, flow, annotations. All points are raster (x, y)."""

from __future__ import annotations

import numpy as np

from everypoint.errors import InputError
from everypoint.scenes.scene import NEAR, Scene, hits, surface_at

SAME_DEPTH = 1e-9  # relative difference of inverse depth below which two surfaces are one


def ground_truth(scene: Scene, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tracks of the surface points seen at the queries.

    Args:
        scene: the scene.
        queries: [N, 3], (t, x, y) in raster pixels of ``scene.size``; t is rounded.

    Returns:
        tracks float64 [T, N, 2], raster, exact also where hidden (nan only where the point is behind the camera);
        visible bool [T, N]: inside the frame (0 <= x <= W, 0 <= y <= H) and nothing before it.

    Raises:
        InputError: a query outside the scene's frames, or where no layer is seen.
    """
    queries = np.asarray(queries, np.float64).reshape(-1, 3)
    times = np.rint(queries[:, 0]).astype(np.int64)
    if np.any((times < 0) | (times >= scene.frames)):
        raise InputError(f"queries of a scene of {scene.frames} frames must have t from 0 to {scene.frames - 1}")
    layer, uv = np.zeros(len(queries), np.int64), np.zeros((len(queries), 2))
    for t in np.unique(times):
        asked = times == t
        layer[asked], uv[asked], _ = surface_at(scene, int(t), queries[asked, 1:])
    if np.any(layer < 0):
        raise InputError(f"query (t, x, y) = {queries[np.argmax(layer < 0)].tolist()} meets no layer of the scene")
    tracks = np.empty((scene.frames, len(queries), 2))
    visible = np.empty((scene.frames, len(queries)), bool)
    for t in range(scene.frames):
        tracks[t], visible[t] = project(scene, t, layer, uv)
    return tracks, visible


def project(scene: Scene, t: int, layer: np.ndarray, uv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where surface points (layer int [N], uv [N, 2]) lie in frame ``t`` and whether they are seen there.

    Returns raster positions float64 [N, 2] (nan behind the camera) and visible bool [N].
    """
    matrices = scene.homographies[t, layer]  # [N, 3, 3]
    scaled = np.einsum("nij,nj->ni", matrices, np.column_stack([uv, np.ones(len(uv))]))
    depth = np.where(scaled[:, 2] > NEAR, scaled[:, 2], np.nan)
    xy = scaled[:, :2] / depth[:, None]
    height, width = scene.size
    visible = (xy[:, 0] >= 0) & (xy[:, 0] <= width) & (xy[:, 1] >= 0) & (xy[:, 1] <= height)  # nan: False
    limit = (1 + SAME_DEPTH) / np.where(visible, depth, 1.0)
    for index in range(len(scene.layers)):
        rest = np.flatnonzero(visible & (layer != index))
        _, nearness = hits(scene, t, index, xy[rest])
        visible[rest] &= nearness <= limit[rest]
    return xy, visible


def surfaces(scene: Scene, t: int) -> np.ndarray:
    """The layer seen at every pixel's centre of frame ``t``, int64 [H, W]; -1 where none is."""
    return surface_at(scene, t, _centres(scene))[0].reshape(scene.size)


def flow(scene: Scene, i: int, j: int) -> tuple[np.ndarray, np.ndarray]:
    """Exact flow from frame i to frame j at the pixel centres of frame i.

    Returns:
        flow float32 [H, W, 2]: what is seen at pixel p of frame i lies at p + flow in frame j (nan where nothing is
        seen or the point goes behind the camera); occluded bool [H, W]: it is hidden in frame j or outside of it.
    """
    centres = _centres(scene)
    layer, uv, _ = surface_at(scene, i, centres)
    known = layer >= 0
    moved, occluded = np.full(centres.shape, np.nan), np.ones(len(centres), bool)
    moved[known], visible = project(scene, j, layer[known], uv[known])
    occluded[known] = ~visible
    return (moved - centres).astype(np.float32).reshape(*scene.size, 2), occluded.reshape(scene.size)


def _centres(scene: Scene) -> np.ndarray:
    """Raster positions of all pixel centres, float64 [H * W, 2]."""
    height, width = scene.size
    y, x = np.mgrid[:height, :width] + 0.5
    return np.column_stack([x.ravel(), y.ravel()])


def annotations(scene: Scene, n_points: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Annotated tracks in TAP-Vid's layout: points float32 [N, T, 2] normalised raster, occluded bool [N, T].

    Points are drawn at random frames, in equal shares from every object that is seen at least somewhere, away from
    outlines by 1.5 pixels in the frame they are drawn in; points of an object that shows few are repeated. Positions
    are exact also where occluded.
    """
    queries = sample_points(scene, n_points, seed)
    tracks, visible = ground_truth(scene, queries)
    height, width = scene.size
    points = (tracks / [width, height]).transpose(1, 0, 2).astype(np.float32)
    return points, ~visible.T


def sample_points(scene: Scene, n_points: int, seed: int = 0, *, margin: float = 1.5) -> np.ndarray:
    """Random queries float64 [N, 3], (t, x, y) raster, spread evenly over objects; see :func:`annotations`.

    Raises :class:`InputError` when the scene shows nothing to draw from.
    """
    rng = np.random.default_rng(seed)
    names = list(dict.fromkeys(layer.name for layer in scene.layers))
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    object_of = np.array([names.index(layer.name) for layer in scene.layers])
    for t in np.tile(np.arange(scene.frames), -(-max(n_points, 64) // scene.frames)):
        xy = rng.uniform([0, 0], [scene.size[1], scene.size[0]], (256, 2))
        layer, _, _ = surface_at(scene, int(t), xy)
        clear = (layer >= 0) & _away_from_outlines(scene, int(t), xy, layer, margin)
        for n, name in enumerate(names):
            of_object = xy[clear & (object_of[layer] == n)][:4]  # few a frame, so that all frames take part
            found[name] += [np.array([t, *point]) for point in of_object]
    pools = [[pool[n] for n in rng.permutation(len(pool))] for pool in found.values() if pool]  # mixes the frames
    if not pools:
        raise InputError("no layer of the scene is seen in any frame")
    chosen = []
    for n in range(n_points):
        pool = pools[n % len(pools)]
        chosen.append(pool[n // len(pools) % len(pool)])
    return np.array(chosen).reshape(-1, 3)


def _away_from_outlines(scene: Scene, t: int, xy: np.ndarray, layer: np.ndarray, margin: float) -> np.ndarray:
    """Whether the same layer is seen all around each point and the point is not at the frame's border, bool [N]."""
    height, width = scene.size
    clear = (xy > margin).all(axis=1) & (xy[:, 0] < width - margin) & (xy[:, 1] < height - margin)
    for angle in np.arange(8) * (np.pi / 4):
        clear &= surface_at(scene, t, xy + margin * np.array([np.cos(angle), np.sin(angle)]))[0] == layer
    return clear
