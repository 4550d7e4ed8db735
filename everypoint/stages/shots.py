"""Stage shots: where a video is cut, for ``on_cut: split``, which makes one entry of every shot."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from everypoint.artifacts import atomic
from everypoint.config.options import FramesOptions
from everypoint.errors import InputError
from everypoint.stages.frames import entry_from

VERSION = 1

logger = logging.getLogger(__name__)


def run(*, entry: Mapping[str, Any], options: Mapping[str, Any], output: str) -> None:
    """Write ``shots.json``: [first, end) of every shot of at least two frames, as indices of the used frames.

    The video is decoded for this once more than without splitting.
    """
    from everypoint.video.cuts import split_shots
    from everypoint.video.decode import read_frames

    source, chosen = entry_from(entry), FramesOptions.model_validate(dict(options))
    frames, meta = read_frames(source, chosen.model_copy(update={"on_cut": "warn"}))
    ranges = [(a, b) for a, b in split_shots(meta.cuts, len(frames)) if b - a >= 2]
    if not ranges:
        raise InputError(f"{source.name} has no shot of two frames or more", cure="set on_cut to warn")
    logger.info("%d shots: %s", len(ranges), ranges)
    atomic.write_json(output, {"shots": ranges, "frames": len(frames), "cuts": meta.cuts})
