"""OmniMotion's bijection: affine couplings (Real-NVP) conditioned on a code of the frame.

Source: Wang et al., Tracking Everything Everywhere All at Once, ICCV 2023; the hash-grid code is a later variant's.
The published form concatenates the frame's code to every sample. Here the code's half of each first layer is evaluated
once a frame (:class:`FrameParts`) and added to the samples of a ray; :meth:`Conditioner.reference` is the plain twin.

Coordinates are float64, the networks run in the type of their parameters. So in the inverse a network sees to the last
bit what it saw in the forward direction, and neither its size nor its slope nor the precision of its products enters
the error of a round trip; in float32 couplings lose 1e-5 at their initial weights already and all digits at ten times
these. Shifts are bounded (:func:`bounded`): a shift that dwarfs the coordinate would swallow its digits in any type.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everypoint.config.options_field import NvpOptions
from everypoint.models.dense import by_rays, dense
from everypoint.models.encoding import Periodic
from everypoint.models.gabor import DrawnLinear, GaborNet
from everypoint.models.tcnn import hash_net

SLOPE = 0.01  # of the leaky rectifiers
LOG_SCALE_LIMIT = 8.0
SHIFT_LIMIT = 8.0  # the box of a frame is 2 wide
ZOOM_LIMIT = 2.0  # the 2-D affine's log scales: up to e^2 as published, at most e^4
AFFINE_LAYERS = {"small": 2, "large": 8}  # linear layers, the last one included, as published code counts them
AFFINE_HIDDEN = 256


def bounded(value: Tensor, limit: float) -> Tensor:
    """``value`` itself where |value| <= limit, smoothly levelling off at +-2 limit beyond."""
    inner = value.clamp(-limit, limit)
    return inner + limit * ((value - inner) / limit).tanh()


class FrameParts(NamedTuple):
    """What depends on the frame alone; made once a step."""

    blocks: tuple[Tensor, ...]  # of each coupling the code's half of its first layer, with the bias [T, hidden]
    affine: Tensor | None  # of the 2-D affine the time's half of its first layer, with the bias [T, 256]


class Conditioner(nn.Module):
    """(s, t) of one coupling from the two kept coordinates and the frame's code.

    Published: 18 -> 256, then with the projected code 384 -> 256 -> 256 -> 256 -> 2 (``layers`` = 3); 235,522
    parameters and 33,024 of the projector.
    """

    BLOCKS = ("couple",)  # what :mod:`everypoint.models.compiled` compiles

    def __init__(self, options: NvpOptions, generator: torch.Generator) -> None:
        super().__init__()
        code, hidden = options.code_features, options.hidden
        self.code_features = code
        self.encode = Periodic(options.frequencies, scale_pi=True, identity=True)
        self.point = DrawnLinear(self.encode.width(2), hidden, generator)
        self.project = nn.Sequential(
            DrawnLinear(code, code, generator), nn.LeakyReLU(SLOPE), DrawnLinear(code, code, generator)
        )
        self.first = DrawnLinear(code + hidden, hidden, generator)  # columns: code, then point
        self.middle = nn.ModuleList(DrawnLinear(hidden, hidden, generator) for _ in range(options.layers - 1))
        self.last = DrawnLinear(hidden, 2, generator)

    def frame_part(self, codes: Tensor) -> Tensor:
        """The code's half of the first layer [T, hidden] from codes [T, C]."""
        return F.linear(self.project(codes), self.first.weight[:, : self.code_features], self.first.bias)

    def forward(self, kept: Tensor, part: Tensor) -> Tensor:
        """(s, t) [R, K, 2] from kept coordinates [R, K, 2] and each ray's frame part [R, hidden]."""
        first = self.first.weight[:, self.code_features :].contiguous()
        return by_rays(lambda *piece: self._network(*piece, first), kept, part)

    def _network(self, kept: Tensor, part: Tensor, first: Tensor) -> Tensor:
        hidden = dense(self.encode(kept), self.point.weight, self.point.bias, slope=SLOPE)
        hidden = dense(hidden, first, part=part, slope=SLOPE)
        for layer in self.middle:
            hidden = dense(hidden, layer.weight, layer.bias, slope=SLOPE)
        return dense(hidden, self.last.weight, self.last.bias)

    def couple(self, value: Tensor, kept: Tensor, part: Tensor, *, inverse: bool) -> Tensor:
        """Couple a coordinate v to the others: (v - t) / e^s, or the inverse v e^s + t.

        Args:
            value: float64 [R, K], the coordinate that the block changes.
            kept: [R, K, 2], the others.
            part: [R, hidden], each ray's frame part.
            inverse: which of both.
        """
        log_scale, shift = self(kept.to(part.dtype), part).unbind(-1)
        scale = log_scale.clamp(-LOG_SCALE_LIMIT, LOG_SCALE_LIMIT).exp().double()  # one number for both directions
        shift = bounded(shift, SHIFT_LIMIT).double()
        return value * scale + shift if inverse else (value - shift) / scale

    def reference(self, kept: Tensor, projected: Tensor) -> Tensor:
        """The same as published: (s, t) [N, 2] from kept coordinates [N, 2], the projected code beside each [N, C]."""
        hidden = F.leaky_relu(self.point(self.encode(kept)), SLOPE)
        hidden = torch.cat([projected, hidden], -1)
        for layer in (self.first, *self.middle):
            hidden = F.leaky_relu(layer(hidden), SLOPE)
        return self.last(hidden)


class PlanarAffine(nn.Module):
    """(x, y) -> [[e^a cos, -e^a sin], [e^b sin, e^b cos]] (x, y) + (tx, ty), from the time and the sample's depth z.

    The network sees t and the encoding of z (4 frequencies) and has ReLU layers: 10 -> 256 ... -> 5 numbers
    (theta, a, tx, b, ty). ``large`` has 398,853 parameters.
    """

    BLOCKS = ("move",)

    def __init__(self, layers: int, frequencies: int, generator: torch.Generator) -> None:
        super().__init__()
        self.encode = Periodic(frequencies, scale_pi=True, identity=True)
        self.first = DrawnLinear(1 + self.encode.width(1), AFFINE_HIDDEN, generator)  # columns: t, then z
        self.middle = nn.ModuleList(DrawnLinear(AFFINE_HIDDEN, AFFINE_HIDDEN, generator) for _ in range(layers - 2))
        self.last = DrawnLinear(AFFINE_HIDDEN, 5, generator)

    def frame_part(self, times: Tensor) -> Tensor:
        """The time's half of the first layer [T, 256] from times [T, 1]."""
        return F.linear(times, self.first.weight[:, :1], self.first.bias)

    def forward(self, z: Tensor, part: Tensor) -> Tensor:
        """(theta, a, tx, b, ty) [R, K, 5] from depths [R, K] and each ray's frame part [R, 256]."""
        first = self.first.weight[:, 1:].contiguous()
        return by_rays(lambda *piece: self._network(*piece, first), z[..., None], part)

    def _network(self, z: Tensor, part: Tensor, first: Tensor) -> Tensor:
        hidden = dense(self.encode(z), first, part=part, slope=0.0)
        for layer in self.middle:
            hidden = dense(hidden, layer.weight, layer.bias, slope=0.0)
        return dense(hidden, self.last.weight, self.last.bias)

    def move(self, x: Tensor, y: Tensor, z: Tensor, part: Tensor, *, inverse: bool) -> tuple[Tensor, Tensor]:
        """The affine map of (x, y) float64 [R, K], or its inverse: undo the shift, the scale, the turn."""
        theta, a, tx, b, ty = self(z.to(part.dtype), part).unbind(-1)
        cos, sin = theta.double().cos(), theta.double().sin()  # of one angle: no scaling hides in them
        scale_x, scale_y = (bounded(value, ZOOM_LIMIT).exp().double() for value in (a, b))
        tx, ty = (bounded(value, SHIFT_LIMIT).double() for value in (tx, ty))
        if inverse:
            x, y = (x - tx) / scale_x, (y - ty) / scale_y
            return cos * x + sin * y, cos * y - sin * x
        return (cos * x - sin * y) * scale_x + tx, (sin * x + cos * y) * scale_y + ty


class NvpBijection(nn.Module):
    """M: (local point, frame) <-> canonical point.

    Block b changes one coordinate from the other two; the order, two random permutations of (x, y, z) for 6 blocks, is
    kept in the state dict (``order``). With ``layers`` = 2 a coupling has the later variant's depth; that variant's
    second linear layer in the encoding's projection has nothing but another linear layer behind it and is left out.

    Args:
        frames: T.
        options: sizes and kinds.
        generator: source of every initial value.
        tiny_cuda_nn: code net of kind ``hash``: tiny-cuda-nn's own instead of the twin.
    """

    def __init__(
        self, frames: int, options: NvpOptions, generator: torch.Generator, *, tiny_cuda_nn: bool = False
    ) -> None:
        super().__init__()
        order = torch.cat([torch.randperm(3, generator=generator) for _ in range(-(-options.blocks // 3))])
        self.register_buffer("order", order[: options.blocks].clone())
        self._order = self.order.tolist()
        self.code = options.code
        times = torch.arange(1, frames + 1, dtype=torch.float64) / frames  # (0, 1]
        self.register_buffer("times", times.float()[:, None], persistent=False)
        if self.code == "hash":
            self.code_net = hash_net(2, options.code_features, generator, tiny_cuda_nn=tiny_cuda_nn)
        else:
            self.code_net = GaborNet(1, 256, 2, options.code_features, 4.5, generator)
        self.conditioners = nn.ModuleList(Conditioner(options, generator) for _ in range(options.blocks))
        self.affine = None
        if options.affine != "none":
            self.affine = PlanarAffine(AFFINE_LAYERS[options.affine], options.frequencies, generator)
        self.register_buffer("frozen", torch.zeros(frames, options.code_features))
        self.register_buffer("is_frozen", torch.zeros((), dtype=torch.bool))
        self._frozen = False

    def codes(self) -> Tensor:
        """Codes of all frames [T, C]: the code net's, or the frozen table."""
        if self._frozen:
            return self.frozen
        times = self.times
        return self.code_net(torch.cat([times, torch.log1p(times)], -1) if self.code == "hash" else times)

    @property
    def codes_frozen(self) -> bool:
        """Whether the codes are a table; known to the host."""
        return self._frozen

    def freeze(self) -> None:
        """From now on the codes are a table, the code net's present values; it takes no further part."""
        with torch.no_grad():
            self.frozen.copy_(self.codes())
            self.is_frozen.fill_(True)
        self._set_frozen(True)

    def _set_frozen(self, frozen: bool) -> None:
        self._frozen = frozen
        self.code_net.requires_grad_(not frozen)
        if frozen:
            self.code_net.zero_grad(set_to_none=True)  # or an optimiser would go on with the last gradient

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._order = self.order.tolist()  # read once: the steps ask the host only
        self._set_frozen(bool(self.is_frozen))

    def frame_parts(self) -> FrameParts:
        """What depends on the frame alone."""
        codes = self.codes()
        affine = None if self.affine is None else self.affine.frame_part(self.times)
        return FrameParts(tuple(conditioner.frame_part(codes) for conditioner in self.conditioners), affine)

    def canonical(self, points: Tensor, frame: Tensor, parts: FrameParts) -> Tensor:
        """Local points [R, K, 3] of the rays' frames [R] -> canonical points float64 [R, K, 3]."""
        coordinates = list(points.double().unbind(-1))
        if self.affine is not None:
            coordinates[:2] = self.affine.move(*coordinates, parts.affine.index_select(0, frame), inverse=False)
        for block in range(len(self._order)):
            self._couple(coordinates, block, parts.blocks[block].index_select(0, frame), inverse=False)
        return torch.stack(coordinates, -1)

    def local(self, points: Tensor, frame: Tensor, parts: FrameParts) -> Tensor:
        """Canonical points [R, K, 3] -> local points [R, K, 3] of the rays' frames [R], float64."""
        coordinates = list(points.double().unbind(-1))
        for block in reversed(range(len(self._order))):
            self._couple(coordinates, block, parts.blocks[block].index_select(0, frame), inverse=True)
        if self.affine is not None:
            coordinates[:2] = self.affine.move(*coordinates, parts.affine.index_select(0, frame), inverse=True)
        return torch.stack(coordinates, -1)

    def _couple(self, coordinates: list[Tensor], block: int, part: Tensor, *, inverse: bool) -> None:
        """The coordinate that block ``block`` changes, coupled to the others."""
        changed = self._order[block]
        kept = torch.stack([coordinates[axis] for axis in range(3) if axis != changed], -1)
        coordinates[changed] = self.conditioners[block].couple(coordinates[changed], kept, part, inverse=inverse)
