"""From the rows of sparse sources to tables, and several tables to one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from everypoint.artifacts.matches import Matches, MatchRows, to_fixed
from everypoint.geometry import inside_index
from everypoint.match.appearance import similarity
from everypoint.match.video import FeatureMaps

BORDER = 1.0  # pixels at the border in which trackers pile up points that have left the frame


def table_of(rows: MatchRows, size: tuple[int, int], frames: int, per_pair: int, seed: int) -> Matches:
    """A table of a sparse source's rows, in both directions, with at most ``per_pair`` rows an ordered pair.

    Rows with an end outside of the frame or within ``BORDER`` px of its edge, or between equal frames, are dropped.
    Where a pair has too many, a random part is kept that depends on (seed, pair, its rows) only; the other direction
    keeps the same rows. ``valid_count`` is the number of rows before that.

    Args:
        rows: the matches, index coordinates of frames of ``size`` (H, W), each in one direction.
        size: (H, W).
        frames: number of frames T.
        per_pair: K.
        seed: of the draws.
    """
    height, width = size
    inner = [inside_index(xy - BORDER, height - 2 * BORDER, width - 2 * BORDER) for xy in (rows.xy_i, rows.xy_j)]
    rows = rows[inner[0] & inner[1] & (rows.frame_i != rows.frame_j)]
    swapped = rows.swapped()
    lower = MatchRows.join([rows[rows.frame_i < rows.frame_j], swapped[swapped.frame_i < swapped.frame_j]])
    keep, pairs, kept, found = _drawn(lower, frames, per_pair, seed)
    forth = lower[keep]
    both = MatchRows.join([forth, forth.swapped()])
    order = np.argsort(both.frame_i.astype(np.int64) * frames + both.frame_j, kind="stable")
    both = both[order]
    all_pairs = np.concatenate([pairs, pairs[:, ::-1]])
    by_pair = np.argsort(all_pairs[:, 0].astype(np.int64) * frames + all_pairs[:, 1], kind="stable")
    return Matches(
        pairs=all_pairs[by_pair].astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(np.tile(kept, 2)[by_pair])]).astype(np.int64),
        fixed_i=to_fixed(both.xy_i, size),
        fixed_j=to_fixed(both.xy_j, size),
        flags=both.flags,
        score=both.score.astype(np.float16),
        valid_count=np.tile(found, 2)[by_pair].astype(np.int64),
        size=size,
        frames=frames,
    )


def _drawn(
    rows: MatchRows, frames: int, per_pair: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows that stay (indices, grouped by pair), the pairs [P, 2], rows kept a pair [P], rows found a pair [P]."""
    key = rows.frame_i.astype(np.int64) * frames + rows.frame_j
    order = np.argsort(key, kind="stable")
    present, first, found = np.unique(key[order], return_index=True, return_counts=True)
    pairs = np.stack([present // frames, present % frames], axis=1)
    parts = []
    for (i, j), start, count in zip(pairs.tolist(), first.tolist(), found.tolist(), strict=True):
        part = order[start : start + count]
        if count > per_pair:
            random = np.random.Generator(np.random.PCG64([seed, i, j]))
            part = part[np.sort(random.permutation(count)[:per_pair])]
        parts.append(part)
    keep = np.concatenate(parts) if parts else np.empty(0, np.int64)
    return keep, pairs.reshape(-1, 2), np.minimum(found, per_pair), found


def join_tables(tables: Sequence[Matches], size: tuple[int, int], frames: int) -> Matches:
    """All rows of several tables of one video, grouped by pair, pairs in the order of (i, j), rows by table.

    Raises :class:`ValueError` for tables of another frame size.
    """
    if any(tuple(table.size) != tuple(size) for table in tables):
        raise ValueError("the tables are of videos of different sizes")
    keys = [table.pairs[:, 0].astype(np.int64) * frames + table.pairs[:, 1] for table in tables]
    pairs = np.unique(np.concatenate([np.empty(0, np.int64), *keys]))
    rows, found = np.zeros((2, len(tables), len(pairs)), np.int64)
    for number, (table, key) in enumerate(zip(tables, keys, strict=True)):
        where = np.searchsorted(pairs, key)
        rows[number, where], found[number, where] = np.diff(table.offsets), table.valid_count
    offsets = np.concatenate([[0], np.cumsum(rows.sum(0))]).astype(np.int64)
    starts = offsets[:-1] + np.cumsum(rows, axis=0) - rows  # [tables, pairs]: where the rows of a table and pair go
    columns = {
        "fixed_i": np.empty((offsets[-1], 2), np.uint16),
        "fixed_j": np.empty((offsets[-1], 2), np.uint16),
        "flags": np.empty(offsets[-1], np.uint8),
        "score": np.empty(offsets[-1], np.float16),
    }
    for number, (table, key) in enumerate(zip(tables, keys, strict=True)):
        for p, target in enumerate(starts[number, np.searchsorted(pairs, key)].tolist()):
            first, last = table.offsets[p : p + 2].tolist()
            for name, column in columns.items():
                column[target : target + last - first] = getattr(table, name)[first:last]
    return Matches(
        pairs=np.stack([pairs // frames, pairs % frames], axis=1).astype(np.int32).reshape(-1, 2),
        offsets=offsets,
        **columns,
        valid_count=found.sum(0),
        size=size,
        frames=frames,
    )


def alike_rows(table: Matches, maps: FeatureMaps, threshold: float) -> np.ndarray:
    """Which rows of a table look alike at both ends: cosine of features above ``threshold``, bool [M]."""
    alike = np.zeros(len(table), bool)
    for pair, (i, j) in enumerate(table.pairs.tolist()):
        rows = slice(*table.offsets[pair : pair + 2])
        ends = [torch.from_numpy(xy[rows]).to(maps.device) for xy in (table.xy_i, table.xy_j)]
        alike[rows] = (similarity(maps[i], ends[0], maps[j], ends[1]) > threshold).cpu().numpy()
    return alike


def chosen_rows(table: Matches, keep: np.ndarray) -> Matches:
    """The table with the rows that ``keep`` bool [M] marks; all pairs stay."""
    kept = np.bincount(table.rows_pair[keep], minlength=len(table.pairs))
    return dataclasses.replace(
        table,
        offsets=np.concatenate([[0], np.cumsum(kept)]).astype(np.int64),
        **{name: getattr(table, name)[keep] for name in ("fixed_i", "fixed_j", "flags", "score")},
    )
