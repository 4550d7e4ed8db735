"""Stage optimize: one globally consistent motion model of one video, from its matches."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from everypoint.config.options import Preset

VERSION = 1


def run(
    *, matches: str, frames: str, preset: Mapping[str, Any], seed: int, output: str, device: str, threads: int
) -> None:
    """Write ``model.pt``, ``train.jsonl`` and TensorBoard events into the folder of ``output``.

    A try that was killed goes on from its last checkpoint.
    """
    from everypoint.optimize.run import optimize
    from everypoint.stages.device import prepare

    place = prepare(device, threads)
    options = Preset.model_validate(dict(preset))
    optimize(Path(matches), Path(frames).parent, options, Path(output).parent, place, seed)
