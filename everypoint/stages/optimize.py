"""Stage optimize: one globally consistent motion model of one video, from its matches."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from everypoint.config.options import Preset

VERSION = 2
# torch adds up gradients in an order that depends on the number of threads, and so would the result.
THREADS = 1


def run(
    *,
    matches: str,
    frames: str,
    preset: Mapping[str, Any],
    seed: int,
    output: str,
    device: str,
    threads: int,
    depth: str | None = None,
) -> None:
    """Write ``model.pt``, ``train.jsonl`` and TensorBoard events into the folder of ``output``.

    A try that was killed goes on from its last checkpoint. ``threads`` is what the job may use; the result must not
    depend on it, so the arithmetic always has ``THREADS``. ``depth`` is the prior that a model starts from.
    """
    from everypoint.optimize.run import optimize
    from everypoint.stages.device import prepare

    place = prepare(device, THREADS)
    options = Preset.model_validate(dict(preset))
    prior = Path(depth) if depth else None
    optimize(Path(matches), Path(frames).parent, options, Path(output).parent, place, seed, prior)
