"""A processed folder as OmniMotion's preprocessing leaves it: filtered, chained, overwritten, in its names and formats.

Written from the published description, in float64 and with Pillow, without a line of the package.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tests.unit.correspond.scenes import shifted_texture

SIZE = (24, 32)
SHIFT = (2, -1)
FRAMES = 6

Pairs = dict[tuple[int, int], np.ndarray]


@dataclass(frozen=True)
class Sequence:
    """What a folder holds: images uint8, features [h, w, C], and flows and masks of every ordered pair."""

    images: np.ndarray
    features: np.ndarray
    raw_flows: Pairs
    flows: Pairs  # chained
    masks: Pairs  # uint8 [H, W, 3] of 0 and 255


def sample(field: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Bilinear values of [H, W, C] at [H, W, 2], zero outside."""
    padded = np.pad(field.astype(float), ((1, 1), (1, 1), (0, 0)))
    x, y = np.clip(xy[..., 0] + 1, 0, field.shape[1] + 1), np.clip(xy[..., 1] + 1, 0, field.shape[0] + 1)
    x0, y0 = np.minimum(x.astype(int), field.shape[1]), np.minimum(y.astype(int), field.shape[0])
    fx, fy = (x - x0)[..., None], (y - y0)[..., None]
    top = padded[y0, x0] * (1 - fx) + padded[y0, x0 + 1] * fx
    low = padded[y0 + 1, x0] * (1 - fx) + padded[y0 + 1, x0 + 1] * fx
    return top * (1 - fy) + low * fy


def alike(features: np.ndarray, i: int, j: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Cosine of the features of frames i at x and j at y, one convention (corners on corners) for both."""
    scale = (np.array(features.shape[2:0:-1]) - 1) / (np.array(SIZE[::-1]) - 1)
    a, b = sample(features[i], x * scale), sample(features[j], y * scale)
    return (a * b).sum(-1) / np.maximum(np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1), 1e-8)


def grid() -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(SIZE[1]), np.arange(SIZE[0])), axis=-1).astype(float)


def filtered(flows: Pairs, features: np.ndarray) -> Pairs:
    """Masks bool [H, W, 2] (cycle, occluded) of the filter."""
    x, masks = grid(), {}
    for (i, j), forward in flows.items():
        y = x + forward
        m = forward + sample(flows[j, i], y)
        e1 = np.linalg.norm(m, axis=-1)
        cycle, occluded = e1 < 3, np.zeros(SIZE, bool)
        if abs(i - j) >= 3:
            cycle &= alike(features, i, j, x, y) > 0.5
        else:
            z = x + m
            e2 = np.linalg.norm(z + sample(forward, z) - y, axis=-1)
            inside = ((y >= 0) & (y <= np.array(SIZE[::-1]) - 1)).all(-1)
            occluded = (e2 < 3) & (e1 > 4.5) & inside
        masks[i, j] = np.stack([cycle, occluded], axis=-1)
    return masks


def chained(flows: Pairs, masks: Pairs, features: np.ndarray, images: np.ndarray) -> tuple[Pairs, Pairs]:
    """Flows and masks after chaining, which replace the former."""
    x, colours = grid(), images / 255
    new_flows, new_masks = {}, {}
    for i in range(FRAMES):
        for step, last in ((1, FRAMES - 1), (-1, 0)):
            if i == last:
                continue
            total, ok = flows[i, i + step].astype(float), masks[i, i + step][..., 0].copy()
            for j in range(i + step, last + step, step):
                cycle, occluded = masks[i, j][..., 0], masks[i, j][..., 1]
                total[cycle | occluded] = flows[i, j][cycle | occluded]
                y = x + total
                ok &= alike(features, i, j, x, y) > 0.5
                ok &= np.linalg.norm(colours[i] - sample(colours[j], y), axis=-1) < 0.3
                ok = (ok | cycle) & ~occluded
                new_flows[i, j] = total.astype(np.float32)
                new_masks[i, j] = np.stack([ok, occluded, np.zeros(SIZE, bool)], axis=-1).astype(np.uint8) * 255
                if j != last:
                    total = total + sample(flows[j, j + step], y)
                    ok &= sample(masks[j, j + step][..., :1], y)[..., 0] == 1
    return new_flows, new_masks


def sequence(seed: int = 0) -> Sequence:
    """A moving texture; flows are noisy, and wrong in a corner for all but neighbours, so that chaining fills it."""
    random = np.random.default_rng(seed)
    images = shifted_texture(FRAMES, SIZE, SHIFT, grain=3.0)
    features = 1 + 0.8 * random.standard_normal((FRAMES, 6, 8, 5)).astype(np.float32)
    flows: Pairs = {}
    for i in range(FRAMES):
        for j in range(FRAMES):
            if i != j:
                flow = np.array(SHIFT) * (j - i) + random.normal(0, 0.3, (*SIZE, 2))
                flow[:10, :12] += 9 * (abs(i - j) > 1)
                flows[i, j] = flow.astype(np.float32)
    after, masks = chained(flows, filtered(flows, features), features, images)
    return Sequence(images, features, flows, after, masks)


def names_of(pattern: str = "{:05d}.jpg") -> list[str]:
    return [pattern.format(frame) for frame in range(FRAMES)]


def write(seq: Path, made: Sequence, names: list[str]) -> Path:
    """The folder SEQ with images, features, flows, masks and their statistics."""
    for part in ("color", "features/dino", "raft_exhaustive", "raft_masks", "count_maps"):
        (seq / part).mkdir(parents=True, exist_ok=True)
    for name, image, features in zip(names, made.images, made.features, strict=True):
        Image.fromarray(image).save(seq / "color" / name, **({"quality": 95} if name.endswith("jpg") else {}))
        np.save(seq / "features/dino" / f"{name}.npy", features)
    for (i, j), flow in made.flows.items():
        np.save(seq / "raft_exhaustive" / f"{names[i]}_{names[j]}.npy", flow)
        Image.fromarray(made.masks[i, j]).save(seq / "raft_masks" / f"{names[i]}_{names[j]}.png")
    write_statistics(seq, made.masks, names)
    return seq


def write_statistics(seq: Path, masks: Mapping[tuple[int, int], np.ndarray], names: list[str]) -> None:
    """``count_maps`` and ``flow_stats.json``."""
    stats: dict[str, dict[str, int]] = {}
    for i, name in enumerate(names):
        counts = np.zeros(SIZE, np.uint16)
        for j, other in enumerate(names):
            if i != j:
                counts += (masks[i, j] / 255).sum(axis=-1).astype(np.uint16)
                stats.setdefault(name, {})[other] = int((masks[i, j] / 255).sum())
        Image.fromarray(counts).save(seq / "count_maps" / f"{name.rsplit('.', 1)[0]}.png")
    (seq / "flow_stats.json").write_text(json.dumps(stats))
