"""Names and paths of inputs: what counts as an image, in which order, and which links are followed."""

from __future__ import annotations

import os
import re
from pathlib import Path

from everypoint.errors import InputError

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif"})
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})


def shown(text: object) -> str:
    """A file name fit for a one-line message: control characters and undecodable bytes are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in str(text))


def is_image_name(name: str) -> bool:
    """Whether a file name is that of an image (hidden files are none)."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def natural_key(name: str) -> tuple:
    """Sort key under which ``frame2`` comes before ``frame10``; ties are broken by the name itself."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts), name


def stays_inside(path: Path, root: Path) -> bool:
    """Whether ``path`` is no symbolic link, or one that leads to something inside ``root``."""
    return not path.is_symlink() or path.resolve().is_relative_to(root.resolve())


def image_files(folder: Path) -> list[Path]:
    """The images of a folder in natural order, without links that lead out of the folder's parent."""
    try:
        names = [item.name for item in os.scandir(folder) if is_image_name(item.name)]
    except OSError as error:
        raise InputError(f"{shown(folder)} cannot be opened", error.strerror or str(error)) from error
    files = [folder / name for name in sorted(names, key=natural_key)]
    return [file for file in files if stays_inside(file, folder.parent)]


def source_name(kind: str, path: Path, key: str = "") -> str:
    """How results call their source: a file, a folder of images, or an entry of a TAP-Vid file."""
    if kind == "tapvid":
        return f"{shown(path.name)}, entry {shown(key)}"
    return shown(f"{path.parent.name}/color" if kind == "images" and path.name == "color" else path.name)
