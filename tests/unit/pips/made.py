"""Clips for tests of the training: textures that slide, and points on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from everypoint.config.options_pips import PipsTrainOptions
from everypoint.pips.clip import Clip
from everypoint.pips.distributed import Ranks
from everypoint.pips.train import Training
from everypoint.pips.train_data import Samples
from everypoint.pips.trainer import PipsTrainer


class Sliding:
    """Clips of a random smooth texture that moves by a constant velocity."""

    def __init__(self, count: int = 8, frames: int = 4, points: int = 3, size: tuple[int, int] = (128, 128)) -> None:
        self.count, self.frames, self.points, self.size = count, frames, points, size
        self.asked: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return self.count

    def sample(self, index: int, epoch: int) -> Clip:
        self.asked.append((index, epoch))
        random = np.random.default_rng(index)
        h, w = self.size
        far = 3 * self.frames
        coarse = random.integers(0, 256, (3, (h + 2 * far) // 8 + 2, (w + 2 * far) // 8 + 2))
        picture = np.kron(coarse, np.ones((1, 8, 8))).astype(np.uint8)
        step = random.integers(-3, 4, 2)  # x, y
        rgb = []
        for t in range(self.frames):
            x, y = far - t * step
            rgb.append(picture[:, y : y + h, x : x + w])
        start = random.uniform(16, [w - 16, h - 16], (self.points, 2))
        trajs = start + np.arange(self.frames)[:, None, None] * step
        ones = np.ones(trajs.shape[:2], np.float32)
        return Clip(np.stack(rgb), trajs.astype(np.float32), ones, ones, True)


def options(**changes) -> PipsTrainOptions:
    """A training of seconds."""
    small = {
        "data": "clips",
        "source": "none",
        "steps": 4,
        "batch": 2,
        "frames": 4,
        "points": 3,
        "size": (128, 128),
        "iterations": 2,
        "clip": 5.0,
        "workers": 0,
        "validate_every": 2,
        "log_every": 2,
        "checkpoint_seconds": 1e9,
    }
    return PipsTrainOptions(**small | changes)


class Drifting(nn.Module):
    """A network of one number: every point moves by it in each frame, a little more with each iteration."""

    def __init__(self) -> None:
        super().__init__()
        self.speed = nn.Parameter(torch.zeros(2))
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, rgb: torch.Tensor, start: torch.Tensor, iterations: int) -> torch.Tensor:
        time = torch.arange(start.shape[1], dtype=torch.float32)[None, :, None, None]
        light = (rgb.float().mean((-1, -2)) / 255 @ self.weight)[..., None, None]
        moves = [start + self.speed * time * (k + 1) * light for k in range(iterations)]
        return torch.stack([*moves, moves[-1]])


def drifting_trainer(chosen: PipsTrainOptions, ranks: Ranks | None = None) -> PipsTrainer:
    """A trainer of that network."""
    torch.manual_seed(0)
    return PipsTrainer(Drifting(), chosen, torch.device("cpu"), ranks)


def training(folder: Path, chosen: PipsTrainOptions, trainer: PipsTrainer | None = None, seed: int = 0) -> Training:
    """A training of it on sliding textures, without validation."""
    samples = Samples(Sliding(points=chosen.points, frames=chosen.frames), chosen.batch, seed, transpose=True)
    return Training(trainer or drifting_trainer(chosen), samples, [], folder, "x", tensorboard=False)
