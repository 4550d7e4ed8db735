"""OmniMotion's optimiser step as its specification reads, without any thought of speed: what ours is compared with.

Written from the description of the published model, losses and optimiser alone, in plain PyTorch and float32. It shares
no line with the package, which never imports it. Per step, for B pairs of P points and K samples a ray:

* the code of a pair's frame stands beside every sample in every coupling;
* the acceleration term carries its samples into both neighbours from the start, forward half included;
* the distortion is a sum over all K^2 pairs of samples;
* what a loss leaves out is left out by boolean indexing.

The distances of the Gabor filters are expanded into a matrix product, as is usual for such networks: the differences
themselves would only make it slower.

Source: Wang et al., Tracking Everything Everywhere All at Once, ICCV 2023; filters: Fathony et al., ICLR 2021.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

CODE, HIDDEN, BLOCKS, FREQUENCIES = 128, 256, 6, 4
FIELD_HIDDEN = 512
SLOPE = 0.01
RATES = {"code": 1e-3, "bijection": 1e-4, "field": 3e-4}
HALVED_EVERY = 20_000
ACCELERATED_SHARE = 0.25
AFFINE_LAYERS = {"small": 2, "large": 8}  # linear layers: as meant, and as the code builds it


@dataclass
class Given:
    """What a step is handed: B pairs of P points, pixel coordinates, and the place of each sample in its interval."""

    i: Tensor  # int64 [B]
    j: Tensor  # int64 [B]
    p1: Tensor  # [B, P, 2] in frame i
    p2: Tensor  # [B, P, 2] in frame j
    omega: Tensor  # [B, P]
    colour: Tensor  # [B, P, 3] of frame i at p1, 0..1
    jitter: Tensor  # [B, P, K], 0..1


class Gabor(nn.Module):
    """g(x) = sin(W x + b) * exp(-gamma |x - mu|^2 / 2)."""

    def __init__(self, inputs: int, outputs: int, shape: float, scale: float) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.mu = nn.Parameter(2 * torch.rand(outputs, inputs) - 1)
        self.gamma = nn.Parameter(torch.distributions.Gamma(shape, 1.0).sample((outputs,)))
        self.linear.weight.data *= scale * torch.sqrt(self.gamma.data[:, None])
        self.linear.bias.data.uniform_(-math.pi, math.pi)

    def forward(self, x: Tensor) -> Tensor:
        square = (x**2).sum(-1, keepdim=True) + (self.mu**2).sum(-1) - 2 * x @ self.mu.T
        return torch.sin(self.linear(x)) * torch.exp(-0.5 * square * self.gamma)


class GaborNet(nn.Module):
    """z = g_0(x); z = g_k(x) * (A_k z + c_k); out = B z + d."""

    def __init__(self, inputs: int, hidden: int, layers: int, outputs: int, alpha: float) -> None:
        super().__init__()
        scale = 256 / math.sqrt(layers + 1)
        self.filters = nn.ModuleList(Gabor(inputs, hidden, alpha / (layers + 1), scale) for _ in range(layers + 1))
        self.linears = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers))
        self.last = nn.Linear(hidden, outputs)
        for linear in self.linears:
            linear.weight.data.uniform_(-math.sqrt(1 / hidden), math.sqrt(1 / hidden))

    def forward(self, x: Tensor) -> Tensor:
        z = self.filters[0](x)
        for k, linear in enumerate(self.linears):
            z = self.filters[k + 1](x) * linear(z)
        return self.last(z)


def encode(u: Tensor) -> Tensor:
    """[u, sin(2^l pi u), cos(2^l pi u)], l = 0..3, of [..., D] -> [..., 9 D]."""
    parts = [u]
    for power in range(FREQUENCIES):
        parts += [torch.sin(2**power * math.pi * u), torch.cos(2**power * math.pi * u)]
    return torch.cat(parts, -1)


class Coupling(nn.Module):
    """(s, t) from the two kept coordinates and the code of the frame."""

    def __init__(self) -> None:
        super().__init__()
        self.point = nn.Sequential(nn.Linear(2 * (1 + 2 * FREQUENCIES), HIDDEN), nn.LeakyReLU(SLOPE))
        self.project = nn.Sequential(nn.Linear(CODE, CODE), nn.LeakyReLU(SLOPE), nn.Linear(CODE, CODE))
        self.net = nn.Sequential(
            *(nn.Linear(CODE + HIDDEN, HIDDEN), nn.LeakyReLU(SLOPE)),
            *(nn.Linear(HIDDEN, HIDDEN), nn.LeakyReLU(SLOPE)),
            *(nn.Linear(HIDDEN, HIDDEN), nn.LeakyReLU(SLOPE)),
            nn.Linear(HIDDEN, 2),
        )

    def forward(self, kept: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """Each [B, N, 1] from kept coordinates [B, N, 2] and codes [B, C]."""
        code = self.project(code)[:, None].expand(-1, kept.shape[1], -1)
        out = self.net(torch.cat([code, self.point(encode(kept))], -1))
        return out[..., :1].clamp(-8, 8), out[..., 1:]


class Affine(nn.Module):
    """(x, y) -> [[e^a cos, -e^a sin, tx], [e^b sin, e^b cos, ty]], from time and depth; ReLU layers."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        widths = [2 + 2 * FREQUENCIES, *(layers - 1) * [HIDDEN]]
        linears = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
        self.net = nn.Sequential(*(part for linear in linears for part in (linear, nn.ReLU())), nn.Linear(HIDDEN, 5))

    def forward(self, x: Tensor, time: Tensor, *, inverse: bool) -> Tensor:
        """Points [B, N, 3] of frames at times [B, 1]."""
        z = x[..., 2:]
        time = time[:, None].expand(-1, x.shape[1], -1)
        theta, a, tx, b, ty = self.net(torch.cat([time, encode(z)], -1)).split(1, -1)
        m00, m01 = torch.exp(a) * torch.cos(theta), -torch.exp(a) * torch.sin(theta)
        m10, m11 = torch.exp(b) * torch.sin(theta), torch.exp(b) * torch.cos(theta)
        x, y = x[..., :1], x[..., 1:2]
        if not inverse:
            return torch.cat([m00 * x + m01 * y + tx, m10 * x + m11 * y + ty, z], -1)
        determinant = m00 * m11 - m01 * m10
        x, y = x - tx, y - ty
        return torch.cat([(m11 * x - m01 * y) / determinant, (m00 * y - m10 * x) / determinant, z], -1)


class PublishedModel(nn.Module):
    """Code net, couplings (block b changes coordinate ``order[b]``), optional affine, canonical field."""

    def __init__(self, frames: int, size: tuple[int, int], order: list[int], affine: str = "none") -> None:
        super().__init__()
        self.frames, self.size, self.order = frames, size, order
        self.code = GaborNet(1, 256, 2, CODE, 4.5)
        self.couplings = nn.ModuleList(Coupling() for _ in range(BLOCKS))
        self.affine = None if affine == "none" else Affine(AFFINE_LAYERS[affine])
        self.field = GaborNet(3, FIELD_HIDDEN, 3, 4, 3.0)

    def move(self, x: Tensor, frame: Tensor, *, inverse: bool) -> Tensor:
        """Local points [B, N, 3] of frames [B] to canonical ones, or back with ``inverse``."""
        time = (frame[:, None] + 1).to(x.dtype) / self.frames
        code = self.code(time)
        if self.affine is not None and not inverse:
            x = self.affine(x, time, inverse=False)
        for block in reversed(range(BLOCKS)) if inverse else range(BLOCKS):
            axis = self.order[block]
            s, t = self.couplings[block](x[..., [a for a in range(3) if a != axis]], code)
            value = x[..., axis : axis + 1]
            value = value * torch.exp(s) + t if inverse else (value - t) * torch.exp(-s)
            x = torch.cat([value if a == axis else x[..., a : a + 1] for a in range(3)], -1)
        if self.affine is not None and inverse:
            x = self.affine(x, time, inverse=True)
        return x

    def sampled(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Colour [..., 3] and opacity [...] at canonical points [..., 3]."""
        norm = u.norm(dim=-1, keepdim=True)
        out = self.field(torch.where(norm <= 1, u, (2 - 1 / norm) * u / norm))
        sigma = nn.functional.softplus(out[..., 3] - 1)
        return torch.sigmoid(out[..., :3]), 1 - torch.exp(-sigma)

    def lift(self, p: Tensor, jitter: Tensor) -> tuple[Tensor, Tensor]:
        """Samples [B, P, K, 3] on the rays of pixels [B, P, 2], and their depths [B, P, K]."""
        height, width = self.size
        p = 2 * p / torch.tensor([width - 1.0, height - 1.0], device=p.device) - 1
        even = torch.linspace(0, 2, jitter.shape[-1], dtype=p.dtype, device=p.device).expand_as(jitter)
        middle = (even[..., 1:] + even[..., :-1]) / 2
        lower = torch.cat([even[..., :1], middle], -1)
        upper = torch.cat([middle, even[..., -1:]], -1)
        depths = lower + (upper - lower) * jitter
        return torch.cat([p[:, :, None].expand(*depths.shape, 2), depths[..., None]], -1), depths


class PublishedStep:
    """Model and optimiser. ``across_pairs``: consecutive differences run over the flattened batch, as published."""

    def __init__(self, model: PublishedModel, *, across_pairs: bool = True) -> None:
        self.model, self.across_pairs = model, across_pairs
        self.couplings = [model.couplings] + ([] if model.affine is None else [model.affine])
        groups = {"code": [model.code], "bijection": self.couplings, "field": [model.field]}
        self.optimizer = torch.optim.Adam(
            [
                {"params": [parameter for net in nets for parameter in net.parameters()], "lr": RATES[name]}
                for name, nets in groups.items()
            ]
        )
        self.schedule = torch.optim.lr_scheduler.StepLR(self.optimizer, HALVED_EVERY, 0.5)

    def step(self, given: Given, weights: Mapping[str, float]) -> dict[str, Tensor]:
        """One step; the weighted terms."""
        terms = self.terms(given, weights)
        self.optimizer.zero_grad()
        sum(terms.values()).backward()
        self.optimizer.step()
        self.schedule.step()
        return terms

    def terms(self, given: Given, weights: Mapping[str, float]) -> dict[str, Tensor]:
        """Every loss times its weight."""
        x, depths = self.model.lift(given.p1, given.jitter)  # [B, P, K, 3], [B, P, K]
        pairs, points, samples = depths.shape
        u = self.model.move(x.reshape(pairs, -1, 3), given.i, inverse=False)
        colours, alpha = self.model.sampled(u)
        y = self.model.move(u, given.j, inverse=True).reshape(pairs, points, samples, 3)
        alpha = alpha.reshape(pairs, points, samples)
        passed = torch.cumprod(1 - alpha + 1e-10, -1)
        w = alpha * torch.cat([torch.ones_like(passed[..., :1]), passed[..., :-1]], -1)
        seen = (w[..., None] * colours.reshape(pairs, points, samples, 3)).sum(2)
        masked = w * ((y[..., 2] >= 0) & (y[..., 2] <= 2))
        there = (masked[..., None] * y).sum(2)
        height, width = self.model.size
        predicted = (there[..., :2] + 1) / 2 * torch.tensor([width - 1.0, height - 1.0], device=x.device)
        terms = {
            "flow": self.flow(predicted, given),
            "colour": self.colour(seen, given),
            "flow_difference": self.flow_difference(predicted, given),
            "depth_range": (torch.relu(-y[..., 2]) ** 2 + torch.relu(y[..., 2] - 2) ** 2).mean(),
            "distortion": self.distortion(masked, depths),
            "acceleration": self.acceleration(x, given.i),
        }
        return {name: weights[name] * term for name, term in terms.items()}

    def inside(self, p: Tensor) -> Tensor:
        height, width = self.model.size
        return (p[..., 0] >= 0) & (p[..., 0] <= width - 1) & (p[..., 1] >= 0) & (p[..., 1] <= height - 1)

    def consecutive(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Both ends of consecutive points of values [B, P, ...], flattened."""
        if self.across_pairs:
            values = values.flatten(0, 1)
            return values[1:], values[:-1]
        return values[:, 1:].flatten(0, 1), values[:, :-1].flatten(0, 1)

    def flow(self, predicted: Tensor, given: Given) -> Tensor:
        inside = self.inside(predicted)
        residual = (predicted - given.p2).abs().mean(-1)[inside]
        kept = residual < residual.max()
        return (given.omega[inside] * residual)[kept].mean()

    def colour(self, seen: Tensor, given: Given) -> Tensor:
        inside = self.inside(given.p1)
        first, second = self.consecutive(seen)
        first_true, second_true = self.consecutive(given.colour)
        both = torch.stack(self.consecutive(inside)).all(0)
        residual = ((first - second) - (first_true - second_true)).abs().mean(-1)[both]
        return ((seen - given.colour)[inside] ** 2).mean() + residual[residual < residual.max()].mean()

    def flow_difference(self, predicted: Tensor, given: Given) -> Tensor:
        first, second = self.consecutive(predicted)
        first_true, second_true = self.consecutive(given.p2)
        weight = torch.stack(self.consecutive(given.omega)).prod(0)
        return (weight * ((first - second) - (first_true - second_true)).abs().mean(-1)).sum() / weight.sum()

    def distortion(self, w: Tensor, depths: Tensor) -> Tensor:
        edges = torch.cat([depths, depths[..., -1:]], -1)
        middle = (edges[..., 1:] + edges[..., :-1]) / 2
        between = (middle[..., :, None] - middle[..., None, :]).abs()
        spread = (w[..., :, None] * w[..., None, :] * between).sum((-1, -2))
        return (spread + (w**2 * (edges[..., 1:] - edges[..., :-1])).sum(-1) / 3).mean()

    def acceleration(self, x: Tensor, frame: Tensor) -> Tensor:
        has_both = (frame > 0) & (frame < self.model.frames - 1)
        frame = frame[has_both]
        if len(frame) == 0:
            return x.new_zeros(())
        x = x[has_both, : round(ACCELERATED_SHARE * x.shape[1])].flatten(1, 2)  # [b, P K / 4, 3]
        before, after = (
            self.model.move(self.model.move(x, frame, inverse=False), frame + shift, inverse=True) for shift in (-1, 1)
        )
        residual = ((x - before) - (after - x)).abs().mean(-1)
        return residual[residual < residual.max()].mean()
