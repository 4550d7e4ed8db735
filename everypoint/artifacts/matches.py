"""The matches table: what every optimiser sees, whatever the source of the correspondences."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from everypoint.artifacts import atomic
from everypoint.errors import ArtifactError

CYCLE, OCCLUDED, LONG_RANGE = 1, 2, 4  # bits of ``flags``


def coordinate_scale(size: tuple[int, int]) -> int:
    """Fixed-point steps a pixel: 32, or the largest power of two with which uint16 still spans the frame."""
    scale = 32
    while max(size) * scale > 65535:
        scale //= 2
    return scale


@dataclass(frozen=True)
class Matches:
    """Matches of all pairs of one video, grouped by pair.

    Attributes:
        pairs: int32 [P, 2], frames (i, j) of each pair.
        offsets: int64 [P + 1], rows offsets[p]:offsets[p + 1] belong to pair p.
        fixed_i, fixed_j: uint16 [M, 2], index coordinates (x, y) in fixed point.
        flags: uint8 [M], bits CYCLE, OCCLUDED, LONG_RANGE.
        score: float16 [M], 0..1, higher is more trusted.
        valid_count: int64 [P], valid pixels of the pair before the reservoir was drawn.
        size: (H, W) of the frames that the coordinates refer to.
        frames: number of frames T of the video.
    """

    pairs: np.ndarray
    offsets: np.ndarray
    fixed_i: np.ndarray
    fixed_j: np.ndarray
    flags: np.ndarray
    score: np.ndarray
    valid_count: np.ndarray
    size: tuple[int, int]
    frames: int

    @property
    def xy_i(self) -> np.ndarray:
        """Index coordinates in frame i, float32 [M, 2]."""
        return self.fixed_i.astype(np.float32) / coordinate_scale(self.size)

    @property
    def xy_j(self) -> np.ndarray:
        """Index coordinates in frame j, float32 [M, 2]."""
        return self.fixed_j.astype(np.float32) / coordinate_scale(self.size)

    @property
    def rows_pair(self) -> np.ndarray:
        """Pair index of each row, int64 [M]."""
        return np.repeat(np.arange(len(self.pairs)), np.diff(self.offsets))

    def __len__(self) -> int:
        return len(self.flags)


@dataclass(frozen=True)
class MatchRows:
    """Matches of a sparse source in any order, before they become a table. Index coordinates of the working frame."""

    frame_i: np.ndarray  # int32 [M]
    frame_j: np.ndarray  # int32 [M], never equal to frame_i
    xy_i: np.ndarray  # float32 [M, 2]
    xy_j: np.ndarray  # float32 [M, 2]
    score: np.ndarray  # float32 [M], 0..1, higher is more trusted
    flags: np.ndarray  # uint8 [M], bits CYCLE, OCCLUDED, LONG_RANGE

    def __len__(self) -> int:
        return len(self.frame_i)

    def __getitem__(self, chosen: np.ndarray | slice) -> MatchRows:
        """The chosen rows: a mask, indices or a slice."""
        return MatchRows(*(getattr(self, field.name)[chosen] for field in dataclasses.fields(self)))

    def swapped(self) -> MatchRows:
        """The same rows in the other direction."""
        return MatchRows(self.frame_j, self.frame_i, self.xy_j, self.xy_i, self.score, self.flags)

    @classmethod
    def join(cls, parts: Sequence[MatchRows]) -> MatchRows:
        """All rows of ``parts``, one after the other."""
        kinds = {"frame_i": (0,), "frame_j": (0,), "xy_i": (0, 2), "xy_j": (0, 2), "score": (0,), "flags": (0,)}
        types = {"frame_i": np.int32, "frame_j": np.int32, "flags": np.uint8}
        return cls(
            *(
                np.concatenate(
                    [np.empty(shape, types.get(name, np.float32)), *(getattr(part, name) for part in parts)]
                ).astype(types.get(name, np.float32))
                for name, shape in kinds.items()
            )
        )


def to_fixed(xy: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Index coordinates inside the frame as uint16 fixed point (values are clipped to the frame)."""
    limit = np.array([size[1] - 1, size[0] - 1], np.float32)
    return np.round(np.clip(xy, 0, limit) * coordinate_scale(size)).astype(np.uint16)


_ARRAYS = ("pairs", "offsets", "fixed_i", "fixed_j", "flags", "score", "valid_count")


def save_matches(path: str | os.PathLike[str], matches: Matches) -> None:
    """Write the table as one npz."""
    arrays = {name: getattr(matches, name) for name in _ARRAYS}
    atomic.save_npz(path, **arrays, size=np.array(matches.size), frames=np.array(matches.frames), schema_version=1)


def load_matches(path: str | os.PathLike[str]) -> Matches:
    """Read and check a matches table; raises :class:`ArtifactError`."""
    data = atomic.load_npz(path)
    missing = [name for name in (*_ARRAYS, "size", "frames") if name not in data]
    if missing:
        raise ArtifactError(f"{path} is not a matches table", f"it lacks {', '.join(missing)}")
    height, width = (int(value) for value in data["size"])
    matches = Matches(**{name: data[name] for name in _ARRAYS}, size=(height, width), frames=int(data["frames"]))
    problem = _problem(matches)
    if problem:
        raise ArtifactError(f"{path} is damaged", problem, "delete it and run again")
    return matches


def _problem(matches: Matches) -> str:
    """What does not fit together in a table; empty when all does."""
    pairs, rows = len(matches.pairs), len(matches)
    shapes = {"pairs": (pairs, 2), "offsets": (pairs + 1,), "valid_count": (pairs,)}
    shapes |= {"fixed_i": (rows, 2), "fixed_j": (rows, 2), "score": (rows,)}
    wrong = [name for name, shape in shapes.items() if getattr(matches, name).shape != shape]
    if wrong:
        return f"the shape of {', '.join(wrong)} does not fit"
    if matches.offsets[0] != 0 or matches.offsets[-1] != rows or (np.diff(matches.offsets) < 0).any():
        return "its offsets do not fit its rows"
    if pairs and (matches.pairs.min() < 0 or matches.pairs.max() >= matches.frames):
        return "it names frames that the video does not have"
    return ""
