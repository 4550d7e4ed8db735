"""Small motion models with weights far from their initial values."""

from __future__ import annotations

import torch

from everypoint.config.options import ModelOptions
from everypoint.models.motion import MotionModel

SIZE = (32, 48)


def options(**changes) -> ModelOptions:
    small = {"blocks": 3, "plane_resolutions": (4, 8), "plane_channels": 4, "time_channels": 4}
    return ModelOptions(**{**small, **changes})


def model(frames: int = 6, *, wild: float = 0.0, seed: int = 0, **changes) -> MotionModel:
    """A model of 32 x 48 pixel frames; ``wild`` > 0: features of size 1, last layers enlarged by that factor."""
    made = MotionModel(frames, SIZE, options(**changes), seed)
    if wild:
        generator = torch.Generator().manual_seed(seed + 1)
        with torch.no_grad():
            made.depth.map.normal_(0, 0.5, generator=generator)
            for conditioner in made.bijection.conditioners:
                conditioner.last.weight.mul_(wild)
                for plane in conditioner.planes:
                    plane.table.normal_(generator=generator)
            for grid in made.bijection.time.grids:
                grid.normal_(generator=generator)
    return made


def pixels(count: int, frames: int, seed: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Index points [N, 2] and three frames [N] each."""
    generator = torch.Generator().manual_seed(seed)
    xy = torch.rand(count, 2, generator=generator) * torch.tensor([SIZE[1] - 1.0, SIZE[0] - 1.0])
    return xy, *(torch.randint(frames, (count,), generator=generator) for _ in range(3))
