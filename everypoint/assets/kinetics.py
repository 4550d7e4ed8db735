"""TAP-Vid-Kinetics from the official table and a folder of the user's clips.

The table has a row for each point: youtube_id, start, end (seconds), then a triple x, y, occluded for each frame (250
at 25 frames a second). The clips cannot be redistributed; those still to be had are expected as
``{id}_{start:06}_{end:06}.mp4``. The output is a folder of videos, each with its annotations beside it, that is used
as ``videos: OUTPUT``. Source of the format: TAP-Vid (Doersch et al. 2022), its published table.
"""

from __future__ import annotations

import csv
import logging
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from everypoint.artifacts.atomic import atomic_path, load_npz, save_npz
from everypoint.errors import ArtifactError, EverypointError, InputError

log = logging.getLogger(__name__)

FPS = 25
MAX_FRAMES = 250
MAX_PIXELS = 65_000_000  # a frame
TIMEOUT = 300.0  # seconds for one clip
ID = re.compile(r"^[A-Za-z0-9_-]{1,32}$")


@dataclass
class KineticsClip:
    """One clip of the table: points float32 [N, T, 2], x and y as fractions of the frame; occluded bool [N, T]."""

    youtube_id: str
    start: int
    end: int
    points: np.ndarray
    occluded: np.ndarray

    @property
    def file(self) -> str:
        """The name that the clip's file must have."""
        return f"{self.youtube_id}_{self.start:06}_{self.end:06}.mp4"

    @property
    def name(self) -> str:
        """Name of the entry; an id may begin with a dash, a video's name may not."""
        stem = self.file.removesuffix(".mp4")
        return stem if stem[0] != "-" else f"id{stem}"


@dataclass
class KineticsIndex:
    """What came of the table: the videos written, the clips that are missing, and those that cannot be used."""

    videos: list[Path] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def summary(self) -> str:
        """One sentence with the counts, which belongs beside every figure measured on the clips."""
        found, missing, failed = len(self.videos), len(self.missing), len(self.failed)
        total = found + missing + failed
        return f"Kinetics: {found} of {total} clips found, {missing} missing, {failed} unusable"


def build_kinetics(
    table: str | os.PathLike[str], clips: str | os.PathLike[str], output: str | os.PathLike[str]
) -> KineticsIndex:
    """Make ``output`` a folder of annotated videos: NAME.mp4 and NAME.annotations.npz for each clip that is there.

    Each clip is resampled to 25 frames a second and at most 250 frames. The annotations (points float32 [N, T, 2]
    normalised raster xy, occluded bool [N, T], T the frames of the video) are the table's, less half a pixel of the
    clip's own width and height, as in the official files, so that figures stay comparable. A clip that is finished is
    left alone when the command runs again; one that cannot be decoded does not stop the others.

    Args:
        table: the official csv (see :func:`everypoint.assets.datasets.kinetics_csv`).
        clips: folder of the user's files.
        output: folder to fill; the clips themselves are not touched.

    Raises:
        InputError: the table or the folder cannot be read, or no clip at all is there.
    """
    clips, output = Path(clips), Path(output)
    if not clips.is_dir():
        raise InputError(f"the folder of clips {clips} does not exist")
    if clips.resolve() == output.resolve():
        raise InputError("the output folder must not be the folder of clips", cure="name another folder")
    index = KineticsIndex()
    for clip in read_csv(table):
        source = clips / clip.file
        if not source.is_file():
            index.missing.append(clip.file)
            continue
        try:
            index.videos.append(_build_clip(clip, source, output))
        except EverypointError as error:
            log.warning("%s", error)
            index.failed[clip.file] = str(error)
    log.info("%s", index.summary())
    if not index.videos:
        example = (index.missing or list(index.failed))[0]
        raise InputError(
            f"no clip of the table can be used from {clips}",
            f"{len(index.missing)} missing, {len(index.failed)} unusable",
            f"name the files like {example}",
        )
    return index


def read_csv(table: str | os.PathLike[str]) -> list[KineticsClip]:
    """The clips of the official table, in its order; raises :class:`InputError` naming the line that does not fit."""
    rows: dict[tuple[str, int, int], list[np.ndarray]] = {}
    for number, row in _rows(Path(table)):
        key, triples = _parse(Path(table), number, row)
        points = rows.setdefault(key, [])
        if points and points[0].shape != triples.shape:
            why = f"the clip's first row has {len(points[0])}"
            raise InputError(f"{table}, line {number} has {len(triples)} frames", why)
        points.append(triples)
    if not rows:
        raise InputError(f"{table} holds no rows")
    return [_clip(key, np.stack(points)) for key, points in rows.items()]


def _rows(table: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of each row that is not empty, without a header line."""
    try:
        with open(table, newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.reader(file), 1):
                header = number == 1 and len(row) > 1 and not row[1].strip().lstrip("-").isdigit()
                if row and not header:
                    yield number, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"the table {table} cannot be read", str(error)) from error


def _parse(table: Path, number: int, row: list[str]) -> tuple[tuple[str, int, int], np.ndarray]:
    """((id, start, end), triples float32 [T, 3]) of one row."""
    what = f"{table}, line {number} is not a row of TAP-Vid-Kinetics"
    try:
        key = (row[0].strip(), int(row[1]), int(row[2]))
        values = np.array([_number(text) for text in row[3:]], np.float32)
    except (ValueError, IndexError) as error:
        raise InputError(what, str(error)) from error
    if not ID.match(key[0]) or min(key[1:]) < 0 or len(values) == 0 or len(values) % 3:
        raise InputError(what, "expected id, start, end, then x, y, occluded for each frame")
    return key, values.reshape(-1, 3)


def _number(text: str) -> float:
    truth = {"true": 1.0, "false": 0.0}
    return truth[text.strip().lower()] if text.strip().lower() in truth else float(text)


def _clip(key: tuple[str, int, int], triples: np.ndarray) -> KineticsClip:
    return KineticsClip(*key, points=triples[..., :2], occluded=triples[..., 2] > 0.5)


# ------------------------------------------------------------------------------------------------- one clip


def _build_clip(clip: KineticsClip, source: Path, output: Path) -> Path:
    """Write the video, then its annotations, whose presence says that both are whole."""
    video = output / f"{clip.name}.mp4"
    annotations = output / f"{clip.name}.annotations.npz"
    if video.is_file() and _finished(annotations):
        return video
    _resample(source, video)
    frames, (width, height) = _count(video)
    used = min(frames, clip.points.shape[1])
    if used < frames:
        raise InputError(f"{source} has {frames} frames at {FPS} fps", f"the table has {clip.points.shape[1]}")
    points = clip.points[:, :used] - np.array([0.5 / width, 0.5 / height], np.float32)
    save_npz(annotations, compressed=True, points=points.astype(np.float32), occluded=clip.occluded[:, :used])
    return video


def _finished(annotations: Path) -> bool:
    if not annotations.is_file():
        return False
    try:
        return {"points", "occluded"} <= set(load_npz(annotations))
    except ArtifactError:
        return False


def _resample(source: Path, video: Path) -> None:
    """25 frames a second, at most 250 frames, without sound; an odd size becomes even."""
    filters = f"fps={FPS},scale=trunc(iw/2)*2:trunc(ih/2)*2"
    import imageio_ffmpeg

    arguments = ["-nostdin", "-y", "-loglevel", "error", "-protocol_whitelist", "file"]
    arguments += ["-format_whitelist", "mov,mp4,m4a,3gp,3g2,mj2", "-max_pixels", str(MAX_PIXELS), "-f", "mov"]
    arguments += ["-i", f"file:{source.resolve()}", "-map", "0:v:0", "-an", "-sn", "-dn", "-vf", filters]
    arguments += ["-frames:v", str(MAX_FRAMES), "-c:v", "libx264", "-preset", "veryfast", "-crf", "12"]
    arguments += ["-pix_fmt", "yuv420p", "-movflags", "+faststart", "-f", "mp4"]
    with atomic_path(video) as temporary:
        command = [imageio_ffmpeg.get_ffmpeg_exe(), *arguments, f"file:{temporary.resolve()}"]
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT, check=False)
        except subprocess.TimeoutExpired as error:
            raise InputError(f"{source} cannot be decoded", f"no end after {TIMEOUT:.0f} s") from error
        if done.returncode != 0:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            raise InputError(f"{source} cannot be decoded", lines[-1] if lines else "ffmpeg failed")


def _count(video: Path) -> tuple[int, tuple[int, int]]:
    """(frames, (width, height)) of a video that was just written."""
    import imageio_ffmpeg

    reader = imageio_ffmpeg.read_frames(str(video))
    try:
        size = next(reader)["size"]
    except (OSError, StopIteration) as error:
        raise InputError(f"{video} cannot be read back", str(error)) from error
    finally:
        reader.close()
    frames, _ = imageio_ffmpeg.count_frames_and_secs(str(video))
    if frames < 1:
        raise InputError(f"{video} has no frames")
    return frames, size
