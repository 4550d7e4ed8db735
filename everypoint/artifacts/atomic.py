"""The only place that writes files: a temporary name in the same folder, flush, fsync, rename.

Under its final name a file is therefore whole or absent, whatever kills the process.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from everypoint.errors import ArtifactError, ResourceError

STALE_SECONDS = 24 * 3600  # a temporary file older than this belongs to nobody


def _temporary(final: Path) -> Path:
    return final.with_name(f".{final.name}.{socket.gethostname()}.{os.getpid()}.tmp")


@contextlib.contextmanager
def atomic_path(final: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``final``; on success it is synced and renamed to ``final``, else removed.

    The temporary name ends in ``.tmp`` plus the suffix of ``final``, so that tools which look at suffixes
    (ffmpeg, numpy) treat it alike. Raises :class:`ResourceError` when the disk is full.
    """
    final = Path(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(final)
    temporary = temporary.with_name(temporary.name + final.suffix)
    try:
        yield temporary
        if not temporary.exists():
            raise ArtifactError(f"nothing was written for {final}")
        _sync(temporary)
        os.replace(temporary, final)
        _sync(final.parent)
    except OSError as error:
        raise _disk_error(final, error) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def _disk_error(final: Path, error: OSError) -> Exception:
    """Name the disk when it is the cause; numpy raises a bare OSError without errno on a short write."""
    free = os.statvfs(final.parent)
    return ResourceError(
        f"cannot write {final}",
        f"{error} ({free.f_bavail * free.f_frsize / 2**20:.0f} MiB free there)",
        "free space or permissions, then run the same command again",
    )


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_with(final: str | os.PathLike[str], write: Callable[[BinaryIO], Any]) -> None:
    """Write ``final`` atomically through a function of an open binary file."""
    with atomic_path(final) as temporary, open(temporary, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


def write_bytes(final: str | os.PathLike[str], data: bytes) -> None:
    write_with(final, lambda file: file.write(data))


def write_text(final: str | os.PathLike[str], text: str) -> None:
    write_bytes(final, text.encode())


def write_json(final: str | os.PathLike[str], value: Any) -> None:
    """Write JSON with sorted keys; NaN is written as null so that every reader accepts the file."""
    write_text(final, json.dumps(_plain(value), indent=1, sort_keys=True) + "\n")


def _plain(value: Any) -> Any:
    """Numpy scalars, arrays, paths and non-finite floats as plain JSON values."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read JSON; raises :class:`ArtifactError` when the file is missing or damaged."""
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing", cure="run the workflow again") from error
    except ValueError as error:
        raise ArtifactError(f"{path} is not valid JSON", str(error), "delete it and run the workflow again") from error


def save_npy(final: str | os.PathLike[str], array: np.ndarray) -> None:
    write_with(final, lambda file: np.save(file, array, allow_pickle=False))


def save_npz(final: str | os.PathLike[str], *, compressed: bool = False, **arrays: Any) -> None:
    """Write an npz without pickled objects. Equal arrays give equal bytes (numpy fixes the zip dates)."""
    for name, array in arrays.items():
        if np.asarray(array).dtype.hasobject:
            raise TypeError(f"array {name!r} holds Python objects, which an npz may not")
    save = np.savez_compressed if compressed else np.savez
    write_with(final, lambda file: save(file, **arrays))


def load_npz(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """All arrays of an npz, never unpickling; raises :class:`ArtifactError` when missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing", cure="run the workflow again") from error
    except Exception as error:  # a damaged zip raises many kinds: BadZipFile, ValueError, EOFError, zlib.error
        raise ArtifactError(f"{path} cannot be read", str(error), "delete it and run the workflow again") from error


def load_npy(path: str | os.PathLike[str], *, mmap: bool = False) -> np.ndarray:
    """One array, optionally memory-mapped read-only; raises :class:`ArtifactError` when missing or damaged."""
    try:
        return np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing", cure="run the workflow again") from error
    except (ValueError, EOFError, OSError) as error:
        raise ArtifactError(f"{path} cannot be read", str(error), "delete it and run the workflow again") from error


def sweep_stale(folder: str | os.PathLike[str]) -> int:
    """Remove temporary files that a killed process left more than a day ago; returns how many."""
    removed = 0
    for path in Path(folder).glob(".*.tmp*"):
        if time.time() - path.stat().st_mtime > STALE_SECONDS and path.is_file():
            path.unlink(missing_ok=True)
            removed += 1
    return removed
