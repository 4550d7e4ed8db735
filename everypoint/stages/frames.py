"""Stage frames: a video file, an image folder or an entry of a data set as frames of the working size."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from everypoint.artifacts import atomic
from everypoint.artifacts.video import save_video
from everypoint.config.options import FramesOptions
from everypoint.errors import InputError
from everypoint.video.discover import Entry

VERSION = 1

logger = logging.getLogger(__name__)


def entry_from(value: Mapping[str, Any]) -> Entry:
    """An :class:`Entry` from the plain values that a job's parameters hold."""
    paths = {name: Path(value[name]) if value.get(name) else None for name in ("annotations", "queries", "mask")}
    return Entry(name=value["name"], kind=value["kind"], path=Path(value["path"]), key=value.get("key", ""), **paths)


def shot_options(options: FramesOptions, shots: str | Path, number: int) -> FramesOptions:
    """The options that read only shot ``number`` (from 1) of those listed in ``shots.json``."""
    ranges = atomic.read_json(shots)["shots"]
    if not 1 <= number <= len(ranges):
        raise InputError(f"there is no shot {number}", f"{shots} lists {len(ranges)}", "run the workflow again")
    first, end = ranges[number - 1]
    part = {"start": options.start + first * options.stride, "max_frames": end - first, "on_cut": "ignore"}
    return options.model_copy(update=part)


def run(
    *, entry: Mapping[str, Any], options: Mapping[str, Any], output: str, shots: str | None = None, shot: int = 0
) -> None:
    """Decode one entry, or one shot of it, into the folder of ``output`` (``frames.npy`` and ``video.json``)."""
    from everypoint.video.decode import read_frames

    source, chosen = entry_from(entry), FramesOptions.model_validate(dict(options))
    if shots:
        chosen = shot_options(chosen, shots, shot)
    folder = Path(output).parent
    atomic.sweep_stale(folder)
    frames, meta = read_frames(source, chosen)
    if len(frames) < 2:
        raise InputError(
            f"{source.name} has only {len(frames)} frame in the chosen range",
            "tracking needs two",
            "choose more frames",
        )
    for warning in meta.warnings:
        logger.warning("%s", warning)
    logger.info("%d frames of %d x %d", meta.frames, meta.width, meta.height)
    save_video(folder, frames, meta)
