"""Running ffmpeg as a child process that cannot do much: limited in time and memory, its messages read and bounded."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import threading
from dataclasses import dataclass, field
from typing import BinaryIO

import imageio_ffmpeg

from everypoint.errors import MissingPackageError
from everypoint.video.paths import shown


def ffmpeg_path() -> str:
    """The ffmpeg program; raises :class:`MissingPackageError` when imageio-ffmpeg brought none."""
    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise MissingPackageError("ffmpeg is missing", str(error), "install imageio-ffmpeg") from error


def environment() -> dict[str, str]:
    """The child's environment: nothing that makes ffmpeg write report files, colours or other languages.

    Few malloc arenas, because each takes address space, which is limited, and there is one a thread by default.
    """
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("FF", "AV_LOG"))}
    return {**keep, "LC_ALL": "C", "AV_LOG_FORCE_NOCOLOR": "1", "MALLOC_ARENA_MAX": "2"}


class Child:
    """An ffmpeg process that ends after ``seconds`` at the latest and on leaving the block.

    Its messages are read by a thread. With ``memory`` (bytes) it reads untrusted data: it can write no files then.
    ``read`` and ``write`` say which of its standard streams are pipes; ``keep`` are further open files that it gets.
    """

    def __init__(
        self,
        command: list[str],
        seconds: float,
        *,
        memory: int | None = None,
        read: bool = False,
        write: bool = False,
        keep: tuple[int, ...] = (),
    ) -> None:
        self.log = Log()
        self.timed_out = False
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if write else subprocess.DEVNULL,
            stdout=subprocess.PIPE if read else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            bufsize=1 << 20,
            pass_fds=keep,
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
    errors: list[str] = field(default_factory=list)
    damaged: int = 0  # frames that the decoder calls corrupt

    def read(self, pipe: BinaryIO) -> None:
        """Take lines until the pipe ends."""
        while line := pipe.readline(4096):
            self._take(line.decode("utf-8", "replace").rstrip())

    def _take(self, line: str) -> None:
        if match := re.match(r"\[info\]   Stream #0:\d+\S*: (\w+): (.*)", line):
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
            if len(self.errors) < 100 and text and not text.startswith("At least one output file"):  # probing has none
                self.errors.append(text)

    def reason(self, otherwise: str) -> str:
        """The first complaint, as the cause of a failure (later ones tend to be its echoes)."""
        return shown(self.errors[0]) if self.errors else otherwise


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
