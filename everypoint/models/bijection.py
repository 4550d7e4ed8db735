"""The bijection between a frame's local space and the canonical space: a chain of conditioned couplings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from everypoint.models.couplings import COUPLINGS, Coupling
from everypoint.models.planes import Plane, TimeGrid


class PlaneConditioner(nn.Module):
    """Raw coupling parameters from two kept coordinates and the frame: planes + time features -> small network.

    The time half of the first layer is evaluated once a frame (``time_part``), not once a point.
    """

    BLOCKS = ("couple",)  # what :mod:`everypoint.models.compiled` compiles

    def __init__(
        self, outputs: int, resolutions: tuple[int, ...], channels: int, time_channels: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.planes = nn.ModuleList(Plane(size, channels, generator) for size in resolutions)
        spatial = channels * len(resolutions)
        width = (spatial + time_channels) // 2
        self.spatial = _linear(spatial, width, spatial + time_channels, generator)
        self.time = _linear(time_channels, width, spatial + time_channels, generator, bias=False)
        self.middle = _linear(width, width // 2, width, generator)
        self.last = _linear(width // 2, outputs, width // 2, generator)
        with torch.no_grad():  # the chain starts close to the identity
            self.last.weight.mul_(0.1)
            self.last.bias.zero_()

    def time_part(self, time: Tensor) -> Tensor:
        """Time half of the first layer for all frames [T, width], from time features [T, time_channels]."""
        return self.time(time)

    def forward(self, kept: Tensor, time_part: Tensor) -> Tensor:
        """Raw parameters [N, outputs] from kept coordinates [N, 2] and the gathered time part [N, width]."""
        ab = torch.tanh(kept)
        features = torch.cat([plane(ab) for plane in self.planes], -1)
        hidden = nn.functional.leaky_relu(self.spatial(features) + time_part)
        hidden = nn.functional.leaky_relu(self.middle(hidden))
        return self.last(hidden)

    def couple(self, coupling: Coupling, value: Tensor, kept: Tensor, time_part: Tensor, *, inverse: bool) -> Tensor:
        """``coupling`` of values [N], or its inverse, with the parameters that the kept coordinates [N, 2] give."""
        function = coupling.invert if inverse else coupling.evaluate
        return function(value, self(kept, time_part))


def _linear(inputs: int, outputs: int, fan_in: int, generator: torch.Generator, bias: bool = True) -> nn.Linear:
    """A linear layer with torch's default initialisation for ``fan_in`` inputs, drawn from ``generator``."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    bound = fan_in**-0.5
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    return layer


class Bijection(nn.Module):
    """M: (local point, frame) <-> canonical point. Exactly invertible, so i -> j -> k equals i -> k.

    Block b changes one coordinate from the other two; the order of the coordinates is drawn once and kept in the
    checkpoint (``order``). A ``time`` module that gives features of all frames replaces the grids of ``time_factors``.
    """

    def __init__(
        self,
        frames: int,
        *,
        blocks: int,
        coupling: str | Coupling,
        resolutions: tuple[int, ...],
        channels: int,
        time_channels: int,
        time_factors: tuple[int, ...],
        generator: torch.Generator,
        time: nn.Module | None = None,
    ) -> None:
        super().__init__()
        order = torch.cat([torch.randperm(3, generator=generator) for _ in range(-(-blocks // 3))])[:blocks]
        self.register_buffer("order", order)
        self._order = order.tolist()
        self.coupling = COUPLINGS[coupling] if isinstance(coupling, str) else coupling
        self.time = TimeGrid(frames, time_channels, generator, time_factors) if time is None else time
        self.conditioners = nn.ModuleList(
            PlaneConditioner(self.coupling.count, resolutions, channels, self.time.channels, generator)
            for _ in range(blocks)
        )

    def time_parts(self) -> list[Tensor]:
        """Per block the time half of the first layer of every frame [T, width]; computed once a step."""
        time = self.time()
        return [conditioner.time_part(time) for conditioner in self.conditioners]

    def canonical(self, points: Tensor, frame: Tensor, parts: list[Tensor]) -> Tensor:
        """Local points [N, 3] of frames [N] -> canonical points [N, 3]."""
        coordinates = list(points.unbind(-1))
        for block, conditioner in enumerate(self.conditioners):
            self._couple(coordinates, block, conditioner, parts[block].index_select(0, frame), inverse=False)
        return torch.stack(coordinates, -1)

    def local(self, points: Tensor, frame: Tensor, parts: list[Tensor]) -> Tensor:
        """Canonical points [N, 3] -> local points [N, 3] of frames [N]."""
        coordinates = list(points.unbind(-1))
        for block in reversed(range(len(self.conditioners))):
            part = parts[block].index_select(0, frame)
            self._couple(coordinates, block, self.conditioners[block], part, inverse=True)
        return torch.stack(coordinates, -1)

    def _couple(
        self, coordinates: list[Tensor], block: int, conditioner: nn.Module, part: Tensor, *, inverse: bool
    ) -> None:
        changed = self._order[block]
        kept = torch.stack([coordinates[axis] for axis in range(3) if axis != changed], -1)
        coordinates[changed] = conditioner.couple(self.coupling, coordinates[changed], kept, part, inverse=inverse)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._order = self.order.tolist()
