"""Training of the model with one depth a pixel (kind pixels): OmniMotion's bijection without its field."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from everypoint.config.options import OptimizeOptions
from everypoint.models.nvp import FrameParts
from everypoint.models.pixels import PixelDepthModel
from everypoint.optimize import ray_losses
from everypoint.optimize.ray_sampler import RayBatch, RaySampler
from everypoint.optimize.ray_trainer import RayTrainer


class PixelsTrainer(RayTrainer):
    """Model, optimiser and sampler of one run, with their common state.

    Args:
        model: on its device, with its depth set.
        sampler: of matches, on the same device.
        prior: the depth maps [T, H, W] that the model's depth stays near; None: whatever the model starts from.
        options: schedule and weights.
    """

    model: PixelDepthModel
    TERMS = frozenset({"flow", "depth", "depth_prior", "depth_range", "acceleration"})

    def __init__(
        self, model: PixelDepthModel, sampler: RaySampler, prior: Tensor | None, options: OptimizeOptions
    ) -> None:
        super().__init__(model, sampler, options, {options.depth_learning_rate: model.depth.parameters()})
        self.prior = model.depth.maps().detach().clone() if prior is None else prior

    def losses(
        self, given: RayBatch, weights: Mapping[str, float | Tensor], flags: tuple[bool, ...]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Weighted loss terms (scalars) and the error [R] in px."""
        batch, parts, sampler = given, self.model.parts(), self.sampler.options
        shape = (sampler.pairs, sampler.points)
        traced = self.model.trace(batch.xy_i, batch.i, batch.j, parts)
        by_pair = [values.reshape(*shape, 2) for values in (traced.xy, batch.xy_j)]
        terms = {"flow": ray_losses.point_distance(*by_pair, (batch.omega > 0).float().reshape(shape))}
        if "depth" in weights:
            terms["depth"] = ray_losses.depth_agreement(
                traced.z, self.model.depth, batch.xy_j, batch.j, ~batch.occluded, sampler.points
            )
        if "depth_prior" in weights:
            frames = batch.j.reshape(shape)[:, 0]
            terms["depth_prior"] = ray_losses.depth_prior(self.model.depth.maps()[frames], self.prior[frames])
        terms["depth_range"] = ray_losses.depth_range(traced.mapped[..., 2], self.model.near, self.model.far)
        if "acceleration" in weights:
            terms["acceleration"] = self.acceleration(batch, traced.local, traced.canonical, parts)
        return self.weighted(terms, weights), (traced.xy - batch.xy_j).detach().norm(dim=-1)

    def predicted(self, batch: RayBatch, parts: FrameParts) -> Tensor:
        """Predicted points [R, 2]."""
        return self.model.transport(batch.xy_i, batch.i, batch.j, parts).xy
