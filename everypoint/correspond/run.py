"""The flow stage: plan the pairs of a video, compute those of one shard, publish them."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from everypoint.artifacts.flows import FlowShardWriter
from everypoint.artifacts.video import VideoMeta
from everypoint.config.options import FlowOptions
from everypoint.correspond.base import FlowSession, StoredFlows, StoredMasks, flow_backend
from everypoint.correspond.pairs import plan_pairs, shard_sources
from everypoint.progress import Progress

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


def compute_flows(
    frames: np.ndarray,
    options: FlowOptions,
    query_frames: Iterable[int],
    shard: tuple[int, int],
    out_folder: str | os.PathLike[str],
    device: torch.device | str = "cpu",
    source_hash: str = "",
    place: Path | None = None,
    meta: VideoMeta | None = None,
) -> int:
    """Compute the flows of shard (k, n) (k from 0) and publish them as ``out_folder``; returns how many were computed.

    Source frames that an earlier, killed run of the same work finished are kept. The work is the same when frames
    (by their pixels), back-end, weights, options and the planned pairs of the shard are.

    Args:
        frames: uint8 [T, H, W, 3] RGB, may be memory-mapped.
        options: back-end, pair plan and the rest.
        query_frames: frames with queries, for the plan's ``direct``.
        shard: which part of the source frames.
        out_folder: the final folder, see :class:`everypoint.artifacts.flows.FlowShardWriter`.
        device: where networks run.
        source_hash: the hash of the video that the frames come from; only recorded.
        place: where flows that are there already lie (back-end ``processed``).
        meta: what is known of the video; needed with ``place``.

    Raises:
        EverypointError: weights that cannot be had, a query frame outside the video, a full disk, a folder that does
            not hold the flows of these frames.
    """
    plan = plan_pairs(len(frames), options.pairs, query_frames)
    backend = flow_backend(options, device)
    if isinstance(backend, StoredFlows):
        if meta is None:
            raise ValueError(f"the back-end {options.backend} needs to know the video")
        plan = backend.locate(plan, frames, place, meta)
    plan = {source: plan[source] for source in shard_sources(plan, shard)}
    fingerprint = {
        "frames": frames_hash(frames),
        "source": source_hash,
        "backend": backend.describe() if plan else options.backend,
        "pairs": plan,
    }
    writer = FlowShardWriter(out_folder, fingerprint, tuple(frames.shape[1:3]))
    todo = [source for source in plan if not writer.has(source, plan[source])]
    total = sum(map(len, plan.values()))
    computed = sum(len(plan[source]) for source in todo)
    session: FlowSession | None = None
    label = f"{options.backend} flow, shard {shard[0] + 1} of {shard[1]}"
    with Progress(total, label, unit="pairs", skipped=total - computed, logger=logger) as progress:
        for source in todo:
            session = session or backend.open(frames)  # only now: nothing is loaded when all is done
            masks = session.masks(source, plan[source]) if isinstance(session, StoredMasks) else None
            writer.write(source, plan[source], session.flows(source, plan[source]), masks)
            progress.advance(len(plan[source]))
    writer.publish()
    return computed


def frames_hash(frames: np.ndarray) -> str:
    """Hex sha256 of the shape and the pixels of frames, one frame in memory at a time."""
    digest = hashlib.sha256(repr((frames.dtype.str, frames.shape)).encode())
    for frame in frames:
        digest.update(np.ascontiguousarray(frame))
    return digest.hexdigest()
