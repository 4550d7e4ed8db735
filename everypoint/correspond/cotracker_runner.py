"""CoTracker, where the user has installed it: queries of any frame followed to both ends of a video.

Sources: Karaev et al., CoTracker (ECCV 2024) and CoTracker3 (2024). Nothing of it is part of everypoint: code and
weights are under CC-BY-NC 4.0, for non-commercial use, and come with the user's own installation. This file speaks to
the documented interface of ``cotracker.predictor`` alone.

* Its coordinates are index coordinates (the first pixel's centre at 0), of frames that it resizes to 384 x 512 so that
  corner pixels stay in the corners. That resize is made here, once or chunk by chunk, and undone at the end; the
  predictor's own then changes nothing.
* It tracks forward in time only. What lies before a query comes from a second pass over the reversed video.
* Scores: ``cotracker3-offline`` is asked through its inner network, which gives visibility and confidence (0..1; the
  predictor would reduce them to a boolean), with the 6 x 6 support points on frame 0 of the video that the predictor
  adds. The other models give a boolean (visibility x confidence > 0.6 in version 3 online, visibility > 0.9 in version
  2 offline, > 0.6 online), which is passed on as 0 or 1 with confidence 1.
* Points of one call attend to each other, so a track depends a little on the others of its call: on the queries, their
  order and ``points_at_once``, which is no mere question of memory.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from everypoint.artifacts.folder import sha256_of
from everypoint.artifacts.weights import load_tensors
from everypoint.assets.fetch import locate
from everypoint.config.options import CotrackerOptions
from everypoint.errors import AssetError, MissingPackageError
from everypoint.geometry import scale_corners
from everypoint.numerics import full_precision

logger = logging.getLogger(__name__)

RESOLUTION = (384, 512)  # (H, W) of what the network sees
SUPPORT = 6  # support points a side
ITERATIONS = 6
LONG_VIDEO = 150  # frames from which the offline models need a great deal of memory
_RESIZE_AT_ONCE = 16  # frames
_FRAME_BYTES = 6_400_000 + 4 * 3 * RESOLUTION[0] * RESOLUTION[1]  # features and picture of a frame
_POINT_BYTES = 4 * 2401 * 4  # correlations of a point and frame: four levels of 7 x 7 x 7 x 7

INSTALL = "pip install git+https://github.com/facebookresearch/co-tracker"
_CURE = (
    f"if its licence suits you, run `{INSTALL}` in the environment of everypoint (it is in no package index: do not "
    "install it by a bare name, which anybody may have taken), or choose another source or tracker"
)


class Model(NamedTuple):
    """How a model is built and run."""

    online: bool
    window: int
    arguments: dict[str, Any]  # of the predictor, besides the weights and the window


MODELS = {
    "cotracker3-offline": Model(False, 60, {"offline": True}),
    "cotracker3-online": Model(True, 16, {}),
    "cotracker2": Model(False, 8, {"offline": False, "v2": True}),
    "cotracker2-online": Model(True, 8, {"v2": True}),
}


class PointTracks(NamedTuple):
    """Tracks of N queries over T frames; at a query's own frame exactly the query, with visibility and confidence 1.

    Where nothing is known (a direction that was not asked for, a result that is no number) the position is the query's
    and visibility and confidence are 0.
    """

    xy: np.ndarray  # float32 [T, N, 2], index coordinates
    visibility: np.ndarray  # float32 [T, N], 0..1
    confidence: np.ndarray  # float32 [T, N], 0..1

    @property
    def score(self) -> np.ndarray:
        """Visibility times confidence, float32 [T, N]: what CoTracker's own evaluation thresholds."""
        return self.visibility * self.confidence


class CotrackerRunner:
    """One of CoTracker's models with its weights, built when it is first needed."""

    def __init__(self, options: CotrackerOptions, device: torch.device | str = "cpu") -> None:
        self._options, self._device = options, torch.device(device)
        self._model = MODELS[options.model]

    @functools.cached_property
    def weights(self) -> Path:
        """The weight file; raises :class:`everypoint.errors.AssetError` until its licence is accepted."""
        return locate(self._options.weights_or_default)

    def describe(self) -> dict[str, Any]:
        """All that its tracks depend on besides frames and queries."""
        _package()
        try:
            version = importlib.metadata.version("cotracker")
        except importlib.metadata.PackageNotFoundError:  # importable without being installed
            version = None
        chosen = self._options.model_dump(include={"model", "points_at_once"})
        return {"package": version, "weights": sha256_of(self.weights), **chosen}

    @functools.cached_property
    def predictor(self) -> Any:
        """CoTracker's predictor on the device.

        It opens the weight file by itself, with torch.load. The file is therefore read before as plain tensors, which
        refuses anything that would run code.
        """
        package, name = _package(), self._options.model
        load_tensors(self.weights)
        kind = "CoTrackerOnlinePredictor" if self._model.online else "CoTrackerPredictor"
        arguments = {"checkpoint": str(self.weights), "window_len": self._model.window, **self._model.arguments}
        try:
            made = getattr(package, kind)(**arguments)
        except (AttributeError, TypeError) as error:
            raise MissingPackageError(f"the installed cotracker cannot run {name}", str(error), _CURE) from error
        except RuntimeError as error:  # load_state_dict: keys or shapes
            why = " ".join(str(error).split())[:200]
            raise AssetError(f"{self.weights} does not fit {name}", why, "use weights made for it") from error
        return made.to(self._device).eval()

    def track(
        self, frames: np.ndarray, queries: np.ndarray, *, forward: bool = True, backward: bool = True
    ) -> PointTracks:
        """Follow queries through a video.

        Args:
            frames: uint8 [T, H, W, 3] RGB.
            queries: [N, 3], (t, x, y) with t a frame's number and x, y in index coordinates.
            forward: whether the frames after a query's are asked for.
            backward: whether the frames before it are.
        """
        queries = np.asarray(queries, np.float32)
        count, size = len(frames), (frames.shape[1], frames.shape[2])
        out = _untracked(count, queries)
        if not len(queries) or count < 2:
            return out
        self._announce(count, len(queries))
        scaled = np.column_stack([queries[:, 0], scale_corners(queries[:, 1:], size, RESOLUTION)]).astype(np.float32)
        times = np.arange(count)[:, None]
        for start in range(0, len(queries), self._options.points_at_once):
            part = slice(start, start + self._options.points_at_once)
            own = scaled[part, 0]
            if forward and own.min() < count - 1:
                _take(out, part, self._pass(_Clip(frames, self._device), scaled[part]), size, times > own)
            if backward and own.max() > 0:
                turned = np.column_stack([count - 1 - own, scaled[part, 1:]])
                found = self._pass(_Clip(frames, self._device, turned=True), turned)
                _take(out, part, PointTracks(*(array[::-1] for array in found)), size, times < own)
        return out

    @torch.no_grad()
    def _pass(self, clip: _Clip, queries: np.ndarray) -> PointTracks:
        """Queries [n, 3] followed forward through a clip; pixels of ``RESOLUTION``. Undefined before the queries."""
        asked = torch.from_numpy(queries.astype(np.float32)).to(self._device)[None]
        with full_precision():
            if self._model.online:
                tracks, visible = self._online(clip, asked)
            elif self._options.model == "cotracker3-offline":
                return self._scored(clip, asked)
            else:
                tracks, visible = self.predictor(clip.take(0, len(clip)), queries=asked)
        visibility = visible[0].float().cpu().numpy()
        return PointTracks(tracks[0].float().cpu().numpy(), visibility, np.ones_like(visibility))

    def _online(self, clip: _Clip, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Chunks of two steps that advance by one; the result of the last covers the whole clip."""
        predictor, step = self.predictor, self._model.window // 2
        first = clip.take(0, min(2 * step, len(clip)))
        predictor(video_chunk=first, is_first_step=True, queries=queries, add_support_grid=True)
        for start in range(0, max(len(clip) - step, 1), step):
            chunk = clip.take(start, min(start + 2 * step, len(clip)))
            tracks, visible = predictor(video_chunk=chunk, add_support_grid=True)
        return tracks, visible

    def _scored(self, clip: _Clip, queries: Tensor) -> PointTracks:
        """The inner network of version 3 offline: what its predictor does, before it reduces scores to a boolean."""
        support = support_points(len(clip) - 1 if clip.is_turned else 0).to(self._device)[None]
        video, every = clip.take(0, len(clip)), torch.cat([queries, support], dim=1)
        found = self.predictor.model(video=video, queries=every, iters=ITERATIONS)[:3]
        return PointTracks(*(part[0, :, : queries.shape[1]].float().cpu().numpy() for part in found))

    def _announce(self, frames: int, points: int) -> None:
        name = self._options.model
        window = min(frames, self._model.window) if self._model.online else frames
        points = min(points, self._options.points_at_once) + SUPPORT**2
        gib = window * (_FRAME_BYTES + points * _POINT_BYTES) / 2**30
        logger.info("%s: %d frames, %d points a call: about %.1f GiB", name, frames, points, gib)
        if not self._model.online and frames > LONG_VIDEO:
            logger.warning(
                "%d frames at once are many for %s; an online model needs memory of its window only", frames, name
            )


class _Clip:
    """A video as the network takes it, forward or reversed, resized part by part."""

    def __init__(self, frames: np.ndarray, device: torch.device, *, turned: bool = False) -> None:
        self._frames, self._device, self.is_turned = frames, device, turned

    def __len__(self) -> int:
        return len(self._frames)

    def take(self, start: int, stop: int) -> Tensor:
        """Frames [start, stop) in the order of time of the clip, float32 [1, n, 3, 384, 512] in 0..255."""
        out = torch.empty(1, stop - start, 3, *RESOLUTION, device=self._device)
        for first in range(start, stop, _RESIZE_AT_ONCE):
            chosen = np.arange(first, min(first + _RESIZE_AT_ONCE, stop))
            rows = chosen - start
            frames = np.ascontiguousarray(self._frames[len(self) - 1 - chosen if self.is_turned else chosen])
            pictures = torch.from_numpy(frames).to(self._device).permute(0, 3, 1, 2).float()
            out[0, rows[0] : rows[-1] + 1] = F.interpolate(pictures, RESOLUTION, mode="bilinear", align_corners=True)
        return out


def support_points(frame: int) -> Tensor:
    """Queries [36, 3] (t, x, y) of a regular grid over ``RESOLUTION``, a 64th of its width from every side, by rows."""
    height, width = RESOLUTION
    margin = width / 64
    ys, xs = (torch.linspace(margin, side - margin, SUPPORT) for side in (height, width))
    y, x = torch.meshgrid(ys, xs, indexing="ij")
    return torch.stack([torch.full_like(x, float(frame)), x, y], dim=-1).reshape(-1, 3)


def _untracked(frames: int, queries: np.ndarray) -> PointTracks:
    """Tracks that know nothing but their queries."""
    xy = np.repeat(queries[None, :, 1:], frames, axis=0)
    scores = np.zeros((2, frames, len(queries)), np.float32)
    scores[:, queries[:, 0].astype(int), np.arange(len(queries))] = 1
    return PointTracks(xy, *scores)


def _take(out: PointTracks, part: slice, found: PointTracks, size: tuple[int, int], wanted: np.ndarray) -> None:
    """Put what a pass found (pixels of ``RESOLUTION``) into ``out`` [:, part] where ``wanted`` [T, n] and a number."""
    xy = scale_corners(found.xy, RESOLUTION, size)
    good = wanted & np.isfinite(xy).all(-1) & np.isfinite(found.visibility) & np.isfinite(found.confidence)
    out.xy[:, part][good] = xy[good]
    out.visibility[:, part][good] = np.clip(found.visibility[good], 0, 1)
    out.confidence[:, part][good] = np.clip(found.confidence[good], 0, 1)


def _package() -> ModuleType:
    """The module ``cotracker.predictor``; raises :class:`MissingPackageError` that names licence and install line."""
    try:
        from cotracker import predictor
    except ImportError as error:
        raise MissingPackageError(
            "CoTracker is not installed",
            f"it is a network under CC-BY-NC 4.0 (non-commercial use) and no part of everypoint ({error})",
            _CURE,
        ) from error
    return predictor
