"""Long-range matches of XFeat: key points of every frame, and the mutual nearest neighbours of their descriptors.

The sparse mode of the paper: at most ``points`` key points a frame, the best by probability times reliability, and one
descriptor each; matches are mutual nearest neighbours with a cosine above ``similarity``. Key points are then placed to
a fraction of a pixel. Nothing is assumed of the scene, unless ``epipolar`` asks for matches that a rigid scene and a
moving camera explain.

Source: Potje et al., XFeat: Accelerated Features for Lightweight Image Matching, CVPR 2024.
"""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from everypoint.artifacts.folder import sha256_of
from everypoint.artifacts.matches import LONG_RANGE, MatchRows
from everypoint.assets.fetch import locate
from everypoint.config.options import Preset
from everypoint.correspond.mutual import mutual_nearest, pairs_apart
from everypoint.correspond.sparse import SparseVideo
from everypoint.correspond.xfeat_network import MULTIPLE, XFeatNetwork, heatmap, load_network
from everypoint.geometry import index_to_raster, raster_to_index, sample_resized, scale_raster
from everypoint.numerics import full_precision
from everypoint.progress import Progress

logger = logging.getLogger(__name__)

LEAST_PROBABILITY = 0.05  # of a key point, as published
ALONE = 5  # pixels a side of the square in which a key point is the most probable one
LEAST_FOR_EPIPOLAR = 16  # matches of a pair; with fewer a wrong geometry explains too many of them
EPIPOLAR_TRIALS, EPIPOLAR_CONFIDENCE = 2000, 0.9999


class KeyPoints(NamedTuple):
    """Key points of one frame, the best first."""

    xy: np.ndarray  # float32 [K, 2], index coordinates of the frame
    score: np.ndarray  # float32 [K], probability times reliability
    descriptors: Tensor  # float32 [K, 64], of length 1, on the network's device


def network_size(size: tuple[int, int]) -> tuple[int, int]:
    """The size that a frame (H, W) is resized to: the multiples of 32 below, at least one."""
    height, width = (max(1, side // MULTIPLE) * MULTIPLE for side in size)
    return height, width


def network_image(frame: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """A frame uint8 [H, W, 3] as the grey image [1, 1, h, w] in 0..1 of :func:`network_size` (raster resize)."""
    image = torch.from_numpy(np.array(frame)).to(device).float().mean(dim=-1)[None, None] / 255
    size = network_size(frame.shape[:2])
    if tuple(image.shape[-2:]) != size:  # shrinks by a few per cent: no low-pass filter, as published
        image = F.interpolate(image, size, mode="bilinear", align_corners=False)
    return image


@torch.inference_mode()
def key_points(network: XFeatNetwork, frame: np.ndarray, limit: int, device: torch.device | str = "cpu") -> KeyPoints:
    """At most ``limit`` key points of a frame uint8 [H, W, 3] RGB."""
    image = network_image(frame, device).contiguous(memory_format=torch.channels_last)
    size = tuple(image.shape[-2:])
    with full_precision():
        maps, logits, reliability = network(image)
    probability = heatmap(logits)  # [1, 1, h, w]
    highest = F.max_pool2d(probability, ALONE, stride=1, padding=ALONE // 2)
    where = ((probability == highest) & (probability > LEAST_PROBABILITY))[0, 0].nonzero()  # [K, 2] of (y, x)
    xy = where.flip(1).float()  # index coordinates of the network's image
    score = probability[0, 0][where[:, 0], where[:, 1]] * sample_resized(reliability[0], xy, size)[:, 0]
    chosen = score.sort(descending=True, stable=True).indices[:limit]
    xy, score = xy[chosen], score[chosen]
    descriptors = descriptors_at(F.normalize(maps, dim=1), index_to_raster(xy), size)
    raster = index_to_raster(xy + offsets(probability[0, 0], xy.long())).cpu().numpy()
    placed = raster_to_index(scale_raster(raster, size, frame.shape[:2]))
    return KeyPoints(placed, score.cpu().numpy(), descriptors)


def descriptors_at(maps: Tensor, xy: Tensor, size: tuple[int, int]) -> Tensor:
    """Descriptors [K, C] of length 1 at raster points [K, 2] of an image (h, w) that maps [1, C, ., .] tile.

    Bicubic, as published: of matches of real videos 49 % are right to 4 pixels, with bilinear reads 44 %.
    """
    where = 2 * xy / xy.new_tensor([size[1], size[0]]) - 1  # raster coordinates from edge to edge are -1 to 1
    values = F.grid_sample(maps, where[None, None], mode="bicubic", padding_mode="border", align_corners=False)
    return F.normalize(values[0, :, 0].T, dim=-1)


def offsets(probability: Tensor, xy: Tensor) -> Tensor:
    """From pixels int64 [K, 2] of a map [h, w] to the mean place of the probability in the 3 x 3 around them, [K, 2].

    Not of the paper, whose key points are whole pixels: on images turned and moved by known amounts it takes the share
    of matches right to half a pixel from 21 % to 30 %.
    """
    step = torch.arange(3, device=xy.device)
    around = F.pad(probability, (1, 1, 1, 1))[xy[:, 1, None, None] + step[:, None], xy[:, 0, None, None] + step]
    share = around / around.sum(dim=(1, 2), keepdim=True)  # above zero: the middle is a key point
    step = (step - 1).float()
    return torch.stack([share.sum(dim=1) @ step, share.sum(dim=2) @ step], dim=1)


def explained(xy_i: np.ndarray, xy_j: np.ndarray, pixels: float) -> np.ndarray:
    """Whether matches [M, 2] lie within so many pixels (Sampson's distance) of a common epipolar geometry, bool [M].

    The geometry is found by MAGSAC++ (Barath et al., CVPR 2020) from a fixed seed. False where it cannot be found or
    checked: with fewer than 16 matches.
    """
    import cv2

    unexplained = np.zeros(len(xy_i), bool)
    if len(xy_i) < LEAST_FOR_EPIPOLAR:
        return unexplained
    first, second = (index_to_raster(xy.astype(np.float64)) for xy in (xy_i, xy_j))
    matrix, _ = cv2.findFundamentalMat(
        first, second, cv2.USAC_MAGSAC, pixels, EPIPOLAR_CONFIDENCE, EPIPOLAR_TRIALS
    )  # its random numbers start from the same state at every call
    if matrix is None or matrix.shape != (3, 3):
        return unexplained
    return sampson_distance(matrix, first, second) <= pixels


def sampson_distance(matrix: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """First-order distance [M] of matches [M, 2] from the geometry x_j^T F x_i = 0 of ``matrix`` [3, 3], in pixels."""
    ones = np.ones((len(first), 1))
    lines_j = np.hstack([first, ones]) @ matrix.T  # epipolar lines in frame j
    lines_i = np.hstack([second, ones]) @ matrix  # ... and in frame i
    residual = np.abs((np.hstack([second, ones]) * lines_j).sum(axis=1))
    slope = np.sqrt((lines_j[:, :2] ** 2).sum(axis=1) + (lines_i[:, :2] ** 2).sum(axis=1))
    return residual / np.maximum(slope, 1e-12)


class XFeatSource:
    """Matches of XFeat between all pairs of frames far enough apart. Holds 1 MiB a frame (4096 descriptors)."""

    def __init__(self, preset: Preset, device: torch.device | str = "cpu") -> None:
        self._options = preset.sparse.xfeat
        self._device = torch.device(device)

    @functools.cached_property
    def weights(self) -> Path:
        """The weight file; an asset is fetched when it is first needed."""
        return locate(self._options.weights)

    @functools.cached_property
    def network(self) -> XFeatNetwork:
        """The network on its device, made on first use."""
        return load_network(self.weights).to(self._device, memory_format=torch.channels_last)

    def describe(self) -> dict[str, Any]:
        chosen = self._options.model_dump(mode="json", exclude={"weights"})
        return {"source": "xfeat", "weights": sha256_of(self.weights)} | chosen

    def rows(self, video: SparseVideo, seed: int) -> MatchRows:
        """See :class:`everypoint.correspond.sparse.SparseSource`; nothing is drawn, so ``seed`` changes nothing."""
        pairs = pairs_apart(len(video.frames), self._options.gap, self._options.stride)
        used = sorted({frame for pair in pairs for frame in pair})
        points = {}
        with Progress(len(used), "XFeat key points", unit="frames", logger=logger) as progress:
            for t in used:
                points[t] = key_points(self.network, video.frames[t], self._options.points, self._device)
                progress.advance()
        parts = []
        with Progress(len(pairs), "XFeat matches", unit="pairs", logger=logger) as progress:
            for i, j in pairs:
                parts.append(self._matches(i, points[i], j, points[j]))
                progress.advance()
        return MatchRows.join(parts)

    @torch.inference_mode()
    def _matches(self, i: int, first: KeyPoints, j: int, second: KeyPoints) -> MatchRows:
        a, b, score = mutual_nearest(first.descriptors, second.descriptors, self._options.similarity)
        a, b = a.cpu().numpy(), b.cpu().numpy()
        rows = MatchRows(
            frame_i=np.full(len(a), i, np.int32),
            frame_j=np.full(len(a), j, np.int32),
            xy_i=first.xy[a],
            xy_j=second.xy[b],
            score=score.cpu().numpy().clip(0, 1),
            flags=np.full(len(a), LONG_RANGE, np.uint8),
        )
        if self._options.epipolar == 0:
            return rows
        return rows[explained(rows.xy_i, rows.xy_j, self._options.epipolar)]


SOURCE = XFeatSource
