"""CaDeX++'s optimiser step as its specification reads, without any thought of speed: what ours is compared with.

Written from the description of the published model, losses and optimiser alone, in plain PyTorch and float32. It shares
no line with the package, which never imports it. Per step, for B pairs of P points:

* planes are looked up point by point, and the time features stand beside every point in every block;
* the segment of the piecewise-linear function is found by a boolean table, each segment's points are taken out by it
  and put back; its tails are segments too, between the outermost knots and far ones at +-1e4, evaluated from the left
  end of the segment: the left tail from the far knot. Forward computes three local Jacobians, kept for backward;
* depths are looked up in whole maps that are copied out of the depth tensor for every pair, again for each look-up;
* what a loss leaves out is left out by boolean indexing.

Source: Song et al., Track Everything Everywhere Fast and Robustly, ECCV 2024.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FAR = 1e4
RATES = {"deform": 3e-3, "depth": 5e-3}
DECAY_EVERY, DECAY = 5000, 0.33
CLIP = 10.0


@dataclass
class Given:
    """What a step is handed: B pairs of P points, pixel coordinates; which depths count."""

    i: Tensor  # int64 [B]
    j: Tensor  # int64 [B]
    p1: Tensor  # [B, P, 2] in frame i
    p2: Tensor  # [B, P, 2] in frame j
    omega: Tensor  # [B, P]
    seen: Tensor  # bool [B, P]


class Spline(torch.autograd.Function):
    """Piecewise-linear function through knots x, y [M, 6] at q [M], with its local Jacobians kept for backward."""

    @staticmethod
    def forward(ctx, q: Tensor, x: Tensor, y: Tensor) -> Tensor:  # noqa: ANN001
        out, by_q = torch.zeros_like(q), torch.zeros_like(q)
        by_x, by_y = torch.zeros_like(x), torch.zeros_like(y)
        table = (q[:, None] >= x[:, :-1]) & (q[:, None] < x[:, 1:])
        for k in range(x.shape[1] - 1):
            inside = table[:, k]
            x0, x1, y0, y1, at = x[inside, k], x[inside, k + 1], y[inside, k], y[inside, k + 1], q[inside]
            slope = (y1 - y0) / (x1 - x0)
            share = (at - x0) / (x1 - x0)
            out[inside] = y0 + slope * (at - x0)
            by_q[inside] = slope
            by_x[inside, k], by_x[inside, k + 1] = -slope * (1 - share), -slope * share
            by_y[inside, k], by_y[inside, k + 1] = 1 - share, share
        ctx.save_for_backward(by_q, by_x, by_y)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN001
        by_q, by_x, by_y = ctx.saved_tensors
        return grad * by_q, grad[:, None] * by_x, grad[:, None] * by_y


class Block(nn.Module):
    """Ten numbers in (0, 1) from two kept coordinates and the time features, and the function that they make."""

    def __init__(self, guard: float) -> None:
        super().__init__()
        self.guard = guard
        self.coarse = nn.Parameter(1e-4 * torch.randn(1, 32, 12, 12))
        self.fine = nn.Parameter(1e-4 * torch.randn(1, 32, 96, 96))
        self.net = nn.Sequential(
            *(nn.Linear(112, 56), nn.LeakyReLU(), nn.Linear(56, 28), nn.LeakyReLU(), nn.Linear(28, 10), nn.Sigmoid())
        )

    def forward(self, kept: Tensor, time: Tensor, value: Tensor, *, inverse: bool) -> Tensor:
        """Values [M] from kept coordinates [M, 2] and time features [M, 48]."""
        ab = torch.tanh(kept).flip(-1)[None, None]
        planes = [F.grid_sample(plane, ab, align_corners=True)[0, :, 0].T for plane in (self.coarse, self.fine)]
        out = self.net(torch.cat([*planes, time], -1))
        spacing = self.guard + (1 - self.guard) * out[:, :8]
        slopes = 2 * (self.guard + (1 - 2 * self.guard) * out[:, 8:])
        x, y = (self.knots(*part.unbind(-1)) for part in (spacing[:, :4], spacing[:, 4:]))
        far = torch.full_like(x[:, :1], FAR)
        y_left = y[:, :1] + slopes[:, :1] * (-far - x[:, :1])
        y_right = y[:, -1:] + slopes[:, 1:] * (far - x[:, -1:])
        x, y = torch.cat([-far, x, far], -1), torch.cat([y_left, y, y_right], -1)
        return Spline.apply(value, y, x) if inverse else Spline.apply(value, x, y)

    @staticmethod
    def knots(left2: Tensor, left1: Tensor, right1: Tensor, right2: Tensor) -> Tensor:
        return torch.stack([-left1 - left2, -left1, right1, right1 + right2], -1)


class PublishedModel(nn.Module):
    """Blocks (block b changes coordinate ``order[b]``), time grids, depth maps with their prior, camera, scene box.

    ``guard`` 0 is as published. ``centre`` is the camera's principal point in the coordinates of the pixels; published:
    (W / 2, H / 2) of pixels whose first one is at 0.
    """

    def __init__(
        self, prior: Tensor, size: tuple[int, int], order: list[int], box: tuple[Tensor, Tensor], guard: float = 0.0,
        centre: tuple[float, float] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        frames = len(prior)
        q = max(frames // 20, 1)
        self.size, self.order, self.frames = size, order, frames
        self.centre = centre or (size[1] / 2, size[0] / 2)
        self.focal = size[1] / (2 * math.tan(math.radians(20)))
        self.blocks = nn.ModuleList(Block(guard) for _ in order)
        self.grids = nn.ParameterList(nn.Parameter(1e-3 * torch.randn(1, 16, 1, q * k)) for k in (1, 5, 13))
        self.depth = nn.Parameter(prior.clone())
        self.register_buffer("prior", prior.clone())
        self.register_buffer("middle", box[0].clone())
        self.register_buffer("radius", box[1].clone())

    def time(self, frame: Tensor) -> Tensor:
        """Features [M, 48] of frames [M]."""
        t = 2 * (frame.to(self.depth.dtype) / self.frames) - 1
        at = torch.stack([t, torch.zeros_like(t)], -1)[None, None]
        return torch.cat([F.grid_sample(grid, at, align_corners=True)[0, :, 0].T for grid in self.grids], -1)

    def move(self, x: Tensor, frame: Tensor, *, inverse: bool) -> Tensor:
        """Points [B, P, 3] of frames [B] to canonical ones, or back with ``inverse``."""
        shape = x.shape
        x = x.reshape(-1, 3)
        time = self.time(frame[:, None].expand(shape[:2]).reshape(-1))
        steps = list(enumerate(self.order))
        for block, axis in reversed(steps) if inverse else steps:
            kept = x[:, [a for a in range(3) if a != axis]]
            value = self.blocks[block](kept, time, x[:, axis], inverse=inverse)
            x = torch.stack([value if a == axis else x[:, a] for a in range(3)], -1)
        return x.reshape(shape)

    def look_up(self, maps: Tensor, frame: Tensor, p: Tensor) -> Tensor:
        """Values [B, P, C] of maps [N, C, h, w] at pixels [B, P, 2] of frames [B]: the nearest cell."""
        (height, width), (h, w) = self.size, maps.shape[-2:]
        column = ((p[..., 0] + 0.5) / width * w).floor().long().clamp(0, w - 1)
        row = ((p[..., 1] + 0.5) / height * h).floor().long().clamp(0, h - 1)
        chosen = maps[frame].flatten(2)  # [B, C, h w]: whole maps, copied
        return chosen.gather(2, (row * w + column)[:, None].expand(-1, maps.shape[1], -1)).transpose(1, 2)

    @staticmethod
    def slopes(maps: Tensor) -> Tensor:
        """Left minus centre and up minus centre [N, 2, h, w] of maps [N, h, w]."""
        left = torch.cat([maps[:, :, :1], maps[:, :, :-1]], 2)
        up = torch.cat([maps[:, :1], maps[:, :-1]], 1)
        return torch.stack([left - maps, up - maps], 1)

    def carried(self, given: Given) -> tuple[Tensor, Tensor]:
        """Pixels [B, P, 2] and depths [B, P] in frames j."""
        d = self.look_up(self.depth[:, None], given.i, given.p1)
        centre = torch.tensor(self.centre, device=d.device, dtype=d.dtype)
        x = torch.cat([(given.p1 - centre) / self.focal * d, d], -1)
        x = self.move((x - self.middle) / self.radius, given.i, inverse=False)
        y = self.move(x, given.j, inverse=True) * self.radius + self.middle
        return y[..., :2] / y[..., 2:] * self.focal + centre, y[..., 2]


class PublishedStep:
    """Model and optimiser. ``match``: with the depth-slope terms and the long-range branch, else as ``nomatch``."""

    def __init__(self, model: PublishedModel, *, match: bool, across_pairs: bool = True) -> None:
        self.model, self.match, self.across_pairs = model, match, across_pairs
        deform = [parameter for name, parameter in model.named_parameters() if name != "depth"]
        self.optimizer = torch.optim.Adam(
            [{"params": deform, "lr": RATES["deform"]}, {"params": [model.depth], "lr": RATES["depth"]}]
        )
        self.schedule = torch.optim.lr_scheduler.StepLR(self.optimizer, DECAY_EVERY, DECAY)

    def step(self, given: Given, long: Given | None, at: float) -> dict[str, Tensor]:
        """One step at step ``at`` of 22,000; the weighted terms."""
        terms = self.terms(given, long, at)
        self.optimizer.zero_grad()
        sum(terms.values()).backward()
        torch.nn.utils.clip_grad_norm_([self.model.depth], CLIP)
        self.optimizer.step()
        self.schedule.step()
        return terms

    def terms(self, given: Given, long: Given | None, at: float) -> dict[str, Tensor]:
        """Every loss times its weight."""
        predicted, z = self.model.carried(given)
        terms = {
            "flow": self.flow(predicted, z, given),
            "flow_difference": min(max(at / 500_000, 0), 0.1) * self.flow_difference(predicted, given),
        }
        weights = {"depth": 100.0, "depth_prior": 1.0, "depth_slope": 1.0}
        if not self.match:
            weights = {"depth": 100.0, "depth_prior": 10.0}
        terms |= self.depth_terms(predicted, z, given, given.seen, weights)
        if self.match and long is not None:
            terms |= self.long_terms(long, at)
        return terms

    def inside(self, p: Tensor) -> Tensor:
        height, width = self.model.size
        return (p[..., 0] >= 0) & (p[..., 0] <= width - 1) & (p[..., 1] >= 0) & (p[..., 1] <= height - 1)

    def flow(self, predicted: Tensor, z: Tensor, given: Given) -> Tensor:
        counts = self.inside(predicted)
        if self.match:
            counts &= z.abs() >= 1e-2
        residual = (predicted - given.p2).abs().mean(-1)[counts]
        kept = residual < residual.max()
        return (given.omega[counts] * residual)[kept].mean()

    def flow_difference(self, predicted: Tensor, given: Given) -> Tensor:
        pairs = [(predicted, given.p2)] if self.across_pairs else list(zip(predicted, given.p2, strict=True))
        omegas = [given.omega] if self.across_pairs else list(given.omega)
        total = weights = 0.0
        for (first, true), omega in zip(pairs, omegas, strict=True):
            first, true, omega = first.reshape(-1, 2), true.reshape(-1, 2), omega.reshape(-1)
            weight = omega[1:] * omega[:-1]
            residual = ((first[1:] - first[:-1]) - (true[1:] - true[:-1])).abs().mean(-1)
            total, weights = total + (weight * residual).sum(), weights + weight.sum()
        return total / weights

    def depth_terms(
        self, predicted: Tensor, z: Tensor, given: Given, counts: Tensor, weights: Mapping[str, float]
    ) -> dict[str, Tensor]:
        model = self.model
        now = model.look_up(model.depth[:, None], given.j, given.p2)[..., 0]
        before = model.look_up(model.prior[:, None], given.j, given.p2)[..., 0]
        terms = {
            "depth": weights["depth"] * (z - now).abs()[counts].mean(),
            "depth_prior": weights["depth_prior"] * (z - before).abs()[counts].mean(),
        }
        if "depth_slope" in weights:
            weight = torch.where(self.inside(predicted), 1.0, 0.1)
            total = 0.0
            for frame, p in ((given.i, given.p1), (given.j, given.p2)):
                found = model.look_up(model.slopes(model.depth), frame, p)
                prior = model.look_up(model.slopes(model.prior), frame, p)
                total = total + ((found - prior).norm(dim=-1) * weight).mean()
            terms["depth_slope"] = weights["depth_slope"] * total
        return terms

    def long_terms(self, long: Given, at: float) -> dict[str, Tensor]:
        share = 1.0 if at < 1000 else 0.1 if at < 2000 else 0.01
        predicted, z = self.model.carried(long)
        off = (predicted - long.p2).abs()
        kept = torch.ones_like(z, dtype=torch.bool)
        if at >= 2000:
            kept = (off < 2 * off.detach().median()).all(-1)
        weights = {"depth": share * 100, "depth_prior": share * 0.1 * 100, "depth_slope": share * 100}
        terms = {"range": share * off[kept].mean(), **self.depth_terms(predicted, z, long, kept, weights)}
        return {f"long_{name}": term for name, term in terms.items()}
