"""Drawing matches on the device: no data loader, no host synchronisation, a draw depends on (seed, step) only.

A batch has four parts of fixed size: rows of neighbouring frames, rows by motion, rows by accumulated error, and rows
drawn evenly. The running mean of each match's error lives beside the matches and is part of the checkpoint.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from everypoint.artifacts.matches import OCCLUDED, Matches
from everypoint.config.options import SamplerOptions
from everypoint.optimize.draws import held_out, mix

ERROR_MEMORY = 0.7  # weight of the past in the running mean of a match's error


class Batch(NamedTuple):
    """Matches of one step."""

    rows: Tensor  # int64 [B], rows of the matches table
    i: Tensor  # int64 [B]
    j: Tensor  # int64 [B]
    xy_i: Tensor  # float32 [B, 2], index coordinates
    xy_j: Tensor  # float32 [B, 2]
    occluded: Tensor  # bool [B], the point is hidden in frame j


class MatchSampler:
    """Holds the matches on the device and draws batches.

    Args:
        matches: the table.
        options: shares and batch size.
        motion: [M] how much each match moves against the camera (see warmstart), any unit.
        holdout: share of rows that are never drawn.
        seed: of all draws.
    """

    def __init__(
        self,
        matches: Matches,
        options: SamplerOptions,
        *,
        motion: np.ndarray,
        holdout: float,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.options, self.seed, self.device = options, seed, torch.device(device)
        self.pairs = torch.from_numpy(matches.pairs.astype(np.int64)).to(device)
        self.pair = torch.from_numpy(matches.rows_pair).to(device)
        self.xy_i = torch.from_numpy(matches.xy_i).to(device)
        self.xy_j = torch.from_numpy(matches.xy_j).to(device)
        self.occluded = torch.from_numpy((matches.flags & OCCLUDED) > 0).to(device)
        held = held_out(len(matches), holdout)
        gap = np.abs(matches.pairs[:, 0] - matches.pairs[:, 1])[matches.rows_pair]
        self.held_out = torch.from_numpy(np.flatnonzero(held)).to(device)
        self.all_rows = torch.from_numpy(np.flatnonzero(~held)).to(device)
        self.adjacent_rows = torch.from_numpy(np.flatnonzero(~held & (gap == 1))).to(device)
        self._trainable = torch.from_numpy(~held).to(device)
        self._motion_table = self._table(torch.from_numpy(motion.astype(np.float32)).to(device))
        self.error = torch.from_numpy(motion.astype(np.float32)).to(device)  # running mean a match, px
        self._error_table = self._table(self.error) if options.hard_share else None
        self._parts = _split(options, has_adjacent=len(self.adjacent_rows) > 0)

    def draw(self, step: int) -> Batch:
        """The batch of a step."""
        generator = torch.Generator(self.device).manual_seed(mix(self.seed, step))
        adjacent, motion, hard, _ = self._parts
        uniform = torch.rand(sum(self._parts), generator=generator, device=self.device, dtype=torch.float64)
        u_adjacent, u_motion, u_hard, u_even = uniform.split(self._parts)
        parts = [_pick(self.all_rows, u_even)]
        if adjacent:
            parts.append(_pick(self.adjacent_rows, u_adjacent))
        if motion:
            parts.append(_invert(self._motion_table, u_motion))
        if hard:
            parts.append(_invert(self._error_table, u_hard))
        return self.gather(torch.cat(parts))

    def gather(self, rows: Tensor) -> Batch:
        """The matches of given rows."""
        i, j = self.pairs[self.pair[rows]].unbind(-1)
        return Batch(rows, i, j, self.xy_i[rows], self.xy_j[rows], self.occluded[rows])

    def note_errors(self, rows: Tensor, error: Tensor, step: int) -> None:
        """:meth:`fold`, then :meth:`refresh_after`."""
        self.fold(rows, error)
        self.refresh_after(step)

    def fold(self, rows: Tensor, error: Tensor) -> None:
        """Fold the errors [B] (px) of a step's rows into their running means."""
        if self._error_table is not None:
            self.error[rows] = torch.lerp(error, self.error[rows], ERROR_MEMORY)

    def refresh_after(self, step: int) -> None:
        """Make the table of error-weighted draws anew now and then."""
        if self._error_table is not None and (step + 1) % self.options.refresh == 0:
            self._error_table = self._table(self.error)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold to go on exactly."""
        return {} if self._error_table is None else {"error": self.error, "table": self._error_table}

    def load_state(self, state: dict[str, Tensor]) -> None:
        if self._error_table is not None:
            self.error.copy_(state["error"])
            self._error_table = state["table"].to(self.device)

    def _table(self, weight: Tensor) -> Tensor:
        """Cumulative distribution [M] float64 of the trainable rows' weights, clipped at the quantile."""
        sample = weight[:: max(1, len(weight) // 100_000)]
        limit = torch.quantile(sample, self.options.hard_quantile).clamp(min=1e-6)
        clipped = torch.minimum(weight, limit) + 0.02 * limit  # the floor keeps every row reachable
        total = torch.cumsum((clipped * self._trainable).double(), 0)
        return total / total[-1]


def _split(options: SamplerOptions, *, has_adjacent: bool) -> list[int]:
    """Sizes of the parts of a batch: adjacent, motion, hard, even."""
    adjacent = round(options.batch * options.adjacent_share) if has_adjacent else 0
    motion = min(round(options.batch * options.motion_share), options.batch - adjacent)
    hard = min(round(options.batch * options.hard_share), options.batch - adjacent - motion)
    return [adjacent, motion, hard, options.batch - adjacent - motion - hard]


def _pick(rows: Tensor, uniform: Tensor) -> Tensor:
    return rows[(uniform * len(rows)).long().clamp_(max=len(rows) - 1)]


def _invert(table: Tensor, uniform: Tensor) -> Tensor:
    """Rows by inverse distribution; right=True skips rows of zero weight."""
    return torch.searchsorted(table, uniform, right=True).clamp_(max=len(table) - 1)
