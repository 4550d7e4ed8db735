"""Flows on disk: int16 (1/32 px), the flows of neighbouring source frames in one file, in folders with a manifest.

Beside the flows of a source frame may lie masks that came with them: two bits a pixel and target.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from everypoint.artifacts import atomic
from everypoint.artifacts.folder import FolderWriter, check_folder, damaged, sha256_of
from everypoint.artifacts.matches import CYCLE, OCCLUDED
from everypoint.errors import ArtifactError

SCALE = 32  # steps a pixel: half of the rounding error is 1/64 px, the range +-1023 px
NOT_REPRESENTABLE = np.int16(-32768)
BLOCK_MB = 128.0  # 78 flows at 854x480


def encode_flow(flow: np.ndarray) -> np.ndarray:
    """Float flow (pixels) as int16 fixed point; not finite or beyond +-1023 px becomes the sentinel."""
    with np.errstate(over="ignore"):  # the largest floats become infinite, hence the sentinel
        steps = np.round(np.asarray(flow, np.float32) * SCALE)
    bad = ~(np.abs(steps) <= 32767)
    return np.where(bad, NOT_REPRESENTABLE, np.where(bad, 0, steps).astype(np.int16))


def decode_flow(stored: np.ndarray) -> np.ndarray:
    """Inverse of :func:`encode_flow`; the sentinel becomes NaN."""
    flow = stored.astype(np.float32) / SCALE
    flow[stored == NOT_REPRESENTABLE] = np.nan
    return flow


def encode_masks(flags: np.ndarray) -> np.ndarray:
    """Flags uint8 [..., H, W] (bits CYCLE and OCCLUDED, others are refused) as bit planes uint8 [..., 2, bytes]."""
    if (flags & ~np.uint8(CYCLE | OCCLUDED)).any():
        raise ValueError("masks hold flags besides CYCLE and OCCLUDED")
    flat = flags.reshape(*flags.shape[:-2], -1)
    return np.packbits(np.stack([flat & CYCLE, flat & OCCLUDED], axis=-2), axis=-1)


def decode_masks(stored: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Inverse of :func:`encode_masks`: flags uint8 [..., H, W]."""
    planes = np.unpackbits(stored, axis=-1, count=size[0] * size[1]).reshape(*stored.shape[:-1], *size)
    return planes[..., 0, :, :] * np.uint8(CYCLE) | planes[..., 1, :, :] * np.uint8(OCCLUDED)


class FlowShardWriter:
    """Write the flows of some source frames of one video. Finished files survive a kill (see FolderWriter).

    Args:
        folder: what is published.
        fingerprint: all that the flows depend on.
        size: (H, W) of the frames.
        block_mb: flows are kept in memory until there are this many megabytes of them (None: ``BLOCK_MB``), and then
            are one file: few files a video, and few flows to compute again after a kill.
    """

    def __init__(
        self, folder: str | os.PathLike[str], fingerprint: Any, size: tuple[int, int], block_mb: float | None = None
    ) -> None:
        self._folder = FolderWriter(folder, {"flow": fingerprint, "size": size, "scale": SCALE})
        self._size, self._limit = tuple(size), 1e6 * (BLOCK_MB if block_mb is None else block_mb)
        self._blocks = {  # name of a file -> sources and their targets, in the order in which it holds them
            name: {int(source): list(targets) for source, targets in item["note"]}
            for name, item in self._folder.items.items()
            if "note" in item
        }
        self._used: set[str] = set()
        self._open: list[_Flows] = []

    def has(self, source: int, targets: Sequence[int]) -> bool:
        """Whether the flows of ``source`` are written already; if so they count as part of this shard."""
        for name, held in self._blocks.items():
            if held.get(source) == list(targets):
                self._used.add(name)
                return True
        return False

    def write(self, source: int, targets: Sequence[int], flows: np.ndarray, masks: np.ndarray | None = None) -> None:
        """Store flows [n, H, W, 2] from ``source`` to ``targets`` (n of them), and masks where they came with some.

        Flows of type int16 are encoded already.
        ``masks`` are flags uint8 [n, H, W], bits CYCLE and OCCLUDED; those of a flow that is not representable are
        dropped.
        """
        if flows.shape != (len(targets), *self._size, 2):
            raise ValueError(f"flows {flows.shape} do not fit {len(targets)} targets of size {self._size}")
        if masks is not None and masks.shape != flows.shape[:-1]:
            raise ValueError(f"masks {masks.shape} do not fit flows {flows.shape}")
        stored = np.empty(flows.shape, np.int16)
        for row, flow in enumerate(flows):  # one by one, for the floats in between
            stored[row] = flow if flows.dtype == np.int16 else encode_flow(flow)
        packed = None
        if masks is not None:
            packed = encode_masks(np.where((stored == NOT_REPRESENTABLE).any(axis=-1), np.uint8(0), masks))
        if self._open and (self._open[0].masks is None) != (packed is None):
            self._close()
        self._open.append(_Flows(source, list(targets), stored, packed))
        if sum(one.stored.nbytes for one in self._open) >= self._limit:
            self._close()

    def _close(self) -> None:
        """Write the flows that are in memory."""
        if not self._open:
            return
        name = f"{self._open[0].source:05d}.npy"
        if self._open[0].masks is not None:  # before the flows, which say that their sources are finished
            self._folder.add(_mask_name(name), lambda path: _save(path, [one.masks for one in self._open]))
        note = [[one.source, one.targets] for one in self._open]
        self._folder.add(name, lambda path: _save(path, [one.stored for one in self._open]), note)
        self._blocks[name] = {one.source: one.targets for one in self._open}
        self._used.add(name)
        self._open = []

    def publish(self) -> None:
        """Write what is left and publish the folder."""
        self._close()
        used = {name: self._blocks[name] for name in sorted(self._used)}
        targets = {source: targets for held in used.values() for source, targets in held.items()}
        pairs = {"scale": SCALE, "size": self._size, "targets": dict(sorted(targets.items()))}
        pairs["files"] = {name: list(held) for name, held in used.items()}
        self._folder.add("pairs.json", lambda path: atomic.write_json(path, pairs))
        self._folder.publish()


class _Flows(NamedTuple):
    """The flows of one source frame, encoded."""

    source: int
    targets: list[int]
    stored: np.ndarray  # int16 [n, H, W, 2]
    masks: np.ndarray | None  # uint8 [n, 2, bytes]


def _save(path: Path, parts: Sequence[np.ndarray]) -> None:
    """Write arrays one behind the other as one, without another copy in memory."""
    with atomic.mapped_npy(path) as allocate:
        whole, start = allocate((sum(map(len, parts)), *parts[0].shape[1:]), parts[0].dtype), 0
        for part in parts:
            whole[start : start + len(part)] = part
            start += len(part)


def _mask_name(name: str) -> str:
    return f"{name.removesuffix('.npy')}.mask.npy"


class _Place(NamedTuple):
    """Where the flows of one source frame lie."""

    path: Path
    first: int  # row of the flow to its first target


class FlowStore:
    """Read access to the flows of one video, over all its shards. Files are memory-mapped, one pair at a time.

    Sizes are checked against the manifest at once, the hash of a file when it is first read.

    Raises:
        ArtifactError: a shard that is missing, damaged, or of another video size than the first.
    """

    def __init__(self, folders: Sequence[str | os.PathLike[str]]) -> None:
        self._where: dict[int, _Place] = {}
        self._targets: dict[int, list[int]] = {}
        self._masked: set[int] = set()
        self._unchecked: dict[Path, str] = {}  # file -> sha256 of the manifest
        self.size: tuple[int, int] = (0, 0)
        for folder in map(Path, folders):
            items = check_folder(folder)["items"]
            self._unchecked |= {folder / name: item["sha256"] for name, item in items.items()}
            self._check(folder / "pairs.json")
            pairs = atomic.read_json(folder / "pairs.json")
            if self.size not in ((0, 0), tuple(pairs["size"])):
                raise ArtifactError(f"{folder} is of another video size than the other shards", cure="run again")
            self.size = tuple(pairs["size"])
            targets = {int(source): [int(target) for target in found] for source, found in pairs["targets"].items()}
            self._targets |= targets
            files = pairs.get("files") or {f"{source:05d}.npy": [source] for source in targets}  # an older layout
            for name, sources in files.items():
                first = 0
                for source in sources:
                    self._where[source] = _Place(folder / name, first)
                    first += len(targets[source])
                self._masked |= set(sources) if _mask_name(name) in items else set()

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
        return decode_flow(np.asarray(self._stored(source, target)))

    def sample(self, source: int, target: int, xy: np.ndarray) -> np.ndarray:
        """Bilinear flow at index points [N, 2] -> [N, 2] float32, reading only the pixels around them.

        Points outside the frame take the flow of the nearest border pixel; NaN where a neighbour is not representable.
        """
        if not self.has(source, target):
            raise ArtifactError(f"there is no flow {source} -> {target}", "the pair plan does not hold it")
        return sample_stored(self._stored(source, target), xy)

    def has_masks(self, source: int) -> bool:
        """Whether masks came with the flows of ``source``, all of them."""
        return source in self._masked

    def mask(self, source: int, target: int) -> np.ndarray:
        """Flags uint8 [H, W] (bits CYCLE, OCCLUDED) that came with a flow, for each pixel of ``source``.

        A pixel with a flag has a representable flow, but its target may lie outside of the frame.
        """
        if not (self.has(source, target) and self.has_masks(source)):
            raise ArtifactError(f"there is no mask {source} -> {target}", "none came with the flows")
        path = self._where[source].path
        return decode_masks(np.asarray(self._row(path.with_name(_mask_name(path.name)), source, target)), self.size)

    def _stored(self, source: int, target: int) -> np.ndarray:
        return self._row(self._where[source].path, source, target)

    def _row(self, path: Path, source: int, target: int) -> np.ndarray:
        """What a file holds for one of the targets of ``source``, memory-mapped."""
        self._check(path)
        rows = np.asarray(atomic.load_npy(path, mmap=True))  # a plain view is quicker to index
        return rows[self._where[source].first + self._targets[source].index(target)]

    def _check(self, path: Path) -> None:
        """Compare a file with its manifest, once."""
        expected = self._unchecked.get(path)
        if expected is not None and sha256_of(path) != expected:
            raise damaged(path)
        self._unchecked.pop(path, None)


def sample_stored(stored: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Bilinear values of an encoded flow [H, W, 2] int16 at index points [N, 2]; see :meth:`FlowStore.sample`."""
    height, width = stored.shape[:2]
    x = np.clip(np.nan_to_num(xy[:, 0]), 0, width - 1)
    y = np.clip(np.nan_to_num(xy[:, 1]), 0, height - 1)
    x0, y0 = np.floor(x).astype(np.intp), np.floor(y).astype(np.intp)
    x1, y1 = np.minimum(x0 + 1, width - 1), np.minimum(y0 + 1, height - 1)
    fx, fy = (x - x0).astype(np.float32)[:, None], (y - y0).astype(np.float32)[:, None]
    cells = np.stack([y0 * width + x0, y0 * width + x1, y1 * width + x0, y1 * width + x1])
    pixels = np.ascontiguousarray(stored).view(np.int32).ravel()  # both numbers of a pixel in one: half of the reads
    corners = pixels[cells].view(np.int16).reshape(4, len(x), 2)
    top_left, top_right, low_left, low_right = decode_flow(corners)
    top = top_left + (top_right - top_left) * fx
    low = low_left + (low_right - low_left) * fx
    return top + (low - top) * fy
