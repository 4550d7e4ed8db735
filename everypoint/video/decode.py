"""The frames of an entry as one array: from a video file, a folder of images, or a TAP-Vid pickle.

Conventions, for every source:

* Frames are those stored, in presentation order: nothing is duplicated or dropped to reach a constant rate, and the
  time stamps are kept. ``fps`` is the source's rate whatever ``stride`` is. Images and TAP-Vid videos have no times of
  their own: they count as 25 a second.
* Rotation in the file is applied; ``original_*`` is the size after it. Pixels that are not square stay as stored.
* Alpha is composited over black, more than 8 bits are scaled to 8, the first video stream is used.
* A damaged file gives the frames that decode whole, with a warning, as long as there are two.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from everypoint.artifacts.video import VideoMeta
from everypoint.config.options import FramesOptions
from everypoint.errors import InputError, ResourceError
from everypoint.video.cuts import find_cuts
from everypoint.video.discover import Entry
from everypoint.video.ffmpeg import FrameStream, Stream, probe
from everypoint.video.images import decode_image, decode_raw, resize_frame, to_rgb8
from everypoint.video.paths import image_files, shown, source_name
from everypoint.video.sidecars import read_annotations, read_mask, read_queries_csv
from everypoint.video.sizes import chosen_frames, working_size
from everypoint.video.tapvid import load_item

__all__ = ["read_annotations", "read_frames", "read_mask", "read_queries_csv"]

MAX_FRAMES = 100_000  # used frames of one video
STILL_FPS = 25.0
MEMORY_SHARE = 0.8  # of what is free, for the frames of one video


def read_frames(entry: Entry, options: FramesOptions) -> tuple[np.ndarray, VideoMeta]:
    """The chosen frames of an entry at working size, uint8 [T, H, W, 3] RGB, and their description.

    Raises:
        InputError: fewer than two frames can be read, or the source is refused (see :mod:`everypoint.video.ffmpeg`).
        ResourceError: the frames do not fit into memory.
    """
    reader = {"video": _read_video, "images": _read_images, "tapvid": _read_tapvid}[entry.kind]
    frames, known = reader(entry, options)
    if len(frames) < 2:
        raise _too_few(entry, len(frames), options)
    cuts = [] if options.on_cut == "ignore" else find_cuts(frames, options.cut_threshold)
    if cuts and options.on_cut == "warn":
        known["warnings"].append(f"shot cuts at frames {cuts}: no point can be followed across; see on_cut")
    return frames, VideoMeta(
        name=entry.name,
        frames=len(frames),
        height=frames.shape[1],
        width=frames.shape[2],
        start=options.start,
        stride=options.stride,
        cuts=cuts,
        **known,
    )


def _too_few(entry: Entry, count: int, options: FramesOptions) -> InputError:
    what, number = f"video {entry.name} cannot be tracked", "one frame" if count == 1 else "no frame"
    if options.start or options.stride > 1 or options.max_frames == 1:
        why = f"start {options.start}, stride {options.stride} and max_frames {options.max_frames} leave {number}"
        return InputError(what, why, "choose at least 2 frames that it has")
    return InputError(what, f"it has {number} and needs at least 2 frames")


# ------------------------------------------------------------------------------------------------ the three readers


def _read_video(entry: Entry, options: FramesOptions) -> tuple[np.ndarray, dict[str, Any]]:
    stream = probe(entry.path)
    expected = _chosen_of(stream.expected_frames, options)
    limit = min(options.max_frames or MAX_FRAMES + 1, MAX_FRAMES + 1)
    reader = FrameStream(stream, options.start, options.stride, limit)
    frames, original = _collect(entry, reader, expected, options)
    if reader.timed_out:
        raise InputError(f"{shown(entry.path.name)} cannot be read", f"it took more than {reader.seconds:.0f} s")
    if stream.container == "gif" and stream.cut_off and reader.log.errors and len(frames) < limit:
        frames = frames[:-1]  # ffmpeg shows the half picture at the end as a frame
    if len(frames) < 2 and reader.log.errors:
        why = f"it is damaged and {len(frames) or 'none'} of its frames can be read ({reader.log.reason('')})"
        raise InputError(f"{shown(entry.path.name)} cannot be used", why, "repair, replace or remove it")
    declared = stream.fps or STILL_FPS
    times = reader.times(len(frames))
    notes = [] if stream.square_pixels else ["its pixels are not square: frames and points stay as stored"]
    if times is None:
        notes.append(f"it has no time stamps: {declared:g} frames a second are assumed")
        times = _even_times(len(frames), declared, options)
    else:
        notes += _damage(reader, stream, times, options)
    fps = _rate(times, declared, options.stride)
    return frames, _known(source_name(entry.kind, entry.path), _file_hash(entry.path), fps, times, original, notes)


def _damage(reader: FrameStream, stream: Stream, times: list[float], options: FramesOptions) -> list[str]:
    """Sentences about frames that are missing or broken."""
    if reader.log.errors:
        return [f"the file is damaged, {len(times)} frames are used (ffmpeg: {reader.log.reason('')})"]
    if reader.log.damaged:
        return [f"the file is damaged, {reader.log.damaged} of its frames decode with errors"]
    if len(times) == options.max_frames or len(times) < 2:
        return []
    end = times[-1] + 2 * (times[-1] - times[0]) / (len(times) - 1)
    short = stream.duration is not None and not stream.audio and end < 0.9 * stream.duration
    if stream.cut_off or short:  # sound may outlast the picture
        return [f"the file is cut off, the {len(times)} frames up to {times[-1]:.2f} s are used"]
    return []


def _rate(times: list[float], declared: float, stride: int) -> float:
    """Frames a second: as declared, unless the time stamps (of a variable rate, say) tell another average."""
    span = times[-1] - times[0] if len(times) > 1 else 0.0
    if span <= 0:
        return declared
    average = (len(times) - 1) * stride / span
    return declared if abs(average / declared - 1) < 0.01 else average


def _read_images(entry: Entry, options: FramesOptions) -> tuple[np.ndarray, dict[str, Any]]:
    files = image_files(entry.path)
    chosen = [files[index] for index in chosen_frames(len(files), options)]
    digest = hashlib.sha256()
    notes: list[str] = []

    def decoded() -> Iterator[np.ndarray]:
        size = None
        for file in chosen:
            data = _bytes_of(file)
            digest.update(os.fsencode(file.name) + b"\0" + hashlib.sha256(data).digest())
            raw = decode_raw(data, shown(file.name))
            size = size or raw.shape[:2]
            if raw.shape[:2] != size:
                raise InputError(
                    f"the images of {entry.name} differ in size",
                    f"{shown(file.name)} has {_by(raw.shape)}, those before it {_by(size)}",
                    "give all images one size",
                )
            if raw.dtype == np.uint16 and file == chosen[0] and raw[..., :3].max() < 4096:
                notes.append("its 16-bit images use less than 1/16 of their range and look black: stretch them first")
            yield to_rgb8(raw)

    frames, original = _collect(entry, decoded(), len(chosen), options)
    times = _even_times(len(frames), STILL_FPS, options)
    return frames, _known(source_name(entry.kind, entry.path), digest.hexdigest(), STILL_FPS, times, original, notes)


def _read_tapvid(entry: Entry, options: FramesOptions) -> tuple[np.ndarray, dict[str, Any]]:
    item = load_item(entry.path, entry.key)
    source = source_name(entry.kind, entry.path, entry.key)

    def decoded() -> Iterator[np.ndarray]:
        for index in chosen_frames(len(item.video), options):
            frame = item.video[index]
            yield frame if isinstance(frame, np.ndarray) else decode_image(frame, f"frame {index} of {source}")

    chosen = chosen_frames(len(item.video), options)
    frames, original = _collect(entry, decoded(), len(chosen), options)
    times = _even_times(len(frames), STILL_FPS, options)
    return frames, _known(source, item.source_hash(), STILL_FPS, times, original, [])


def _known(
    source: str, source_hash: str, fps: float, times: list[float], original: tuple[int, int], notes: list[str]
) -> dict[str, Any]:
    """The part of VideoMeta that a reader knows."""
    return {
        "source": source,
        "source_hash": source_hash,
        "fps": fps,
        "timestamps": times,
        "original_height": original[0],
        "original_width": original[1],
        "warnings": notes,
    }


# ------------------------------------------------------------------------------------------------ shared parts


def _collect(
    entry: Entry, decoded: Iterable[np.ndarray], expected: int | None, options: FramesOptions
) -> tuple[np.ndarray, tuple[int, int]]:
    """Resized frames uint8 [T, H, W, 3] and the size (H, W) before; holds one frame besides the result."""
    frames = np.empty((0, 1, 1, 3), np.uint8)
    original, count, limit = (0, 0), 0, 0
    for frame in decoded:
        if count == 0:
            original = frame.shape[:2]
            size = working_size(*original, options)
            limit = _frame_limit(entry, size, expected)
            frames = np.empty((min(limit, expected or 64), *size, 3), np.uint8)
        elif frame.shape[:2] != original:
            raise InputError(f"the frames of {entry.name} differ in size", f"{_by(frame.shape)} after {_by(original)}")
        if count == limit:
            raise _too_large(entry, count + 1, frames.shape[1:3], limit)
        if count == len(frames):  # grown in place: the system moves pages, nothing is copied
            frames.resize((min(limit, count + count // 2 + 16), *frames.shape[1:]), refcheck=False)
        frames[count] = resize_frame(frame, frames.shape[1:3])
        count += 1
    frames.resize((count, *frames.shape[1:]), refcheck=False)
    return frames, original


def _frame_limit(entry: Entry, size: tuple[int, int], expected: int | None) -> int:
    """How many frames of a size are accepted; raises at once when more are expected."""
    limit = min(MAX_FRAMES, int(free_memory() * MEMORY_SHARE / (3 * size[0] * size[1])))
    if expected is not None and expected > limit:
        raise _too_large(entry, expected, size, limit)
    return limit


def _too_large(entry: Entry, count: int, size: tuple[int, int], limit: int) -> ResourceError:
    need = count * size[0] * size[1] * 3 / 2**30
    return ResourceError(
        f"video {entry.name} is too large",
        f"{count} or more frames of {_by(size)} pixels need {need:.1f} GiB of memory and {limit} of them can be held",
        "set max_frames, stride or max_side",
    )


def free_memory() -> int:
    """Bytes that this process may still use: free memory of the machine, or of the job's control group if less."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = pages
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return free if limit == "max" else max(0, min(free, int(limit) - int(used)))
    except (OSError, StopIteration, ValueError):  # not Linux, or no control group
        return free


def _by(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"


def _chosen_of(count: int | None, options: FramesOptions) -> int | None:
    """How many frames are used of an estimated number; None when it is unknown."""
    return None if count is None else len(chosen_frames(count, options)) or 1


def _even_times(count: int, fps: float, options: FramesOptions) -> list[float]:
    return [(options.start + index * options.stride) / fps for index in range(count)]


def _bytes_of(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{shown(file.name)} cannot be opened", error.strerror or str(error)) from error


def _file_hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
