"""From a window of a sequence to a sample: the chain that export and fine-tuning share, in PIPs++'s order.

What fails is decided as early as possible: pictures are read only for windows whose tracks are good, and of the masks
only the first, since only it decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from everypoint.pips.clip import Clip
from everypoint.pips.data import sampling, spatial
from everypoint.pips.data.augment import augment_colours
from everypoint.pips.data.sampling import Tracks

if TYPE_CHECKING:
    from everypoint.pips.data.odyssey import Annotations, SequenceFolder

REASONS = {  # short name -> the message's start
    "tracks": "returning before cropping",
    "edges": "returning after edge check",
    "cropping": "returning after cropping",
    "valid": "fewer than half of all positions are valid",
}
_STREAMS = {"colours": 0, "erase": 1, "time": 2, "place": 3, "choice": 4}


@dataclass(frozen=True)
class SampleOptions:
    """What a sample is.

    Attributes:
        frames: S.
        points: N.
        size: (H, W) of the result.
        resize: (H, W) before the walk of scale and crop.
        augment: whether anything is augmented.
        require_full: N good tracks are needed; else half of them, and the rest is padded with zeros.
        compat: the published chain's defects that change its result.
    """

    frames: int
    points: int
    size: tuple[int, int]
    resize: tuple[int, int]
    augment: bool = True
    require_full: bool = True
    compat: bool = False


class Drawn(NamedTuple):
    """A sample, or why there is none."""

    frames: list[np.ndarray] | None  # uint8 [H, W, 3] RGB
    table: np.ndarray | None  # float32 [S, N, 4]: x, y, seen, known
    reason: str  # a key of REASONS; '' for a sample
    text: str  # the message


def draw(
    folder: SequenceFolder,
    annotations: Annotations,
    frames: np.ndarray,
    options: SampleOptions,
    key: tuple[int, ...],
) -> Drawn:
    """The sample of these frames of a sequence; its random draws depend on ``key`` alone."""
    single_threaded()
    need = options.points if options.require_full else max(options.points // 2, 1)
    draws = {name: np.random.default_rng([*key, number]) for name, number in _STREAMS.items()}
    tracks = annotations.of(frames).starting()
    if tracks.count < need:
        return _failure("tracks", tracks, need)
    mask = folder.mask(int(frames[0]))
    tracks = sampling.hide_outside(tracks, mask.shape[:2]).starting()
    tracks = sampling.off_edges(tracks, sampling.edge_map(mask, options.resize[0]))
    if tracks.count < need:
        return _failure("edges", tracks, need)
    pictures, tracks = _augmented([folder.rgb(int(t)) for t in frames], tracks, options, draws)
    tracks = sampling.long_enough(sampling.hide_border(tracks, options.size))
    tracks = tracks.keep(sampling.moves_sanely(tracks, options.size))
    if tracks.count < need:
        return _failure("cropping", tracks, need)
    note = ""
    if tracks.count < options.points:
        note = f"N={tracks.count}; ideally we want N={options.points}, but we will pad"
    tracks = _chosen(tracks, options, draws["choice"])
    tracks = tracks._replace(xy=sampling.clamp(tracks.xy, options.size))
    table = sampling.padded(tracks, options.points)
    if table[..., 3].mean() < 0.5:
        return Drawn(None, None, "valid", f"{REASONS['valid']}: {table[..., 3].mean():.2f}")
    return Drawn(pictures, table, "", note)


def single_threaded() -> None:
    """OpenCV on one thread in this process: writers and loader workers share the processors among themselves.

    Threads would wait for each other over pictures of this size. The result does not depend on it.
    """
    if cv2.getNumThreads() != 1:
        cv2.setNumThreads(1)


def _failure(reason: str, tracks: Tracks, need: int) -> Drawn:
    return Drawn(None, None, reason, f"{REASONS[reason]}: N={tracks.count}; need at least N={need}")


def _augmented(
    pictures: list[np.ndarray], tracks: Tracks, options: SampleOptions, draws: dict[str, np.random.Generator]
) -> tuple[list[np.ndarray], Tracks]:
    """Pictures and tracks of the final size."""
    compat, size, place = options.compat, options.size, draws["place"]
    if not options.augment:
        return spatial.plain_crop(pictures, tracks, size, place, compat=compat)
    pictures = augment_colours(pictures, draws["colours"])
    if draws["erase"].random() < 0.2:
        pictures, tracks = spatial.erase(pictures, tracks, draws["erase"])
    if draws["time"].random() < 0.5:
        pictures, tracks = spatial.reverse(pictures, tracks, compat=compat)
    if place.random() < 0.7:
        return spatial.walk(pictures, tracks, size, options.resize, place, compat=compat)
    return spatial.plain_crop(pictures, tracks, size, place, compat=compat)


def _chosen(tracks: Tracks, options: SampleOptions, rng: np.random.Generator) -> Tracks:
    """N tracks spread evenly, in random order; as published (``compat``) some come twice where there are fewer."""
    chosen = sampling.spread(tracks, options.points, rng)
    if options.compat and chosen.count < options.points:
        again = rng.integers(chosen.count, size=options.points - chosen.count)
        chosen = chosen.keep(np.concatenate([np.arange(chosen.count), again]))
    return chosen.keep(rng.permutation(chosen.count))


# ---------------------------------------------------------------------------------------------------- clips


def to_clip(frames: Iterable[np.ndarray], table: np.ndarray) -> Clip:
    """Frames uint8 [H, W, 3] and a table [S, N, 4] as a clip."""
    rgb = np.ascontiguousarray(np.stack(list(frames)).transpose(0, 3, 1, 2))
    parts = (np.ascontiguousarray(part, np.float32) for part in (table[..., :2], table[..., 2], table[..., 3]))
    return Clip(rgb, *parts, ok=True)


def empty_clip(frames: int, points: int, size: tuple[int, int]) -> Clip:
    """The zeros that stand for a sample that cannot be read."""
    table = np.zeros((frames, points, 4), np.float32)
    return to_clip(np.zeros((frames, *size, 3), np.uint8), table)._replace(ok=False)
