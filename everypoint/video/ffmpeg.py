"""Reading video files that may be hostile: what a file is, and its frames as a stream.

Every call is an argument list without a shell. The demuxer is forced from the file's first bytes (never from its name),
out of four containers that cannot point to other files; only the ``file`` protocol is open; the child process is
limited in memory, file size and wall-clock time; and the size of a frame is known, and refused, before it is decoded.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from everypoint.errors import InputError
from everypoint.video.paths import shown
from everypoint.video.process import Child, Log, ffmpeg_path

MAX_PIXELS = 65_000_000  # a frame; 8K UHD has 33 million
MAX_RATE = 1000.0  # rates above are the resolution of time stamps, not of frames
PROBE_SECONDS = 30.0
DECODE_SECONDS = 3600.0
_GIB = 2**30
_CONTAINERS = {  # name for messages -> (forced demuxer, names of the format white list)
    "mp4/mov": ("mov", "mov,mp4,m4a,3gp,3g2,mj2"),
    "matroska/webm": ("matroska", "matroska,webm"),
    "avi": ("avi", "avi"),
    "gif": ("gif", "gif"),
}
_ALPHA = re.compile(r"yuva|rgba|bgra|argb|abgr|gbrap|ya8|ya16|pal8")
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # ffmpeg's own decoders drop the alpha of these


@dataclass(frozen=True)
class Stream:
    """The first real video stream of a file, as far as its header tells."""

    path: Path
    container: str  # a key of _CONTAINERS
    codec: str
    width: int  # as stored, before rotation
    height: int
    fps: float | None
    duration: float | None  # seconds, of the longest stream in the file
    alpha: bool
    square_pixels: bool
    audio: bool
    cut_off: bool  # the end of the file is missing, where that can be seen

    @property
    def expected_frames(self) -> int | None:
        """Frames in the whole file, estimated from duration and rate; None where the rate is no average."""
        if self.fps is None or self.duration is None or self.fps > MAX_RATE:
            return None
        return max(1, round(self.fps * self.duration))


def container_of(path: Path) -> str:
    """The container by the file's first bytes; raises :class:`InputError` for an empty, unreadable or other file."""
    try:
        with open(path, "rb") as file:
            head = file.read(16)
    except OSError as error:
        raise InputError(f"{shown(path.name)} cannot be opened", error.strerror or str(error)) from error
    if not head:
        raise InputError(f"{shown(path.name)} is an empty file")
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"):
        return "mp4/mov"
    if head[:4] == b"\x1aE\xdf\xa3":
        return "matroska/webm"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    raise InputError(
        f"{shown(path.name)} is not a video",
        "its first bytes are not those of mp4, mov, mkv, webm, avi or gif",
        "convert it to one of these or remove it",
    )


def probe(path: Path) -> Stream:
    """What the header of a video file says.

    Raises :class:`InputError` when there is no readable video stream or its frames are larger than ``MAX_PIXELS``.
    """
    container = container_of(path)
    with Child([ffmpeg_path(), *_QUIET, *_input(path, container)], PROBE_SECONDS, memory=4 * _GIB) as child:
        child.finish()
    name, log = shown(path.name), child.log
    if child.timed_out:
        raise InputError(f"{name} cannot be read", f"its header took more than {PROBE_SECONDS:.0f} s")
    videos = [text for kind, text in log.streams if kind == "Video" and "(attached pic)" not in text]
    if not videos:
        raise InputError(f"{name} cannot be read", log.reason("it has no video stream"), "replace or remove it")
    return _stream(path, container, videos[0], log)


def _stream(path: Path, container: str, text: str, log: Log) -> Stream:
    """The stream of a line such as ``h264 (High) (avc1 / 0x31637661), yuv420p(tv), 640x272 [SAR 1:1 ...], 25 fps``."""
    name = shown(path.name)
    size = re.search(r", (\d+)x(\d+)(?=[ ,]|$)", text)
    if size is None or not int(size[1]) or not int(size[2]):
        if huge := re.search(
            r"Picture size (\d+)x(\d+) is invalid", " ".join(log.errors)
        ):  # -max_pixels was in the way
            check_pixels(name, int(huge[2]), int(huge[1]))
        raise InputError(f"{name} cannot be read", log.reason("no picture size in its header"), "repair or remove it")
    width, height = int(size[1]), int(size[2])
    check_pixels(name, height, width)
    rate = re.search(r"([\d.]+)(k?) fps", text)
    aspect = re.search(r"SAR (\d+):(\d+)", text)
    pixels = re.match(r".*?, ([a-z0-9]+)", text)
    codec = text.split()[0].rstrip(",")
    return Stream(
        path=path,
        container=container,
        codec=codec,
        width=width,
        height=height,
        fps=_exact_rate(float(rate[1]) * (1000 if rate[2] else 1)) if rate else None,
        duration=log.duration,
        alpha=bool(pixels and _ALPHA.match(pixels[1])) or (log.alpha_mode and codec in _ALPHA_DECODERS),
        square_pixels=aspect is None or aspect[1] == aspect[2],
        audio=any(kind == "Audio" for kind, _ in log.streams),
        cut_off=_cut_off(path, container),
    )


def _exact_rate(shown_rate: float) -> float | None:
    """A rate shown with two decimals: 23.98, 29.97, 59.94 ... are multiples of 1000 / 1001; 0 is unknown."""
    ntsc = round(shown_rate * 1.001) / 1.001
    return ntsc if abs(shown_rate - ntsc) < 0.0055 < abs(shown_rate - round(shown_rate)) else shown_rate or None


def _cut_off(path: Path, container: str) -> bool:
    """Whether the end of a file is missing, for the two containers of which ffmpeg does not say it."""
    with open(path, "rb") as file:
        head = file.read(8)
        if container == "gif":
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b";"
        return container == "avi" and int.from_bytes(head[4:], "little") + 8 > os.fstat(file.fileno()).st_size


def check_pixels(name: str, height: int, width: int) -> None:
    """Raise :class:`InputError` for frames that are refused without being decoded."""
    if height * width > MAX_PIXELS:
        raise InputError(
            f"{name} is refused",
            f"its frames have {width}x{height} pixels and at most {MAX_PIXELS // 10**6} million are decoded",
            "scale it down or remove it",
        )


class FrameStream:
    """Frames of a video file, decoded one by one in a child process.

    Iterating yields uint8 [H, W, 3] RGB, rotated upright as the file asks, alpha composited over black. The array is
    reused by the next frame. After the last one ``times`` and ``log`` are complete.
    """

    def __init__(
        self, stream: Stream, start: int = 0, stride: int = 1, count: int | None = None, seconds: float | None = None
    ) -> None:
        self.stream, self.start, self.stride, self.count = stream, start, stride, count
        self.seconds = seconds or DECODE_SECONDS
        self.log = Log()
        self.timed_out = False
        self._stamps: list[int | None] = []  # microseconds, one a frame

    def __iter__(self) -> Iterator[np.ndarray]:
        name = shown(self.stream.path.name)
        memory = 3 * _GIB + 96 * self.stream.width * self.stream.height
        stamps_out, stamps_in = os.pipe()
        reader = threading.Thread(target=self._read_stamps, args=(stamps_out,), daemon=True)
        reader.start()
        try:
            child = Child(self._command(stamps_in), self.seconds, memory=memory, read=True, keep=(stamps_in,))
        finally:
            os.close(stamps_in)  # the child's copy is the only one left, so that its end is seen
        with child:
            self.log = child.log
            buffer: np.ndarray | None = None
            while (shape := _pam_shape(child.process.stdout, name)) is not None:
                if buffer is None:
                    buffer = np.empty(shape, np.uint8)
                if buffer.shape != shape:
                    raise InputError(f"{name} cannot be read", "its frames change in size")
                if not _read_into(child.process.stdout, buffer):
                    break
                yield over_black(buffer)
            child.finish()
            self.timed_out = child.timed_out
            reader.join()

    def _command(self, stamps: int) -> list[str]:
        stream, start = self.stream, self.start
        chain = [
            f"select='gte(n,{start})*not(mod(n-{start},{self.stride}))'",  # skipped frames never enter the pipe
            "scale=flags=accurate_rnd+full_chroma_int+full_chroma_inp+bitexact",  # same pixels on every processor
            f"format={'rgba' if stream.alpha else 'rgb24'}",
            # time stamps in microseconds go through a pipe of their own: the log interleaves its threads' lines
            f"settb=AVTB,metadata=add:key=k:value=v,metadata=print:key=k:file='pipe\\:{stamps}':direct=1",
            "settb=1/25,setpts=N",  # the pipe of pictures has none, and equal ones would be complained about
        ]
        decoder = ["-c:v", _ALPHA_DECODERS[stream.codec]] if stream.alpha and stream.codec in _ALPHA_DECODERS else []
        return [
            ffmpeg_path(), *_QUIET, "-filter_threads", str(_threads()), *decoder, "-fflags", "+discardcorrupt",
            *_input(stream.path, stream.container),
            "-map", "0:V:0", "-filter:v", ",".join(chain), "-fps_mode", "passthrough", "-enc_time_base", "filter",
            *(["-frames:v", str(self.count)] if self.count is not None else []),
            "-c:v", "pam", "-f", "image2pipe", "pipe:1",
        ]  # fmt: skip

    def _read_stamps(self, handle: int) -> None:
        with open(handle, "rb") as pipe:
            while line := pipe.readline(4096):
                if match := re.match(rb"frame:\d+ +pts:(-?\d+|NOPTS)\s", line):
                    self._stamps.append(None if match[1] == b"NOPTS" else int(match[1]))

    def times(self, count: int) -> list[float] | None:
        """Time stamps of the first ``count`` frames in seconds; None when the file has none for some of them."""
        stamps = [stamp for stamp in self._stamps[:count] if stamp is not None]
        return [stamp / 1e6 for stamp in stamps] if len(stamps) == count else None


def over_black(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] of uint8 [H, W, 3 or 4]: straight alpha composited over black, rounded."""
    if image.shape[2] == 3:
        return image
    alpha = image[..., 3:].astype(np.uint16)
    return ((image[..., :3] * alpha + 127) // 255).astype(np.uint8)


def _pam_shape(pipe: BinaryIO, name: str) -> tuple[int, int, int] | None:
    """(H, W, channels) of the next picture in a PAM stream; None at its end."""
    fields: dict[bytes, int] = {}
    while (line := pipe.readline(256)) != b"ENDHDR\n":
        if not line.endswith(b"\n"):
            return None  # the end, or a header cut off
        key, _, value = line.strip().partition(b" ")
        if value.isdigit():
            fields[key] = int(value)
    shape = fields[b"HEIGHT"], fields[b"WIDTH"], fields[b"DEPTH"]
    check_pixels(name, shape[0], shape[1])
    return shape


def _read_into(pipe: BinaryIO, array: np.ndarray) -> bool:
    """Fill ``array`` from the pipe; False when the pipe ends before."""
    view = memoryview(array).cast("B")
    done = 0
    while done < len(view):
        got = pipe.readinto(view[done:])
        if not got:
            return False
        done += got
    return True


_QUIET = ["-hide_banner", "-nostdin", "-nostats", "-loglevel", "repeat+level+info"]


def _input(path: Path, container: str) -> list[str]:
    demuxer, allowed = _CONTAINERS[container]
    return [
        "-threads", str(_threads()), "-max_pixels", str(MAX_PIXELS), "-protocol_whitelist", "file",
        "-format_whitelist", allowed, "-f", demuxer, "-i", f"file:{os.path.abspath(path)}",
    ]  # fmt: skip


def _threads() -> int:
    """Decoder threads: the processors this job may use, at most 4."""
    return max(1, min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))
