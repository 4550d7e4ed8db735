"""Writing videos that every browser plays: H.264, yuv420p, even sizes, index in front."""

from __future__ import annotations

import functools
import itertools
import logging
import os
import subprocess
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np

from everypoint.artifacts.atomic import atomic_path
from everypoint.errors import ResourceError
from everypoint.video.paths import shown
from everypoint.video.process import Child, environment, ffmpeg_path

ENCODE_SECONDS = 4 * 3600.0

log = logging.getLogger(__name__)


def write_mp4(
    path: str | os.PathLike[str],
    frames: Iterable[np.ndarray],
    fps: float,
    size: tuple[int, int] | None = None,
    *,
    crf: int = 20,
    threads: int | None = None,
) -> None:
    """Encode frames uint8 [H, W, 3] RGB, which arrive one by one, to an MP4 under its final name or not at all.

    Odd sizes get their last row or column twice. Equal frames give equal bytes on the same machine, and with
    ``threads`` on every machine that has the same ffmpeg.

    Args:
        path: the file, ending in ``.mp4``.
        frames: at least one frame, all of one size.
        fps: frames a second.
        size: (H, W) that the frames must have; by default that of the first.
        crf: H.264's quality, 0 (lossless) to 51; about 18 is visually lossless.
        threads: threads of the encoder, whose number changes the bytes; by default as the machine has processors.

    Raises:
        ResourceError: ffmpeg failed or the disk is full; its last message is the reason.
        ValueError: no frames, or frames of another shape or type.
    """
    path = Path(path)
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise ValueError(f"no frames for {path}")
    size = size or first.shape[:2]
    height, width = size[0] + size[0] % 2, size[1] + size[1] % 2
    with atomic_path(path) as temporary:
        command = _command(temporary, height, width, fps, crf, threads)
        with Child(command, ENCODE_SECONDS, write=True) as child:
            try:
                for frame in itertools.chain([first], iterator):
                    child.process.stdin.write(_even(frame, size, path))
                child.process.stdin.close()
            except BrokenPipeError:
                pass  # ffmpeg has ended: its messages say why
            status = child.finish()
        if status != 0:
            why = "it took too long" if child.timed_out else (child.log.errors or [f"ffmpeg ended with {status}"])[-1]
            raise ResourceError(f"cannot write the video {shown(path)}", shown(why), "check the disk, then run again")


def _even(frame: np.ndarray, size: tuple[int, int], path: Path) -> np.ndarray:
    if frame.dtype != np.uint8 or frame.shape != (*size, 3):
        raise ValueError(f"a frame {frame.dtype} {frame.shape} does not fit {path} of size {size}")
    if size[0] % 2 or size[1] % 2:
        frame = np.pad(frame, ((0, size[0] % 2), (0, size[1] % 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(frame)


def _command(temporary: Path, height: int, width: int, fps: float, crf: int, threads: int | None) -> list[str]:
    rate = Fraction(fps).limit_denominator(1001)
    return [
        ffmpeg_path(), "-hide_banner", "-nostdin", "-nostats", "-loglevel", "repeat+level+error", "-y",
        "-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", f"{width}x{height}",
        "-framerate", f"{rate.numerator}/{rate.denominator}", "-i", "pipe:0",
        "-vf", "scale=flags=accurate_rnd+full_chroma_int+bitexact:out_color_matrix=bt709:out_range=tv,format=yuv420p",
        *_codec(crf), *(["-threads", str(threads)] if threads else []),
        "-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv",
        "-fflags", "+bitexact", "-flags:v", "+bitexact", "-map_metadata", "-1",
        "-movflags", "+faststart", "-f", "mp4", f"file:{os.path.abspath(temporary)}",
    ]  # fmt: skip


def _codec(crf: int) -> list[str]:
    if "libx264" in encoders():
        return ["-c:v", "libx264", "-preset", "fast", "-crf", str(crf)]
    log.warning("this ffmpeg has no libx264: videos are written as MPEG-4, which some browsers do not play")
    return ["-c:v", "mpeg4", "-q:v", "3"]


@functools.cache
def encoders() -> frozenset[str]:
    """Names of the encoders that this ffmpeg has."""
    done = subprocess.run(
        [ffmpeg_path(), "-hide_banner", "-nostdin", "-encoders"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment(),
        timeout=30,
        check=False,
    )
    lines = (line.split() for line in done.stdout.decode("utf-8", "replace").splitlines())
    return frozenset(cells[1] for cells in lines if len(cells) >= 2)
