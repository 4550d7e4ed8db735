"""Long-range matches of dense features: mutual nearest neighbours among the cells of two frames, under eight rules.

Of two frames i < j, at least ``gap`` apart, a cell a of i and a cell b of j match when

1. each is the other's nearest neighbour by cosine among all cells of the frame,
2. they are alike (``similarity``),
3. neither has many look-alikes among the cells of its own frame (itself counted): a patch of a lawn has,
4. neither is alone among the cells around it, nor like all of them (``local_range``),
5. the two nearest other matches of the pair are close, in both frames; applied twice,
6. (cells become pixels: a match lies at the centres of its cells)
7. both ends lie where the depth prior can be relied on, one cell of its mask away from where it cannot,
8. rule 5 holds once more, in pixels, among the matches that are left.

Source: Song et al., Track Everything Everywhere Fast and Robustly, ECCV 2024, and the numbers of its program
OmniTrackFast. They suit DINOv2; with the encoder of RAFT, whose neighbouring cells differ more, nothing passes rule 4.

Rules 3 and 4 need one frame only, so they are settled once a frame, for all of its cells, and a pair compares no cell
that they have excluded with any but the few cells of the other frame where it could matter.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from everypoint.artifacts.matches import LONG_RANGE, MatchRows
from everypoint.config.options import MutualOptions, Preset
from everypoint.correspond.sparse import SparseVideo
from everypoint.errors import ConfigError, InputError
from everypoint.geometry import raster_to_index
from everypoint.progress import Progress

logger = logging.getLogger(__name__)

SIMILARITY_BYTES = {"cpu": 2**22, "cuda": 2**28}  # similarities at once: what a core's cache holds, or a GPU with ease
BLOCK_BYTES = 2**28  # features of source frames at once
LEAST_TRUSTED = 0.01  # share of cells below which the thresholds hardly suit the features
WINDOW_BEFORE, WINDOW_AFTER = 5, 4  # rule 4: cells x - 5 to x + 4, which is not centred, as published


class Found(NamedTuple):
    """Matches of one frame with several source frames."""

    source: Tensor  # int64 [M], which of the source frames
    first: Tensor  # int64 [M], cell of the source frame, row by row
    second: Tensor  # int64 [M], cell of the frame
    score: Tensor  # float32 [M]

    def only(self, chosen: Tensor) -> Found:
        """The matches of a mask [M]."""
        return Found(*(part[chosen] for part in self))


class Marks(NamedTuple):
    """What is settled of the cells of a frame by itself, bool [N]."""

    trusted: Tensor  # rules 3 and 4
    inside: Tensor  # rule 7


def pairs_apart(frames: int, gap: int, stride: int) -> list[tuple[int, int]]:
    """Pairs (i, j) of multiples of ``stride`` with j - i >= ``gap``, sorted."""
    return [(i, j) for i in range(0, frames, stride) for j in range(i + stride, frames, stride) if j - i >= gap]


# ------------------------------------------------------------------------------------------- rules 1 and 2


def similarity_rows(columns: int, device: torch.device) -> int:
    """Rows of a similarity matrix with so many columns that are made at once."""
    limit = SIMILARITY_BYTES["cpu" if device.type == "cpu" else "cuda"]
    return max(1, limit // (4 * max(columns, 1)))


def mutual_nearest(
    first: Tensor, second: Tensor, least: float, trusted: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Mutual nearest neighbours among unit vectors [N, C] and [M, C] whose cosine exceeds ``least``.

    Args:
        trusted: masks [N] and [M]; matches whose ends are not both in them are left out. The neighbours are the
            nearest of all vectors all the same.

    Returns:
        Rows of ``first`` (ascending), rows of ``second``, int64 [K], and their cosines, float32 [K]. Of equally near
        vectors the first one is nearest.
    """
    candidates = torch.arange(len(first), device=first.device)
    if trusted is not None:
        candidates = candidates[trusted[0]]
    if not len(candidates) or not len(second):
        empty = candidates[:0]
        return empty, empty, first.new_empty(0)
    value, nearest, best = _both_ways(first if len(candidates) == len(first) else first[candidates], second)
    good = (value > least) & (value == best[nearest])
    if trusted is not None:
        good &= trusted[1][nearest]
    rows = good.nonzero()[:, 0]
    a, b, value = candidates[rows], nearest[rows], value[rows]
    if len(a) and len(candidates) < len(first):  # rows that cannot match may still be nearer to some b
        rest = first[~trusted[0]]
        parts = [(part @ rest.T).amax(1) for part in second[b].split(similarity_rows(len(rest), first.device))]
        nearer = torch.cat(parts) >= value
        a, b, value = a[~nearer], b[~nearer], value[~nearer]
    lowest = torch.full((len(second),), len(first), dtype=a.dtype, device=a.device).scatter_reduce(0, b, a, "amin")
    only = lowest[b] == a
    a, b = a[only], b[only]
    return a, b, torch.linalg.vecdot(first[a].double(), second[b].double()).float()


def _both_ways(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row of ``first`` the highest cosine and its place [N]; of each of ``second`` the highest cosine [M]."""
    values, places = [], []
    best = first.new_full((len(second),), -math.inf)
    for part in first.split(similarity_rows(len(second), first.device)):
        similarity = part @ second.T
        value, place = similarity.max(dim=1)
        values.append(value)
        places.append(place)
        best = torch.maximum(best, similarity.amax(dim=0))
    return torch.cat(values), torch.cat(places), best


# ------------------------------------------------------------------------------------------- rules 3 and 4


def distinct(units: Tensor, options: MutualOptions) -> Tensor:
    """Rule 3: cells of unit vectors [N, C] with fewer look-alikes than ``options.lookalikes``, bool [N]."""
    parts = units.split(similarity_rows(len(units), units.device))
    counts = [((part @ units.T) > options.lookalike).sum(dim=1) for part in parts]
    return torch.cat(counts) < options.lookalikes


def local_sums(units: Tensor) -> Tensor:
    """Rule 4: sum of a cell's cosines with the cells of its window inside the map; [h, w, C] -> [h, w]."""
    h, w = units.shape[:2]
    size = WINDOW_BEFORE + 1 + WINDOW_AFTER
    padded = F.pad(units, (0, 0, WINDOW_BEFORE, WINDOW_AFTER, WINDOW_BEFORE, WINDOW_AFTER))
    columns = sum(padded[k : k + h] for k in range(size))  # [h, w + 9, C]
    window = sum(columns[:, k : k + w] for k in range(size))  # [h, w, C]
    return torch.linalg.vecdot(units, window)


def trusted_cells(units: Tensor, options: MutualOptions) -> Tensor:
    """Cells that pass the rules 3 and 4, of unit vectors [h, w, C], bool [h * w]."""
    sums = local_sums(units).flatten()
    low, high = options.local_range
    return (sums > low) & (sums < high) & distinct(units.flatten(0, 1), options)


# ------------------------------------------------------------------------------------------- rules 5, 7 and 8


def disc(radius: float, cell: tuple[float, float], grid: tuple[int, int]) -> Tensor:
    """Offsets closer than ``radius`` between cells of size (height, width), without 0: float32 [odd, odd] of 0 and 1.

    Offsets that no two cells of a grid (h, w) have are left out.
    """
    reach = [min(math.ceil(radius / side), count - 1) for side, count in zip(cell, grid, strict=True)]
    dy, dx = (torch.arange(-r, r + 1, dtype=torch.float64) * side for r, side in zip(reach, cell, strict=True))
    inside = dy[:, None] ** 2 + dx**2 < radius**2
    inside[reach[0], reach[1]] = False
    return inside.float()


def supported(found: Found, sources: int, grid: tuple[int, int], neighbours: Tensor) -> Tensor:
    """Whether at least two other matches of the pair lie within ``neighbours`` (:func:`disc`) in both frames, [M].

    Both ends of mutual matches are cells of their own, so the matches near a cell are counted by a convolution.
    """
    taken = neighbours.new_zeros(2, sources, grid[0] * grid[1])
    ends = ((0, found.source, found.first), (1, found.source, found.second))
    for end in ends:
        taken[end] = 1
    padding = (neighbours.shape[0] // 2, neighbours.shape[1] // 2)
    counts = F.conv2d(taken.reshape(-1, 1, *grid), neighbours[None, None], padding=padding).reshape(taken.shape)
    return (counts[ends[0]] > 1.5) & (counts[ends[1]] > 1.5)


def inside_mask(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Rule 7: cells of the grid (h, w) whose centre lies in the mask [mh, mw] eroded by 3 x 3, bool [h * w].

    Both tile the frame. Beyond the border of the mask nothing is known, which erodes nothing.
    """
    high, wide = mask.shape
    padded = np.pad(np.asarray(mask, bool), 1, constant_values=True)
    eroded = np.logical_and.reduce([padded[y : y + high, x : x + wide] for y in range(3) for x in range(3)])
    rows, columns = ((2 * np.arange(n) + 1) * m // (2 * n) for n, m in zip(grid, (high, wide), strict=True))
    return eroded[rows[:, None], columns].reshape(-1)


# ------------------------------------------------------------------------------------------- the source


class MutualSource:
    """Mutual nearest neighbours of whatever features the preset names; published with those of DINOv2."""

    def __init__(self, preset: Preset, device: torch.device | str = "cpu") -> None:
        self._options = preset.sparse.mutual
        self._device = torch.device(device)

    def describe(self) -> dict[str, Any]:
        return {"source": "mutual"} | self._options.model_dump(mode="json", exclude={"features"})

    @torch.inference_mode()
    def rows(self, video: SparseVideo, seed: int) -> MatchRows:
        """See :class:`everypoint.correspond.sparse.SparseSource`; nothing is drawn, so ``seed`` changes nothing.

        Raises :class:`ConfigError` without features and :class:`InputError` when they are of another video.
        """
        _check(video)
        grid, gap = video.features.shape[1:3], self._options.gap
        pairs = pairs_apart(len(video.features), gap, self._options.stride)
        marks = {t: self._marks(video, t) for t in sorted({frame for pair in pairs for frame in pair})}
        _log_trusted(marks, video.meta.name)
        near = self._near(grid, video.meta.size)
        parts = []
        with Progress(len(pairs), "mutual nearest neighbours", unit="pairs", logger=logger) as progress:
            for block in self._blocks(sorted({i for i, _ in pairs}), video.features[:1].size):
                units = {i: self._units(video.features[i]).flatten(0, 1) for i in block}
                for j in sorted({j for i, j in pairs if i in units}):
                    sources = [i for i in block if j - i >= gap]
                    second = units[j] if j in units else self._units(video.features[j]).flatten(0, 1)
                    found = self._nearest([units[i] for i in sources], second, [marks[i] for i in sources], marks[j])
                    found = _filtered(found, [marks[i] for i in sources], marks[j], grid, near)
                    parts.append(_to_rows(found, sources, j, grid, video.meta.size))
                    progress.advance(len(sources))
        return MatchRows.join(parts)

    def _units(self, features: np.ndarray) -> Tensor:
        """Features [h, w, C] of one frame as float32 vectors of length 1."""
        return F.normalize(torch.from_numpy(np.array(features, np.float32)).to(self._device), dim=-1)

    def _blocks(self, sources: list[int], values: int) -> list[list[int]]:
        """Source frames, of so many values each, in blocks whose features fit in ``BLOCK_BYTES``."""
        room = max(1, BLOCK_BYTES // (4 * values))
        return [sources[k : k + room] for k in range(0, len(sources), room)]

    def _marks(self, video: SparseVideo, t: int) -> Marks:
        """What is settled of a frame by itself: the rules 3, 4 and 7."""
        grid = video.features.shape[1:3]
        inside = np.ones(grid[0] * grid[1], bool)
        if video.depth_mask is not None:
            inside = inside_mask(video.depth_mask[t], grid)
        trusted = trusted_cells(self._units(video.features[t]), self._options)
        return Marks(trusted, torch.from_numpy(inside).to(self._device))

    def _near(self, grid: tuple[int, int], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """What counts as near in rule 5 and in rule 8."""
        cell = (size[0] / grid[0], size[1] / grid[1])
        near = disc(self._options.support_cells, (1.0, 1.0), grid)
        return near.to(self._device), disc(self._options.support_pixels, cell, grid).to(self._device)

    def _nearest(self, firsts: Sequence[Tensor], second: Tensor, marks: Sequence[Marks], other: Marks) -> Found:
        """Rules 1 to 4 between each of several frames and one other."""
        each = [
            mutual_nearest(first, second, self._options.similarity, (mark.trusted, other.trusted))
            for first, mark in zip(firsts, marks, strict=True)
        ]
        source = [torch.full_like(a, k) for k, (a, _, _) in enumerate(each)]
        return Found(torch.cat(source), *(torch.cat(parts) for parts in zip(*each, strict=True)))


def _filtered(
    found: Found, marks: Sequence[Marks], other: Marks, grid: tuple[int, int], near: tuple[Tensor, Tensor]
) -> Found:
    """Rules 5, 7 and 8 for matches of the frames of ``marks`` with one other."""
    for _ in range(2):
        found = found.only(supported(found, len(marks), grid, near[0]))
    inside = torch.stack([mark.inside for mark in marks])
    found = found.only(inside[found.source, found.first] & other.inside[found.second])
    return found.only(supported(found, len(marks), grid, near[1]))


def _log_trusted(marks: Mapping[int, Marks], name: str) -> None:
    """Say which share of the cells may match at all: thresholds that do not suit the features show here."""
    if marks:
        share = float(torch.stack([mark.trusted for mark in marks.values()]).float().mean())
        level = logging.INFO if share > LEAST_TRUSTED else logging.WARNING
        message = "%s: %.1f %% of the cells pass lookalikes and local_range, whose defaults suit DINOv2"
        logger.log(level, message, name, 100 * share)


def _check(video: SparseVideo) -> None:
    if video.features is None:
        raise ConfigError("mutual has no features to compare", cure="set sparse.mutual.features.backend")
    if len(video.features) != video.meta.frames:
        raise InputError(f"features of {len(video.features)} frames do not fit {video.meta.frames} frames")
    if video.depth_mask is not None and len(video.depth_mask) != video.meta.frames:
        raise InputError(f"depth masks of {len(video.depth_mask)} frames do not fit {video.meta.frames} frames")


def _to_rows(found: Found, sources: Sequence[int], j: int, grid: tuple[int, int], size: tuple[int, int]) -> MatchRows:
    """Rule 6: matches of cells as rows, at the cells' centres in index coordinates."""
    source, first, second, score = (part.cpu().numpy() for part in found)
    cell = np.array([size[1] / grid[1], size[0] / grid[0]])
    centres = [
        raster_to_index((np.stack([ends % grid[1], ends // grid[1]], 1) + 0.5) * cell) for ends in (first, second)
    ]
    return MatchRows(
        frame_i=np.asarray(sources, np.int32)[source],
        frame_j=np.full(len(source), j, np.int32),
        xy_i=centres[0].astype(np.float32),
        xy_j=centres[1].astype(np.float32),
        score=score.clip(0, 1),
        flags=np.full(len(source), LONG_RANGE, np.uint8),
    )


SOURCE = MutualSource
