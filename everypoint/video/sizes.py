"""How large videos are, by their headers alone: what jobs are cut and sized by before any frame is decoded.

The number of frames of a video file is an estimate (its duration times its rate). Nothing that a result holds depends
on it, only into how many jobs the work on a video is cut.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from everypoint.config.options import FramesOptions
from everypoint.errors import EverypointError
from everypoint.video.cache import recall, remember
from everypoint.video.discover import Entry
from everypoint.video.image_header import image_size
from everypoint.video.paths import image_files
from everypoint.video.tapvid import sizes_of

HEADER = 1 << 18  # bytes of an image that hold its size, EXIF thumbnails included
AT_ONCE = 8  # probes that run at once; each is a process
CACHE = "sizes.json"


class Size(NamedTuple):
    """Frames and pixels of a video."""

    frames: int
    height: int
    width: int

    @property
    def megapixels(self) -> float:
        """Of one frame."""
        return self.height * self.width / 1e6


def chosen_frames(count: int, options: FramesOptions) -> range:
    """Indices of the used frames among ``count``."""
    chosen = range(min(options.start, count), count, options.stride)
    return chosen if options.max_frames is None else chosen[: options.max_frames]


def working_size(height: int, width: int, options: FramesOptions) -> tuple[int, int]:
    """(H, W) of the working frames: ``resize`` exactly, else shrunk to ``max_side``, else as they are."""
    if options.resize is not None:
        return options.resize
    longer = max(height, width)
    if options.max_side is None or longer <= options.max_side:
        return height, width
    scale = options.max_side / longer
    return max(1, round(height * scale)), max(1, round(width * scale))


def working(size: Size, options: FramesOptions) -> Size:
    """The size of the frames that are used of a source of this size."""
    return Size(len(chosen_frames(size.frames, options)), *working_size(size.height, size.width, options))


def source_sizes(entries: Iterable[Entry], cache_folder: Path | None = None) -> dict[str, Size | None]:
    """The size of every entry as stored, by name; None where its header cannot be read or does not say.

    What is wrong with such a video is said by the job that decodes it. Video files are asked once: the answer is kept
    in ``cache_folder`` (when given) for as long as the file's size and modification time stay the same.
    """
    by_kind: dict[str, list[Entry]] = {"video": [], "images": [], "tapvid": []}
    for entry in entries:
        by_kind[entry.kind].append(entry)
    found = _of_videos([entry.path for entry in by_kind["video"]], cache_folder)
    sizes = {entry.name: found[str(entry.path)] for entry in by_kind["video"]}
    sizes |= {entry.name: _of_images(entry.path) for entry in by_kind["images"]}
    pickles = {entry.path: sizes_of(entry.path, cache_folder) for entry in by_kind["tapvid"]}
    for entry in by_kind["tapvid"]:
        size = pickles[entry.path].get(entry.key)
        sizes[entry.name] = Size(*size) if size else None
    return sizes


def _of_images(folder: Path) -> Size | None:
    try:
        files = image_files(folder)
        with open(files[0], "rb") as file:
            size = image_size(file.read(HEADER))
    except (EverypointError, OSError, IndexError):
        return None
    return Size(len(files), *size) if size else None


def _of_videos(paths: list[Path], cache_folder: Path | None) -> dict[str, Size | None]:
    cache = None if cache_folder is None else Path(cache_folder) / CACHE
    known = _known(cache)
    stamps = {str(path): _stamp(path) for path in paths}
    missing = [name for name, stamp in stamps.items() if known.get(name, {}).get("stamp") != stamp]
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        for name, size in zip(missing, pool.map(_probed, missing), strict=True):
            known[name] = {"stamp": stamps[name], "size": size}
    if cache is not None and missing:
        remember(cache, known, "the sizes of videos are")  # without, it costs time only
    return {name: Size(*known[name]["size"]) if known[name]["size"] else None for name in stamps}


def _known(cache: Path | None) -> dict[str, Any]:
    if cache is None:
        return {}
    value = recall(cache)
    return dict(value) if isinstance(value, Mapping) and all(_is_record(item) for item in value.values()) else {}


def _is_record(value: Any) -> bool:
    if not isinstance(value, Mapping) or not {"stamp", "size"} <= value.keys():
        return False
    size = value["size"]
    return size is None or (isinstance(size, list) and len(size) == 3 and all(isinstance(item, int) for item in size))


def _stamp(path: Path) -> list[int]:
    try:
        status = os.stat(path)
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def _probed(name: str) -> list[int] | None:
    from everypoint.video.ffmpeg import probe  # only where there are video files to ask

    try:
        stream = probe(Path(name))
    except EverypointError:
        return None
    frames = stream.expected_frames
    return [frames, stream.height, stream.width] if frames else None
