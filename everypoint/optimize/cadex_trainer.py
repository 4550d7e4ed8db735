"""Training of CaDeX++ (kind cadex): matches of the flows, long-range matches, depth maps that stay near their prior."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from everypoint.config.options import OptimizeOptions
from everypoint.geometry import inside_index
from everypoint.models.cadex import CadexModel, Parts
from everypoint.models.motion import Transported
from everypoint.optimize import cadex_losses, ramps, ray_losses
from everypoint.optimize.cadex_sampler import CadexSampler
from everypoint.optimize.ray_sampler import RayBatch
from everypoint.optimize.schedule import rate
from everypoint.optimize.trainer import Plan, TrainerBase

RATE_EVERY, RATE_FACTOR = 5000, 0.33  # of 22,000 steps


class Given(NamedTuple):
    """What is random in a step."""

    batch: RayBatch
    long: RayBatch | None  # long-range matches


class _Stored(NamedTuple):
    """What the depth maps say at the ends of N matches."""

    depth_i: Tensor  # [N] at the match in frame i
    depth_j: Tensor  # [N] in frame j
    slope_i: Tensor  # [N, 2] left minus own, upper minus own
    slope_j: Tensor


class CadexTrainer(TrainerBase):
    """Model, optimiser and sampler of one run. The depth maps' prior is what the model starts from.

    Args:
        model: on its device, with its depth set.
        sampler: of matches, on the same device.
        options: schedule and weights.
    """

    def __init__(self, model: CadexModel, sampler: CadexSampler, options: OptimizeOptions) -> None:
        groups = [
            (options.learning_rate, model.bijection.parameters()),
            (options.depth_learning_rate, model.depth.parameters()),
        ]
        super().__init__(model, sampler, options, groups)
        self.prior = model.depth.map.detach().clone()
        self._scale = ramps.cadex_scale(options.steps, options.cadex_losses.ramp_steps)

    def plan(self, step: int) -> Plan:
        """Rates and weights of a step, and whether long-range matches far off the median count no more."""
        weights = ramps.cadex_weights(step, self.options.steps, self.options.cadex_losses)
        counting = {name: weight for name, weight in weights.items() if weight}
        return Plan(self._scaled(self._rate(step)), counting, (ramps.long_cut(step, self._scale),))

    def draw(self, step: int) -> Given:
        """The batches of a step."""
        return Given(self.sampler.draw(step), self.sampler.draw_long(step))

    def terms(self, batch: RayBatch, long: RayBatch | None, step: int) -> dict[str, Tensor]:
        """Weighted loss terms (scalars) of a batch of pairs and of long-range ones; weight 0 leaves one out."""
        _, weights, flags = self.plan(step)
        return self.losses(Given(batch, long), weights, flags)[0]

    def losses(
        self, given: Given, weights: Mapping[str, float | Tensor], flags: tuple[bool, ...]
    ) -> tuple[dict[str, Tensor], None]:
        """Weighted loss terms (scalars); errors are not noted."""
        parts = self.model.parts()
        terms = self._dense_terms(given.batch, weights, parts)
        if given.long is not None and "long_range" in weights:
            terms |= self._long_terms(given.long, weights, parts, cut=flags[0])
        return self.weighted(terms, weights), None

    def clip(self) -> None:
        """Limit the norm of the depth maps' gradient."""
        if self.options.cadex_losses.depth_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.depth.parameters(), self.options.cadex_losses.depth_clip)

    def predicted(self, batch: RayBatch, parts: Parts) -> Tensor:
        """Predicted points [R, 2]."""
        return self.model.transport(batch.xy_i, batch.i, batch.j, parts).xy

    def _dense_terms(self, batch: RayBatch, weights: Mapping[str, float | Tensor], parts: Parts) -> dict[str, Tensor]:
        shape, least = (self.sampler.options.pairs, -1), self.options.cadex_losses.least_depth
        stored, prior = self._stored(batch)
        moved = self.model.carry(batch.xy_i, stored.depth_i, batch.i, batch.j, parts)
        counts = moved.z.abs() >= least if least else None
        terms = {"flow": ray_losses.flow(moved.xy, batch.xy_j, batch.omega, self.model.frame_size, counts)}
        if "flow_difference" in weights:
            predicted, target, omega = (
                values.reshape(*shape, *values.shape[1:]) for values in (moved.xy, batch.xy_j, batch.omega)
            )
            terms["flow_difference"] = ray_losses.flow_difference(predicted, target, omega)
        return terms | self._depth_terms(moved, stored, prior, ~batch.occluded, weights, "")

    def _long_terms(
        self, batch: RayBatch, weights: Mapping[str, float | Tensor], parts: Parts, *, cut: bool
    ) -> dict[str, Tensor]:
        stored, prior = self._stored(batch)
        moved = self.model.carry(batch.xy_i, stored.depth_i, batch.i, batch.j, parts)
        kept = ~batch.occluded  # all of them
        if cut:
            kept = cadex_losses.within_medians(moved.xy, batch.xy_j, self.options.cadex_losses.long_cut)
        terms = {"long_range": cadex_losses.match_distance(moved.xy, batch.xy_j, kept)}
        return terms | self._depth_terms(moved, stored, prior, kept, weights, "long_")

    def _depth_terms(
        self,
        moved: Transported,
        stored: _Stored,
        prior: _Stored,
        seen: Tensor,
        weights: Mapping[str, float | Tensor],
        prefix: str,
    ) -> dict[str, Tensor]:
        terms = {}
        if f"{prefix}depth" in weights:
            terms["depth"] = cadex_losses.depth_agreement(moved.z, stored.depth_j, seen)
        if f"{prefix}depth_prior" in weights:
            terms["depth_prior"] = cadex_losses.depth_agreement(moved.z, prior.depth_j, seen)
        if f"{prefix}depth_slope" in weights:
            inside = inside_index(moved.xy, *self.model.frame_size)
            terms["depth_slope"] = cadex_losses.depth_slopes(
                stored.slope_i, prior.slope_i, inside
            ) + cadex_losses.depth_slopes(stored.slope_j, prior.slope_j, inside)
        return {prefix + name: term for name, term in terms.items()}

    def _stored(self, batch: RayBatch) -> tuple[_Stored, _Stored]:
        """The model's depth and the prior at both ends of matches."""
        depth = self.model.depth
        rows = torch.stack([*depth.cells(batch.xy_i, batch.i), *depth.cells(batch.xy_j, batch.j)])  # [6, N]
        found = []
        for maps in (depth.map, self.prior):
            values = maps.reshape(-1).index_select(0, rows.reshape(-1)).reshape(2, 3, -1)
            own, around = values[:, 0], values[:, 1:]
            slopes = (around - own[:, None]).transpose(1, 2)  # [2, N, 2]
            found.append(_Stored(own[0], own[1], slopes[0], slopes[1]))
        return found[0], found[1]

    def _rate(self, step: int) -> float:
        if self.options.decay == "steps":
            return ramps.rate(step, self._scale, RATE_EVERY, RATE_FACTOR)
        return rate(step, self.options.steps, self.options.warmup, self.options.final_rate)
