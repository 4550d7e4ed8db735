"""The training loop: one video, one model, every step by (seed, step) alone.

Everything that the next step depends on is in the checkpoint, so a run that was killed and resumed ends in the same
model, bit for bit on a CPU.
"""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import torch
from torch import Tensor

from everypoint.artifacts.checkpoint import Checkpoints, stop_signals
from everypoint.config.options import OptimizeOptions
from everypoint.errors import EXIT_TRY_AGAIN, TrainingError
from everypoint.optimize.progress import Progress
from everypoint.optimize.trainer import Trainer

logger = logging.getLogger(__name__)


def train(trainer: Trainer, checkpoints: Checkpoints, progress: Progress) -> None:
    """Run (or go on with) all planned steps.

    Raises :class:`TrainingError` when the loss or the state is not finite (the last good checkpoint stays), and
    SystemExit with ``EXIT_TRY_AGAIN`` after SIGTERM, SIGUSR1 or SIGINT, once a checkpoint is written.
    """
    options = trainer.options
    with stop_signals() as stop:
        done, sums, rows = _resume(trainer, checkpoints)
        progress.start(done, rows)
        spent, started = _seconds(rows), time.monotonic()
        saved = started
        try:
            for step in range(done, options.steps):
                if _is_enough(options, progress.rows):
                    break
                _add(sums, trainer.step(step))
                seconds = spent + time.monotonic() - started
                last = step + 1 == options.steps
                if last or (step + 1) % options.log_every == 0 or _is_up(options, seconds):
                    progress.row(_row(trainer, sums, step, seconds))
                    progress.show(trainer.model, progress.rows[-1])
                    sums = {}
                if stop.asked or time.monotonic() - saved > options.checkpoint_seconds:
                    _require_finite(trainer, sums, step)
                    checkpoints.save(step + 1, {**trainer.state(), "sums": sums, "rows": progress.rows})
                    progress.flush()
                    saved = time.monotonic()
                if stop.asked and not last:
                    raise SystemExit(EXIT_TRY_AGAIN)
            _require_finite(trainer, sums, options.steps - 1)
        finally:
            progress.close()


def _is_enough(options: OptimizeOptions, rows: list[dict[str, Any]]) -> bool:
    """Whether the time is up or the held-out error has stopped falling; by the rows alone, for a resume."""
    if _is_up(options, _seconds(rows)):
        return True
    if options.early_stop is None or len(rows) <= options.early_stop:
        return False
    errors = [row["error"] for row in rows]
    return not min(errors[-options.early_stop :]) < min(errors[: -options.early_stop])


def _is_up(options: OptimizeOptions, seconds: float) -> bool:
    return options.max_seconds is not None and seconds >= options.max_seconds


def _seconds(rows: list[dict[str, Any]]) -> float:
    """Seconds of training so far, over all tries."""
    return rows[-1]["seconds"] if rows else 0.0


def _resume(trainer: Trainer, checkpoints: Checkpoints) -> tuple[int, dict[str, Tensor], list[dict[str, Any]]]:
    """Steps done, sums since the last row, rows; from the newest checkpoint if there is one."""
    state = checkpoints.load()
    if state is None:
        return 0, {}, []
    trainer.load_state(state)
    logger.info("resumed after step %d of %d", state["step"], trainer.options.steps)
    return (
        state["step"],
        {name: value.to(trainer.device) for name, value in state["sums"].items()},
        state["rows"],
    )


def _add(sums: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    """Accumulate scalars on the device: no synchronisation in the step."""
    for name, value in values.items():
        sums[name] = sums[name] + value if name in sums else value


def _row(trainer: Trainer, sums: dict[str, Tensor], step: int, seconds: float) -> dict[str, Any]:
    """One row of train.jsonl: means since the last row. The only place where the host waits for the device."""
    count = step % trainer.options.log_every + 1
    row: dict[str, Any] = {"step": step + 1, "seconds": round(seconds, 3)}
    row.update({name: float(value) / count for name, value in sums.items()})
    if not math.isfinite(row["loss"]):
        raise _diverged("the loss", step)
    row["error"] = trainer.held_out_error()
    row["learning_rate"] = trainer.rates[0]
    return row


def _require_finite(trainer: Trainer, sums: dict[str, Tensor], step: int) -> None:
    """Never save a state that cannot be gone on from: the loss may still be finite when a gradient was not."""
    tensors = [*trainer.tensors(), *sums.values()]
    if not torch.stack([tensor.isfinite().all().to(trainer.device) for tensor in tensors]).all():
        raise _diverged("the model", step)


def _diverged(what: str, step: int) -> TrainingError:
    return TrainingError(
        f"{what} is not finite around step {step + 1}",
        "the optimisation diverged",
        "lower optimize.learning_rate; the last good checkpoint is kept",
    )
