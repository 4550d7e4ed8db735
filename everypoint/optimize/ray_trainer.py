"""What the trainers of OmniMotion's models share: optimiser and rates, frozen codes, errors, state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from everypoint.config.options import OptimizeOptions
from everypoint.models.nvp import FrameParts, NvpBijection
from everypoint.optimize import ramps, ray_losses
from everypoint.optimize.ray_sampler import RayBatch, RaySampler
from everypoint.optimize.schedule import rate
from everypoint.optimize.trainer import Plan, TrainerBase

SWEEP_COST = 4  # a sweep measures at most this part of the matches that were drawn since the last one


class RayTrainer(TrainerBase):
    """Base of the trainers of a model with OmniMotion's bijection.

    Args:
        model: its ``bijection`` is an :class:`NvpBijection`.
        sampler: of matches.
        options: schedule and weights.
        others: parameters besides the bijection's, by learning rate.
    """

    TERMS: ClassVar[frozenset[str]]  # that a trainer knows
    at_once, held_out_matches = 1024, 2048  # rays have many samples

    def __init__(
        self,
        model: nn.Module,
        sampler: RaySampler,
        options: OptimizeOptions,
        others: Mapping[float, Iterable[nn.Parameter]],
    ) -> None:
        bijection: NvpBijection = model.bijection
        codes = list(bijection.code_net.parameters())
        known = {id(parameter) for parameter in codes}
        rest = [parameter for parameter in bijection.parameters() if id(parameter) not in known]
        groups = [(options.learning_rate, rest), (options.code_learning_rate, codes), *others.items()]
        super().__init__(model, sampler, options, groups)
        self._scale = ramps.scale_of(options.steps, options.ray_losses.ramp_steps)

    def plan(self, step: int) -> Plan:
        """Rates and weights of a step, and whether the codes are frozen."""
        weights = ramps.loss_weights(step, self.options.steps, self.options.ray_losses)
        counting = {name: weight for name, weight in weights.items() if weight and name in self.TERMS}
        return Plan(self._scaled(self._rate(step)), counting, (self.model.bijection.codes_frozen,))

    def draw(self, step: int) -> Any:
        """The batch of a step, with what else is random in it."""
        return self.given(self.sampler.draw(step), step)

    def given(self, batch: RayBatch, step: int) -> Any:
        """A batch with what else is random in a step."""
        return batch

    def terms(self, batch: RayBatch, step: int) -> tuple[dict[str, Tensor], Tensor]:
        """Weighted loss terms (scalars) and the error [R] in px of a batch; terms of weight 0 are left out."""
        _, weights, flags = self.plan(step)
        return self.losses(self.given(batch, step), weights, flags)

    def before(self, step: int) -> None:
        """Freeze the codes when it is time."""
        bijection, share = self.model.bijection, self.model.options.nvp.freeze_code
        if ramps.code_frozen(step, self.options.steps, share) and not bijection.codes_frozen:
            bijection.freeze()

    def clip(self) -> None:
        """Limit the norm of each group's gradient."""
        if self.options.gradient_clip:
            for group in self.optimizer.param_groups:
                if any(parameter.requires_grad for parameter in group["params"]):  # those of frozen codes do not
                    nn.utils.clip_grad_norm_(group["params"], self.options.gradient_clip)

    def note(self, given: RayBatch, error: Tensor) -> None:
        """Fold the errors into their running means."""
        self.sampler.fold(given, error)

    def after(self, step: int) -> None:
        """Refresh the tables of error-weighted draws, and sweep, now and then."""
        self.sampler.refresh_after(step)
        self._sweep(step)

    def _rate(self, step: int) -> float:
        if self.options.decay == "steps":
            return ramps.rate(step, self._scale)
        return rate(step, self.options.steps, self.options.warmup, self.options.final_rate)

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
