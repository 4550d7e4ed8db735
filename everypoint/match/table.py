"""From stored flows to the matches table, one source frame at a time, in bounded memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from everypoint.artifacts.flows import FlowStore, decode_flow, encode_flow
from everypoint.artifacts.matches import CYCLE, OCCLUDED, Matches, to_fixed
from everypoint.config.options import MatchOptions
from everypoint.match.appearance import similarity
from everypoint.match.budget import rows_per_pair
from everypoint.match.chain import chained_pairs
from everypoint.match.filter import score
from everypoint.match.reservoir import count_weights, draw
from everypoint.match.video import MatchVideo
from everypoint.progress import Progress

logger = logging.getLogger(__name__)

CHAINED_TRUST = 0.5  # score of a chained match before appearance: nothing measured its error over the whole gap


class _PairMask(NamedTuple):
    """Which pixels of an ordered pair are valid, one bit a pixel, and how many are of which class."""

    valid: np.ndarray  # uint8 [ceil(H * W / 8)]
    cycle: int
    occluded: int
    vetoed: int
    chained: int = 0  # of those in cycle, by the chain instead of the direct flow
    flow: np.ndarray | None = None  # int16 [H * W, 2], encoded, of a chained pair


class _Rows(NamedTuple):
    """The reservoir of one pair."""

    fixed_i: np.ndarray  # uint16 [M, 2]
    fixed_j: np.ndarray  # uint16 [M, 2]
    flags: np.ndarray  # uint8 [M]
    score: np.ndarray  # float16 [M]


class _Columns:
    """The columns of the table, filled pair by pair. Memory that no row fills is never touched, nothing is copied."""

    def __init__(self, capacity: int) -> None:
        self._whole = _Rows(
            np.empty((capacity, 2), np.uint16),
            np.empty((capacity, 2), np.uint16),
            np.empty(capacity, np.uint8),
            np.empty(capacity, np.float16),
        )
        self._count = 0
        self.lengths: list[int] = []

    def append(self, rows: _Rows) -> None:
        """Add the rows of the next pair."""
        more = len(rows.flags)
        for whole, part in zip(self._whole, rows, strict=True):
            whole[self._count : self._count + more] = part
        self._count += more
        self.lengths.append(more)

    def filled(self) -> dict[str, np.ndarray]:
        """The columns by name, as long as there are rows."""
        return {name: column[: self._count] for name, column in self._whole._asdict().items()}


def build_matches(
    store: FlowStore,
    features: np.ndarray | None,
    options: MatchOptions,
    seed: int,
    device: torch.device | str = "cpu",
    *,
    frames: int | None = None,
    images: np.ndarray | None = None,
    depth_mask: np.ndarray | None = None,
    taken: int = 0,
) -> tuple[Matches, dict[str, Any]]:
    """Filter all pairs of a video and draw the reservoir of each.

    Only ordered pairs whose two directions are both in the store can be checked; the others are left out and counted
    in the statistics. Source frames are taken one by one: all pairs of a source are filtered (keeping one bit a
    pixel), which gives its count map (for each pixel, how many of its targets it is valid in), and then the rows of
    each pair are drawn. Memory: two flows, a bit a pixel and target of one source frame, the table; with ``chain``
    also 4 bytes a pixel and target of one source frame and 2 bits a pixel and frame.

    Args:
        store: the flows.
        features: float16 [T, h, w, C] covering the frames, or None for no appearance check.
        options: thresholds, rows a pair, weights.
        seed: seeds the draws; a pair's rows depend on (seed, i, j) and its valid pixels only.
        device: where the arithmetic runs.
        frames: T; None for one more than the largest frame with a flow.
        images: uint8 [T, H, W, 3], needed where ``options.chain`` is on.
        depth_mask: bool [T, h, w], pixels that may be used; used where ``options.depth_mask`` is on.
        taken: rows of other sources that count against the budget.

    Returns:
        The table, with pairs in the order of (i, j), and the statistics of :func:`statistics`.
    """
    video = MatchVideo(store, features, options, device, images, depth_mask if options.depth_mask else None)
    pairs = {i: sorted(j for j in store.targets(i) if store.has(j, i)) for i in store.sources()}
    known = [(i, j) for i in store.sources() for j in store.targets(i)]
    limit = rows_per_pair(options, sum(map(len, pairs.values())), taken)
    done: list[tuple[int, int, _PairMask]] = []
    columns = _Columns(limit * sum(map(len, pairs.values())))
    with Progress(sum(map(len, pairs.values())), "matches", unit="pairs", logger=logger) as progress:
        for i, targets in pairs.items():
            for j, mask, rows in _source_rows(video, i, targets, seed, limit):
                done.append((i, j, mask._replace(valid=np.empty(0, np.uint8), flow=None)))
                columns.append(rows)
                progress.advance()
    report = statistics(done, columns.lengths, len(known) - len(done), store.size, options)
    report |= {"per_pair": limit, "depth_kept": video.depth_kept}
    matches = Matches(
        pairs=np.array([(i, j) for i, j, _ in done], np.int32).reshape(-1, 2),
        offsets=np.concatenate([[0], np.cumsum(columns.lengths)]).astype(np.int64),
        **columns.filled(),
        valid_count=np.array([mask.cycle + mask.occluded for _, _, mask in done], np.int64),
        size=store.size,
        frames=1 + max((max(pair) for pair in known), default=0) if frames is None else frames,
    )
    return matches, report


def _source_rows(
    video: MatchVideo, i: int, targets: list[int], seed: int, limit: int
) -> Iterator[tuple[int, _PairMask, _Rows]]:
    """Filter all pairs of source frame i, then draw their rows one after the other."""
    pixels = int(np.prod(video.store.size))
    chain = video.options.chain and not video.has_stored_masks(i)  # what was stored with masks is chained already
    masks = dict(_chained_masks(video, i, targets) if chain else _direct_masks(video, i, targets))
    counts = np.zeros(pixels, np.uint16)
    if video.options.count_weight:
        for mask in masks.values():
            counts += np.unpackbits(mask.valid, count=pixels)
    for j in targets:
        mask = masks.pop(j)
        valid = np.flatnonzero(np.unpackbits(mask.valid, count=pixels))
        weights = count_weights(counts[valid])  # all equal without count_weight
        chosen = valid[draw(weights, limit, seed, (i, j))]
        yield j, mask, _rows(video, i, j, chosen, None if mask.flow is None else mask.flow[chosen])


def _direct_masks(video: MatchVideo, i: int, targets: Sequence[int]) -> Iterator[tuple[int, _PairMask]]:
    kept = video.kept(i)
    for j in targets:
        found = video.classes(i, j)
        cycle, occluded = (found.cycle, found.occluded) if kept is None else (found.cycle & kept, found.occluded & kept)
        counts = (int(flags.sum()) for flags in (cycle, occluded, found.vetoed))
        yield j, _PairMask(np.packbits((cycle | occluded).cpu().numpy()), *counts)


def _chained_masks(video: MatchVideo, i: int, targets: Sequence[int]) -> Iterator[tuple[int, _PairMask]]:
    kept = video.kept(i)
    for j, pair in chained_pairs(video, i, targets):
        flow = encode_flow(pair.flow.cpu().numpy())  # int16, as on disk; what it cannot hold is not a match
        held = torch.from_numpy((flow != np.iinfo(np.int16).min).all(-1)).to(pair.cycle.device)
        held = held if kept is None else held & kept
        cycle, occluded = pair.cycle & held, pair.occluded & held
        counts = (int(flags.sum()) for flags in (cycle, occluded, pair.vetoed, cycle & ~pair.direct))
        yield j, _PairMask(np.packbits((cycle | occluded).cpu().numpy()), *counts, flow)


def _rows(video: MatchVideo, i: int, j: int, pixels: np.ndarray, chained: np.ndarray | None) -> _Rows:
    """The matches of chosen valid pixels (flat indices [N]) of a pair; ``chained`` int16 [N, 2] where there is a chain.

    Pixels whose direct flow is trusted have its score; the others are chained.
    """
    chosen = torch.from_numpy(pixels).to(video.pixels.device)
    points, found = video.pixels[chosen], video.classes(i, j, chosen, for_score=True)
    target, trust = found.target, score(found, video.options)
    flags = found.cycle * CYCLE + found.occluded * OCCLUDED
    if chained is not None:
        summed = points + torch.from_numpy(decode_flow(chained)).to(points.device)
        other = ~(found.cycle | found.occluded)
        target, flags = torch.where(other[:, None], summed, target), torch.where(other, CYCLE, flags)
        trust = torch.where(other, CHAINED_TRUST * _likeness(video, i, j, points, summed), trust)
    size = video.store.size
    return _Rows(
        to_fixed(points.cpu().numpy(), size),
        to_fixed(target.cpu().numpy(), size),
        flags.to(torch.uint8).cpu().numpy(),
        trust.to(torch.float16).cpu().numpy(),
    )


def _likeness(video: MatchVideo, i: int, j: int, points: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    first, second = video.map(i), video.map(j)
    if first is None or second is None:
        return points.new_ones(len(points))
    return similarity(first, points, second, targets).clamp(0, 1)


def statistics(
    pairs: list[tuple[int, int, _PairMask]],
    rows: list[int],
    unchecked: int,
    size: tuple[int, int],
    options: MatchOptions,
) -> dict[str, Any]:
    """What the filter kept, for filter.json: shares of all pixels by gap, counts a pair, rows, options.

    ``kept`` = ``cycle`` + ``occluded``; ``appearance_vetoed`` were cycle-consistent and refused by
    appearance; ``chained`` is the part of ``cycle`` that the chain added.
    """
    pixels = size[0] * size[1]
    by_gap: dict[int, list[_PairMask]] = {}
    for i, j, mask in pairs:
        by_gap.setdefault(abs(i - j), []).append(mask)

    def shares(masks: list[_PairMask]) -> dict[str, Any]:
        cycle, occluded, vetoed, chained = (
            sum(getattr(mask, name) for mask in masks) / (pixels * max(len(masks), 1))
            for name in ("cycle", "occluded", "vetoed", "chained")
        )
        return {
            "pairs": len(masks),
            "kept": cycle + occluded,
            "cycle": cycle,
            "occluded": occluded,
            "appearance_vetoed": vetoed,
            "chained": chained,
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
