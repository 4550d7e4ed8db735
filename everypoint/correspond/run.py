"""The flow stage: plan the pairs of a video, compute those of one shard, publish them."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from everypoint.artifacts.flows import FlowShardWriter
from everypoint.config.options import FlowOptions
from everypoint.correspond.base import FlowSession, flow_backend
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

    Raises:
        EverypointError: weights that cannot be had, a query frame outside the video, a full disk.
    """
    plan = plan_pairs(len(frames), options.pairs, query_frames)
    plan = {source: plan[source] for source in shard_sources(plan, shard)}
    backend = flow_backend(options, device)
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
            writer.write(source, plan[source], session.flows(source, plan[source]))
            progress.advance(len(plan[source]))
    writer.publish()
    return computed


def frames_hash(frames: np.ndarray) -> str:
    """Hex sha256 of the shape and the pixels of frames, one frame in memory at a time."""
    digest = hashlib.sha256(repr((frames.dtype.str, frames.shape)).encode())
    for frame in frames:
        digest.update(np.ascontiguousarray(frame))
    return digest.hexdigest()
