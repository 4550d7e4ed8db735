"""Flows on disk: one int16 file (1/32 px) a source frame, in folders (shards) with a manifest."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from everypoint.artifacts import atomic
from everypoint.artifacts.folder import FolderWriter, check_folder
from everypoint.errors import ArtifactError

SCALE = 32  # steps a pixel: half of the rounding error is 1/64 px, the range +-1023 px
NOT_REPRESENTABLE = np.int16(-32768)


def encode_flow(flow: np.ndarray) -> np.ndarray:
    """Float flow (pixels) as int16 fixed point; not finite or beyond +-1023 px becomes the sentinel."""
    steps = np.round(np.asarray(flow, np.float32) * SCALE)
    bad = ~(np.abs(steps) <= 32767)
    return np.where(bad, NOT_REPRESENTABLE, np.where(bad, 0, steps).astype(np.int16))


def decode_flow(stored: np.ndarray) -> np.ndarray:
    """Inverse of :func:`encode_flow`; the sentinel becomes NaN."""
    flow = stored.astype(np.float32) / SCALE
    flow[stored == NOT_REPRESENTABLE] = np.nan
    return flow


class FlowShardWriter:
    """Write the flows of some source frames of one video. Finished frames survive a kill (see FolderWriter)."""

    def __init__(self, folder: str | os.PathLike[str], fingerprint: Any, size: tuple[int, int]) -> None:
        self._folder = FolderWriter(folder, {"flow": fingerprint, "size": size, "scale": SCALE})
        self._size = tuple(size)
        self._targets: dict[int, list[int]] = {}

    def has(self, source: int, targets: Sequence[int]) -> bool:
        """Whether the flows of ``source`` are written already; if so they count as part of this shard."""
        if self._folder.has(f"{source:05d}.npy"):
            self._targets[source] = list(targets)
            return True
        return False

    def write(self, source: int, targets: Sequence[int], flows: np.ndarray) -> None:
        """Store flows [n, H, W, 2] from ``source`` to ``targets`` (n of them)."""
        if flows.shape != (len(targets), *self._size, 2):
            raise ValueError(f"flows {flows.shape} do not fit {len(targets)} targets of size {self._size}")
        self._folder.add(f"{source:05d}.npy", lambda path: atomic.save_npy(path, encode_flow(flows)))
        self._targets[source] = list(targets)

    def publish(self) -> None:
        pairs = {"scale": SCALE, "size": self._size, "targets": self._targets}
        self._folder.add("pairs.json", lambda path: atomic.write_json(path, pairs))
        self._folder.publish()


class FlowStore:
    """Read access to the flows of one video, over all its shards. Files are memory-mapped, one pair at a time."""

    def __init__(self, folders: Sequence[str | os.PathLike[str]]) -> None:
        self._where: dict[int, Path] = {}
        self._targets: dict[int, list[int]] = {}
        self.size: tuple[int, int] = (0, 0)
        for folder in map(Path, folders):
            check_folder(folder)
            pairs = atomic.read_json(folder / "pairs.json")
            self.size = tuple(pairs["size"])
            for source, targets in pairs["targets"].items():
                self._where[int(source)] = folder / f"{int(source):05d}.npy"
                self._targets[int(source)] = [int(target) for target in targets]

    def sources(self) -> list[int]:
        return sorted(self._where)

    def targets(self, source: int) -> list[int]:
        """Frames j with a flow source -> j, in the order of storage."""
        return self._targets.get(source, [])

    def has(self, source: int, target: int) -> bool:
        return target in self._targets.get(source, [])

    def flow(self, source: int, target: int) -> np.ndarray:
        """Flow [H, W, 2] float32 in pixels: index point p of ``source`` lies at p + flow(p) in ``target``."""
        if not self.has(source, target):
            raise ArtifactError(f"there is no flow {source} -> {target}", "the pair plan does not hold it")
        stored = atomic.load_npy(self._where[source], mmap=True)
        return decode_flow(np.asarray(stored[self._targets[source].index(target)]))
