"""From stored flows to the matches table, one source frame at a time, in bounded memory."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from everypoint.artifacts.flows import FlowStore
from everypoint.artifacts.matches import CYCLE, OCCLUDED, Matches, to_fixed
from everypoint.config.options import MatchOptions
from everypoint.geometry import pixel_grid
from everypoint.match.appearance import FeatureMap
from everypoint.match.filter import PairFlows, classify, score
from everypoint.match.reservoir import count_weights, draw
from everypoint.progress import Progress

logger = logging.getLogger(__name__)

FEATURE_MAPS = 16  # frames whose features are kept as float32 rows


class _PairMask(NamedTuple):
    """Which pixels of an ordered pair are valid, one bit a pixel, and how many are of which class."""

    valid: np.ndarray  # uint8 [ceil(H * W / 8)]
    cycle: int
    occluded: int
    vetoed: int


class _Rows(NamedTuple):
    """The reservoir of one pair."""

    fixed_i: np.ndarray  # uint16 [M, 2]
    fixed_j: np.ndarray  # uint16 [M, 2]
    flags: np.ndarray  # uint8 [M]
    score: np.ndarray  # float16 [M]


class _Video:
    """The flows and features of one video on a device, and the filter applied to its pairs."""

    def __init__(
        self, store: FlowStore, features: np.ndarray | None, options: MatchOptions, device: torch.device | str
    ) -> None:
        self.store, self.options = store, options
        self._features = features if features is not None and features.size else None
        self._device = torch.device(device)
        self._maps: OrderedDict[int, FeatureMap] = OrderedDict()
        self._pixels = pixel_grid(*store.size, device=self._device).reshape(-1, 2)

    def mask(self, i: int, j: int) -> _PairMask:
        """Filter all pixels of the pair."""
        pair = self._pair(i, j)
        classes = classify(self._pixels, pair.forward.reshape(2, -1).T, pair, self.options, for_score=False)
        valid = (classes.cycle | classes.occluded).cpu().numpy()
        counts = (int(flags.sum()) for flags in (classes.cycle, classes.occluded, classes.vetoed))
        return _PairMask(np.packbits(valid), *counts)

    def rows(self, i: int, j: int, pixels: np.ndarray) -> _Rows:
        """The matches of chosen valid pixels (flat indices) of the pair."""
        pair = self._pair(i, j)
        chosen = torch.from_numpy(pixels).to(self._device)
        points = self._pixels[chosen]
        classes = classify(points, pair.forward.reshape(2, -1)[:, chosen].T, pair, self.options)
        flags = classes.cycle * CYCLE + classes.occluded * OCCLUDED
        size = self.store.size
        return _Rows(
            to_fixed(points.cpu().numpy(), size),
            to_fixed(classes.target.cpu().numpy(), size),
            flags.to(torch.uint8).cpu().numpy(),
            score(classes, self.options).to(torch.float16).cpu().numpy(),
        )

    def _pair(self, i: int, j: int) -> PairFlows:
        return PairFlows(abs(i - j), self._field(i, j), self._field(j, i), self._map(i), self._map(j))

    def _field(self, i: int, j: int) -> Tensor:
        flow = torch.from_numpy(self.store.flow(i, j)).to(self._device)
        return flow.permute(2, 0, 1).contiguous()  # [2, H, W]

    def _map(self, frame: int) -> FeatureMap | None:
        if self._features is None:
            return None
        if frame not in self._maps:
            features = torch.from_numpy(np.array(self._features[frame])).to(self._device)
            self._maps[frame] = FeatureMap(features, self.store.size)
            if len(self._maps) > FEATURE_MAPS:
                self._maps.popitem(last=False)
        self._maps.move_to_end(frame)
        return self._maps[frame]


def build_matches(
    store: FlowStore,
    features: np.ndarray | None,
    options: MatchOptions,
    seed: int,
    device: torch.device | str = "cpu",
    *,
    frames: int | None = None,
) -> tuple[Matches, dict[str, Any]]:
    """Filter all pairs of a video and draw the reservoir of each.

    Only ordered pairs whose two directions are both in the store can be checked; the others are left out and counted
    in the statistics. Source frames are taken one by one: all pairs of a source are filtered (keeping one bit a
    pixel), which gives its count map (for each pixel, how many of its targets it is valid in), and then the rows of
    each pair are drawn. Memory: two flows, a bit a pixel and target of one source frame, and the table.

    Args:
        store: the flows.
        features: float16 [T, h, w, C] covering the frames, or None for no appearance check.
        options: thresholds, rows a pair, weights.
        seed: seeds the draws; a pair's rows depend on (seed, i, j) and its valid pixels only.
        device: where the arithmetic runs.
        frames: T; None for one more than the largest frame with a flow.

    Returns:
        The table, with pairs in the order of (i, j), and the statistics of :func:`statistics`.
    """
    video = _Video(store, features, options, device)
    pairs = {i: sorted(j for j in store.targets(i) if store.has(j, i)) for i in store.sources()}
    known = [(i, j) for i in store.sources() for j in store.targets(i)]
    done: list[tuple[int, int, _PairMask]] = []
    parts: list[_Rows] = []
    with Progress(sum(map(len, pairs.values())), "matches", unit="pairs", logger=logger) as progress:
        for i, targets in pairs.items():
            for j, mask, rows in _source_rows(video, i, targets, seed):
                done.append((i, j, mask._replace(valid=np.empty(0, np.uint8))))
                parts.append(rows)
                progress.advance()
    lengths = [len(part.flags) for part in parts]
    report = statistics(done, lengths, len(known) - len(done), store.size, options)
    matches = Matches(
        pairs=np.array([(i, j) for i, j, _ in done], np.int32).reshape(-1, 2),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        **_columns(parts),
        valid_count=np.array([mask.cycle + mask.occluded for _, _, mask in done], np.int64),
        size=store.size,
        frames=1 + max((max(pair) for pair in known), default=0) if frames is None else frames,
    )
    return matches, report


def _source_rows(video: _Video, i: int, targets: list[int], seed: int) -> Iterator[tuple[int, _PairMask, _Rows]]:
    """Filter all pairs of source frame i, then draw their rows one after the other."""
    pixels = int(np.prod(video.store.size))
    masks = {j: video.mask(i, j) for j in targets}
    counts = np.zeros(pixels, np.uint16)
    if video.options.count_weight:
        for mask in masks.values():
            counts += np.unpackbits(mask.valid, count=pixels)
    for j, mask in masks.items():
        valid = np.flatnonzero(np.unpackbits(mask.valid, count=pixels))
        weights = count_weights(counts[valid])  # all equal without count_weight
        yield j, mask, video.rows(i, j, valid[draw(weights, video.options.per_pair, seed, (i, j))])


def _columns(parts: list[_Rows]) -> dict[str, np.ndarray]:
    """The columns of all pairs, one after the other, giving each part's memory back as it is copied."""
    empty = _Rows(*(np.empty(shape, kind) for shape, kind in (((0, 2), "u2"), ((0, 2), "u2"), (0, "u1"), (0, "f2"))))
    columns: dict[str, list[np.ndarray]] = {name: [getattr(empty, name)] for name in _Rows._fields}
    for part in parts:
        for name, column in zip(_Rows._fields, part, strict=True):
            columns[name].append(column)
    parts.clear()
    return {name: np.concatenate(columns.pop(name)) for name in _Rows._fields}


def statistics(
    pairs: list[tuple[int, int, _PairMask]],
    rows: list[int],
    unchecked: int,
    size: tuple[int, int],
    options: MatchOptions,
) -> dict[str, Any]:
    """What the filter kept, for filter.json: shares of all pixels by gap, counts a pair, rows, options.

    ``kept`` = ``cycle`` + ``occluded``; ``appearance_vetoed`` were cycle-consistent and refused by appearance.
    """
    pixels = size[0] * size[1]
    by_gap: dict[int, list[_PairMask]] = {}
    for i, j, mask in pairs:
        by_gap.setdefault(abs(i - j), []).append(mask)

    def shares(masks: list[_PairMask]) -> dict[str, Any]:
        cycle, occluded, vetoed = (
            sum(getattr(mask, name) for mask in masks) / (pixels * max(len(masks), 1))
            for name in ("cycle", "occluded", "vetoed")
        )
        return {
            "pairs": len(masks),
            "kept": cycle + occluded,
            "cycle": cycle,
            "occluded": occluded,
            "appearance_vetoed": vetoed,
        }

    return {
        "by_gap": {gap: shares(by_gap[gap]) for gap in sorted(by_gap)},
        "all": shares([mask for _, _, mask in pairs]),
        "pairs": [
            {"i": i, "j": j, "cycle": mask.cycle, "occluded": mask.occluded, "vetoed": mask.vetoed, "rows": count}
            for (i, j, mask), count in zip(pairs, rows, strict=True)
        ],
        "pairs_without_reverse": unchecked,
        "rows": sum(rows),
        "pixels": pixels,
        "size": list(size),
        "options": options.model_dump(),
    }
