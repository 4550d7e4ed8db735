"""From a preset and its inputs to tracks: which tracker runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from everypoint.artifacts.flows import FlowStore
from everypoint.config.options import CompanionOptions, Preset
from everypoint.errors import ArtifactError
from everypoint.track.base import TrackArrays
from everypoint.track.chain import chain_tracks
from everypoint.track.companions import Block, blocks, starts
from everypoint.track.evidence import Evidence
from everypoint.track.fuse import fuse
from everypoint.track.multi import chain_multi_tracks

if TYPE_CHECKING:
    import torch

Value = TypeVar("Value")


@dataclass(frozen=True)
class TrackInputs:
    """What the stages before have made of one video; None where the preset does not need it."""

    frames: np.ndarray  # uint8 [T, H, W, 3]
    flows: FlowStore | None = None
    rival: FlowStore | None = None  # flows of a second network
    features: np.ndarray | None = None  # float16 [T, h, w, C]
    matches: Path | None = None
    model: Path | None = None


def track(
    preset: Preset, queries: np.ndarray, inputs: TrackInputs, device: torch.device | str, seed: int
) -> TrackArrays:
    """Track queries [N, 3] (t, x, y index coordinates of the working frame) with the preset's tracker.

    Raises :class:`ArtifactError` when an input that the preset needs is missing.
    """
    frames = len(inputs.frames)
    if preset.tracker == "chain":
        return chain_tracks(_needed(inputs.flows, "flows"), queries, frames, preset.chain)
    if preset.tracker == "chain-multi":
        return _walk_and_fuse(preset, queries, inputs, None)
    if preset.tracker == "cotracker":
        from everypoint.track.cotracker import cotracker_tracks  # torch is needed for networks only

        return cotracker_tracks(inputs.frames, queries, preset.cotracker, device)
    if preset.tracker == "pips2":
        from everypoint.track.pips import pips_tracks  # likewise

        return pips_tracks(inputs.frames, queries, preset.pips, device)
    return _optimized(preset, queries, inputs, device)


def _optimized(preset: Preset, queries: np.ndarray, inputs: TrackInputs, device: torch.device | str) -> TrackArrays:
    from everypoint.models.files import load_model  # torch is needed for models only
    from everypoint.track.model import proposal

    model = load_model(_needed(inputs.model, "the optimised model"), device)
    video = inputs.frames.shape[:3]
    if (model.frames, *model.frame_size) != video:
        raise ArtifactError(
            f"{inputs.model} is the model of another video",
            f"it has {model.frames} frames of {model.frame_size}, the video {video[0]} of {video[1:]}",
            "delete it and run again",
        )
    proposed = proposal(model, queries, preset.readout)
    if not preset.readout.fuse:
        return proposed
    return _walk_and_fuse(preset, queries, inputs, proposed)


def _walk_and_fuse(
    preset: Preset, queries: np.ndarray, inputs: TrackInputs, proposed: TrackArrays | None
) -> TrackArrays:
    """The walk along the flows, joined with what is proposed and with companions, where the preset asks for some."""
    frames, options = len(inputs.frames), preset.readout.companions
    given = inputs.features, inputs.frames, inputs.rival
    evidence = Evidence(_needed(inputs.flows, "flows"), preset.chain, *given)
    companions = None
    if options.every:
        plain = Evidence(evidence.store, preset.chain.model_copy(update={"boundary_radius": 0.0}), *given)
        companions = walk_companions(plain, frames, options)
    walked = chain_multi_tracks(evidence, queries, frames)
    return fuse(walked, proposed, evidence, queries, preset.readout, companions)


def walk_companions(evidence: Evidence, frames: int, options: CompanionOptions) -> list[Block]:
    """Companions of a video of so many frames, walked as queries are, block by block."""
    queries, found = starts(evidence.store, frames, options), []
    for begins, followed in blocks(frames, options):
        own = queries[(queries[:, 0] >= begins.start) & (queries[:, 0] < begins.stop)]
        if len(own):
            part = evidence.between(followed.start, followed.stop)
            moved = own - np.float32([followed.start, 0, 0])
            found.append(Block(followed.start, chain_multi_tracks(part, moved, len(followed))))
    return found


def _needed(value: Value | None, name: str) -> Value:
    if value is None:
        raise ArtifactError(f"an input of this preset is missing, {name}", cure="run the workflow again")
    return value
