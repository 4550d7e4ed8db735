"""Flows and masks that OmniMotion's or OmniTrackFast's preprocessing left on disk, in place of computing them.

Flows are taken as they are, raw or overwritten by chaining; a pair counts when both of its directions are there.
Masks become flags a pixel:

* ``raft_masks``: the first channel is CYCLE, the second OCCLUDED. A grey picture (one channel, or three equal ones) is
  CYCLE.
* ``full_mask`` (OmniTrackFast) holds either class where the depth prior can be relied on: where it is unset no flag is
  left. Without ``raft_masks`` it is CYCLE, since it does not tell the classes apart.
* A source frame has masks when all of its pairs have; else its flows are to be filtered anew.

As in the folder, a mask says nothing about whether the target lies inside the other frame.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from everypoint.artifacts.flows import encode_flow
from everypoint.artifacts.matches import CYCLE, OCCLUDED
from everypoint.artifacts.video import VideoMeta
from everypoint.config.options import FlowOptions
from everypoint.correspond.processed_statistics import StatisticsCheck
from everypoint.errors import InputError
from everypoint.video.paths import shown
from everypoint.video.processed_folder import (
    FLOWS,
    FULL_MASKS,
    MASKS,
    ProcessedFolder,
    digest_of,
    read_array,
    read_bits,
)

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


class ProcessedSession:
    """Flows and masks of one video, read when they are asked for."""

    group_size = 1  # nothing is gained by reading several sources together

    def __init__(self, folder: ProcessedFolder) -> None:
        self._folder = folder
        self._size = folder.meta.size
        self._check = StatisticsCheck(folder)

    def flows(self, source: int, targets: Sequence[int]) -> np.ndarray:
        """Flows float32 [n, H, W, 2] in pixels; see :class:`everypoint.correspond.base.FlowSession`."""
        result = np.empty((len(targets), *self._size, 2), np.float32)
        for row, target in enumerate(targets):
            result[row] = self._flow(source, target)
        return result

    def group_flows(
        self, plan: Mapping[int, Sequence[int]], advance: Callable[[int], None]
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Each source with its encoded flows, which take half of the memory; see ``GroupedFlows``."""
        for source, targets in plan.items():
            result = np.empty((len(targets), *self._size, 2), np.int16)
            for row, target in enumerate(targets):
                result[row] = encode_flow(self._flow(source, target))
                advance(1)
            yield source, result

    def _flow(self, source: int, target: int) -> np.ndarray:
        """The flow float32 [H, W, 2] of a pair that was located."""
        path = _file(self._folder, FLOWS, source, target, ".npy")
        if path is None:
            name = f"{self._folder.names[source]}_{self._folder.names[target]}.npy"
            raise self._folder.missing(FLOWS, name, "copy or compute it again")
        flow = read_array(path)
        self._check_size(path, flow.shape, (*self._size, 2))
        return flow

    def masks(self, source: int, targets: Sequence[int]) -> np.ndarray | None:
        """Flags uint8 [n, H, W] (CYCLE, OCCLUDED) of the pairs; None where one of them has no mask."""
        if not all(_mask_files(self._folder, source, target) for target in targets):
            return None
        result = np.empty((len(targets), *self._size), np.uint8)
        for row, target in enumerate(targets):
            result[row] = self._flags(source, target)
        self._check.finish(source, targets)
        return result

    def _flags(self, source: int, target: int) -> np.ndarray:
        """The flags uint8 [H, W] of a pair that has a mask."""
        published, full = (_file(self._folder, part, source, target, ".png") for part in (MASKS, FULL_MASKS))
        flags = np.full(self._size, CYCLE, np.uint8)
        if published is not None:
            bits = self._bits(published)
            self._check.add(source, target, bits)
            flags = classes_of(bits)
        if full is not None:
            flags[~self._bits(full).any(axis=-1)] = 0
        return flags

    def _bits(self, path: Path) -> np.ndarray:
        bits = read_bits(path)
        self._check_size(path, bits.shape, (*self._size, bits.shape[2]))
        return bits

    def _check_size(self, path: Path, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
        if found != wanted:
            raise wrong_size(path, found, self._folder)


def classes_of(bits: np.ndarray) -> np.ndarray:
    """Flags uint8 [H, W] of a mask bool [H, W, C] of ``raft_masks``."""
    if bits.shape[2] < 3 or bits[..., 2].any():  # grey, also where it was saved as RGB: the third channel is zero else
        return bits[..., 0] * np.uint8(CYCLE)
    return bits[..., 0] * np.uint8(CYCLE) | bits[..., 1] * np.uint8(OCCLUDED)


def wrong_size(path: Path, found: tuple[int, ...], folder: ProcessedFolder) -> InputError:
    """The error for a flow or mask that is not of the working frames' size."""
    height, width = folder.meta.size
    what = f"{shown(path)} does not fit the frames of {folder.meta.name}"
    if len(found) < 2 or min(found[:2]) < 1:
        return InputError(what, f"its shape is {found}", "copy or compute it again")
    own = tuple(found[:2]) == folder.meta.original_size
    cure = "frames.max_side and frames.resize to null" if own else f"frames.resize to [{found[0]}, {found[1]}]"
    return InputError(what, f"it is of shape {found}, the frames are {height} x {width}", f"set {cure}")


def _file(folder: ProcessedFolder, part: str, source: int, target: int, suffix: str) -> Path | None:
    return folder.pair_file(part, folder.names[source], folder.names[target], suffix)


def _mask_files(folder: ProcessedFolder, source: int, target: int) -> list[Path]:
    files = (_file(folder, part, source, target, ".png") for part in (MASKS, FULL_MASKS))
    return [path for path in files if path is not None]


class ProcessedBackend:
    """Flows out of a processed folder (``raft_exhaustive``), with the masks that lie beside them."""

    def __init__(self, options: FlowOptions, device: torch.device | str = "cpu") -> None:
        self._folder: ProcessedFolder | None = None
        self._files: list[Path] = []

    def locate(
        self, plan: Mapping[int, Sequence[int]], frames: np.ndarray, place: Path | None, meta: VideoMeta
    ) -> dict[int, list[int]]:
        """The part of the plan that is on disk; see :class:`everypoint.correspond.base.StoredFlows`."""
        folder = ProcessedFolder(place, meta, frames, "flow.folder")
        there = {(i, j) for i, targets in plan.items() for j in targets if _file(folder, FLOWS, i, j, ".npy")}
        pairs = {i: [j for j in targets if {(i, j), (j, i)} <= there] for i, targets in plan.items()}
        found = {i: targets for i, targets in pairs.items() if targets}
        planned, kept = (sum(map(len, part.values())) for part in (plan, found))
        if planned and not kept:
            names = [folder.names[frame] for frame in (next(iter(plan)), plan[next(iter(plan))][0])]
            raise folder.missing(FLOWS, "_".join(names) + ".npy", "choose flow.pairs that were computed there")
        if kept < planned:
            logger.warning("%d of %d planned pairs are not in %s and are left out", planned - kept, planned, FLOWS)
        self._folder, self._files = folder, _used_files(folder, found)
        return found

    def describe(self) -> dict[str, Any]:
        return {"backend": "processed", "files": digest_of(self._files)}

    def open(self, frames: np.ndarray) -> ProcessedSession:
        if self._folder is None:
            raise ValueError("locate() comes first")
        return ProcessedSession(self._folder)


def _used_files(folder: ProcessedFolder, plan: Mapping[int, Sequence[int]]) -> list[Path]:
    """All files that the flows and masks of a plan are read from, in order."""
    files: list[Path] = []
    for i, targets in plan.items():
        for j in targets:
            flow = _file(folder, FLOWS, i, j, ".npy")
            files += [*([flow] if flow else []), *_mask_files(folder, i, j)]
    return files


BACKEND = ProcessedBackend
