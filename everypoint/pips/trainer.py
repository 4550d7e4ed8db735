"""Network, optimiser and schedule of a training of PIPs++, and what one step and one validation do."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from everypoint.config.options_pips import PipsTrainOptions
from everypoint.pips.clip import Clip
from everypoint.pips.distributed import Ranks
from everypoint.pips.loss import measures, sequence_loss, standing
from everypoint.pips.network import PipsInference, PipsNetwork
from everypoint.pips.train_data import Batch

MORE_STEPS = 100  # of the schedule than of the training
EPSILON = 1e-8


class Stepped(NamedTuple):
    """What a step gave."""

    loss: float  # of the last batch, divided by the number of those that make the step
    measures: dict[str, float]
    clip: Clip  # first sample of the last batch ...
    estimate: np.ndarray  # ... and where its points were found, [S, N, 2]


class PipsTrainer:
    """One process's part of a training.

    Args:
        network: with its initial weights; moved to ``device``.
        options: of the training.
        device: where it computes.
        ranks: the processes that share each batch.
    """

    def __init__(
        self, network: PipsNetwork, options: PipsTrainOptions, device: torch.device, ranks: Ranks | None = None
    ) -> None:
        self.options, self.device, self.ranks = options, device, ranks or Ranks()
        self.network = network.to(device).train()
        self._wrapped: nn.Module = self.ranks.wrap(_Training(self.network, options.precision), device)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay, eps=EPSILON
        )
        self.schedule = None
        if options.schedule:
            self.schedule = torch.optim.lr_scheduler.OneCycleLR(
                self.optimizer,
                options.learning_rate,
                total_steps=options.steps + MORE_STEPS,
                pct_start=0.1,
                anneal_strategy="linear",
                cycle_momentum=False,
            )

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return self.optimizer.param_groups[0]["lr"]

    def step(self, batches: Iterator[Batch]) -> Stepped:
        """Gradients of ``options.accumulate`` batches, clipped, and one move of the weights."""
        self.optimizer.zero_grad(set_to_none=True)
        for number in range(self.options.accumulate):
            batch = next(batches)
            last = number + 1 == self.options.accumulate
            with contextlib.nullcontext() if last or self.ranks.world == 1 else self._wrapped.no_sync():
                loss, predictions = self._loss(batch)
                loss.backward()
        if self.options.clip:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.options.clip)
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        shared = self.ranks.sum(loss.detach()) / self.ranks.world
        clip, estimate = _side_by_side(batch), predictions[-1].detach().float().cpu().numpy()
        found = measures(np.concatenate(list(estimate), 1), clip)
        return Stepped(float(shared), found, batch.clip(0), estimate[0])

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss over ``options.accumulate``, and predictions [K + 1, B, S, N, 2]."""
        rgb, truth, _, valids, start = (part.to(self.device, non_blocking=True) for part in batch)
        predictions = self._wrapped(rgb, start, self.options.iterations)
        total = self.ranks.sum(valids.sum())
        # The gradients of all processes are averaged; the loss is one mean over the batch that they share.
        loss = sequence_loss(predictions[:-1], truth, valids, total) * self.ranks.world
        return loss / self.options.accumulate, predictions

    @torch.no_grad()
    def validate(self, clips: Sequence[Callable[[], Clip]]) -> tuple[dict[str, float], tuple[Clip, np.ndarray] | None]:
        """Means of the measures over clips, which the processes share, and the first of them with its estimate.

        ``clips`` are functions that read them, so that none is held.

        Points start standing still, and have twice the iterations of training.
        """
        inference = PipsInference(self.network, self.device)
        sums: dict[str, Tensor] = {}
        shown = None
        for read in clips[self.ranks.rank :: self.ranks.world]:
            clip = read()
            start = torch.from_numpy(standing(clip.trajs))[None]
            pyramid = inference.pyramid(torch.from_numpy(np.ascontiguousarray(clip.rgb)))
            found = inference.track(pyramid, start, 2 * self.options.iterations)
            estimate = found.predictions[-1, 0].cpu().numpy()
            shown = shown or (clip, estimate)
            for name, value in measures(estimate, clip).items():
                good = np.isfinite(value)
                pair = torch.tensor([value if good else 0.0, float(good)], dtype=torch.float64)
                sums[name] = sums.get(name, torch.zeros(2, dtype=torch.float64)) + pair
        return self._means(sums), shown

    def _means(self, sums: dict[str, Tensor]) -> dict[str, float]:
        names = MEASURES
        table = torch.stack([sums.get(name, torch.zeros(2, dtype=torch.float64)) for name in names])
        if self.ranks.world > 1:
            table = self.ranks.sum(table.to(self.device)).cpu()
        return {name: float(row[0] / row[1]) for name, row in zip(names, table, strict=True) if row[1] > 0}

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds, under the published names."""
        found = {
            "model_state_dict": self.network.state_dict(),
            "optimizer_state_dict": self.optimizer.state_dict(),
        }
        return found | ({"scheduler_state_dict": self.schedule.state_dict()} if self.schedule else {})

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.network.load_state_dict(state["model_state_dict"])
        self.optimizer.load_state_dict(state["optimizer_state_dict"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["scheduler_state_dict"])

    def is_finite(self) -> bool:
        """Whether the weights can be gone on from."""
        return bool(torch.stack([value.isfinite().all() for value in self.network.state_dict().values()]).all())


class _Training(nn.Module):
    """The forward pass of a step, in the precision of the training."""

    def __init__(self, network: PipsNetwork, precision: str) -> None:
        super().__init__()
        self.network, self._precision = network, precision

    def forward(self, rgb: Tensor, start: Tensor, iterations: int) -> Tensor:
        with torch.autocast(rgb.device.type, torch.bfloat16, enabled=self._precision == "bfloat16"):
            return self.network(rgb, start, iterations)


MEASURES = (
    *(f"d_{x}" for x in (1, 2, 4, 8, 16)),
    "d_avg",
    "survival_16",
    "median_l2",
    *("l1", "l1_vis", "ate_all", "ate_vis", "ate_occ"),
)


def _side_by_side(batch: Batch) -> Clip:
    """A batch as one clip whose tracks are those of all samples: all measures are over frames and tracks."""
    parts = [np.concatenate(list(part.numpy()), 1) for part in (batch.trajs, batch.visibs, batch.valids)]
    return Clip(batch.rgb[0].numpy(), *parts, True)
