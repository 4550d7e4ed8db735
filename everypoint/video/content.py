"""Whether the files of a folder still hold what they held: for the plan, which compares folders of images between runs.

A folder is known by the names and sizes of its files for as long as its images hold what they held when they were first
seen under these names and sizes; from then on by their content too. So the word for a folder that nobody overwrites
needs no content, and results of versions that knew names and sizes alone stay valid.

What was first seen is remembered in the folder where Snakemake keeps its own records of finished jobs, and is lost
together with them. An image is read once: its digest stands until a size or a modification time changes.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from everypoint.video.cache import recall, remember
from everypoint.video.paths import is_image_name

CACHE = "content"  # folder of one small file for every folder of images
AT_ONCE = 8  # files that are read at once: what a network file system wants
YOUNG = 3.0  # s: a file may be overwritten within one tick of its file system's clock, which is 2 s at most (FAT)


class _File(NamedTuple):
    name: str
    size: int
    changed: int  # ns


def listing(folders: Sequence[Path]) -> str:
    """Digest of the names and sizes of the files in folders, which their times say nothing reliable about."""
    return _listing([_files(folder) for folder in folders])


def content_listing(folders: Sequence[Path], cache_folder: Path | None) -> str:
    """The same, but another word when an image holds something else than when it was first seen.

    Nothing is read of folders whose names, sizes and times are those of the last time. Without a ``cache_folder``
    there is nothing to compare with, and it is :func:`listing`.
    """
    files = [_files(folder) for folder in folders]
    names = _listing(files)
    if cache_folder is None:
        return names
    key = hashlib.sha256("\0".join(map(str, folders)).encode(errors="surrogateescape"))  # wherever a node mounts it
    cache = Path(cache_folder) / CACHE / f"{key.hexdigest()[:32]}.json"
    known, stamp, now = _known(cache), _stamp(files), time.time()
    content = known["content"] if known["stamp"] == stamp else _content(folders, files)
    first = dict(known["first"])
    if content is None:  # as if nothing had changed: the job that decodes the image says what is wrong with it
        content = known["content"]
    else:
        first.setdefault(names, content)
        old = all(abs(now - item.changed / 1e9) > YOUNG for part in files for item in part)
        record = {"stamp": stamp if old else "", "content": content, "first": first}
        if record != known:
            remember(cache, record, "what folders of images hold is")
    return (
        names
        if content == first.get(names, content)
        else hashlib.sha256(f"{names} {content}".encode()).hexdigest()[:16]
    )


def _files(folder: Path) -> list[_File]:
    with os.scandir(folder) as items:
        found = ((item.name, item.stat()) for item in items if item.is_file())
        return sorted(_File(name, status.st_size, status.st_mtime_ns) for name, status in found)


def _listing(files: Sequence[Sequence[_File]]) -> str:
    digest = hashlib.sha256()
    for part in files:
        digest.update(repr([(item.name, item.size) for item in part]).encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def _stamp(files: Sequence[Sequence[_File]]) -> str:
    text = repr([[tuple(item) for item in part] for part in files])
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _content(folders: Sequence[Path], files: Sequence[Sequence[_File]]) -> str | None:
    """Hex sha256 over the images of folders, each by name and content; None when one cannot be read."""
    images = [(folder, item) for folder, part in zip(folders, files, strict=True) for item in part]
    images = [(folder, item) for folder, item in images if is_image_name(item.name)]
    digest = hashlib.sha256()
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        hashes = pool.map(_hash, (folder / item.name for folder, item in images))
        for (_, item), value in zip(images, hashes, strict=True):
            if value is None:
                return None
            digest.update(repr((item.name, value)).encode(errors="surrogateescape"))
    return digest.hexdigest()


def _hash(path: Path) -> str | None:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _known(cache: Path) -> dict[str, Any]:
    """What was remembered; nothing where the file is not there or not ours."""
    value = recall(cache)
    if isinstance(value, Mapping) and isinstance(value.get("first"), Mapping):
        texts = [value.get("stamp"), value.get("content"), *value["first"].values()]
        if all(isinstance(text, str) for text in texts):
            return {"stamp": value["stamp"], "content": value["content"], "first": dict(value["first"])}
    return {"stamp": "", "content": "", "first": {}}
