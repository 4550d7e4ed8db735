"""Pictures of a model in training for TensorBoard: correspondences, depth, rendered against true colour.

They cost time, so they keep a share of it: a picture waits until what all of them will have cost is within the share.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from everypoint.config.options import ReadoutOptions
from everypoint.geometry import inside_index
from everypoint.models.motion import MotionModel
from everypoint.models.omnimotion import OmniMotionModel

FIRST_SECONDS = 60.0  # of training before the first pictures, whose cost is not known yet
GRID = 20  # px between the points of a correspondence panel
SIDE = 96  # longest side of what is rendered pixel by pixel
POINTS_AT_ONCE = 2048


class Pictures:
    """Makes the pictures of one run, and says when.

    Args:
        images: uint8 [T, H, W, 3], the working frames, may be memory-mapped.
        share: of the training time that pictures may take; 0: none.
        clock: seconds, for tests.
    """

    def __init__(self, images: np.ndarray, share: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._images, self._share, self._clock = images, share, clock
        self._spent = self._last = 0.0

    def due(self, seconds: float) -> bool:
        """Whether pictures fit the share of ``seconds`` of training."""
        if not self._share or seconds < FIRST_SECONDS:
            return False
        return self._spent + self._last <= self._share * seconds

    @torch.no_grad()
    def make(self, model: nn.Module) -> dict[str, np.ndarray]:
        """Pictures uint8 [h, w, 3] by name."""
        started, last = self._clock(), model.frames - 1
        made = {}
        for target in sorted({min(max(model.frames // 10, 1), 10, last), model.frames // 2, last} - {0}):
            made[f"correspondences/0_to_{target}"] = self._panel(model, 0, target)
        for frame in sorted({0, model.frames // 2}):
            made[f"depth/{frame}"] = depth_picture(depth_of(model, frame))
        if isinstance(model, OmniMotionModel):
            made["colour/0"] = np.concatenate([rendered(model, 0), self._small(0)], axis=1)
        self._last = self._clock() - started
        self._spent += self._last
        return made

    def _panel(self, model: nn.Module, i: int, j: int) -> np.ndarray:
        """Frames i and j side by side: points of a grid in i, where they are in j; crosses where they are hidden."""
        height, width = model.frame_size
        ys, xs = np.mgrid[GRID // 2 : height : GRID, GRID // 2 : width : GRID]
        points = np.stack([xs.ravel(), ys.ravel()], -1).astype(np.float32)
        there, seen = carried(model, points, i, j)
        left, right = (np.array(self._images[frame]) for frame in (i, j))  # copies to draw on
        for colour, start, end, visible in zip(wheel(points), points, there, seen, strict=True):
            cv2.circle(left, _pixel(start), 3, colour, -1, cv2.LINE_AA)
            if not inside_index(end, height, width):
                continue
            if visible:
                cv2.circle(right, _pixel(end), 3, colour, -1, cv2.LINE_AA)
            else:
                cv2.drawMarker(right, _pixel(end), colour, cv2.MARKER_TILTED_CROSS, 7, 1, cv2.LINE_AA)
        return np.concatenate([left, right], axis=1)

    def _small(self, frame: int) -> np.ndarray:
        """A frame at the size of what is rendered."""
        height, width = small_size(self._images.shape[1:3])
        return cv2.resize(np.ascontiguousarray(self._images[frame]), (width, height), interpolation=cv2.INTER_AREA)


def _pixel(xy: np.ndarray) -> tuple[int, int]:
    return round(float(xy[0])), round(float(xy[1]))


def wheel(points: np.ndarray) -> list[tuple[int, int, int]]:
    """A colour a point [N, 2]: the angle around their median on the colour wheel."""
    offset = points - np.median(points, axis=0)
    hue = (np.arctan2(offset[:, 1], offset[:, 0]) + np.pi) / (2 * np.pi) * 179
    hsv = np.stack([hue, np.full_like(hue, 255), np.full_like(hue, 255)], -1).astype(np.uint8)
    return [tuple(int(value) for value in colour) for colour in cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0]]


def small_size(frame_size: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of at most ``SIDE`` px with the shape of a frame (H, W)."""
    shrink = min(1.0, SIDE / max(frame_size))
    return tuple(max(1, round(side * shrink)) for side in frame_size)


def _small_grid(model: nn.Module) -> Tensor:
    """Index points [h * w, 2] of the frame at the centres of a small picture's pixels."""
    (height, width), (h, w) = model.frame_size, small_size(model.frame_size)
    ys, xs = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    points = torch.stack([(xs + 0.5) * width / w - 0.5, (ys + 0.5) * height / h - 0.5], -1)
    return points.reshape(-1, 2).to(next(model.parameters()).device)


@torch.no_grad()
def carried(model: nn.Module, points: np.ndarray, i: int, j: int) -> tuple[np.ndarray, np.ndarray]:
    """Where index points [N, 2] of frame i are in frame j, and whether the model calls them visible."""
    readout, device = ReadoutOptions(), next(model.parameters()).device
    positions, seen = [], []
    parts = model.bijection.time_parts() if isinstance(model, MotionModel) else model.parts()
    for xy in torch.from_numpy(points).to(device).split(POINTS_AT_ONCE):
        first, second = (torch.full((len(xy),), frame, device=device) for frame in (i, j))
        if isinstance(model, MotionModel):
            there = model.transport(xy, first, second, parts)
            visible = there.z - model.depth(there.xy, second) < readout.occlusion_depth
        else:
            there = model.place(model.anchor(xy, first, parts), second, parts)
            visible = model.visibility(there.xy, there.z, second, parts, readout) >= 0.5
        positions.append(there.xy.cpu().numpy())
        seen.append(visible.cpu().numpy())
    return np.concatenate(positions), np.concatenate(seen)


@torch.no_grad()
def depth_of(model: nn.Module, frame: int) -> np.ndarray:
    """Depth of a frame as a small map [h, w], the model's unit; of rays the weighted mean of their samples."""
    shape = small_size(model.frame_size)
    values = []
    for xy, at in _chunks(model, frame):
        if isinstance(model, OmniMotionModel):
            ray = model.ray(xy, at, model.parts())
            values.append((ray.weights * ray.depths).sum(-1))
        else:
            values.append(model.depth(xy, at))
    return torch.cat(values).reshape(shape).cpu().numpy()


@torch.no_grad()
def rendered(model: OmniMotionModel, frame: int) -> np.ndarray:
    """A frame as the field renders it, small, uint8 [h, w, 3]."""
    colours = torch.cat([model.ray(xy, at, model.parts()).colour for xy, at in _chunks(model, frame)])
    return (colours.clamp(0, 1) * 255).round().to(torch.uint8).reshape(*small_size(model.frame_size), 3).cpu().numpy()


def _chunks(model: nn.Module, frame: int) -> list[tuple[Any, Any]]:
    """The pixels of a small picture in parts: (index points [n, 2], frames [n])."""
    grid = _small_grid(model)
    return [(xy, torch.full((len(xy),), frame, device=xy.device)) for xy in grid.split(POINTS_AT_ONCE)]


def depth_picture(depth: np.ndarray) -> np.ndarray:
    """Depth [h, w] as colours, near bright; from its 2nd to its 98th percentile."""
    low, high = np.percentile(depth, (2, 98))
    level = 1 - (depth - low) / max(float(high - low), 1e-6)
    grey = (np.clip(level, 0, 1) * 255).round().astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
