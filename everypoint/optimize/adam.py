"""Adam, as torch computes it, without what torch's class brings along.

Making a ``torch.optim.Adam`` imports torch's compiler, which takes longer than importing torch, and that is a good part
of what optimising a short video takes. The update itself is torch's fused one, and so are its bits.

Source: Kingma and Ba, Adam: A Method for Stochastic Optimization, ICLR 2015, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # of a parameter, by torch's names


class Adam:
    """A fused Adam over groups of parameters with learning rates of their own.

    Args:
        groups: (learning rate, parameters); a rate may be replaced by a tensor between steps, see ``param_groups``.
        betas: decay of the two moments.
        eps: added to the root of the second.
    """

    def __init__(
        self,
        groups: Iterable[tuple[float, Iterable[Tensor]]],
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": list(found), "lr": rate} for rate, found in groups]
        self._betas, self._eps = betas, eps
        self._moments: dict[int, tuple[Tensor, Tensor, Tensor]] = {}  # by a parameter's place among all

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self._parameters():
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move the parameters that have a gradient."""
        place = 0
        for group in self.param_groups:
            places = range(place, place + len(group["params"]))
            place = places.stop
            moved = [(n, p) for n, p in zip(places, group["params"], strict=True) if p.grad is not None]
            if not moved:
                continue
            self._moments |= {n: _begin(p) for n, p in moved if n not in self._moments}
            moments = [self._moments[n] for n, _ in moved]
            steps, averages, squares = (list(part) for part in zip(*moments, strict=True))
            adam(
                [p for _, p in moved],
                [p.grad for _, p in moved],
                averages,
                squares,
                [],
                steps,
                fused=True,
                amsgrad=False,
                beta1=self._betas[0],
                beta2=self._betas[1],
                lr=group["lr"],
                weight_decay=0.0,
                eps=self._eps,
                maximize=False,
            )

    def state_dict(self) -> dict[str, Any]:
        """Moments and rates in the layout of torch's class; the tensors themselves, not copies."""
        groups, place = [], 0
        for group in self.param_groups:
            count = len(group["params"])
            groups.append({"lr": group["lr"], "params": list(range(place, place + count))})
            place += count
        state = {n: dict(zip(MOMENTS, moments, strict=True)) for n, moments in self._moments.items()}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`; moments are copied to where their parameters are."""
        parameters = list(self._parameters())
        for group, saved in zip(self.param_groups, state["param_groups"], strict=True):
            group["lr"] = saved["lr"]
        self._moments = {
            n: tuple(moments[name].to(parameters[n].device, copy=True) for name in MOMENTS)
            for n, moments in state["state"].items()
        }

    def _parameters(self) -> Iterable[Tensor]:
        return (parameter for group in self.param_groups for parameter in group["params"])


def _begin(parameter: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number of steps, and both moments, of a parameter that has not been moved."""
    zeros = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    return torch.zeros((), dtype=torch.float32, device=parameter.device), zeros, zeros.clone()
