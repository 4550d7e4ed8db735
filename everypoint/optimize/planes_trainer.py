"""Training of the model of kind planes: matches drawn on the device, one 3-D point each."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from everypoint.config.options import OptimizeOptions
from everypoint.models.motion import MotionModel
from everypoint.optimize import losses
from everypoint.optimize.sampler import Batch, MatchSampler
from everypoint.optimize.schedule import rate
from everypoint.optimize.trainer import Plan, TrainerBase


class PlanesTrainer(TrainerBase):
    """Model with feature planes and depth maps, its optimiser and sampler, with their common state."""

    def __init__(self, model: MotionModel, sampler: MatchSampler, options: OptimizeOptions) -> None:
        groups = [
            (options.learning_rate, model.bijection.parameters()),
            (options.depth_learning_rate, model.depth.parameters()),
            (options.camera_learning_rate, [model.camera]),
        ]
        super().__init__(model, sampler, options, groups, betas=(0.9, 0.99))

    def plan(self, step: int) -> Plan:
        """Rates; the weights are the same at all steps."""
        options = self.options
        return Plan(self._scaled(rate(step, options.steps, options.warmup, options.final_rate)), {})

    def draw(self, step: int) -> Batch:
        """The batch of a step."""
        return self.sampler.draw(step)

    def losses(
        self, given: Batch, weights: Mapping[str, float | Tensor], flags: tuple[bool, ...]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """:meth:`terms`."""
        return self.terms(given)

    def note(self, given: Batch, error: Tensor) -> None:
        """Fold the errors into their running means."""
        self.sampler.fold(given.rows, error)

    def after(self, step: int) -> None:
        """Refresh the table of error-weighted draws now and then."""
        self.sampler.refresh_after(step)

    def terms(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Weighted loss terms (scalars) and the error [B] in px of a batch."""
        weights = self.options.losses
        moved = self.model.transport(batch.xy_i, batch.i, batch.j)
        distance = losses.robust_distance(moved.xy, batch.xy_j, weights.flow_scale)
        terms = {"flow": weights.flow * distance.mean()}
        if weights.depth or weights.occlusion:
            stored = self.model.depth(batch.xy_j, batch.j)
            terms["depth"] = weights.depth * losses.depth_agreement(moved.z, stored, batch.occluded).mean()
            behind = losses.occlusion_order(moved.z, stored, batch.occluded, weights.occlusion_margin)
            terms["occlusion"] = weights.occlusion * behind.mean()
        return terms, (moved.xy - batch.xy_j).detach().norm(dim=-1)

    def parts(self) -> list[Tensor]:
        """What of the model is the same for all points."""
        return self.model.bijection.time_parts()

    def predicted(self, batch: Batch, parts: list[Tensor]) -> Tensor:
        """Predicted points [B, 2]."""
        return self.model.transport(batch.xy_i, batch.i, batch.j, parts).xy
