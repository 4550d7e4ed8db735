"""Drawing pairs and their matches as OmniMotion does, on the device: no data loader, no host synchronisation.

A step draws B pairs (id1, id2) and P matches of each:

* id1 takes all frames in turn, in a new random order each time, until accumulated errors guide the draws; from then on
  a frame is drawn in proportion to its error.
* id2 is a frame of the window around id1, by the number of valid pixels of the pair, but with a fixed weight for the
  two adjacent frames. The window grows.
* The matches are rows of the pair's reservoir, which already holds the weights of the count map: drawn evenly, and a
  share of them, later on, in proportion to their accumulated error. Draws are with replacement.
* Half of the pairs are swapped. A point that id2 hides has no match in the other direction: its omega is 0.

Pairs without a trainable row are no candidates; a frame without a candidate in the window waits until the window has
grown to one. A draw depends on (seed, step) and on the sampler's state (the errors) only.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from everypoint.artifacts.matches import OCCLUDED, Matches
from everypoint.config.options import RaySamplerOptions
from everypoint.errors import ArtifactError, InputError
from everypoint.optimize import ramps
from everypoint.optimize.draws import Course, between, by_weight, held_out, mix
from everypoint.optimize.match_errors import MatchErrors

_TURNS = 2**62  # no step: the stream of the orders in which frames take turns
_SECOND_TOP = 2.0**40  # integer weight of id2's share 1


class RayBatch(NamedTuple):
    """Matches of one step, R = B * P, pair after pair. Of a swapped pair, i and xy_i are those of id2."""

    rows: Tensor  # int64 [R], rows of the matches table
    i: Tensor  # int64 [R], frame of the ray
    j: Tensor  # int64 [R], frame of the match
    xy_i: Tensor  # float32 [R, 2], index coordinates
    xy_j: Tensor  # float32 [R, 2]
    omega: Tensor  # float32 [R], weight of the match; 0: it says nothing about this direction
    swapped: Tensor  # bool [R]
    occluded: Tensor  # bool [R], one frame hides the point: j, or i of a swapped pair


class RaySampler:
    """Holds the matches on the device and draws batches.

    Args:
        matches: the table.
        options: pairs and points a step, window, shares.
        course: of the run; ``scale`` stretches the growth of the window, ``hard_start`` is a share of the steps.

    Raises :class:`InputError` for a table without any row to train on, :class:`ArtifactError` for one with a pair
    twice.
    """

    def __init__(self, matches: Matches, options: RaySamplerOptions, course: Course) -> None:
        seed, steps, scale, holdout, device = course
        self.options, self.seed, self.device, self.frames = options, seed, torch.device(device), matches.frames
        self.scale = ramps.scale_of(steps) if scale is None else scale
        self.pairs = torch.from_numpy(matches.pairs.astype(np.int64)).to(device)
        self.offsets = torch.from_numpy(matches.offsets.astype(np.int64)).to(device)
        self.xy_i = torch.from_numpy(matches.xy_i).to(device)
        self.xy_j = torch.from_numpy(matches.xy_j).to(device)
        self.occluded = torch.from_numpy((matches.flags & OCCLUDED) > 0).to(device)
        held = held_out(len(matches), holdout)
        self.held_out = torch.from_numpy(np.flatnonzero(held)).to(device)
        self.all_rows = torch.from_numpy(np.flatnonzero(~held)).to(device)  # grouped by pair, as the table
        self._first = torch.from_numpy(np.concatenate([[0], np.cumsum(~held)])[matches.offsets]).to(device)
        self._prepare_frames(matches, self._first.diff().cpu().numpy())
        self._turns = mix(seed, _TURNS)
        self._hard_from = ramps.step_of(options.hard_start, steps)
        self._hard_points = torch.from_numpy(_spread(options.points, options.hard_share)).to(device)
        self._errors = None
        if options.hard_share:
            first_frame, trainable = self.pairs[:, 0].contiguous(), torch.from_numpy(~held).to(device)
            self._errors = MatchErrors(
                self.offsets, first_frame, matches.frames, trainable, quantile=options.hard_quantile
            )

    def _prepare_frames(self, matches: Matches, rows: np.ndarray) -> None:
        """Tables by frames from the trainable rows [P] of each pair."""
        i, j = matches.pairs.T.astype(np.int64)
        if len(np.unique(i * matches.frames + j)) < len(i):
            raise ArtifactError("the table of matches is damaged", "it names a pair twice", "delete it and run again")
        use = (rows > 0) & (i != j)
        if not use.any():
            raise InputError("there is no match to train on", cure="look at filter.json")
        valid = np.zeros((matches.frames, matches.frames), np.int64)  # 0: no candidate
        valid[i[use], j[use]] = np.maximum(matches.valid_count[use], 1)
        pair_of = np.full_like(valid, -1)
        pair_of[i[use], j[use]] = np.flatnonzero(use)
        nearest = np.full(matches.frames, np.iinfo(np.int64).max)  # smallest gap of each frame's candidates
        np.minimum.at(nearest, i[use], np.abs(i - j)[use])
        order = np.argsort(nearest, kind="stable")[: np.count_nonzero(valid.any(1))]
        self._nearest_sorted = nearest[order].tolist()
        self._valid, self._pair_of, self._nearest, self._by_nearest = (
            torch.from_numpy(array).to(self.device) for array in (valid, pair_of, nearest, order)
        )

    def largest_gap(self, step: int) -> int:
        """Half-width of the window at a step; never less than the smallest gap that there is."""
        return max(ramps.largest_gap(step, self.frames, self.options, self.scale), self._nearest_sorted[0])

    def mines(self, step: int) -> bool:
        """Whether accumulated errors guide the draw of a step."""
        return self._errors is not None and step >= self._hard_from

    def draw(self, step: int) -> RayBatch:
        """The batch of a step."""
        pairs, points = self.options.pairs, self.options.points
        generator = torch.Generator(self.device).manual_seed(mix(self.seed, step))
        uniform = torch.rand(pairs * (3 + points), generator=generator, device=self.device, dtype=torch.float64)
        u_first, u_second, u_swap, u_point = uniform.split([pairs, pairs, pairs, pairs * points])
        gap = self.largest_gap(step)
        mines = self.mines(step)
        first = self._errors.frames(self._nearest <= gap, u_first) if mines else self._in_turn(step, gap)
        pair = self._pair_of[first, self._second(first, gap, u_second)]
        u_point = u_point.reshape(pairs, points)
        rows = self.all_rows[between(self._first[pair, None], self._first[pair + 1, None], u_point)]
        if mines:
            rows = torch.where(self._hard_points, self._errors.rows(pair, u_point), rows)
        swapped = (u_swap < 0.5) if self.options.swap else torch.zeros_like(u_swap, dtype=torch.bool)
        return self._batch(rows.flatten(), swapped.repeat_interleave(points, output_size=pairs * points), gap)

    def gather(self, rows: Tensor) -> RayBatch:
        """The matches of given rows [R], none swapped, each with omega 1."""
        return self._batch(rows, torch.zeros_like(rows, dtype=torch.bool), None)

    def sweep_rows(self, part: int, parts: int) -> Tensor:
        """Trainable rows of one of ``parts`` equal parts, a sample of all pairs; the last row fills up short parts."""
        rows = len(self.all_rows)
        places = torch.arange(part, part + parts * -(-rows // parts), parts, device=self.device)
        return self.all_rows[places.clamp_(max=rows - 1)]

    def note_errors(self, batch: RayBatch, error: Tensor, step: int) -> None:
        """:meth:`fold`, then :meth:`refresh_after`."""
        self.fold(batch, error)
        self.refresh_after(step)

    def fold(self, batch: RayBatch, error: Tensor) -> None:
        """Fold the errors [R] (px) of a step's batch into their running means.

        Where omega is 0 the error says nothing and is left out.
        """
        if self._errors is not None:
            self._errors.fold(batch.rows, error, batch.omega > 0)

    def refresh_after(self, step: int) -> None:
        """Make the error-weighted tables anew now and then."""
        done = step + 1
        if done == self._hard_from or (done > self._hard_from and done % self.options.refresh == 0):
            self.refresh()

    def note_sweep(self, rows: Tensor, error: Tensor) -> None:
        """Replace the running means of rows [R] by errors [R] of the model as it is now; call :meth:`refresh` after."""
        if self._errors is not None:
            self._errors.fold(rows, error, torch.ones_like(rows, dtype=torch.bool), memory=0.0)

    def refresh(self) -> None:
        """Make the error-weighted tables anew."""
        if self._errors is not None:
            self._errors.refresh()

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold to go on exactly."""
        return {} if self._errors is None else self._errors.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        if self._errors is not None:
            self._errors.load_state(state)

    def _in_turn(self, step: int, gap: int) -> Tensor:
        """id1 [B]: places step * B ... of an endless row of orders of the frames that have a candidate."""
        pairs, frames = self.options.pairs, bisect_right(self._nearest_sorted, gap)
        start = step * pairs
        orders = []
        for turn in range(start // frames, (start + pairs - 1) // frames + 1):
            generator = torch.Generator(self.device).manual_seed(mix(self._turns, turn))
            keys = torch.rand(frames, generator=generator, device=self.device, dtype=torch.float64)
            orders.append(self._by_nearest[:frames][keys.argsort()])
        return torch.cat(orders)[start % frames : start % frames + pairs]

    def _second(self, first: Tensor, gap: int, uniform: Tensor) -> Tensor:
        """id2 [B] for id1 [B]: weights normalised over the window, then those of adjacent frames set."""
        away = (torch.arange(self.frames, device=self.device) - first[:, None]).abs()  # [B, T]
        valid = self._valid[first] * (away <= gap)
        share = valid / valid.sum(1, keepdim=True).double()
        floor = self.options.adjacent_floor
        if floor:
            share = torch.where((away == 1) & (valid > 0), floor, share)
        return by_weight((share * _SECOND_TOP).ceil().long(), uniform[:, None])[:, 0]

    def _batch(self, rows: Tensor, swapped: Tensor, gap: int | None) -> RayBatch:
        pair = torch.searchsorted(self.offsets, rows.contiguous(), right=True) - 1  # pairs without rows are passed over
        i, j = self.pairs[pair].unbind(-1)
        xy_i, xy_j, occluded = self.xy_i[rows], self.xy_j[rows], self.occluded[rows]
        turned = swapped[:, None]
        omega = torch.ones_like(xy_i[:, 0])
        if gap is not None:
            omega = torch.cos(((i - j).abs() - 1) * (torch.pi / 2 / gap)) * ~(swapped & occluded)
        return RayBatch(
            rows,
            torch.where(swapped, j, i),
            torch.where(swapped, i, j),
            torch.where(turned, xy_j, xy_i),
            torch.where(turned, xy_i, xy_j),
            omega,
            swapped,
            occluded,
        )


def _spread(points: int, share: float) -> np.ndarray:
    """Which points of a pair are drawn by error, bool [P]: ``share`` of them, evenly spread over every stretch."""
    hard = round(points * share)
    return np.diff(np.arange(points + 1) * hard // points) > 0
