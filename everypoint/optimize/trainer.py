"""What the training loop asks of a trainer, whatever the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from everypoint.config.options import OptimizeOptions

HELD_OUT_BATCH = 8192  # matches that measure the held-out error


class Trainer(Protocol):
    """Model, optimiser and sampler of one run. A step depends on (seed, step) and :meth:`state` alone."""

    model: nn.Module
    options: OptimizeOptions
    optimizer: torch.optim.Optimizer
    device: torch.device

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


def all_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, others: Mapping[str, Tensor]) -> Iterator[Tensor]:
    """Parameters, moments of the optimiser, and ``others``."""
    yield from model.parameters()
    for moments in optimizer.state_dict()["state"].values():
        yield from moments.values()
    yield from others.values()


class TrainerState:
    """The state of a trainer: that of its model, its optimiser and its sampler."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    sampler: Any

    def tensors(self) -> Iterator[Tensor]:
        """All floats that the next step depends on."""
        return all_tensors(self.model, self.optimizer, self.sampler.state())

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs besides the number of steps done."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sampler": self.sampler.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.sampler.load_state(state["sampler"])
