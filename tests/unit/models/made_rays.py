"""Small models of rays: with weights far from their initial values, and ones built by hand whose answers are known."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from everypoint.config.options import ModelOptions
from everypoint.models.field import Sampled
from everypoint.models.omnimotion import OmniMotionModel
from everypoint.models.pixels import PixelDepthModel

SIZE = (24, 33)
NVP = {"blocks": 2, "hidden": 16, "layers": 2, "code_features": 8, "affine": "small"}
FIELD = {"hidden": 16, "layers": 2, "samples": 6}


def options(kind: str, nvp: dict | None = None, field: dict | None = None) -> ModelOptions:
    return ModelOptions.model_validate({"kind": kind, "nvp": NVP | (nvp or {}), "field": FIELD | (field or {})})


def omnimotion(frames: int = 5, seed: int = 0, *, wild: float = 0.0, **changes: dict) -> OmniMotionModel:
    """A model whose frames differ by ``wild``; its rays pass surfaces of all opacities."""
    return _moved(OmniMotionModel(frames, SIZE, options("field", **changes), seed), wild)


def pixels(frames: int = 5, seed: int = 0, *, wild: float = 0.0, **changes: dict) -> PixelDepthModel:
    """A model whose frames differ by ``wild``, with a depth of its own in every pixel."""
    made = _moved(PixelDepthModel(frames, SIZE, options("pixels", **changes), seed), wild)
    made.set_depth(0.2 + 1.6 * torch.rand(frames, *SIZE, generator=torch.Generator().manual_seed(seed + 7)))
    return made


def _moved(made: nn.Module, wild: float) -> nn.Module:
    generator = torch.Generator().manual_seed(99)
    with torch.no_grad():
        for conditioner in made.bijection.conditioners:
            conditioner.last.weight.mul_(1 + wild)
            conditioner.first.weight.add_(wild * 0.2 * torch.randn(conditioner.first.weight.shape, generator=generator))
    return made


def still(made: nn.Module) -> nn.Module:
    """The same model with the identity for a bijection."""
    with torch.no_grad():
        for conditioner in made.bijection.conditioners:
            conditioner.last.weight.zero_()
            conditioner.last.bias.zero_()
        if made.bijection.affine is not None:
            made.bijection.affine.last.weight.zero_()
            made.bijection.affine.last.bias.zero_()
    return made


def points(count: int, frames: int, seed: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Index points [N, 2] and two frames [N] each."""
    generator = torch.Generator().manual_seed(seed)
    xy = torch.rand(count, 2, generator=generator) * torch.tensor([SIZE[1] - 1.0, SIZE[0] - 1.0])
    return xy, *(torch.randint(frames, (count,), generator=generator) for _ in range(2))


class Shear(nn.Module):
    """A bijection that is parallax: canonical x = x + c_t (z - 1), with one c for each frame."""

    def __init__(self, slopes: list[float]) -> None:
        super().__init__()
        self.slopes = nn.Parameter(torch.tensor(slopes))

    def frame_parts(self) -> Tensor:
        return self.slopes

    def canonical(self, at: Tensor, frame: Tensor, parts: Tensor, sign: int = 1) -> Tensor:
        x, y, z = at.double().unbind(-1)
        return torch.stack([x + sign * parts[frame][:, None] * (z - 1), y, z], -1)

    def local(self, at: Tensor, frame: Tensor, parts: Tensor) -> Tensor:
        return self.canonical(at, frame, parts, -1)


class Slabs(nn.Module):
    """A field of two opaque slabs: a box |x| < 0.25 over z in [0.4, 0.6] before a wall that begins at z = 1.4."""

    def __init__(self, opacity: float = 1.0) -> None:
        super().__init__()
        self.opacity = opacity

    def forward(self, at: Tensor) -> Sampled:
        x, _, z = at.unbind(-1)
        box, wall = (x.abs() < 0.25) & (z > 0.4) & (z < 0.6), z > 1.4
        colour = torch.stack([box.to(at.dtype), wall.to(at.dtype), torch.zeros_like(x)], -1)
        return Sampled(colour, self.opacity * (box | wall).to(at.dtype))


def parallax(slopes: list[float], opacity: float = 1.0) -> OmniMotionModel:
    """The two slabs seen from frames with the given slopes; 32 samples lie 2/31 apart."""
    made = OmniMotionModel(len(slopes), SIZE, options("field", field={"samples": 32}), 0)
    made.bijection, made.field = Shear(slopes), Slabs(opacity)
    return made
