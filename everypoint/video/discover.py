"""Which videos there are: a folder of video files and image folders, or the entries of a TAP-Vid file."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from everypoint.errors import InputError
from everypoint.video.names import Found, names_of
from everypoint.video.paths import VIDEO_SUFFIXES, image_files, is_image_name, natural_key, shown, stays_inside
from everypoint.video.tapvid import index_of, pickles_of

__all__ = ["Entry", "discover", "index_of"]

_SIDECARS = (".annotations.npz", ".queries.csv", ".mask.png", ".mask")
_SEQUENCE = frozenset({"color", "mask", "raft_masks", "count_maps", "full_mask"})  # one video's folders with pictures

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """One video to track.

    ``name`` is its identifier everywhere: ``[A-Za-z0-9._-]{1,64}``, unique without regard to case, never starting with
    a dot or a dash. ``path`` is the video file, the folder of the images, or the TAP-Vid pickle, in which ``key`` names
    the entry.
    """

    name: str
    kind: Literal["video", "images", "tapvid"]
    path: Path
    key: str = ""
    annotations: Path | None = None  # .npz: points float32 [N, T, 2] normalised, occluded bool [N, T]
    queries: Path | None = None  # .csv: t, x, y, id
    mask: Path | None = None  # one image for all frames, or a folder of one image a frame


def discover(
    videos: Path | None, dataset: Path | None = None, cache_folder: Path | None = None, results: Path | None = None
) -> list[Entry]:
    """All videos of a folder and/or of a TAP-Vid file, in natural order of their names.

    Args:
        videos: a folder of video files and/or folders of images (their own or in ``color/``, masks in ``mask/``),
            one folder of images, or one video file.
        dataset: a TAP-Vid pickle, a folder of such pickles, or a folder of image folders (DAVIS).
        cache_folder: where the keys of pickles are remembered (:func:`index_of`), and names that had to be chosen.
        results: the folder of finished results, whose names are kept (:func:`everypoint.video.names.names_of`).

    Raises:
        InputError: a path does not exist or holds no video.
    """
    if videos is None and dataset is None:
        raise InputError("no videos are given", cure="set videos to a folder or dataset to a TAP-Vid file")
    found: list[Found] = []
    if videos is not None:
        found += _from_videos(Path(videos))
    if dataset is not None:
        found += _from_dataset(Path(dataset), cache_folder)
    return [_entry(item, name) for item, name in zip(found, names_of(found, cache_folder, results), strict=True)]


def _entry(item: Found, name: str) -> Entry:
    beside = item.sidecars
    return Entry(
        name=name,
        kind=item.kind,
        path=item.path,
        key=item.key,
        annotations=beside.get(".annotations.npz"),
        queries=beside.get(".queries.csv"),
        mask=beside.get(".mask", beside.get(".mask.png")),
    )


def _from_dataset(dataset: Path, cache_folder: Path | None) -> list[Found]:
    """The entries of pickles; a folder that holds none of them, but folders, holds videos."""
    if dataset.is_dir() and not any(dataset.glob("*.pkl")) and any(item.is_dir() for item in os.scandir(dataset)):
        return _from_videos(dataset)
    return [item for path in pickles_of(dataset) for item in _from_pickle(path, cache_folder)]


def _from_pickle(path: Path, cache_folder: Path | None) -> list[Found]:
    keys = index_of(path, cache_folder)
    listed = keys == [str(index) for index in range(len(keys))]
    stems = [f"{path.stem}-{int(key):03d}" if listed else key for key in keys]
    return [Found(stem, f"{path.name}#{key}", "tapvid", path, key) for stem, key in zip(stems, keys, strict=True)]


def _from_videos(root: Path) -> list[Found]:
    if root.is_file():
        if root.suffix.lower() not in VIDEO_SUFFIXES:
            raise InputError(
                f"{shown(root)} is not a video file", cure="give mp4, mov, mkv, webm, avi, gif or a folder"
            )
        return [Found(root.stem, root.name, "video", root, sidecars=_beside(root, root.stem))]
    if not root.is_dir():
        raise InputError(f"the folder {shown(root)} does not exist", cure="create it and put videos into it")
    found, notes = _scan(root)
    single = _single_sequence(root, found)
    if single is not None:
        return [single]
    for sentence in notes:
        log.warning("%s", sentence)
    if not found:
        raise InputError(
            f"the folder {shown(root)} holds no videos",
            "; ".join(notes),
            "put mp4, mov, mkv, webm, avi, gif files or folders of images into it",
        )
    return found


def _single_sequence(root: Path, found: list[Found]) -> Found | None:
    """The folder as one video: it is ``SEQ`` with ``color/`` (and what else belongs to it), or holds only images."""
    stem = root.resolve().name or "video"
    parts = {item.stem for item in found}
    if "color" in parts and (parts <= _SEQUENCE or {"color", "mask"} <= parts) and not _kinds(found, "video"):
        return Found(stem, root.name, "images", root / "color", sidecars=_of_sequence(root, root.resolve().parent))
    if not found and image_files(root):
        return Found(stem, root.name, "images", root, sidecars=_beside(root, stem))
    return None


def _kinds(found: list[Found], kind: str) -> list[Found]:
    return [item for item in found if item.kind == kind]


def _scan(root: Path) -> tuple[list[Found], list[str]]:
    """Videos of a folder, and sentences about what was left out."""
    items = {item.name: item for item in os.scandir(root) if not item.name.startswith(".")}
    found: list[Found] = []
    linked: list[str] = []
    others: list[str] = []
    stems: set[str] = set()
    for name in sorted(items, key=natural_key):
        item, path = items[name], root / name
        if item.is_symlink() and not stays_inside(path, root):
            linked.append(name)
        elif item.is_dir():
            images = _images_of(path, root)
            if images is None or name.endswith(".mask"):
                others.append(name)
                continue
            stems.add(name)
            sidecars = {".mask": path / "mask"} if images != path and _is_folder(path / "mask", root) else {}
            found.append(Found(name, name, "images", images, sidecars={**_sidecars(root, name, items), **sidecars}))
        elif item.is_file() and os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES:
            stem = os.path.splitext(name)[0]
            stems.add(stem)
            found.append(Found(stem, name, "video", path, sidecars=_sidecars(root, stem, items)))
        else:
            others.append(name)
    used = {stem + suffix for stem in stems for suffix in _SIDECARS}
    return found, _notes(linked, [name for name in others if name not in used])


def _notes(linked: list[str], others: list[str]) -> list[str]:
    notes = []
    if linked:
        notes.append(f"skipped, because they are links that lead outside the folder: {_some(linked)}")
    if others:
        notes.append(f"ignored, because they are neither videos nor folders of images: {_some(others)}")
    return notes


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(shown(name) for name in names[:5]) + more


def _is_folder(path: Path, root: Path) -> bool:
    return path.is_dir() and stays_inside(path, root)


def _images_of(folder: Path, root: Path) -> Path | None:
    """``folder/color`` or ``folder``, whichever holds images; None when neither does."""
    for place in (folder / "color", folder):
        if _is_folder(place, root):
            with os.scandir(place) as items:
                if any(is_image_name(item.name) and item.is_file() for item in items):
                    return place
    return None


def _sidecars(root: Path, stem: str, names: dict[str, os.DirEntry]) -> dict[str, Path]:
    """Files ``STEM.annotations.npz`` and so on that lie in ``root`` (their names are known already)."""
    candidates = {suffix: root / (stem + suffix) for suffix in _SIDECARS if stem + suffix in names}
    return {suffix: path for suffix, path in candidates.items() if stays_inside(path, root)}


def _beside(path: Path, stem: str) -> dict[str, Path]:
    """The same for one video or folder given by itself."""
    parent = path.resolve().parent if path.is_dir() else path.parent
    candidates = {suffix: parent / (stem + suffix) for suffix in _SIDECARS}
    return {suffix: place for suffix, place in candidates.items() if place.exists() and stays_inside(place, parent)}


def _of_sequence(root: Path, parent: Path) -> dict[str, Path]:
    mask = {".mask": root / "mask"} if _is_folder(root / "mask", root) else {}
    return {**_beside(root, root.resolve().name), **mask}
