"""Training of the model of kind planes: matches drawn on the device, one 3-D point each."""

from __future__ import annotations

import torch
from torch import Tensor

from everypoint.config.options import OptimizeOptions
from everypoint.models.motion import MotionModel
from everypoint.optimize import losses
from everypoint.optimize.sampler import Batch, MatchSampler
from everypoint.optimize.schedule import rate
from everypoint.optimize.trainer import HELD_OUT_BATCH, TrainerState


class PlanesTrainer(TrainerState):
    """Model with feature planes and depth maps, its optimiser and sampler, with their common state."""

    def __init__(self, model: MotionModel, sampler: MatchSampler, options: OptimizeOptions) -> None:
        self.model, self.sampler, self.options = model, sampler, options
        self.device = sampler.device
        groups = [
            {"params": list(model.bijection.parameters()), "lr": options.learning_rate},
            {"params": list(model.depth.parameters()), "lr": options.depth_learning_rate},
            {"params": [model.camera], "lr": options.camera_learning_rate},
        ]
        self.optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), fused=True)
        self._rates = [group["lr"] for group in self.optimizer.param_groups]

    def step(self, step: int) -> dict[str, Tensor]:
        """One optimiser step; returns detached scalars (still on the device)."""
        for group, base in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = base * rate(step, self.options.steps, self.options.warmup, self.options.final_rate)
        batch = self.sampler.draw(step)
        terms, error = self.terms(batch)
        loss = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.sampler.note_errors(batch.rows, error, step)
        return {"loss": loss.detach(), **{name: term.detach() for name, term in terms.items()}}

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

    @torch.no_grad()
    def held_out_error(self) -> float:
        """Median error in px over (a fixed sample of) the matches that are never trained on; NaN without any."""
        rows = self.sampler.held_out
        if not len(rows):
            return float("nan")
        rows = rows[:: max(1, len(rows) // HELD_OUT_BATCH)]
        return float(self.terms(self.sampler.gather(rows))[1].median())
