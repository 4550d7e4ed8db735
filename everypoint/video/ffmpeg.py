"""Running ffmpeg on files that may be hostile: what a file is, and its frames as a stream.

Every call is an argument list without a shell. The demuxer is forced from the file's first bytes (never from its name),
out of four containers that cannot point to other files; only the ``file`` protocol is open; the child process is
limited in memory, file size and wall-clock time; and the size of a frame is known, and refused, before it is decoded.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import imageio_ffmpeg
import numpy as np

from everypoint.errors import InputError, MissingPackageError
from everypoint.video.paths import shown

MAX_PIXELS = 65_000_000  # a frame; 8K UHD has 33 million
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


def ffmpeg_path() -> str:
    """The ffmpeg program; raises :class:`MissingPackageError` when imageio-ffmpeg brought none."""
    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise MissingPackageError("ffmpeg is missing", str(error), "install imageio-ffmpeg") from error


def environment() -> dict[str, str]:
    """The child's environment: nothing that makes ffmpeg write report files, colours or other languages."""
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("FF", "AV_LOG"))}
    return {**keep, "LC_ALL": "C", "AV_LOG_FORCE_NOCOLOR": "1"}


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

    @property
    def expected_frames(self) -> int | None:
        """Frames in the whole file, estimated from duration and rate."""
        if self.fps is None or self.duration is None:
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
        why = "it has no video stream" if log.streams else log.reason("ffmpeg finds no stream in it")
        raise InputError(f"{name} cannot be read", why, "repair, replace or remove it")
    return _stream(path, container, videos[0], log)


def _stream(path: Path, container: str, text: str, log: Log) -> Stream:
    """The stream of a line such as ``h264 (High) (avc1 / 0x31637661), yuv420p(tv), 640x272 [SAR 1:1 ...], 25 fps``."""
    name = shown(path.name)
    size = re.search(r", (\d+)x(\d+)(?=[ ,]|$)", text)
    if size is None or not int(size[1]) or not int(size[2]):
        raise InputError(f"{name} cannot be read", log.reason("no picture size in its header"), "repair or remove it")
    width, height = int(size[1]), int(size[2])
    check_pixels(name, height, width)
    rate = re.search(r"([\d.]+)(k?) fps", text) or re.search(r"([\d.]+)(k?) tbr", text)
    aspect = re.search(r"SAR (\d+):(\d+)", text)
    pixels = re.match(r".*?, ([a-z0-9]+)", text)
    codec = text.split()[0].rstrip(",")
    return Stream(
        path=path,
        container=container,
        codec=codec,
        width=width,
        height=height,
        fps=(float(rate[1]) * (1000 if rate[2] else 1) or None) if rate else None,
        duration=log.duration,
        alpha=bool(pixels and _ALPHA.match(pixels[1])) or (log.alpha_mode and codec in _ALPHA_DECODERS),
        square_pixels=aspect is None or aspect[1] == aspect[2],
        audio=any(kind == "Audio" for kind, _ in log.streams),
    )


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
        self.stream, self.seconds = stream, seconds or DECODE_SECONDS
        self.log = Log()
        self.timed_out = False
        chosen = f"gte(n,{start})*not(mod(n-{start},{stride}))"  # skipped frames never enter the pipe
        chain = [
            f"select='{chosen}'",
            "scale=flags=accurate_rnd+full_chroma_int+full_chroma_inp+bitexact",  # same pixels on every processor
            f"format={'rgba' if stream.alpha else 'rgb24'}",
            "showinfo=checksum=0",  # says the time stamps
        ]
        decoder = ["-c:v", _ALPHA_DECODERS[stream.codec]] if stream.alpha and stream.codec in _ALPHA_DECODERS else []
        self.command = [
            ffmpeg_path(), *_QUIET, "-threads", str(_threads()), *decoder, "-fflags", "+discardcorrupt",
            *_input(stream.path, stream.container),
            "-map", "0:V:0", "-filter:v", ",".join(chain), "-fps_mode", "passthrough",
            *(["-frames:v", str(count)] if count is not None else []),
            "-c:v", "pam", "-f", "image2pipe", "pipe:1",
        ]  # fmt: skip

    def __iter__(self) -> Iterator[np.ndarray]:
        memory = 3 * _GIB + 96 * self.stream.width * self.stream.height
        with Child(self.command, self.seconds, memory=memory, read=True) as child:
            self.log = child.log
            buffer: np.ndarray | None = None
            while (shape := _pam_shape(child.process.stdout, shown(self.stream.path.name))) is not None:
                if buffer is None:
                    buffer = np.empty(shape, np.uint8)
                if buffer.shape != shape:
                    raise InputError(f"{shown(self.stream.path.name)} cannot be read", "its frames change in size")
                if not _read_into(child.process.stdout, buffer):
                    break
                yield over_black(buffer)
            child.finish()
            self.timed_out = child.timed_out

    def times(self, count: int) -> list[float] | None:
        """Time stamps of the first ``count`` frames in seconds; None when the file has none for some of them."""
        stamps, base = self.log.stamps[:count], self.log.time_base
        if len(stamps) < count or None in stamps or base is None:
            return None
        return [float(stamp * base) for stamp in stamps if stamp is not None]


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


class Child:
    """An ffmpeg process that ends after ``seconds`` at the latest and on leaving the block.

    Its messages are read by a thread. With ``memory`` (bytes) it reads untrusted data: it can write no files then.
    ``read`` and ``write`` say which of its standard streams are pipes.
    """

    def __init__(
        self, command: list[str], seconds: float, *, memory: int | None = None, read: bool = False, write: bool = False
    ) -> None:
        self.log = Log()
        self.timed_out = False
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if write else subprocess.DEVNULL,
            stdout=subprocess.PIPE if read else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            bufsize=1 << 20,
            env=environment(),
        )
        if memory is not None:
            _limit(self.process.pid, memory)
        self._reader = threading.Thread(target=self.log.read, args=(self.process.stderr,), daemon=True)
        self._reader.start()
        self._watch = threading.Timer(seconds, self._expire)
        self._watch.daemon = True
        self._watch.start()

    def _expire(self) -> None:
        self.timed_out = True
        self.process.kill()

    def finish(self) -> int:
        """Wait for the end of the process and of its messages; returns the exit status."""
        status = self.process.wait()
        self._reader.join()
        self._watch.cancel()
        return status

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.cancel()
        if self.process.poll() is None:
            self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what was not written yet has nobody to read it
                    pipe.close()
        self.finish()
        self.process.stderr.close()


@dataclass
class Log:
    """What is taken from ffmpeg's messages; bounded, whatever a file makes ffmpeg say."""

    streams: list[tuple[str, str]] = field(default_factory=list)  # (Video | Audio | ..., the rest of its line)
    duration: float | None = None
    alpha_mode: bool = False
    stamps: list[int | None] = field(default_factory=list)  # one a frame
    time_base: Fraction | None = None
    frame_rate: Fraction | None = None
    errors: list[str] = field(default_factory=list)
    damaged: int = 0  # frames that the decoder calls corrupt

    def read(self, pipe: BinaryIO) -> None:
        """Take lines until the pipe ends."""
        while line := pipe.readline(4096):
            self._take(line.decode("utf-8", "replace").rstrip())

    def _take(self, line: str) -> None:
        if line.startswith("[Parsed_showinfo"):
            self._showinfo(line)
        elif match := re.match(r"\[info\]   Stream #0:\d+\S*: (\w+): (.*)", line):
            if len(self.streams) < 64:
                self.streams.append((match[1], match[2]))
        elif match := re.match(r"\[info\]   Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?)", line):
            self.duration = int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])
        elif re.match(r"\[info\] +(?i:alpha_mode) +: 1$", line):
            self.alpha_mode = True
        elif "corrupt decoded frame" in line:
            self.damaged += 1
        elif "[error]" in line or "[fatal]" in line:
            text = re.split(r"\[(?:error|fatal)\] ", line)[-1].strip(" .")
            if len(self.errors) < 100 and text:
                self.errors.append(text)

    def _showinfo(self, line: str) -> None:
        if match := re.search(r"\] n: *\d+ pts: *(-?\d+|NOPTS) ", line):
            self.stamps.append(None if match[1] == "NOPTS" else int(match[1]))
        elif match := re.search(r"config in time_base: (\d+)/(\d+), frame_rate: (\d+)/(\d+)", line):
            base, rate = match.group(1, 2), match.group(3, 4)
            self.time_base = Fraction(*map(int, base)) if int(base[1]) else None
            self.frame_rate = Fraction(*map(int, rate)) if int(rate[1]) and int(rate[0]) else None

    def reason(self, otherwise: str) -> str:
        """The first complaint, as the cause of a failure (later ones tend to be its echoes)."""
        return shown(self.errors[0]) if self.errors else otherwise


_QUIET = ["-hide_banner", "-nostdin", "-nostats", "-loglevel", "repeat+level+info"]


def _input(path: Path, container: str) -> list[str]:
    demuxer, allowed = _CONTAINERS[container]
    return [
        "-protocol_whitelist", "file", "-format_whitelist", allowed, "-max_pixels", str(MAX_PIXELS),
        "-f", demuxer, "-i", f"file:{os.path.abspath(path)}",
    ]  # fmt: skip


def _threads() -> int:
    """Decoder threads: the processors this job may use, at most 4."""
    return max(1, min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))


def _limit(pid: int, memory: int) -> None:
    """Limit a child that has just started: address space, no core file, and no byte written to any file.

    Done from outside because running Python code between fork and exec is unsafe once threads exist.
    """
    try:
        import resource

        limits = {resource.RLIMIT_AS: memory, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0}
        for kind, value in limits.items():
            resource.prlimit(pid, kind, (value, value))
    except (ImportError, AttributeError, OSError):  # not Linux, or the child has ended already
        return
