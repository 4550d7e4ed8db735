"""Accumulated errors of the matches on the device, and draws of matches and frames in proportion to them."""

from __future__ import annotations

import torch
from torch import Tensor

from everypoint.optimize.draws import between, by_weight

ERROR_MEMORY = 0.7  # weight of the past in the running mean of a match's error
FLOOR = 0.02  # share of the largest weight that every match and frame has, so that it can still be drawn
_TOP = 32_000  # weight of a match at the clip; with the floor it still fits int16
_FRAME_TOP = 2**30  # the same for a frame
_UNSEEN = -1.0  # error of a match that was never measured
_SAMPLE = 100_000  # matches that the quantile is taken of


class MatchErrors:
    """Running means of the errors [M], and the tables of weights that are made of them at each refresh.

    A match that was never measured weighs as much as its pair does on average, or all matches where its pair has none.
    A frame weighs as the mean clipped error of the measured matches of the pairs that begin with it.

    Args:
        offsets: int64 [P + 1], rows of each pair.
        first_frame: int64 [P], frame i of each pair.
        frames: T.
        trainable: bool [M]; other matches are never drawn and do not enter any mean.
        quantile: errors above it count as this quantile.
    """

    def __init__(
        self, offsets: Tensor, first_frame: Tensor, frames: int, trainable: Tensor, *, quantile: float
    ) -> None:
        self.quantile = quantile
        self._offsets, self._first_frame, self._trainable = offsets, first_frame, trainable
        self.error = torch.full(trainable.shape, _UNSEEN, device=trainable.device)  # float32 [M], px
        self.frame_weight = torch.ones(frames, dtype=torch.int64, device=trainable.device)
        self._set_weights(trainable.long())

    def fold(self, rows: Tensor, error: Tensor, counts: Tensor, memory: float = ERROR_MEMORY) -> None:
        """Fold errors [R] (px) of rows [R] into their running means, where ``counts`` bool [R].

        A row that occurs several times is folded once, with its mean, so the result depends on no order of writing.
        """
        rows, order = rows.sort(stable=True)
        error, counts = error.detach()[order], counts[order]
        begins = torch.ones_like(counts)
        begins[1:] = rows[1:] != rows[:-1]
        group = begins.cumsum(0) - 1
        total = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
        number = torch.zeros_like(total).index_add_(0, group, counts.double())[group]
        total = total.index_add_(0, group, torch.where(counts, error, 0).double())[group]
        past = self.error[rows]
        mean = (total / number.clamp(min=1)).float()
        folded = torch.where(past < 0, mean, torch.lerp(mean, past, memory))
        self.error[rows] = torch.where(number > 0, folded, past)

    def refresh(self) -> None:
        """Make the weights of matches and frames from the running means as they are now."""
        seen = (self.error >= 0) & self._trainable
        limit = self._limit(seen)
        level = (torch.minimum(self.error, limit) * (_TOP / limit)).round().long() * seen
        sums, numbers = self._by_pair(level), self._by_pair(seen.long())  # [P]
        everywhere = sums.sum() / numbers.sum().clamp(min=1)
        usual = torch.where(numbers > 0, sums / numbers.clamp(min=1), everywhere).round().long()
        usual = usual.repeat_interleave(self._offsets.diff(), output_size=len(level))
        floor = round(FLOOR * _TOP)
        self._set_weights((torch.where(seen, level, usual) + floor) * self._trainable)
        self.frame_weight = self._frame_weights(sums, numbers, everywhere)

    def rows(self, pair: Tensor, uniform: Tensor) -> Tensor:
        """Rows [B, n] of pairs [B] by the weights, from float64 numbers [B, n] in [0, 1)."""
        marks = between(self._ends[pair, None], self._ends[pair + 1, None], uniform)
        return torch.searchsorted(self._cumulated, marks, right=True)

    def frames(self, eligible: Tensor, uniform: Tensor) -> Tensor:
        """Frames [n] by their weights among ``eligible`` bool [T] (one at least), from numbers [n] in [0, 1)."""
        return by_weight(self.frame_weight * eligible, uniform)

    def state(self) -> dict[str, Tensor]:
        """Running means, and the weights of the last refresh (int16 holds them)."""
        weight = self._cumulated.diff(prepend=self._cumulated.new_zeros(1)).short()
        return {"error": self.error, "weight": weight, "frame_weight": self.frame_weight}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.error.copy_(state["error"])
        self.frame_weight = state["frame_weight"].to(self.error.device)
        self._set_weights(state["weight"].to(self.error.device).long())

    def _limit(self, seen: Tensor) -> Tensor:
        """The quantile (linear between ranks) of a spread sample of the errors ``seen`` bool [M]; a scalar > 0.

        torch.quantile has no way to leave out what is not seen, and waits for its check of the quantile on a CPU.
        """
        step = max(1, len(seen) // _SAMPLE)
        sample = torch.where(seen, self.error, torch.inf)[::step].sort().values  # what is not seen comes last
        rank = self.quantile * (seen[::step].sum() - 1).clamp(min=0).double()
        low, high = sample[torch.stack([rank.floor(), rank.ceil()]).long()].unbind()
        limit = torch.lerp(low, high, (rank - rank.floor()).float())
        return torch.where(seen[::step].any(), limit, 0).clamp(min=1e-6)

    def _set_weights(self, weight: Tensor) -> None:
        """Keep int64 weights [M] as one running sum over all pairs, with its values between the pairs [P + 1]."""
        self._cumulated = weight.cumsum(0)
        self._ends = self._cumulated[(self._offsets - 1).clamp(min=0)] * (self._offsets > 0)

    def _by_pair(self, values: Tensor) -> Tensor:
        """Sums [P] of integers [M] over the rows of each pair."""
        cumulated = values.cumsum(0)
        return (cumulated[(self._offsets - 1).clamp(min=0)] * (self._offsets > 0)).diff()

    def _frame_weights(self, sums: Tensor, numbers: Tensor, everywhere: Tensor) -> Tensor:
        """int64 [T] from sums and numbers of measured matches by pair [P]."""
        total, number = (
            torch.zeros_like(self.frame_weight).index_add_(0, self._first_frame, part) for part in (sums, numbers)
        )
        mean = torch.where(number > 0, total / number.clamp(min=1), everywhere)
        share = mean / mean.max().clamp(min=1) + FLOOR
        return (share * _FRAME_TOP).round().long()
