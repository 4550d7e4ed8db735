"""What the trainers of OmniMotion's models share: optimiser and rates, frozen codes, errors, state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from everypoint.config.options import OptimizeOptions
from everypoint.models.nvp import FrameParts, NvpBijection
from everypoint.optimize import ramps, ray_losses
from everypoint.optimize.ray_sampler import RayBatch, RaySampler
from everypoint.optimize.schedule import rate
from everypoint.optimize.trainer import TrainerState

HELD_OUT_RAYS = 2048  # matches that measure the held-out error
RAYS_AT_ONCE = 1024  # of a pass without gradients
SWEEP_COST = 4  # a sweep measures at most this part of the matches that were drawn since the last one


class RayTrainer(TrainerState):
    """Base of the trainers of a model with OmniMotion's bijection.

    Args:
        model: its ``bijection`` is an :class:`NvpBijection`.
        sampler: of matches.
        options: schedule and weights.
        others: parameters besides the bijection's, by learning rate.
    """

    def __init__(
        self,
        model: nn.Module,
        sampler: RaySampler,
        options: OptimizeOptions,
        others: Mapping[float, Iterable[nn.Parameter]],
    ) -> None:
        self.model, self.sampler, self.options, self.device = model, sampler, options, sampler.device
        bijection: NvpBijection = model.bijection
        codes = list(bijection.code_net.parameters())
        known = {id(parameter) for parameter in codes}
        rest = [parameter for parameter in bijection.parameters() if id(parameter) not in known]
        groups = [
            {"params": rest, "lr": options.learning_rate},
            {"params": codes, "lr": options.code_learning_rate},
            *({"params": list(parameters), "lr": lr} for lr, parameters in others.items()),
        ]
        self.optimizer = torch.optim.Adam(groups, fused=True)
        self._rates = [group["lr"] for group in self.optimizer.param_groups]
        self._scale = ramps.scale_of(options.steps, options.ray_losses.ramp_steps)

    def step(self, step: int) -> dict[str, Tensor]:
        """One optimiser step; returns detached scalars (still on the device)."""
        bijection, share = self.model.bijection, self.model.options.nvp.freeze_code
        if ramps.code_frozen(step, self.options.steps, share) and not bijection.codes_frozen:
            bijection.freeze()
        for group, base in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = base * self._rate(step)
        batch = self.sampler.draw(step)
        terms, error = self.terms(batch, step)
        loss = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.options.gradient_clip:
            for group in self.optimizer.param_groups:
                nn.utils.clip_grad_norm_(group["params"], self.options.gradient_clip)
        self.optimizer.step()
        self.sampler.note_errors(batch, error, step)
        self._sweep(step)
        return {"loss": loss.detach(), **{name: term.detach() for name, term in terms.items()}}

    def terms(self, batch: RayBatch, step: int) -> tuple[dict[str, Tensor], Tensor]:
        """Weighted loss terms (scalars) and the error [R] in px of a batch."""
        raise NotImplementedError

    def predicted(self, batch: RayBatch, parts: FrameParts) -> Tensor:
        """Predicted points [R, 2] in the batch's frames j."""
        raise NotImplementedError

    def _rate(self, step: int) -> float:
        if self.options.decay == "steps":
            return ramps.rate(step, self._scale)
        return rate(step, self.options.steps, self.options.warmup, self.options.final_rate)

    def weighted(self, terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> dict[str, Tensor]:
        """Terms times their weights at this step; terms of weight 0 are left out."""
        return {name: weights[name] * term for name, term in terms.items() if weights[name]}

    def acceleration(self, batch: RayBatch, local: Tensor, canonical: Tensor, parts: FrameParts) -> Tensor:
        """How samples [R, K, 3] of a quarter of the points accelerate over the frames around their own."""
        pairs = self.sampler.options.pairs
        frame, here, points = (ray_losses.first_points(values, pairs) for values in (batch.i, local, canonical))
        last = self.model.frames - 1
        before, after = (
            self.model.bijection.local(points, (frame + shift).clamp(0, last), parts).to(here.dtype)
            for shift in (-1, 1)
        )
        return ray_losses.acceleration(before, here, after, (frame > 0) & (frame < last))

    @torch.no_grad()
    def held_out_error(self) -> float:
        """Median error in px over (a fixed sample of) the matches that are never trained on; NaN without any."""
        rows = self.sampler.held_out
        if not len(rows):
            return float("nan")
        return float(self._errors(rows[:: max(1, len(rows) // HELD_OUT_RAYS)]).median())

    @torch.no_grad()
    def _errors(self, rows: Tensor) -> Tensor:
        """Errors [R] in px of rows [R] of the table as the model is now."""
        parts, errors = self.model.parts(), []
        for part in rows.split(RAYS_AT_ONCE):
            batch = self.sampler.gather(part)
            errors.append((self.predicted(batch, parts) - batch.xy_j).norm(dim=-1))
        return torch.cat(errors)

    def _sweep(self, step: int) -> None:
        """Measure a part of all matches anew now and then, so that errors do not only come from what is drawn."""
        options = self.options.rays
        every = ramps.step_of(options.sweep_every, self.options.steps)
        if not (options.hard_share and every and options.sweep_rows) or (step + 1) % every:
            return
        limit = min(options.sweep_rows, max(1, int(every * options.pairs * options.points / SWEEP_COST)))
        parts = max(1, -(-len(self.sampler.all_rows) // limit))
        rows = self.sampler.sweep_rows((step + 1) // every % parts, parts)
        self.sampler.note_sweep(rows, self._errors(rows))
        self.sampler.refresh()
