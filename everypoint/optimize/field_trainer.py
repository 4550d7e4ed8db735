"""Training of OmniMotion's model (kind field): rays through a canonical field, with the published losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

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
from everypoint.optimize.trainer import Plan

_JITTER = 2**61  # the stream of the places of samples along their rays


class Given(NamedTuple):
    """What is random in a step."""

    batch: RayBatch
    places: Tensor  # [R, K] of each sample in its interval


class FieldTrainer(RayTrainer):
    """Model, optimiser and sampler of one run, with their common state.

    Args:
        model: on its device.
        sampler: of matches, on the same device.
        images: uint8 [T, H, W, 3], the working frames, on the same device.
        options: schedule and weights.
    """

    model: OmniMotionModel
    TERMS = frozenset({"flow", "flow_difference", "colour", "depth_range", "distortion", "acceleration"})

    def __init__(self, model: OmniMotionModel, sampler: RaySampler, images: Tensor, options: OptimizeOptions) -> None:
        super().__init__(model, sampler, options, {options.field_learning_rate: model.field.parameters()})
        self.images = images
        self._jitter = mix(sampler.seed, _JITTER)

    def plan(self, step: int) -> Plan:
        """As all trainers of rays, and whether the nearest samples are empty."""
        plan = super().plan(step)
        near = ramps.near_masked(step, self.options.steps, self.options.ray_losses.mask_near)
        return plan._replace(flags=(*plan.flags, near))

    def given(self, batch: RayBatch, step: int) -> Given:
        """A batch with the places of its samples."""
        return Given(batch, self._places(len(batch.rows), step))

    def note(self, given: Given, error: Tensor) -> None:
        """Fold the errors into their running means."""
        super().note(given.batch, error)

    def losses(
        self, given: Given, weights: Mapping[str, float | Tensor], flags: tuple[bool, ...]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Weighted loss terms (scalars) and the error [R] in px."""
        batch, (_, near) = given.batch, flags
        parts, shape = self.model.parts(), (self.sampler.options.pairs, self.sampler.options.points)
        traced = self.model.trace(batch.xy_i, batch.i, batch.j, parts, given.places, near)
        terms = {"flow": ray_losses.flow(traced.xy, batch.xy_j, batch.omega, self.model.frame_size)}
        by_pair = [values.reshape(*shape, 2) for values in (traced.xy, batch.xy_j)]
        if "flow_difference" in weights:
            terms["flow_difference"] = ray_losses.flow_difference(*by_pair, batch.omega.reshape(shape))
        if "colour" in weights:
            terms["colour"] = self._colour(batch, traced, shape)
        terms["depth_range"] = ray_losses.depth_range(traced.mapped[..., 2], self.model.near, self.model.far)
        if "distortion" in weights:
            terms["distortion"] = ray_losses.distortion(traced.masked, traced.depths)
        if "acceleration" in weights:
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
