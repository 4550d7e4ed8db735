"""What a training says of itself: its name, the table of parameters, a line a step, running means, TensorBoard.

Line and name have the form of the published training's, so that tools which read its logs read these.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from torch import nn

from everypoint.config.options_pips import PipsTrainOptions
from everypoint.pips.clip import Clip

POOL = 1000
LARGE = 100_000  # elements of a tensor that the table lists


class Pool:
    """The mean of the last values."""

    def __init__(self, values: Iterable[float] = (), size: int = POOL) -> None:
        self._values: deque[float] = deque(values, maxlen=size)

    def add(self, value: float) -> None:
        """Note one more; the oldest leaves where there are too many."""
        self._values.append(value)

    def mean(self) -> float:
        """The mean; nan while there is none."""
        return float(np.mean(self._values)) if self._values else math.nan

    def state(self) -> list[float]:
        """All values, for a checkpoint."""
        return list(self._values)


class Pools:
    """Pools by name, made when they are first filled."""

    def __init__(self, state: dict[str, list[float]] | None = None) -> None:
        self._pools = {name: Pool(values) for name, values in (state or {}).items()}

    def add(self, name: str, values: dict[str, float]) -> None:
        """Note values that are numbers, each under ``name/key``."""
        for key, value in values.items():
            if math.isfinite(value):
                self._pools.setdefault(f"{name}/{key}", Pool()).add(value)

    def mean(self, name: str) -> float:
        """The mean of one pool; nan where nothing was noted."""
        return self._pools[name].mean() if name in self._pools else math.nan

    def means(self, name: str) -> dict[str, float]:
        """All of one group, by key."""
        return {key.split("/", 1)[1]: pool.mean() for key, pool in self._pools.items() if key.startswith(f"{name}/")}

    def state(self) -> dict[str, list[float]]:
        """For a checkpoint."""
        return {name: pool.state() for name, pool in self._pools.items()}


def run_name(options: PipsTrainOptions, now: time.struct_time | None = None) -> str:
    """``4_36_128_i6_5e-4s_A_aa03_113745``: batch, frames, points, iterations, rate, schedule, augmentation, time."""
    rate = f"{options.learning_rate:.1e}"
    mantissa, exponent = rate.split("e")
    rate = f"{mantissa.removesuffix('.0')}e{exponent[0].replace('+', '')}{exponent[1:].lstrip('0')}"
    name = f"{options.batch}_{options.frames}_{options.points}_i{options.iterations}"
    name += f"x{options.accumulate}" if options.accumulate > 1 else ""
    name += f"_{rate}{'s' if options.schedule else ''}{'_A' if options.augment else ''}"
    return f"{name}_{options.name}_{time.strftime('%H%M%S', now or time.localtime())}"


def step_line(
    name: str,
    step: int,
    steps: int,
    *,
    read: float,
    iteration: float,
    loss: float,
    pools: Pools,
    validates: bool,
) -> str:
    """One step in one line; means are those of the pools, in percent where they are shares."""
    line = f"{name}; step {step:06d}/{steps}; rtime {read:.2f}; itime {iteration:.2f}; loss {loss:.3f}; "
    line += f"loss_t {pools.mean('t/loss'):.2f}; d_t {pools.mean('t/d_avg'):.1f}"
    return line + (f"; d_v {pools.mean('v/d_avg'):.1f}" if validates else "")


def parameter_table(network: nn.Module) -> str:
    """Large tensors with their numbers of elements, and the total, with the names of the published table."""
    rows = [(f"module.{key}", value.numel()) for key, value in network.named_parameters()]
    shown = [row for row in rows if row[1] > LARGE]
    wide = max((len(name) for name, _ in shown), default=len("Modules"))
    rule = f"+{'-' * (wide + 2)}+{'-' * 12}+"
    lines = [rule, f"| {'Modules':^{wide}} | {'Parameters':^10} |", rule]
    lines += [f"| {name:^{wide}} | {count:^10} |" for name, count in shown]
    return "\n".join([*lines, rule, f"total params: {sum(count for _, count in rows) / 1e6:.2f} M"])


class Board:
    """TensorBoard events of training (``t``) and validation (``v``)."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self._writers = {name: SummaryWriter(str(folder / name), purge_step=step) for name in ("t", "v")}

    def scalars(self, which: str, step: int, values: dict[str, float]) -> None:
        """Numbers of one step: ``loss`` as total_loss, the others under ``_/``."""
        for name, value in values.items():
            tag = "total_loss" if name == "loss" else f"_/{name}"
            self._writers[which].add_scalar(tag, value, step)

    def picture(self, which: str, step: int, clip: Clip, estimate: np.ndarray) -> None:
        """The truth beside an estimate, both drawn into the first frame."""
        both = [drawn(clip, clip.trajs), drawn(clip, estimate)]
        self._writers[which].add_image("tracks/truth_and_estimate", np.concatenate(both, 1), step, dataformats="HWC")

    def close(self) -> None:
        """Write what is left."""
        for writer in self._writers.values():
            writer.close()


def drawn(clip: Clip, trajs: np.ndarray) -> np.ndarray:
    """The first frame with tracks [S, N, 2] from blue (first) to red (last), uint8 [H, W, 3]."""
    picture = np.ascontiguousarray(clip.rgb[0].transpose(1, 2, 0))
    places = np.round(np.clip(np.nan_to_num(trajs), -1e4, 1e4)).astype(int)
    for t in range(1, len(trajs)):
        share = t / (len(trajs) - 1)
        for n in np.flatnonzero(clip.valids[0] > 0):
            colour = (round(255 * share), 64, round(255 * (1 - share)))
            cv2.line(picture, places[t - 1, n].tolist(), places[t, n].tolist(), colour, 1, cv2.LINE_AA)
    return picture
