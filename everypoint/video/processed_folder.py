"""The folder in which OmniMotion's and OmniTrackFast's preprocessing leaves what it computed of one video.

::

    SEQ/color/<image>                          the frames; sorted by name is sorted by time
    SEQ/raft_exhaustive/<image>_<image>.npy    float32 [H, W, 2], flow from the first to the second, index pixels
    SEQ/raft_masks/<image>_<image>.png         uint8 [H, W, 3]: cycle-consistent, reliable although occluded, zero
    SEQ/count_maps/<stem>.png                  uint16 [H, W], set mask entries of each pixel over all targets
    SEQ/flow_stats.json                        {image: {image: set mask entries}}
    SEQ/features/dino/<image>.npy              float32 [h, w, 384]
    SEQ/full_mask/<image>_<image>.png          uint8 [H, W], either class and inside the depth mask (OmniTrackFast)
    SEQ/raw_depth/depth/<stem>.npz, raw_depth/mask/<stem>.jpg, dinov2/featmap/<stem>.npz, match/match*.npz (the same)

``<image>`` is the whole name of an image, with its suffix. Names are put together from parts and never taken apart or
replaced in, so that it does not matter how the folders above are called. What lies here cost days of computing:
nothing is ever written here, and no message advises to delete it.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from everypoint.artifacts import atomic
from everypoint.artifacts.video import VideoMeta
from everypoint.errors import ArtifactError, InputError
from everypoint.video.image_header import image_size
from everypoint.video.images import decode_raw, read_image, resize_frame, to_rgb8
from everypoint.video.paths import is_image_name, natural_key, shown
from everypoint.video.sidecars import used_frames

logger = logging.getLogger(__name__)

COLOR, FLOWS, MASKS, COUNTS, STATS = "color", "raft_exhaustive", "raft_masks", "count_maps", "flow_stats.json"
DINO, FULL_MASKS, DINOV2, MATCHES = "features/dino", "full_mask", "dinov2/featmap", "match"

THUMBNAIL = (16, 16)
# Grey levels that thumbnails of different pictures differ by on average. On DAVIS other videos differ by 40 and more, a
# frame that was resized and given another range of brightness by 10 at most.
OTHER_PICTURE = 24.0


class ProcessedFolder:
    """What lies in a processed folder for the working frames of one video.

    Args:
        place: the folder SEQ (any part of it may be a link); None when none is known.
        meta: which frames of the source the working frames are.
        frames: the working frames uint8 [T, H, W, 3], which are compared with a few pictures of ``color``.
        option: the key that names the folder, for messages.

    Attributes:
        images: names of all images, in order of time.
        names: the image of each working frame.

    Raises:
        InputError: there is no such folder, it has fewer images than the video, or it is another video's.
    """

    def __init__(self, place: Path | None, meta: VideoMeta, frames: np.ndarray, option: str) -> None:
        if place is None:
            raise InputError(f"no processed folder of {meta.name} is known", cure=f"set {option}")
        if not place.is_dir():
            raise InputError(f"the processed folder {shown(place)} does not exist", cure=f"set {option}")
        self.place, self.meta, self.option = place, meta, option
        self._listed: dict[str, frozenset[str]] = {}
        self.images = self._images()
        used = used_frames(meta)
        if used[-1] >= len(self.images):
            raise InputError(
                f"{shown(place)} has {len(self.images)} images and frame {used[-1]} of {meta.name} is in use",
                "the images are those of another video, or of a part of it",
                f"set {option}, or frames.start, frames.stride and frames.max_frames, to what was processed",
            )
        self.names = tuple(self.images[frame] for frame in used)
        self._compare(frames)

    def _images(self) -> tuple[str, ...]:
        """The names in ``color``; else images in the folder itself; else the keys of ``flow_stats.json``."""
        for part in (COLOR, ""):
            names = [name for name in self.listing(part) if is_image_name(name)]
            if names:
                return tuple(sorted(names, key=natural_key))
        stats = self.statistics()
        if stats:
            return tuple(sorted(stats, key=natural_key))
        raise InputError(
            f"{shown(self.place)} has no images in {COLOR}",
            "their names tell which flow belongs to which frames",
            f"put them there, or set {self.option} to the folder that holds {COLOR}",
        )

    def _compare(self, frames: np.ndarray) -> None:
        """Refuse a folder whose first, middle or last used image shows another picture than the working frame."""
        for frame in sorted({0, len(frames) // 2, len(frames) - 1}):
            path = self.image(frame)
            if path is None:
                return
            theirs, ours = (resize_frame(image, THUMBNAIL) for image in (to_rgb8(read_image(path)), frames[frame]))
            if np.abs(theirs.astype(float) - ours).mean() > OTHER_PICTURE:
                raise InputError(
                    f"{shown(path)} does not show frame {frame} of {self.meta.name}",
                    "the folder seems to be another video's",
                    f"set {self.option} ({{video}} stands for the video's name) or frames.start and frames.stride",
                )

    # ------------------------------------------------------------------------------------------------- where it is

    def listing(self, part: str) -> frozenset[str]:
        """Names of what lies in a part of the folder; none where it does not exist. Read once."""
        if part not in self._listed:
            folder = self.place / part
            try:
                self._listed[part] = frozenset(os.listdir(folder)) if folder.is_dir() else frozenset()
            except OSError as error:
                why = error.strerror or str(error)
                raise InputError(f"{shown(folder)} cannot be listed", why, "check its permissions") from error
        return self._listed[part]

    def image(self, frame: int) -> Path | None:
        """The image of a working frame; None where only names are known."""
        name = self.names[frame]
        return next((self.place / part / name for part in (COLOR, "") if name in self.listing(part)), None)

    def frame_file(self, part: str, frame: int, suffix: str) -> Path | None:
        """A working frame's file in a part: the image's name or its stem, then the suffix."""
        return self._find(part, ((name,) for name in _spellings(self.names[frame])), suffix)

    def pair_file(self, part: str, source: str, target: str, suffix: str) -> Path | None:
        """The file of an ordered pair of images in a part; both by their names, or both by their stems."""
        return self._find(part, zip(_spellings(source), _spellings(target), strict=True), suffix)

    def _find(self, part: str, spellings: Iterable[tuple[str, ...]], suffix: str) -> Path | None:
        there = self.listing(part)
        names = ("_".join(words) + suffix for words in spellings)
        return next((self.place / part / name for name in names if name in there), None)

    def missing(self, part: str, name: str, cure: str) -> InputError:
        """The error for a file that is not there."""
        if not self.listing(part):
            return InputError(f"{shown(self.place)} has nothing in {part}", cure=f"{cure}, or set {self.option}")
        return InputError(f"{shown(self.place / part / name)} is missing", cure=cure)

    def working_frames(self, numbers: np.ndarray) -> np.ndarray:
        """Working frames of images that count from 0 in the order of plain sorting; -1 for those not in use. int64."""
        position = {name: frame for frame, name in enumerate(self.names)}
        table = np.array([position.get(name, -1) for name in sorted(self.images)], np.int64)
        inside = (numbers >= 0) & (numbers < len(table))
        return np.where(inside, table[np.where(inside, numbers, 0)], -1)

    # --------------------------------------------------------------------------------------------------- what it is

    def image_size(self) -> tuple[int, int]:
        """(H, W) of the images; that of the source where they are not there or say nothing."""
        path = self.image(0)
        found = image_size(path.read_bytes()) if path else None
        return found or self.meta.original_size

    def statistics(self) -> dict[str, dict[str, Any]] | None:
        """``flow_stats.json``; None, with a warning where it is damaged, when it cannot be used."""
        if STATS not in self.listing(""):
            return None
        try:
            value = atomic.read_json(self.place / STATS)
        except ArtifactError as error:
            logger.warning("%s is left out: %s", shown(self.place / STATS), error.why or error.what)
            return None
        if isinstance(value, dict) and all(isinstance(row, dict) for row in value.values()):
            return value
        logger.warning("%s is left out: it does not hold numbers by pair of images", shown(self.place / STATS))
        return None


def _spellings(name: str) -> tuple[str, str]:
    return name, os.path.splitext(name)[0]


def own_folder(images: Path) -> Path:
    """The folder SEQ of a video that is a folder of images: the parent of ``color``, else that folder itself."""
    parts = (FLOWS, MASKS, DINO, FULL_MASKS, DINOV2, MATCHES, "raw_depth", COLOR)
    inside = any((images / part).is_dir() for part in parts)
    return images.parent if images.name == COLOR and not inside else images


def digest_of(files: Iterable[Path]) -> str:
    """Hex sha256 of the names and sizes of files, in their order; the content of gigabytes of flow is not read."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.parent.name}/{path.name} {path.stat().st_size}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


# ----------------------------------------------------------------------------------------------------- its files

AGAIN = "copy or compute it again, or move it away"


def read_array(path: Path, key: str | None = None) -> np.ndarray:
    """The finite or not finite floats of a .npy, or of one ``key`` of a .npz, as float32.

    Raises :class:`InputError` when the file is damaged or holds something else.
    """
    try:
        loaded = atomic.load_npy(path) if key is None else atomic.load_npz(path)
    except ArtifactError as error:
        raise InputError(f"{shown(path)} cannot be read", error.why or "it is missing", AGAIN) from error
    if isinstance(loaded, dict):
        if key not in loaded:
            raise InputError(f"{shown(path)} has no array {key!r}", f"it holds {', '.join(loaded) or 'none'}", AGAIN)
        loaded = loaded[key]
    if loaded.dtype.kind not in "fiu":
        raise InputError(f"{shown(path)} cannot be used", f"it holds {loaded.dtype}, not numbers", AGAIN)
    return loaded.astype(np.float32, copy=False)


def read_bits(path: Path) -> np.ndarray:
    """A mask bool [H, W, C] of an image of 0/255, compressed with loss or not; C is 1 or 3, alpha is left out.

    Raises :class:`InputError` when it is no image.
    """
    raw = _picture(path)
    return (raw[..., :3] if raw.shape[2] > 2 else raw[..., :1]) > np.iinfo(raw.dtype).max // 2


def read_counts(path: Path) -> np.ndarray:
    """A count map uint16 [H, W]; raises :class:`InputError` when it is no image."""
    return _picture(path)[..., 0].astype(np.uint16)


def _picture(path: Path) -> np.ndarray:
    try:
        return decode_raw(path.read_bytes(), shown(path))
    except OSError as error:
        raise InputError(f"{shown(path)} cannot be read", error.strerror or str(error), AGAIN) from error
