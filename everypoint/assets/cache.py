"""The cache of assets: where a file lies, whether its bytes are right, and who may write it.

Layout: ``<cache>/<asset>/<file>`` and beside it ``<file>.json``, the record of the last full check (size, time of last
change, sha256). A file whose size and time still are those of the record is not hashed again.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from everypoint.artifacts.atomic import read_json, write_json
from everypoint.artifacts.folder import sha256_of
from everypoint.assets.registry import Asset
from everypoint.errors import ArtifactError, AssetError, ResourceError

log = logging.getLogger(__name__)

KEEP_SECONDS = 7 * 24 * 3600  # a broken download may be continued for a week


def cache_folder(folder: str | os.PathLike[str] | None = None) -> Path:
    """``folder``, else $EVERYPOINT_ASSETS, else ``~/.cache/everypoint``."""
    chosen = folder or os.environ.get("EVERYPOINT_ASSETS") or "~/.cache/everypoint"
    return Path(chosen).expanduser()


def cache_path(item: Asset, folder: str | os.PathLike[str] | None = None) -> Path:
    """Where the asset's file lies, or would lie, in the cache."""
    return cache_folder(folder) / item.name / item.file


def record_path(path: Path) -> Path:
    """The record of a cached file's last check."""
    return path.with_name(path.name + ".json")


def read_record(path: Path) -> dict[str, Any]:
    """The record beside a cached file; empty when there is none or it is unreadable (then the file is hashed)."""
    try:
        record = read_json(record_path(path))
    except (ArtifactError, OSError):
        return {}
    return record if isinstance(record, dict) else {}


def write_record(path: Path, digest: str, trust: str, source: str) -> None:
    """Note a full check. A cache that may only be read is no failure: the file is hashed again next time."""
    stat = path.stat()
    record = {
        "bytes": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "sha256": digest,
        "trust": trust,
        "source": source,
    }
    try:
        write_json(record_path(path), record)
    except ResourceError as error:
        log.debug("the check of %s could not be noted: %s", path, error)


def check_size(item: Asset, size: int, remembered: dict[str, Any], what: str) -> None:
    """Raise :class:`AssetError` with expected and got when the size is known and another one."""
    expected = item.bytes or remembered.get("bytes")
    if expected and size != expected:
        digest = item.sha256 or remembered.get("sha256")
        also = f" with sha256 {digest}" if digest else ""
        raise AssetError(f"{what} has the wrong size", f"expected {expected} bytes{also}, got {size} bytes")


def check_digest(item: Asset, digest: str, remembered: dict[str, Any], what: str) -> str:
    """Compare a sha256 with what is known; returns why it is trusted: "registry", "prefix" or "first use".

    Raises :class:`AssetError` with expected and got. A hash that is not in the registry but was seen before must be
    the same one.
    """
    if item.sha256:
        if digest != item.sha256:
            raise AssetError(f"{what} has the wrong bytes", f"expected sha256 {item.sha256}, got {digest}")
        return "registry"
    if item.sha256_prefix and not digest.startswith(item.sha256_prefix):
        raise AssetError(
            f"{what} has the wrong bytes", f"expected a sha256 beginning with {item.sha256_prefix}, got {digest}"
        )
    before = remembered.get("sha256")
    if before and digest != before:
        raise AssetError(
            f"{what} is not what it was at first use",
            f"expected sha256 {before}, got {digest}",
            f"if the change is wanted, delete the folder {item.name} of the asset cache",
        )
    return "prefix" if item.sha256_prefix else "first use"


def is_cached(item: Asset, path: Path, *, deep: bool = False) -> bool:
    """Whether the file is there and right; ``deep`` hashes it even if it was checked before.

    Raises :class:`AssetError` (expected and got) when a file is there but damaged. Without ``deep``, a change that
    keeps both the size and the time of last change is not seen.
    """
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    record = read_record(path)
    check_size(item, stat.st_size, record, str(path))
    same = (record.get("bytes"), record.get("mtime_ns")) == (stat.st_size, stat.st_mtime_ns)
    digest = record.get("sha256", "") if same and not deep else sha256_of(path)
    trust = check_digest(item, digest, record, str(path))
    if not same:
        if not record and trust != "registry":
            announce_first_use(item, digest)
        write_record(path, digest, trust, record.get("source") or "found in the cache")
    return True


def announce_first_use(item: Asset, digest: str) -> None:
    """Say that bytes are trusted because they came first."""
    known = f"only the beginning {item.sha256_prefix}" if item.sha256_prefix else "nothing"
    log.warning(
        "%s: the registry knows %s of its sha256; %s is trusted at first use and required from now on",
        item.name,
        known,
        digest,
    )


def make_folder(folder: Path) -> None:
    """Create a folder of the cache; raises :class:`ResourceError` where that is not allowed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(
            f"the asset cache {folder} cannot be made", str(error), "set EVERYPOINT_ASSETS to a folder you may write"
        ) from error


@contextlib.contextmanager
def locked(path: Path) -> Iterator[str]:
    """Only one process of this machine at a time prepares ``path``; yields a tag for its temporary names.

    The kernel drops the lock of a killed process, so none can be left behind. Correctness does not rest on it: where
    the file system has no locks, or lets two machines in at once, the tag keeps their temporary files apart (host
    name, and process id without a lock) and the last rename wins with the same bytes.
    """
    make_folder(path.parent)
    host = socket.gethostname()
    try:
        handle = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise ResourceError(
            f"the asset cache {path.parent} cannot be written",
            str(error),
            "set EVERYPOINT_ASSETS to a folder you may write",
        ) from error
    try:
        yield host if _lock(handle, path) else f"{host}.{os.getpid()}"
    finally:
        os.close(handle)


def _lock(handle: int, path: Path) -> bool:
    """Take the lock, waiting for another holder; False where the file system has none."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        log.info("waiting for another process that prepares %s", path.name)
    except OSError:
        return False
    fcntl.flock(handle, fcntl.LOCK_EX)
    return True


def sweep(folder: Path) -> None:
    """Remove what killed processes left more than a week ago: partial downloads and half-unpacked folders."""
    for left in [*folder.glob(".*.part"), *folder.glob(".*.part.json"), *folder.glob(".*.unpacking")]:
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > KEEP_SECONDS:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
