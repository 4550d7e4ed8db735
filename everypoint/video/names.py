"""Names of videos: safe, unique without regard to case, and kept when other videos come and go.

A source is called by its stem where that is safe and nobody else's. Of several with one stem (``a.mp4`` and a folder
``a``, or ``a`` and ``A``) the one that has results under it keeps it, the others get hex digits of their path. No rule
on names alone could do that, since what is added later may come first in any order. What was chosen is remembered, so
that it holds while results are made again, and when the others go.
"""

from __future__ import annotations

import collections
import hashlib
import logging
import os
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from everypoint.artifacts import atomic
from everypoint.errors import ArtifactError
from everypoint.video.cache import recall, remember
from everypoint.video.paths import shown, source_name

NAME_LENGTH = 64
RESERVED = frozenset({"report.html", "metrics.csv", "report"})  # names that lie beside the videos' results
CACHE = "names.json"

logger = logging.getLogger(__name__)

Memory = dict[str, dict[str, bool]]  # path: key in it: whether it keeps its stem; of sources that had to share one


class Found(NamedTuple):
    """A source that was found."""

    stem: str
    relative: str  # identifies the source when names collide
    kind: Literal["video", "images", "tapvid"]
    path: Path
    key: str = ""
    sidecars: dict[str, Path] = {}  # noqa: RUF012 (never changed)


def names_of(found: Sequence[Found], cache_folder: Path | None = None, results: Path | None = None) -> list[str]:
    """A name each: the stem where it is safe and its own, else its slug and six hex digits of the source's sha256.

    ``cache_folder`` remembers who of several keeps a stem, by what lies in ``results``; without one nobody does.
    """
    plain = [_is_plain(item) for item in found]
    counts = collections.Counter(slug(item.stem).casefold() for item in found)
    shared = [counts[slug(item.stem).casefold()] > 1 for item in found]
    if cache_folder is not None:
        memory = _known(Path(cache_folder) / CACHE)
        if any(shared) or memory:
            keeps = _keepers(found, shared, memory, Path(cache_folder) / CACHE, results)
            plain = [fits and kept for fits, kept in zip(plain, keeps, strict=True)]
            shared = [False] * len(found)
    digits = 6
    while True:
        names = [
            item.stem if fits and not several else _suffixed(item, digits)
            for item, fits, several in zip(found, plain, shared, strict=True)
        ]
        if len({name.casefold() for name in names}) == len(names) or digits >= 48:
            return names
        digits += 6  # a name that looks like another's with its digits


def slug(stem: str) -> str:
    """``stem`` in ``[A-Za-z0-9._-]{1,64}``, not starting with a dot or a dash."""
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).lstrip(".-")[:NAME_LENGTH] or "video"


def _is_plain(item: Found) -> bool:
    return slug(item.stem) == item.stem and item.stem.casefold() not in RESERVED


def _suffixed(item: Found, digits: int = 6) -> str:
    digest = hashlib.sha256(os.fsencode(item.relative)).hexdigest()[:digits]
    return f"{slug(item.stem)[: NAME_LENGTH - digits - 1].rstrip('.-') or 'video'}-{digest}"


# ----------------------------------------------------------------------------------------- who keeps a stem


def _keepers(
    found: Sequence[Found], shared: Sequence[bool], memory: Memory, cache: Path, results: Path | None
) -> list[bool]:
    """Who is called by its stem: all that share theirs with nobody and never did, and at most one of those that do."""
    groups: dict[str, list[Found]] = collections.defaultdict(list)
    for item, several in zip(found, shared, strict=True):
        if several or item.key in memory.get(str(item.path), {}):
            groups[slug(item.stem).casefold()].append(item)
    after = {path: dict(keys) for path, keys in memory.items() if os.path.lexists(path)}
    for group in groups.values():
        keeper = _keeper(group, memory, lambda name, item: results is not None and _holds(results / name, item))
        for item in group:
            after.setdefault(str(item.path), {})[item.key] = item is keeper
        if any(item.key not in memory.get(str(item.path), {}) for item in group):
            _tell(group, keeper)
    if after != memory and not remember(cache, after, "the names of videos are"):
        after = memory  # a choice that other processes would not know is none
    lone = [not several for several in shared]
    return [after.get(str(item.path), {}).get(item.key, alone) for item, alone in zip(found, lone, strict=True)]


def _keeper(group: Sequence[Found], memory: Memory, holds: Callable[[str, Found], bool]) -> Found | None:
    """The one that has kept the stem so far, else the one whose results lie under it and not under its longer name."""
    fitting = [item for item in group if _is_plain(item)]
    before = [item for item in fitting if memory.get(str(item.path), {}).get(item.key)]
    if before:
        return before[0]
    new = [item for item in fitting if item.key not in memory.get(str(item.path), {})]
    return next((item for item in new if holds(item.stem, item) and not holds(_suffixed(item), item)), None)


def _holds(folder: Path, item: Found) -> bool:
    """Whether a folder of results is that of a source, whole or split into shots."""
    name = source_name(item.kind, item.path, item.key)
    for place in (folder, folder.with_name(f"{folder.name}-shot01")):
        try:
            meta = atomic.read_json(place / "frames" / "video.json")
        except ArtifactError:
            continue
        if isinstance(meta, Mapping) and (meta.get("name"), meta.get("source")) == (place.name, name):
            return True
    return False


def _tell(group: Sequence[Found], keeper: Found | None) -> None:
    called = (f"{shown(item.relative)} is {item.stem if item is keeper else _suffixed(item)}" for item in group)
    logger.warning("videos that cannot share a name are told apart, from now on: %s", ", ".join(called))


def _known(cache: Path) -> Memory:
    value = recall(cache)
    rows = value.values() if isinstance(value, Mapping) else [None]
    whole = all(isinstance(row, Mapping) and all(isinstance(kept, bool) for kept in row.values()) for row in rows)
    return {path: dict(row) for path, row in value.items()} if whole else {}
