"""Tracks that were made elsewhere as a sparse source: the files of CoTracker, TAPIR and everypoint, read as they are.

=============== =========================================================== ==========================================
what            arrays of the .npz                                          coordinates
=============== =========================================================== ==========================================
CoTracker       tracks [1, T, N, 2], visibility [1, T, N] (1: optional)     ``coordinates`` and ``size``
TAPIR           tracks [N, T, 2], visibles or occluded [N, T]               ``coordinates`` and ``size``
everypoint      tracks.npz as it writes it                                  raster of frame_size; known
two files       a folder with tracks.npz and visibility.npz, of CoTracker   ``coordinates`` and ``size``
=============== =========================================================== ==========================================

Names may also be pred_tracks, pred_visibility and visibilities. Which axis counts the frames is told by their number:
the frames in use, or all frames of the source, of which those in use are then taken. A visibility is a boolean or lies
in 0..1; a row's score is the lesser visibility of its ends (of everypoint's own file: confidence), 1 for booleans.

Rows carry no flag: nobody has checked that they are cycle-consistent, so CYCLE would not be true, and both ends are
visible, so neither is OCCLUDED. To the sampler and the losses they are ordinary matches.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from everypoint.artifacts.atomic import load_npz
from everypoint.artifacts.matches import MatchRows
from everypoint.artifacts.tracks import load_tracks
from everypoint.artifacts.video import VideoMeta
from everypoint.config.options import Preset, TrackFileOptions
from everypoint.correspond.sparse import SparseVideo
from everypoint.correspond.track_rows import PairReservoir
from everypoint.errors import ArtifactError, InputError
from everypoint.geometry import index_to_raster, inside_index, raster_to_index, scale_raster

logger = logging.getLogger(__name__)

TRACKS = ("tracks", "pred_tracks")
VISIBLE = ("visibility", "visibilities", "pred_visibility", "visibles", "visible")
HIDDEN = ("occluded",)
LOGITS = ("occlusion", "occlusion_logits", "expected_dist")  # TAPIR's raw output
OWN = {"tracks", "visibility", "confidence", "queries", "query_ids", "frame_size", "schema_version"}
PROBABILITY = "write the visibility as a boolean or a probability (the sigmoid of a logit)"


class FileTracks(NamedTuple):
    """Tracks of a file at the frames in use, T of them."""

    xy: np.ndarray  # float32 [T, N, 2], index coordinates of the working frame
    visible: np.ndarray  # bool [T, N]
    score: np.ndarray  # float32 [T, N], 0..1


def read_tracks(place: Path, meta: VideoMeta, options: TrackFileOptions) -> FileTracks:
    """Read a track file (or a folder with two).

    Raises :class:`InputError` when it is missing, damaged, of another kind, or does not fit the video.
    """
    arrays = _arrays(place)
    if arrays.keys() >= OWN:
        return _own(place, meta)
    tracks, visibility = _found(place, arrays)
    tracks, visibility = _unbatched(place, tracks, visibility)
    axis = _time_axis(place, tracks.shape[:2], meta)
    tracks, visibility = (np.moveaxis(array, axis, 0) for array in (tracks, visibility))
    rows = used_rows(len(tracks), meta)
    score = visibility[rows].astype(np.float32)
    size = options.size or meta.original_size
    xy = tracks[rows].astype(np.float64)
    raster = index_to_raster(xy) if options.coordinates == "index" else xy
    return _placed(raster, size, meta, score >= options.visibility, score)


def _own(place: Path, meta: VideoMeta) -> FileTracks:
    """A file that everypoint wrote, about the same frames."""
    try:
        found = load_tracks(place)
    except ArtifactError as error:
        raise InputError(f"{place} cannot be read", error.why, error.cure) from error
    made = {key: found.meta.get(key, getattr(meta, key)) for key in ("start", "stride")}
    if len(found.tracks) != meta.frames or made != {"start": meta.start, "stride": meta.stride}:
        raise InputError(
            f"{place} does not fit the video",
            f"it holds {len(found.tracks)} frames from frame {made['start']} in steps of {made['stride']}; "
            f"{meta.frames} from frame {meta.start} in steps of {meta.stride} are in use",
            "make it again with the same options of frames",
        )
    return _placed(found.tracks.astype(np.float64), found.frame_size, meta, found.visibility, found.confidence)


def _placed(
    raster: np.ndarray, size: Sequence[int], meta: VideoMeta, visible: np.ndarray, score: np.ndarray
) -> FileTracks:
    """Raster points [T, N, 2] of frames of ``size`` (H, W) in the working frame; what lies outside is not visible."""
    xy = raster_to_index(scale_raster(raster, (size[0], size[1]), meta.size))
    seen = visible & np.isfinite(xy).all(-1)
    xy = np.where(seen[..., None], xy, 0).astype(np.float32)
    return FileTracks(xy, seen & inside_index(xy, *meta.size), np.clip(score, 0, 1).astype(np.float32))


# ------------------------------------------------------------------------------------------------- arrays of a file


def _arrays(place: Path) -> dict[str, np.ndarray]:
    """The arrays of a file; of a folder those of tracks.npz and visibility.npz, a lone array under its file's name."""
    if not place.is_dir():
        return _load(place)
    files = {name: place / f"{name}.npz" for name in ("tracks", "visibility")}
    found = {}
    for name, path in files.items():
        arrays = _load(path)
        found |= {name: next(iter(arrays.values()))} if len(arrays) == 1 else arrays
    return found


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        return load_npz(path)
    except ArtifactError as error:
        why = error.why or ("it is missing" if not path.exists() else "")
        raise InputError(f"the tracks {path} cannot be read", why, "see sparse.tracks in the reference") from error


def _found(place: Path, arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(tracks, visibility 0..1) by their names, of whatever layout."""
    tracks = next((arrays[name] for name in TRACKS if name in arrays), None)
    seen = next((arrays[name] for name in VISIBLE if name in arrays), None)
    hidden = next((arrays[name] for name in HIDDEN if name in arrays), None)
    if seen is None and hidden is None and set(LOGITS) & arrays.keys():
        raise InputError(f"{place} holds logits of the occlusion", "they are no visibility", PROBABILITY)
    if tracks is None or (seen is None and hidden is None):
        raise InputError(
            f"{place} holds no tracks that can be read",
            f"its arrays are {', '.join(sorted(arrays)) or 'none'}",
            "name them tracks and visibility (or visibles, or occluded)",
        )
    if not np.issubdtype(tracks.dtype, np.floating):
        raise InputError(f"the tracks in {place} are of type {tracks.dtype}", cure="write them as float32")
    if seen is None:
        return tracks, 1 - _unit(place, hidden, 1.0)
    return tracks, _unit(place, seen, 0.0)


def _unit(place: Path, values: np.ndarray, unknown: float) -> np.ndarray:
    """A visibility as float32 in 0..1, ``unknown`` for NaN; anything else (logits, above all) is refused."""
    if values.dtype.kind not in "biuf":
        raise InputError(f"the visibility in {place} is of type {values.dtype}", cure=PROBABILITY)
    values = np.nan_to_num(values.astype(np.float32), nan=unknown)
    if values.size and (values.min() < 0 or values.max() > 1):
        bounds = f"its values lie in {values.min():.3g}..{values.max():.3g}"
        raise InputError(f"the visibility in {place} is no probability", bounds, PROBABILITY)
    return values


def _unbatched(place: Path, tracks: np.ndarray, visibility: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[A, B, 2] and [A, B] in the file's own order of axes: without a batch axis and a channel of one."""
    tracks_of = tracks[0] if tracks.ndim == 4 and len(tracks) == 1 else tracks
    seen = visibility
    if seen.ndim > 2 and seen.shape[-1] == 1 and seen.shape[:-1] in (tracks.shape[:-1], tracks_of.shape[:-1]):
        seen = seen[..., 0]
    if seen.ndim == 3 and len(seen) == 1:
        seen = seen[0]
    if tracks_of.ndim != 3 or tracks_of.shape[-1] != 2 or seen.shape != tracks_of.shape[:2]:
        raise InputError(
            f"the arrays in {place} do not fit each other",
            f"tracks has shape {tracks.shape}, visibility {visibility.shape}",
            "write [T, N, 2] and [T, N], or [N, T, 2] and [N, T]",
        )
    return tracks_of, seen


# ----------------------------------------------------------------------------------------------------------- frames


def _length_fit(length: int, meta: VideoMeta) -> int:
    """How well a number of frames fits: 2 the frames in use or the source to its end, 1 a longer source, 0 neither.

    The source's own length is not known here; without ``max_frames`` it ends less than a stride after the last frame.
    """
    last = meta.start + (meta.frames - 1) * meta.stride
    if length == meta.frames or last < length <= last + meta.stride:
        return 2
    return int(length > last)


def _time_axis(place: Path, shape: Sequence[int], meta: VideoMeta) -> int:
    """Which of the two axes counts the frames."""
    fits = [_length_fit(length, meta) for length in shape]
    last = meta.start + (meta.frames - 1) * meta.stride
    if max(fits) == 0:
        raise InputError(
            f"{place} does not fit the video",
            f"its tracks are {shape[0]} x {shape[1]}; {meta.frames} frames are in use, up to the source's frame {last}",
            "track the frames in use, or every frame of the source",
        )
    if fits[0] == fits[1]:
        raise InputError(
            f"in {place} frames and points cannot be told apart",
            f"its tracks are {shape[0]} x {shape[1]}; {meta.frames} frames are in use, up to the source's frame {last}",
            "write the frames in use only, with another number of points",
        )
    return int(np.argmax(fits))


def used_rows(length: int, meta: VideoMeta) -> np.ndarray:
    """Which of ``length`` frames of a file are the frames in use, int64 [T]."""
    if length == meta.frames:
        return np.arange(meta.frames)
    return meta.start + meta.stride * np.arange(meta.frames)


# ----------------------------------------------------------------------------------------------------------- source


class TrackFileSource:
    """Matches of all pairs of frames in which a track of the file is visible, evenly capped a pair."""

    def __init__(self, preset: Preset, device: torch.device | str = "cpu") -> None:
        self._options, self._per_pair = preset.sparse.tracks, preset.sparse.per_pair
        self._budget = preset.matches.budget_mb

    def describe(self) -> dict[str, Any]:
        own = self._options.model_dump(mode="json", exclude={"file"})
        return {"source": "tracks", "per_pair": self._per_pair, "budget_mb": self._budget} | own

    def rows(self, video: SparseVideo, seed: int) -> MatchRows:
        """Rows with frame_i < frame_j and no flags. See :class:`everypoint.correspond.sparse.SparseSource`."""
        if video.place is None:
            raise InputError(f"{video.meta.name} has no track file", cure="name one in sparse.tracks.file")
        options = self._options
        tracks = read_tracks(Path(video.place), video.meta, options)
        logger.info(
            "%s: %d tracks, %.0f %% visible", video.place, tracks.visible.shape[1], 100 * _share(tracks.visible)
        )
        gaps = (options.gap, options.max_gap)
        reservoir = PairReservoir(video.meta.frames, gaps, self._per_pair, self._budget, seed)
        reservoir.add(tracks.xy, tracks.score, tracks.visible.astype(np.uint8))
        return reservoir.rows(0)


def _share(mask: np.ndarray) -> float:
    return float(mask.mean()) if mask.size else 0.0


SOURCE = TrackFileSource
