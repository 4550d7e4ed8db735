"""CaDeX++'s bijection: plane-conditioned monotone piecewise-linear couplings, the whole chain as one operation."""

from __future__ import annotations

import torch
from torch import Tensor

from everypoint.config.options import ModelOptions
from everypoint.models import chain
from everypoint.models.bijection import Bijection, PlaneConditioner
from everypoint.models.chain import BlockWeights, Route, Stop
from everypoint.models.couplings import MonotonePiecewiseLinear
from everypoint.models.dense import dense
from everypoint.models.planes import FractionGrid


class CadexBijection(Bijection):
    """M: (local point, frame) <-> canonical point in scene units, where most of the scene lies in [-1, 1]^3.

    The plain twin are the methods of :class:`Bijection` with the parts that it makes itself.

    Published: 6 blocks, planes of 12^2 and 96^2 nodes with 32 features, networks 112 -> 56 -> 28 -> 10: 1,846,404
    parameters, and 304 q of the time grids.

    Source: Song et al., Track Everything Everywhere Fast and Robustly, ECCV 2024.
    """

    def __init__(self, frames: int, options: ModelOptions, generator: torch.Generator) -> None:
        super().__init__(
            frames,
            blocks=options.blocks,
            coupling=MonotonePiecewiseLinear(options.cadex.guard),
            resolutions=options.plane_resolutions,
            channels=options.plane_channels,
            time_channels=options.time_channels,
            time_factors=options.time_factors,
            generator=generator,
            time=FractionGrid(frames, options.time_channels, generator, options.time_factors),
        )
        self.resolutions, self.guard = tuple(options.plane_resolutions), options.cadex.guard
        self.kernel = options.cadex.kernel

    def time_parts(self) -> tuple[BlockWeights, ...]:
        """All that is the same for every point; made once a step."""
        time = self.time()
        return tuple(_ready(conditioner, time) for conditioner in self.conditioners)

    def canonical(self, points: Tensor, frame: Tensor, parts: tuple[BlockWeights, ...]) -> Tensor:
        """Local points [N, 3] of frames [N] -> canonical points [N, 3]."""
        return chain.run(self._route(to=True), points.t(), frame[None], parts, self.kernel).t()

    def local(self, points: Tensor, frame: Tensor, parts: tuple[BlockWeights, ...]) -> Tensor:
        """Canonical points [N, 3] -> local points [N, 3] of frames [N]."""
        return chain.run(self._route(back=True), points.t(), frame[None], parts, self.kernel).t()

    def carry(self, points: Tensor, i: Tensor, j: Tensor, parts: tuple[BlockWeights, ...]) -> Tensor:
        """Local points [N, 3] of frames i [N] -> local points of frames j [N], in one go."""
        return chain.run(self._route(to=True, back=True), points.t(), torch.stack([i, j]), parts, self.kernel).t()

    def _route(self, *, to: bool = False, back: bool = False) -> Route:
        stops = [Stop(block, axis, False, 0) for block, axis in enumerate(self._order)] if to else []
        if back:
            stops += [Stop(block, axis, True, int(to)) for block, axis in reversed(list(enumerate(self._order)))]
        return Route(tuple(stops), self.resolutions, self.guard)


def _ready(conditioner: PlaneConditioner, time: Tensor) -> BlockWeights:
    """Weights of one block: the planes through their columns of the first layer, the time through its own."""
    columns = conditioner.spatial.weight.split([plane.table.shape[1] for plane in conditioner.planes], 1)
    tables = [
        dense(plane.table, weight.contiguous()) for plane, weight in zip(conditioner.planes, columns, strict=True)
    ]
    return BlockWeights(
        torch.cat([*tables, conditioner.time_part(time) + conditioner.spatial.bias]),
        conditioner.middle.weight,
        conditioner.middle.bias,
        conditioner.last.weight,
        conditioner.last.bias,
    )
