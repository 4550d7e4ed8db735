"""Zip files of data sets, unpacked safely and published whole.

An archive is refused before anything is written when a member would leave the folder, is a link, is encrypted, or when
the sizes it declares exceed the limit or the disk.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from everypoint.artifacts.atomic import write_json, write_with
from everypoint.artifacts.folder import MANIFEST, check_folder, fingerprint_of, sha256_of
from everypoint.assets.download import free_bytes
from everypoint.errors import ArtifactError, AssetError, ResourceError

log = logging.getLogger(__name__)

MAX_BYTES = 64 << 30
MAX_MEMBERS = 500_000
NAME = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$")

Layout = Callable[[PurePosixPath], "PurePosixPath | None"]


def pickles_layout(member: PurePosixPath) -> PurePosixPath | None:
    """Pickles, without the folders they lie in."""
    return PurePosixPath(member.name) if member.suffix == ".pkl" else None


def csv_layout(member: PurePosixPath) -> PurePosixPath | None:
    """Tables, without the folders they lie in."""
    return PurePosixPath(member.name) if member.suffix == ".csv" else None


def davis_layout(member: PurePosixPath) -> PurePosixPath | None:
    """DAVIS's images and masks at 480p, as ``videos/SEQ/color/*.jpg`` and ``videos/SEQ/mask/*.png``."""
    kinds = {("JPEGImages", ".jpg"): "color", ("Annotations", ".png"): "mask"}
    if len(member.parts) < 4:
        return None
    kind, size, sequence, name = member.parts[-4:]
    target = kinds.get((kind, member.suffix))
    return PurePosixPath("videos", sequence, target, name) if target and size == "480p" else None


LAYOUTS: dict[str, Layout] = {"pickles": pickles_layout, "csv": csv_layout, "davis": davis_layout}


def unpacked_files(folder: Path) -> list[Path] | None:
    """The files of an unpacked archive when all of them are there in full size, else None."""
    try:
        manifest = check_folder(folder)
    except ArtifactError:
        return None
    return [folder / name for name in sorted(manifest["items"])]


def unpack(archive: Path, folder: Path, layout: Layout, tag: str) -> list[Path]:
    """Unpack the members that ``layout`` gives a place, and publish them as ``folder`` with a manifest.

    Args:
        archive: a zip file.
        folder: the folder to publish; an older one is replaced.
        layout: maps a member's path to its path in the folder, or to None for members that are not wanted.
        tag: keeps the temporary folders of several processes apart.

    Returns:
        The files, sorted.

    Raises:
        AssetError: the archive is damaged, unsafe, or holds nothing that is wanted.
        ResourceError: the disk is too small.
    """
    work = folder.with_name(f".{folder.name}.{tag}.unpacking")
    shutil.rmtree(work, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as opened:
            places = _places(archive, opened, layout, folder)
            log.info("unpacking %d files of %s", len(places), archive.name)
            items = {}
            for place, info in places.items():
                _extract(opened, info, work / place)
                items[place] = {"bytes": info.file_size, "sha256": sha256_of(work / place)}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        shutil.rmtree(work, ignore_errors=True)
        raise AssetError(f"{archive} is not a sound zip file", str(error), "delete it and fetch it again") from error
    manifest = {"fingerprint": fingerprint_of(items), "count": len(items), "items": items}
    write_json(work / MANIFEST, manifest)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(work, folder)
    return [folder / name for name in sorted(items)]


def _extract(opened: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> None:
    with opened.open(info) as inside:
        write_with(target, lambda file: shutil.copyfileobj(inside, file, 1 << 20))


def _places(archive: Path, opened: zipfile.ZipFile, layout: Layout, folder: Path) -> dict[str, zipfile.ZipInfo]:
    """Target path -> member, after all checks of the archive's table of contents."""
    infos = opened.infolist()
    if len(infos) > MAX_MEMBERS:
        raise AssetError(f"{archive} is refused", f"it holds {len(infos)} members, the limit is {MAX_MEMBERS}")
    places: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        member = _safe(archive, info)
        place = None if info.is_dir() or _clutter(member) else layout(member)
        if place is None:
            continue
        if not all(NAME.match(part) for part in place.parts) or str(place) == MANIFEST:
            raise AssetError(f"{archive} is refused", f"the name {str(member)!r} cannot be used")
        if str(place) in places:
            raise AssetError(f"{archive} is refused", f"two members would become {place}")
        places[str(place)] = info
    if not places:
        raise AssetError(f"{archive} holds nothing that can be used", f"{len(infos)} members of other kinds")
    _check_room(archive, sum(info.file_size for info in places.values()), folder.parent)
    return places


def _safe(archive: Path, info: zipfile.ZipInfo) -> PurePosixPath:
    """The member's path; refuses paths out of the folder, links and encrypted members."""
    path = PurePosixPath(info.filename)
    outside = path.is_absolute() or ".." in path.parts or "\\" in info.filename or ":" in info.filename
    if outside:
        raise AssetError(f"{archive} is refused", f"its member {info.filename!r} would leave the folder")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise AssetError(f"{archive} is refused", f"its member {info.filename!r} is a link or a device")
    if info.flag_bits & 0x1:
        raise AssetError(f"{archive} is refused", f"its member {info.filename!r} is encrypted")
    return path


def _clutter(member: PurePosixPath) -> bool:
    """What archive programs of desktop systems add."""
    return "__MACOSX" in member.parts or member.name.startswith(".")


def _check_room(archive: Path, needed: int, folder: Path) -> None:
    if needed > MAX_BYTES:
        raise AssetError(f"{archive} is refused", f"it would unpack to {needed} bytes, the limit is {MAX_BYTES}")
    free = free_bytes(folder)
    if needed > free:
        raise ResourceError(
            f"no room to unpack {archive}",
            f"{needed / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free",
            "free space or set EVERYPOINT_ASSETS to another folder",
        )
