"""What a trainer is to the training loop, and what all trainers share: the parts of a step, and the state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from everypoint.config.options import OptimizeOptions
from everypoint.optimize.adam import Adam
from everypoint.optimize.captured import CapturedStep, captured_step

HELD_OUT_BATCH = 8192  # matches that measure the held-out error


class Trainer(Protocol):
    """Model, optimiser and sampler of one run. A step depends on (seed, step) and :meth:`state` alone."""

    model: nn.Module
    options: OptimizeOptions
    optimizer: Adam
    device: torch.device
    rates: Sequence[float]  # learning rates of the last step, by the optimiser's groups

    def step(self, step: int) -> dict[str, Tensor]:
        """One optimiser step; returns detached scalars, still on the device: ``loss`` and its terms."""
        ...

    def held_out_error(self) -> float:
        """Median error in px of matches that are never trained on; NaN without any."""
        ...

    def tensors(self) -> Iterator[Tensor]:
        """All floats that the next step depends on."""
        ...

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs besides the number of steps done."""
        ...

    def load_state(self, state: dict[str, Any]) -> None: ...


class Plan(NamedTuple):
    """What the host decides of a step before anything is computed."""

    rates: Sequence[float]  # learning rates of the optimiser's groups
    weights: Mapping[str, float]  # of the terms that count at this step, none of them 0
    flags: tuple[bool, ...] = ()  # what else decides which operations the step consists of

    @property
    def phase(self) -> tuple[tuple[str, ...], tuple[bool, ...]]:
        """Steps of one phase are the same operations on other numbers."""
        return tuple(self.weights), self.flags


class TrainerBase:
    """What all trainers share.

    A step has three parts: the host plans it (:meth:`plan`); its batch is drawn (:meth:`draw`); and the rest, from the
    losses to the notes of errors, is a function of tensors of fixed shapes, which does not know the step. On CUDA that
    part is replayed as a graph (:mod:`everypoint.optimize.captured`).

    Args:
        model: on its device.
        sampler: of matches, on the same device.
        options: schedule and weights.
        groups: parameters by learning rate.
        betas: of Adam.
    """

    held_out_matches = HELD_OUT_BATCH  # that measure the held-out error; up to twice as many
    at_once = 2 * HELD_OUT_BATCH  # matches of a pass without gradients

    def __init__(
        self,
        model: nn.Module,
        sampler: Any,
        options: OptimizeOptions,
        groups: Iterable[tuple[float, Iterable[nn.Parameter]]],
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        self.model, self.sampler, self.options = model, sampler, options
        self.device: torch.device = sampler.device
        self.optimizer = Adam(groups, betas)
        self._base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.rates: Sequence[float] = list(self._base_rates)
        self.capture(captured_step(self._from_tensors, options.capture, self.device))

    def capture(self, captured: CapturedStep | None) -> None:
        """From now on let ``captured`` run what a step does with its batch; None: run it as it is."""
        self._captured = captured

    # ------------------------------------------------------------------------------------------------ the step

    def step(self, step: int) -> dict[str, Tensor]:
        """One optimiser step; returns detached scalars (still on the device)."""
        self.before(step)
        plan, given = self.plan(step), self.draw(step)
        self.rates = plan.rates
        if self._captured is None:
            found = self._update(given, *plan)
        else:
            found = self._captured(plan.phase, given, [*plan.rates, *plan.weights.values()])
        self.after(step)
        return found

    def plan(self, step: int) -> Plan:
        """What the host decides of a step."""
        raise NotImplementedError

    def draw(self, step: int) -> Any:
        """Batch of a step and all else that is random in it: a tuple of tensors, by (seed, step) and the state."""
        raise NotImplementedError

    def losses(
        self, given: Any, weights: Mapping[str, float | Tensor], flags: tuple[bool, ...]
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Weighted loss terms (scalars) and the error [B] in px of what :meth:`draw` gave."""
        raise NotImplementedError

    def predicted(self, batch: Any, parts: Any) -> Tensor:
        """Predicted points [B, 2] in the batch's frames j; ``parts`` of :meth:`parts`."""
        raise NotImplementedError

    def parts(self) -> Any:
        """What of the model is the same for all points."""
        return self.model.parts()

    def before(self, step: int) -> None:
        """What happens now and then before a step."""

    def clip(self) -> None:
        """Limit the gradients."""

    def note(self, given: Any, error: Tensor | None) -> None:
        """Remember the errors of a batch."""

    def after(self, step: int) -> None:
        """What happens now and then behind a step."""

    def _update(
        self,
        given: Any,
        rates: Sequence[float | Tensor],
        weights: Mapping[str, float | Tensor],
        flags: tuple[bool, ...],
    ) -> dict[str, Tensor]:
        """Losses, gradients, optimiser, notes."""
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        terms, error = self.losses(given, weights, flags)
        loss = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.clip()
        self.optimizer.step()
        self.note(given, error)
        return {"loss": loss.detach(), **{name: term.detach() for name, term in terms.items()}}

    def _from_tensors(
        self, phase: tuple[tuple[str, ...], tuple[bool, ...]], given: Any, numbers: Tensor
    ) -> dict[str, Tensor]:
        """:meth:`_update` with the plan's numbers [groups + terms] on the device."""
        names, flags = phase
        rates, weights = numbers.split([len(self._base_rates), len(names)])
        return self._update(given, rates.unbind(), dict(zip(names, weights.float().unbind(), strict=True)), flags)

    def weighted(self, terms: Mapping[str, Tensor], weights: Mapping[str, float | Tensor]) -> dict[str, Tensor]:
        """Terms times their weights at this step; terms without one are left out."""
        return {name: weights[name] * term for name, term in terms.items() if name in weights}

    def _scaled(self, multiplier: float) -> list[float]:
        """All learning rates times ``multiplier``."""
        return [rate * multiplier for rate in self._base_rates]

    # --------------------------------------------------------------------------------------------- held-out error

    @torch.no_grad()
    def held_out_error(self) -> float:
        """Median error in px over (a fixed sample of) the matches that are never trained on; NaN without any."""
        rows = self.sampler.held_out
        if not len(rows):
            return float("nan")
        return float(self._errors(rows[:: max(1, len(rows) // self.held_out_matches)]).median())

    @torch.no_grad()
    def _errors(self, rows: Tensor) -> Tensor:
        """Errors [R] in px of rows [R] of the table as the model is now."""
        parts, errors = self.parts(), []
        for part in rows.split(self.at_once):
            batch = self.sampler.gather(part)
            errors.append((self.predicted(batch, parts) - batch.xy_j).norm(dim=-1))
        return torch.cat(errors)

    # ------------------------------------------------------------------------------------------------ the state

    def tensors(self) -> Iterator[Tensor]:
        """All floats that the next step depends on."""
        return all_tensors(self.model, self.optimizer, self.sampler.state())

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs besides the number of steps done; the same whoever runs the steps."""
        optimizer = self.optimizer.state_dict()
        for group, rate in zip(optimizer["param_groups"], self.rates, strict=True):
            group["lr"] = rate
        return {"model": self.model.state_dict(), "optimizer": optimizer, "sampler": self.sampler.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.sampler.load_state(state["sampler"])
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        if self._captured is not None:
            self._captured.forget()  # the optimiser's moments lie elsewhere now


def all_tensors(model: nn.Module, optimizer: Adam, others: Mapping[str, Tensor]) -> Iterator[Tensor]:
    """Parameters, moments of the optimiser, and ``others``."""
    yield from model.parameters()
    for moments in optimizer.state_dict()["state"].values():
        yield from moments.values()
    yield from others.values()
