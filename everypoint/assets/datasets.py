"""Data sets by name: what the option ``dataset:`` of a configuration stands for."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from everypoint.assets import cache
from everypoint.assets.fetch import fetch_asset
from everypoint.assets.kinetics import build_kinetics, read_csv
from everypoint.assets.registry import Asset, registry
from everypoint.assets.unpack import LAYOUTS, unpack, unpacked_files
from everypoint.errors import AssetError, InputError

__all__ = ["build_kinetics", "dataset_path", "kinetics_csv", "read_csv"]

UNPACKED = "unpacked"


def dataset_path(
    value: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None, *, offline: bool | None = None
) -> Path:
    """The file or folder behind the option ``dataset:``.

    Args:
        value: a data set's name in the registry (it is fetched and unpacked once), else a path. A path that looks like
            a name is written ``./name``.
        folder: cache folder of the assets; None for the usual one.
        offline: never open a connection; None for the environment variable EVERYPOINT_OFFLINE.

    Returns:
        A TAP-Vid pickle; or the folder of its shards where there are several; or, for ``davis-2017-480p``, a folder of
        image folders ``SEQ/color/*.jpg`` with ``SEQ/mask/*.png``.

    Raises:
        InputError: neither a name nor an existing path, or Kinetics, whose clips are the user's.
        AssetError: the data set cannot be fetched, or its archive is damaged or unsafe.
    """
    text = os.fspath(value)
    item = registry().get(text)
    if item is None:
        path = Path(text).expanduser()
        if not path.exists():
            raise _unknown(text)
        return path
    if item.kind != "dataset":
        raise InputError(f"{text} is an asset of kind {item.kind}, not a data set")
    if item.unpack == "csv":
        raise InputError(
            f"{text} has annotations only, the clips are yours to get",
            cure=f"run `python -m everypoint assets kinetics CLIPS OUTPUT` and use `videos: OUTPUT` instead of "
            f"`dataset: {text}`",
        )
    files = _unpacked(item, folder, offline)
    root = cache.cache_path(item, folder).parent / UNPACKED
    if item.unpack == "davis":
        return root / "videos"
    return files[0] if len(files) == 1 else root


def kinetics_csv(folder: str | os.PathLike[str] | None = None, *, offline: bool | None = None) -> Path:
    """The official table of TAP-Vid-Kinetics, fetched and unpacked once; raises :class:`AssetError`."""
    files = _unpacked(registry()["tapvid-kinetics"], folder, offline)
    if len(files) != 1:
        raise AssetError(f"tapvid-kinetics holds {len(files)} tables", "expected one")
    return files[0]


def _unpacked(item: Asset, folder: str | os.PathLike[str] | None, offline: bool | None) -> list[Path]:
    """The unpacked files; neither the archive nor a connection is needed once they are there."""
    archive = cache.cache_path(item, folder)
    root = archive.parent / UNPACKED
    files = unpacked_files(root)
    if files is not None:
        return files
    fetch_asset(item, folder, offline=offline)
    with cache.locked(root) as tag:
        return unpacked_files(root) or unpack(archive, root, LAYOUTS[item.unpack or "pickles"], tag)


def _unknown(text: str) -> InputError:
    names = [item.name for item in registry().values() if item.kind == "dataset" and item.unpack != "csv"]
    near = difflib.get_close_matches(text, names, n=1, cutoff=0.5)
    cure = f"the nearest name is {near[0]}" if near else f"known names: {', '.join(names)}"
    return InputError(f"dataset {text!r} is neither a file or folder nor the name of a data set", cure=cure)
