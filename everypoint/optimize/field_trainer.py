"""Training of OmniMotion's model (kind field): rays through a canonical field, with the published losses."""

from __future__ import annotations

import torch
from torch import Tensor

from everypoint.config.options import OptimizeOptions
from everypoint.geometry import inside_index
from everypoint.models.nvp import FrameParts
from everypoint.models.omnimotion import OmniMotionModel, Traced
from everypoint.optimize import ramps, ray_losses
from everypoint.optimize.colours import frame_colours
from everypoint.optimize.draws import mix
from everypoint.optimize.ray_sampler import RayBatch, RaySampler
from everypoint.optimize.ray_trainer import RayTrainer

_JITTER = 2**61  # the stream of the places of samples along their rays


class FieldTrainer(RayTrainer):
    """Model, optimiser and sampler of one run, with their common state.

    Args:
        model: on its device.
        sampler: of matches, on the same device.
        images: uint8 [T, H, W, 3], the working frames, on the same device.
        options: schedule and weights.
    """

    model: OmniMotionModel

    def __init__(self, model: OmniMotionModel, sampler: RaySampler, images: Tensor, options: OptimizeOptions) -> None:
        super().__init__(model, sampler, options, {options.field_learning_rate: model.field.parameters()})
        self.images = images
        self._jitter = mix(sampler.seed, _JITTER)

    def terms(self, batch: RayBatch, step: int) -> tuple[dict[str, Tensor], Tensor]:
        """Weighted loss terms (scalars) and the error [R] in px of a batch; terms of weight 0 are left out."""
        weights = ramps.loss_weights(step, self.options.steps, self.options.ray_losses)
        parts, shape = self.model.parts(), (self.sampler.options.pairs, self.sampler.options.points)
        near = ramps.near_masked(step, self.options.steps, self.options.ray_losses.mask_near)
        traced = self.model.trace(batch.xy_i, batch.i, batch.j, parts, self._places(len(batch.rows), step), near)
        terms = {"flow": ray_losses.flow(traced.xy, batch.xy_j, batch.omega, self.model.frame_size)}
        by_pair = [values.reshape(*shape, 2) for values in (traced.xy, batch.xy_j)]
        terms["flow_difference"] = ray_losses.flow_difference(*by_pair, batch.omega.reshape(shape))
        if weights["colour"]:
            terms["colour"] = self._colour(batch, traced, shape)
        terms["depth_range"] = ray_losses.depth_range(traced.mapped[..., 2], self.model.near, self.model.far)
        if weights["distortion"]:
            terms["distortion"] = ray_losses.distortion(traced.masked, traced.depths)
        if weights["acceleration"]:
            terms["acceleration"] = self.acceleration(batch, traced.local, traced.canonical, parts)
        return self.weighted(terms, weights), (traced.xy - batch.xy_j).detach().norm(dim=-1)

    def _places(self, rays: int, step: int) -> Tensor:
        """Where each sample lies in its interval [R, K]; by (seed, step) alone."""
        generator = torch.Generator(self.device).manual_seed(mix(self._jitter, step))
        return torch.rand(rays, self.model.samples, generator=generator, device=self.device)

    def _colour(self, batch: RayBatch, traced: Traced, shape: tuple[int, int]) -> Tensor:
        """Rendered against true colours, and their consecutive differences."""
        truth = frame_colours(self.images, batch.xy_i, batch.i).reshape(*shape, 3)
        rendered = traced.colour.reshape(*shape, 3)
        inside = inside_index(batch.xy_i, *self.model.frame_size).reshape(shape)
        return ray_losses.colour(rendered, truth, inside) + ray_losses.colour_difference(rendered, truth, inside)

    def predicted(self, batch: RayBatch, parts: FrameParts) -> Tensor:
        """Predicted points [R, 2] without jitter."""
        return self.model.trace(batch.xy_i, batch.i, batch.j, parts).xy
