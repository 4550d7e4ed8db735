"""PointOdyssey v1.0 to v1.2: its sequences, the full-length test reader, and samples for fine-tuning.

``ROOT/{train,val,test}/SEQ/`` holds ``rgbs/rgb_%05d.jpg``, ``masks/mask_%05d.png`` and ``anno.npz``. The data are
CC BY-NC-SA 4.0.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from everypoint.artifacts.atomic import load_npz, npz_shapes
from everypoint.errors import InputError
from everypoint.pips.clip import Clip, Sequence
from everypoint.pips.data.pipeline import SampleOptions, draw, empty_clip, to_clip
from everypoint.pips.data.sampling import Tracks, finite
from everypoint.video.images import read_image, to_rgb8

LEAST_GOOD = 8  # frames in which a track of the test set is good
LARGEST_STEP = 512.0  # pixels that it moves in a frame at most
TEST_MARGIN = 32.0  # pixels outside the picture where positions are clamped
LARGER = 64  # pixels by which a picture is higher and wider than the crop that walks over it
MORE = "get it whole from the data set's page"

log = logging.getLogger(__name__)


class Annotations(NamedTuple):
    """``anno.npz`` as stored; positions may be float16, which has steps of half a pixel beyond 512."""

    xy: np.ndarray  # [T, N, 2], any float
    seen: np.ndarray  # bool [T, N]
    known: np.ndarray  # bool [T, N]

    def of(self, frames: np.ndarray | slice) -> Tracks:
        """The tracks in some frames, float32 and finite."""
        return finite(self.xy[frames].astype(np.float32), self.seen[frames], self.known[frames])


class SequenceFolder(NamedTuple):
    """One sequence."""

    path: Path
    count: int  # frames that have a picture and annotations

    @property
    def name(self) -> str:
        """``SEQ``."""
        return self.path.name

    def rgb(self, t: int) -> np.ndarray:
        """Frame ``t``, uint8 [H, W, 3] RGB."""
        return to_rgb8(read_image(self.path / "rgbs" / f"rgb_{t:05d}.jpg"))

    def mask(self, t: int) -> np.ndarray:
        """The instance mask of frame ``t``, uint8 [H, W] or [H, W, 3]; zero is fog. 16-bit labels become ranks."""
        mask = read_image(self.path / "masks" / f"mask_{t:05d}.png")[..., :3]
        if mask.dtype == np.uint16:
            labels, ranks = np.unique(mask, return_inverse=True)
            mask = np.where(mask == 0, 0, ranks.reshape(mask.shape) % 255 + (labels[0] != 0)).astype(np.uint8)
        return np.ascontiguousarray(mask[..., 0] if mask.shape[2] < 3 else mask)

    def annotations(self) -> Annotations:
        """See :func:`read_annotations`."""
        return read_annotations(self.path)


def sequence_folders(root: str | Path, split: str) -> list[SequenceFolder]:
    """The annotated sequences of a split, by name; raises :class:`InputError` when there is none."""
    folder = Path(root) / split
    found = sorted(path.parent for path in folder.glob("*/anno.npz"))
    if not found:
        raise InputError(
            f"{folder} holds no sequence of PointOdyssey",
            "no folder in it has an anno.npz",
            f"name the folder that holds train, val and test; {MORE}",
        )
    return [SequenceFolder(path, _frames(path)) for path in found]


def _frames(path: Path) -> int:
    shape = npz_shapes(path / "anno.npz").get("trajs_2d")
    if shape is None or len(shape) != 3 or shape[2] != 2:
        raise InputError(f"{path / 'anno.npz'} cannot be used", "it has no trajs_2d of shape (T, N, 2)", MORE)
    pictures = len(list((path / "rgbs").glob("rgb_*.jpg")))
    if pictures != shape[0]:
        log.warning("%s: %d pictures and annotations of %d frames, the first ones are used", path, pictures, shape[0])
    return min(shape[0], pictures)


def read_annotations(path: Path) -> Annotations:
    """Tracks of one sequence, of either layout.

    v1.2 stores ``visibs`` and ``valids``; v1.0 and v1.1 ``visibilities``: 0 hidden or outside, 1 seen, 2 invalid.
    Members that are not needed (``trajs_3d``, which is a Python object where it is missing) are never read. Raises
    :class:`InputError` for another layout, :class:`everypoint.errors.ArtifactError` for a damaged file.
    """
    file = Path(path) / "anno.npz"
    arrays = load_npz(file, ("trajs_2d", "visibs", "valids", "visibilities"))
    xy = arrays.get("trajs_2d")
    if "visibs" in arrays and "valids" in arrays:
        seen, known = arrays["visibs"] > 0, arrays["valids"] > 0
    elif "visibilities" in arrays:
        seen, known = arrays["visibilities"] == 1, arrays["visibilities"] < 2
    else:
        names = "visibs and valids (v1.2), nor visibilities (v1.0, v1.1)"
        raise InputError(f"{file} cannot be used", f"it has neither {names}", MORE)
    if xy is None or xy.dtype.kind != "f" or not xy.shape[:2] == seen.shape == known.shape:
        raise InputError(f"{file} cannot be used", "its arrays do not fit each other", MORE)
    return Annotations(xy, seen, known)


# ------------------------------------------------------------------------------------------------- whole videos


def full_sequences(root: str | Path, split: str = "test", *, points: int = 256) -> Iterator[Sequence]:
    """Every sequence of a split at full length, as PIPs++ is tested on them.

    Positions that are not finite, and those less than a pixel inside the picture's border or beyond it, do not count.
    Kept are tracks that are good in the first frame and in eight frames, and never move 512 pixels in one; of these
    ``points`` evenly by number. Positions end 32 pixels outside. A sequence without such a track is left out, with a
    warning. Raises :class:`InputError` when the split holds none or a file cannot be used.
    """
    for folder in sequence_folders(root, split):
        size = folder.rgb(0).shape[:2]
        tracks = _test_tracks(folder.annotations().of(slice(folder.count)), size)
        if not tracks.count:
            log.warning("%s: no track is good enough, it is left out", folder.path)
            continue
        # Fewer tracks than asked for are all taken, each once.
        chosen = np.linspace(0, tracks.count - 1, min(points, tracks.count)).astype(int)
        tracks = tracks.keep(chosen)
        low, high = -TEST_MARGIN, np.float32([size[1], size[0]]) + TEST_MARGIN
        yield Sequence(
            folder.name,
            folder.rgb,
            folder.count,
            size,
            np.clip(tracks.xy, low, high),
            tracks.seen.astype(np.float32),
            tracks.known.astype(np.float32),
        )


def _test_tracks(tracks: Tracks, size: tuple[int, int]) -> Tracks:
    corner = np.float32([size[1], size[0]]) - 1
    inner = ((tracks.xy >= 1) & (tracks.xy <= corner - 1)).all(axis=-1)
    tracks = Tracks(tracks.xy, tracks.seen & inner, tracks.known & inner)
    good = tracks.seen & tracks.known
    steps = np.linalg.norm(np.diff(tracks.xy, axis=0), axis=-1)
    return tracks.keep(good[0] & (good.sum(axis=0) >= LEAST_GOOD) & (steps < LARGEST_STEP).all(axis=0))


# ---------------------------------------------------------------------------------------------------- windows


class Window(NamedTuple):
    """One candidate clip: ``frames`` frames of a sequence from ``start`` in steps of ``stride``."""

    sequence: int  # number among the sequences
    stride: int
    start: int

    def frames(self, count: int) -> np.ndarray:
        """Frame numbers int64 [count]."""
        return self.start + self.stride * np.arange(count)


def windows(counts: list[int], frames: int, strides: tuple[int, ...], step: int = 2) -> list[Window]:
    """All windows of ``frames`` frames over sequences of ``counts`` frames, starting at every ``step``-th frame."""
    return [
        Window(number, stride, start)
        for number, count in enumerate(counts)
        for stride in strides
        for start in range(0, count - frames * stride + 1, step)
    ]


class OdysseyDataset:
    """Samples straight from PointOdyssey, as fine-tuning reads them.

    Args:
        root: folder of the data set.
        split: ``train``, ``val`` or ``test``.
        frames: S, frames of a sample.
        points: N, tracks of a sample.
        size: (H, W) of a sample.
        strides: frames between the frames of a sample, each giving windows of its own.
        augment: whether colours, erased parts, time and place are drawn at random.
        seed: of every draw.
        compat: the defects of the published chain that move its figures, too.

    Raises:
        InputError: no sequence, or none that is long enough.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        frames: int,
        points: int,
        size: tuple[int, int],
        strides: tuple[int, ...],
        augment: bool,
        seed: int,
        *,
        compat: bool = False,
    ) -> None:
        self.folders = sequence_folders(root, split)
        self.windows = windows([folder.count for folder in self.folders], frames, strides)
        if not self.windows:
            longest = max(folder.count for folder in self.folders)
            raise InputError(
                f"{Path(root) / split} gives no clip of {frames} frames",
                f"its longest sequence has {longest} frames and the strides are {list(strides)}",
                "ask for fewer frames",
            )
        resize = size[0] + LARGER, size[1] + LARGER
        self.options = SampleOptions(frames, points, size, resize, augment, require_full=True, compat=compat)
        self.seed = seed
        self._kept: dict[int, Annotations] = {}

    def __len__(self) -> int:
        return len(self.windows)

    def _annotations(self, number: int) -> Annotations:
        """Those of one sequence; the last two are kept, since they are large."""
        if number not in self._kept:
            while len(self._kept) > 1:
                del self._kept[next(iter(self._kept))]
            self._kept[number] = self.folders[number].annotations()
        return self._kept[number]

    def sample(self, index: int, epoch: int = 0) -> Clip:
        """The sample ``index`` as drawn in ``epoch``; ``ok`` is False when too few of its tracks are usable."""
        window = self.windows[index]
        folder = self.folders[window.sequence]
        frames = window.frames(self.options.frames)
        drawn = draw(folder, self._annotations(window.sequence), frames, self.options, (self.seed, index, epoch))
        if drawn.frames is None:
            log.debug("%s, window %s: %s", folder.name, window, drawn.text)
            return empty_clip(self.options.frames, self.options.points, self.options.size)
        return to_clip(drawn.frames, drawn.table)
