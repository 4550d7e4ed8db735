"""The flow stage: plan the pairs of a video, compute those of one shard, publish them."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from everypoint.artifacts.flows import FlowShardWriter
from everypoint.artifacts.video import VideoMeta
from everypoint.config.options import FlowOptions
from everypoint.correspond.base import FlowSession, GroupedFlows, StoredFlows, StoredMasks, flow_backend
from everypoint.correspond.pairs import plan_pairs, shard_sources
from everypoint.correspond.sweeps import source_groups
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
    (by their pixels), back-end, weights, options and the planned pairs of the shard are. A back-end that computes
    several sources at once gets the groups of an undisturbed run, whole even where some of their sources are finished:
    what goes through a network together touches the last bit of the flows.

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
    todo = {source for source in plan if not writer.has(source, plan[source])}
    session = backend.open(frames) if todo else None  # only now: nothing is loaded when all is done
    groups = source_groups(plan, session.group_size if isinstance(session, GroupedFlows) else 1)
    groups = [group for group in groups if todo & group.keys()]
    total, computed = _pairs([plan]), _pairs(groups)
    label = f"{options.backend} flow, shard {shard[0] + 1} of {shard[1]}"
    with Progress(total, label, unit="pairs", skipped=total - computed, logger=logger) as progress:
        for group in groups:
            for source, flows in _group_flows(session, group, progress.advance):
                if source in todo:
                    masks = session.masks(source, plan[source]) if isinstance(session, StoredMasks) else None
                    writer.write(source, plan[source], flows, masks)
    writer.publish()
    return computed


def _group_flows(
    session: FlowSession, plan: Mapping[int, Sequence[int]], advance: Callable[[int], None]
) -> Iterator[tuple[int, np.ndarray]]:
    """Each source of a group with its flows, float32 or encoded."""
    if isinstance(session, GroupedFlows):
        yield from session.group_flows(plan, advance)
        return
    for source, targets in plan.items():
        yield source, session.flows(source, targets)
        advance(len(targets))


def _pairs(plans: Sequence[Mapping[int, Sequence[int]]]) -> int:
    return sum(len(targets) for plan in plans for targets in plan.values())


def frames_hash(frames: np.ndarray) -> str:
    """Hex sha256 of the shape and the pixels of frames, one frame in memory at a time."""
    digest = hashlib.sha256(repr((frames.dtype.str, frames.shape)).encode())
    for frame in frames:
        digest.update(np.ascontiguousarray(frame))
    return digest.hexdigest()
