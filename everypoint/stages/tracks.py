"""Stage tracks: every query followed through all frames, written in coordinates of the original video."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from everypoint import __version__, geometry
from everypoint.artifacts import atomic
from everypoint.artifacts.folder import fingerprint_of
from everypoint.artifacts.tracks import Tracks, save_tracks, save_tracks_csv
from everypoint.artifacts.video import VideoMeta, load_frames, load_meta
from everypoint.config.options import Preset
from everypoint.errors import TrainingError

if TYPE_CHECKING:
    import torch

VERSION = 3

logger = logging.getLogger(__name__)


def queries_to_index(queries: np.ndarray, meta: VideoMeta) -> np.ndarray:
    """Queries (t, x, y) [N, 3] in raster pixels of the original frame, in index pixels of the working frame."""
    xy = geometry.raster_to_index(geometry.scale_raster(queries[:, 1:], meta.original_size, meta.size))
    return np.column_stack([queries[:, 0], xy]).astype(np.float32)


def tracks_to_original(tracks: np.ndarray, meta: VideoMeta) -> np.ndarray:
    """Positions [T, N, 2] in index pixels of the working frame, in raster pixels of the original frame."""
    return geometry.scale_raster(geometry.index_to_raster(tracks), meta.size, meta.original_size).astype(np.float32)


def pin_queries(tracks: np.ndarray, visible: np.ndarray, confidence: np.ndarray, queries: np.ndarray) -> None:
    """Make every track pass through its query exactly, visible, with full confidence (in place)."""
    rows, columns = queries[:, 0].astype(int), np.arange(len(queries))
    tracks[rows, columns] = queries[:, 1:]
    visible[rows, columns] = True
    confidence[rows, columns] = 1.0


def run(
    *,
    frames: str,
    queries: str,
    preset: Mapping[str, Any],
    name: str,
    seed: int,
    output: str,
    table: str,
    device: str,
    threads: int,
    flow: Sequence[str] = (),
    rival: Sequence[str] = (),
    features: str | None = None,
    model: str | None = None,
) -> None:
    """Write ``tracks.npz`` (``output``) and ``tracks.csv`` (``table``) of one video and preset ``name``."""
    from everypoint.artifacts.flows import FlowStore
    from everypoint.features.run import load_features
    from everypoint.stages.device import prepare, without_torch
    from everypoint.track.dispatch import TrackInputs, track

    folder = Path(frames).parent
    atomic.sweep_stale(Path(output).parent)
    meta, options = load_meta(folder), Preset.model_validate(dict(preset))
    networks = options.tracker in ("optimize", "cotracker", "pips2")
    place = prepare(device, threads) if networks else without_torch(threads)
    asked = atomic.load_npz(queries)
    inputs = TrackInputs(
        frames=load_frames(folder),
        flows=FlowStore([Path(item) for item in flow]) if flow else None,
        rival=FlowStore([Path(item) for item in rival]) if rival else None,
        features=load_features(features) if features else None,
        model=Path(model) if model else None,
    )
    with _as_trained(options, place):
        found = track(options, queries_to_index(asked["queries"], meta), inputs, place, seed)
    positions = tracks_to_original(np.asarray(found.tracks, np.float32), meta)
    visible, confidence = np.array(found.visible, bool), np.array(found.confidence, np.float32)
    pin_queries(positions, visible, confidence, asked["queries"])
    if not np.isfinite(positions).all():
        raise TrainingError(f"preset {name} gave positions of {meta.name} that are not numbers")
    if meta.cuts:
        logger.warning("%s has a cut at frame %s; tracks cross it", meta.name, ", ".join(map(str, meta.cuts)))
    result = Tracks(
        tracks=positions,
        visibility=visible,
        confidence=confidence,
        queries=asked["queries"],
        query_ids=asked["query_ids"],
        frame_size=meta.original_size,
        fps=meta.fps / meta.stride,
        meta=describe(meta, name, preset, seed) | of_tracker(options.tracker),
    )
    save_tracks_csv(table, result)
    save_tracks(output, result)


def _as_trained(options: Preset, place: torch.device | str) -> contextlib.AbstractContextManager[None]:
    """A model is read out with the arithmetic that it was trained with."""
    if options.tracker != "optimize":
        return contextlib.nullcontext()
    from everypoint.numerics import products_in  # torch is needed for models only

    return products_in(options.optimize.matmul, place)


def of_tracker(tracker: str) -> dict[str, Any]:
    """What a reader of the tracks must know of the tracker."""
    if tracker != "pips2":
        return {}
    return {"visibility": "forward-backward consistency: PIPs++ itself predicts no visibility"}


def describe(meta: VideoMeta, name: str, preset: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """What the tracks file says of its making. No time and no path, so that equal runs give equal bytes."""
    return {
        "everypoint": __version__,
        "preset": name,
        "options": fingerprint_of([dict(preset), seed])[:16],
        "seed": seed,
        "coordinate_system": "raster pixels of the original frame: x in [0, W], the first pixel's centre at 0.5",
        "video": meta.name,
        "source_hash": meta.source_hash,
        "start": meta.start,
        "stride": meta.stride,
        "working_size": list(meta.size),
        "cuts": list(meta.cuts),
    }
