"""Drawing pairs and their matches as OmniTrackFast does for CaDeX++, on the device.

What differs from :class:`everypoint.optimize.ray_sampler.RaySampler`:

* Pairs begin with the frames in the middle of the video at first; more join them step by step.
* id2 is drawn by its gap, in a window that does not grow. Pairs with few valid pixels are passed over.
* omega falls to a half at the largest gap, not to zero.
* Long-range matches are a table of their own, and every row of it is drawn equally often. (The published loader draws
  as many points of each pair as the poorest pair has.)

A draw depends on (seed, step) only.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
import torch
from torch import Tensor

from everypoint.artifacts.matches import LONG_RANGE, Matches
from everypoint.config.options import CadexSamplerOptions, RaySamplerOptions
from everypoint.match.rows import chosen_rows
from everypoint.optimize import ramps
from everypoint.optimize.draws import Course, between, by_weight, mix
from everypoint.optimize.ray_sampler import RayBatch, RaySampler

_FIRSTS, _LONG = 2**62 + 1, 2**62 + 2  # no steps: streams of id1, and of long-range matches
_TOP = 2.0**30  # integer weight of gaps that are not rarer than others
OMEGA_STRETCH = 1.5  # cos((g - 1) / window * pi / 3) is OmniMotion's omega of a window half as large again


class CadexSampler(RaySampler):
    """Holds the matches on the device and draws batches.

    Args:
        matches: the table; rows with the flag LONG_RANGE are the long-range matches.
        options: of the draws.
        course: of the run; ``scale`` stretches the growth of the set of frames; long-range rows are not held out.

    Raises :class:`InputError` for a table without any row to train on.
    """

    def __init__(self, matches: Matches, options: CadexSamplerOptions, course: Course) -> None:
        self.cadex = options
        is_long = (matches.flags & LONG_RANGE) > 0
        dense = matches if is_long.all() or not is_long.any() else chosen_rows(matches, ~is_long)
        super().__init__(
            dense,
            RaySamplerOptions(
                pairs=options.pairs, points=options.points, start_interval=options.window, hard_share=0.0,
                swap=options.swap,
            ),
            course._replace(scale=ramps.cadex_scale(course.steps) if course.scale is None else course.scale),
        )  # fmt: skip
        self._firsts, self._longs = mix(course.seed, _FIRSTS), mix(course.seed, _LONG)
        self.long = _Rows(chosen_rows(matches, is_long), self.device) if is_long.any() else None
        gaps = torch.arange(matches.frames, dtype=torch.float64).clamp(min=options.gap_flat)
        density = torch.exp(-0.5 * (gaps / options.gap_sigma) ** 2) if options.gap_sigma >= 1 else torch.ones_like(gaps)
        self._by_gap = (density / density[0] * _TOP).ceil().long().to(self.device)

    def _prepare_frames(self, matches: Matches, rows: np.ndarray) -> None:
        rich = matches.valid_count >= self.cadex.min_valid * matches.size[0] * matches.size[1]
        near = np.abs(np.diff(matches.pairs, axis=1))[:, 0] <= self.cadex.window
        if (rows * rich * near).any():
            rows = rows * rich
        super()._prepare_frames(matches, rows)
        middle = (self.frames - 1) / 2
        nearest = self._nearest.cpu().numpy()
        reachable = np.flatnonzero(nearest <= self.largest_gap(0))
        off = np.abs(reachable - middle)
        order = np.argsort(off, kind="stable")
        self._off_sorted = off[order].tolist()
        self._from_middle = torch.from_numpy(reachable[order]).to(self.device)

    def largest_gap(self, step: int) -> int:
        """Half-width of the window, the same at all steps; never less than the smallest gap that there is."""
        return max(min(self.cadex.window, self.frames - 1), self._nearest_sorted[0])

    def first_frames(self, step: int) -> int:
        """How many frames pairs begin with at a step: those nearest to the middle of the video, one at least."""
        active = ramps.active_frames(step, self.cadex, self.scale)
        return max(bisect_right(self._off_sorted, active / 2), 1)

    def _in_turn(self, step: int, gap: int) -> Tensor:
        generator = torch.Generator(self.device).manual_seed(mix(self._firsts, step))
        uniform = torch.rand(self.options.pairs, generator=generator, device=self.device, dtype=torch.float64)
        return self._from_middle[(uniform * self.first_frames(step)).long()]

    def _second(self, first: Tensor, gap: int, uniform: Tensor) -> Tensor:
        away = (torch.arange(self.frames, device=self.device) - first[:, None]).abs()  # [B, T]
        weight = self._by_gap[away] * ((self._valid[first] > 0) & (away <= gap))
        return by_weight(weight, uniform[:, None])[:, 0]

    def _batch(self, rows: Tensor, swapped: Tensor, gap: int | None) -> RayBatch:
        return super()._batch(rows, swapped, None if gap is None else OMEGA_STRETCH * gap)

    def draw_long(self, step: int) -> RayBatch | None:
        """Long-range matches of a step, each with omega 1; None where there are none."""
        if self.long is None:
            return None
        generator = torch.Generator(self.device).manual_seed(mix(self._longs, step))
        uniform = torch.rand(self.cadex.long_points, generator=generator, device=self.device, dtype=torch.float64)
        return self.long.batch(uniform)


class _Rows:
    """All rows of a table on the device."""

    def __init__(self, matches: Matches, device: torch.device) -> None:
        pairs = matches.pairs.astype(np.int64)[matches.rows_pair]
        arrays = (pairs[:, 0].copy(), pairs[:, 1].copy(), matches.xy_i, matches.xy_j)
        self._i, self._j, self._xy_i, self._xy_j = (torch.from_numpy(array).to(device) for array in arrays)
        self._count = len(matches)

    def batch(self, uniform: Tensor) -> RayBatch:
        rows = between(0, self._count, uniform)
        xy_i = self._xy_i[rows]
        seen = torch.zeros_like(rows, dtype=torch.bool)
        return RayBatch(
            rows, self._i[rows], self._j[rows], xy_i, self._xy_j[rows], torch.ones_like(xy_i[:, 0]), seen, seen
        )
