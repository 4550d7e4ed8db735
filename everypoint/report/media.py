"""Videos of the report: embedded in the page as long as they are small, linked beside it otherwise."""

from __future__ import annotations

import base64
import os
import urllib.parse
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

EMBED_TOTAL_MB = 200.0  # browsers open a page of this size without trouble; what comes after is linked
POSTER_SIDE = 480


@dataclass(frozen=True)
class Clip:
    """One video of the page. ``poster`` is a data URI or empty."""

    path: Path
    embedded: bool
    link: str
    megabytes: float
    width: int
    height: int
    poster: str

    @property
    def source(self) -> str:
        """What the player plays: the data itself, or the relative link. Read when the page is written, not before."""
        if not self.embedded:
            return self.link
        return "data:video/mp4;base64," + base64.b64encode(self.path.read_bytes()).decode()


def plan_clips(paths: Iterable[Path], page: Path, max_video_mb: float) -> dict[Path, Clip]:
    """The clips that exist, by path, in order of priority: the first ones are embedded until the page is full."""
    clips, room = {}, EMBED_TOTAL_MB
    for path, uses in Counter(paths).items():
        if not path.is_file():
            continue
        megabytes = path.stat().st_size / 1e6
        embedded = megabytes <= max_video_mb and megabytes * uses <= room
        room -= megabytes * uses if embedded else 0
        picture = middle_frame(path)
        height, width = picture.shape[:2] if picture is not None else (0, 0)
        poster = "" if picture is None else poster_uri(picture)
        clips[path] = Clip(path, embedded, relative_link(path, page), megabytes, width, height, poster)
    return clips


def relative_link(path: Path, page: Path) -> str:
    """A link from the page to a file, quoted so that no name can be read as an address or as markup."""
    relative = os.path.relpath(Path(path).resolve(), Path(page).resolve().parent)
    return urllib.parse.quote("./" + Path(relative).as_posix())


def middle_frame(path: Path) -> np.ndarray | None:
    """The middle frame of a video, BGR; None when it cannot be decoded."""
    capture = cv2.VideoCapture(str(path))
    try:
        capture.set(cv2.CAP_PROP_POS_FRAMES, max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) // 2, 0))
        known, picture = capture.read()
        return picture if known else None
    finally:
        capture.release()


def poster_uri(picture: np.ndarray) -> str:
    """A small JPEG of a BGR picture as a data URI."""
    scale = min(1.0, POSTER_SIDE / max(picture.shape[:2]))
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else picture
    _, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 74])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
