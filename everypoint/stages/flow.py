"""Stage flow: optical flow between the planned pairs of one video, one shard of the source frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from everypoint.artifacts import atomic
from everypoint.artifacts.folder import fingerprint_of
from everypoint.artifacts.video import load_frames, load_meta
from everypoint.config.options import FlowOptions
from everypoint.stages import frames as frames_stage
from everypoint.stages.shards import shard_of

VERSION = 1


def run(
    *,
    frames: str,
    options: Mapping[str, Any],
    shard: str,
    output: str,
    device: str,
    threads: int,
    query_frames: str | None = None,
    place: str | None = None,
) -> None:
    """Write the flows of one shard as a folder; finished source frames of an earlier, killed try are kept.

    ``query_frames`` is the JSON list of frames that hold queries; only plans with direct pairs need it. ``place`` is
    the folder that the back-end ``processed`` reads.
    """
    from everypoint.correspond.run import compute_flows
    from everypoint.stages.device import prepare, without_torch
    from everypoint.stages.places import place_of

    folder, chosen = Path(frames).parent, FlowOptions.model_validate(dict(options))
    meta = load_meta(folder)
    compute_flows(
        load_frames(folder),
        chosen,
        atomic.read_json(query_frames) if query_frames else [],
        shard_of(shard),
        Path(output),
        prepare(device, threads) if chosen.backend == "raft" else without_torch(threads),
        fingerprint_of([dataclasses.asdict(meta), frames_stage.VERSION, VERSION]),
        place_of(place, "flow.folder"),
        meta,
    )
