"""Small models of CaDeX++ with weights far from their initial values."""

from __future__ import annotations

import torch
from torch import Tensor

from everypoint.config.options import ModelOptions
from everypoint.models.cadex import CadexModel
from everypoint.models.cadex_bijection import CadexBijection

SIZE = (30, 43)
SMALL = {"blocks": 3, "plane_resolutions": (4, 9), "plane_channels": 4, "time_channels": 4, "depth_scale": 0.3}


def options(*, full: bool = False, cadex: dict | None = None, **changes) -> ModelOptions:
    return ModelOptions.model_validate({"kind": "cadex", **({} if full else SMALL), "cadex": cadex or {}, **changes})


def bijection(frames: int = 5, *, wild: float = 0.0, seed: int = 0, full: bool = False, **changes) -> CadexBijection:
    """``wild`` > 0: features of that size, last layers enlarged as much; 1 is what a trained model has."""
    made = CadexBijection(frames, options(full=full, **changes), torch.Generator().manual_seed(seed))
    return _moved(made, wild, seed)


def model(frames: int = 5, *, wild: float = 0.0, seed: int = 0, size: tuple[int, int] = SIZE, **changes) -> CadexModel:
    """A model whose depths lie between 2 and 6."""
    made = CadexModel(frames, size, options(**changes), seed)
    generator = torch.Generator().manual_seed(seed + 7)
    made.set_depth((2 + 4 * torch.rand(frames, 20, 25, generator=generator)).numpy())
    _moved(made.bijection, wild, seed)
    return made


def _moved(made: CadexBijection, wild: float, seed: int) -> CadexBijection:
    generator = torch.Generator().manual_seed(seed + 1)
    if not wild:
        return made
    with torch.no_grad():
        for conditioner in made.conditioners:
            conditioner.last.weight.mul_(10 * wild)
            for plane in conditioner.planes:
                plane.table.normal_(0, 0.3 * wild, generator=generator)
        for grid in made.time.grids:
            grid.normal_(0, 0.3 * wild, generator=generator)
    return made


def box_points(count: int, seed: int = 5) -> Tensor:
    """Points [N, 3] of [-3, 3]^3, float64."""
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 6 - 3


def pixels(count: int, frames: int, seed: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Index points [N, 2] and two frames [N] each."""
    generator = torch.Generator().manual_seed(seed)
    xy = torch.rand(count, 2, generator=generator) * torch.tensor([SIZE[1] - 1.0, SIZE[0] - 1.0])
    return xy, *(torch.randint(frames, (count,), generator=generator) for _ in range(2))
