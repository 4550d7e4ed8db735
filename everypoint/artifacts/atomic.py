"""The only place that writes files: a temporary name in the same folder, flush, fsync, rename.

Under its final name a file is therefore whole or absent, whatever kills the process.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import socket
import time
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from everypoint.errors import ArtifactError, ResourceError

STALE_SECONDS = 24 * 3600  # a temporary file older than this belongs to nobody
_TEMPORARY = re.compile(r"\..+\.\d+\.[0-9a-f]{8}\.tmp(\.[^.]+)?")

# What a damaged npz or npy raises while it is parsed, found by flipping and cutting bytes at every place of a file.
_DAMAGED = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    TypeError,
    NotImplementedError,  # zip features that nobody writes
    RuntimeError,  # "encrypted" members
    SyntaxError,  # the npy header is a Python literal ...
    tokenize.TokenError,  # ... and numpy tokenizes one that does not parse
    zipfile.BadZipFile,
    zlib.error,
)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _temporary(final: Path) -> Path:
    """A hidden name beside ``final`` that no other host, process or thread uses, with the suffix of ``final``."""
    token = secrets.token_hex(4)
    return final.with_name(f".{final.name}.{socket.gethostname()}.{os.getpid()}.{token}.tmp{final.suffix}")


@contextlib.contextmanager
def atomic_path(final: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``final``; on success it is synced and renamed to ``final``, else removed.

    The temporary name ends in ``.tmp`` plus the suffix of ``final``, so that tools which look at suffixes
    (ffmpeg, numpy) treat it alike. Raises :class:`ResourceError` when the disk is full or does not let us write;
    an error about another file (an input that is missing, say) passes unchanged.
    """
    final = Path(final)
    temporary = _temporary(final)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if not temporary.exists():
            raise ArtifactError(f"nothing was written for {final}")
        _sync(temporary)
        os.replace(temporary, final)
        _sync_folder(final.parent)
    except (OSError, RuntimeError) as error:
        cause = _os_error(error)
        if cause is None or not _is_about(cause, final, temporary):
            raise
        raise _disk_error(final, cause) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _os_error(error: OSError | RuntimeError) -> OSError | None:
    """The failed write behind an error: torch.save reports one as a RuntimeError, with or without its cause."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    if cause is None and "inline_container" in str(error):  # torch's own file writer
        return OSError("torch could not write all bytes")
    return cause


def _is_about(error: OSError, final: Path, temporary: Path) -> bool:
    """Whether an error concerns what we write: errors of a full disk name no file, others do."""
    if error.filename is None:
        return True
    path = Path(os.fsdecode(error.filename)) if not isinstance(error.filename, int) else temporary
    return path in (temporary, final) or path in final.parents


def _disk_error(final: Path, error: OSError) -> ResourceError:
    """Name the disk when it is the cause; numpy raises a bare OSError without errno on a short write."""
    why = str(error)
    cure = "check the path and its permissions, then run the same command again"
    if error.errno in (None, *_NO_SPACE):
        folder = next(parent for parent in final.absolute().parents if parent.is_dir())
        disk = os.statvfs(folder)
        why += f" ({disk.f_bavail * disk.f_frsize / 2**20:.0f} MiB free there)"
        cure = "free space or raise the quota, then run the same command again"
    return ResourceError(f"cannot write {final}", why, cure)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; some network file systems cannot sync a folder and keep it safe in their own way."""
    try:
        _sync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES):
            raise


def write_with(final: str | os.PathLike[str], write: Callable[[BinaryIO], Any]) -> None:
    """Write ``final`` atomically through a function of an open binary file."""
    with atomic_path(final) as temporary, open(temporary, "wb") as file:
        write(file)


def write_bytes(final: str | os.PathLike[str], data: bytes) -> None:
    """Write bytes atomically."""
    write_with(final, lambda file: file.write(data))


def write_text(final: str | os.PathLike[str], text: str) -> None:
    """Write text atomically, in UTF-8 whatever the locale."""
    write_bytes(final, text.encode())


def write_json(final: str | os.PathLike[str], value: Any) -> None:
    """Write JSON with sorted keys; NaN is written as null so that every reader accepts the file."""
    write_text(final, json.dumps(_plain(value), indent=1, sort_keys=True, allow_nan=False) + "\n")


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
        return json.loads(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing", cure="run the workflow again") from error
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read", str(error), "check its permissions") from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is not valid JSON", str(error), "delete it and run the workflow again") from error


def save_npy(final: str | os.PathLike[str], array: np.ndarray) -> None:
    """Write one array atomically; an array of Python objects is a ValueError."""
    write_with(final, lambda file: np.save(file, array, allow_pickle=False))


@contextlib.contextmanager
def mapped_npy(final: str | os.PathLike[str]) -> Iterator[Callable[[tuple[int, ...], Any], np.ndarray]]:
    """Yield ``allocate(shape, dtype)``, which makes the array of ``final`` in its file: for arrays larger than memory.

    It is allocated once, filled in place, and published when the block ends without an error. The disk's room is
    claimed beforehand: a memory-mapped file on a full disk kills the process instead of raising an error.
    """
    with atomic_path(final) as temporary:
        arrays = []

        def allocate(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
            array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.dtype(dtype), shape=shape)
            if hasattr(os, "posix_fallocate"):
                with open(temporary, "r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
            arrays.append(array)
            return array

        yield allocate
        for array in arrays:
            array.flush()


def save_npz(final: str | os.PathLike[str], *, compressed: bool = False, **arrays: Any) -> None:
    """Write an npz without pickled objects. Equal arrays give equal bytes (numpy fixes the zip dates)."""
    for name, array in arrays.items():
        if np.asarray(array).dtype.hasobject:
            raise TypeError(f"array {name!r} holds Python objects, which an npz may not")
    save = np.savez_compressed if compressed else np.savez
    write_with(final, lambda file: save(file, **arrays))


def load_npz(
    path: str | os.PathLike[str], only: Collection[str] | None = None, *, cure: str | None = None
) -> dict[str, np.ndarray]:
    """The arrays of an npz, never unpickling; raises :class:`ArtifactError` when missing or damaged.

    Every member carries a checksum, so damaged values are refused too. ``only`` names the members to read; those that
    are absent or hold Python objects are left out, and the others cost nothing. ``cure`` says what to do about a file
    that the workflow has not made.
    """
    with _readable(path, cure), _opened_npz(path) as file:
        if only is None:
            return {name: file[name] for name in file.files}
        return {name: file[name] for name in only if name in file.files and not _header(file, name)[2].hasobject}


def npz_shapes(path: str | os.PathLike[str]) -> dict[str, tuple[int, ...]]:
    """The shapes of the arrays of an npz, whose values are not read; raises as :func:`load_npz`."""
    with _readable(path), _opened_npz(path) as file:
        return {name: _header(file, name)[0] for name in file.files}


def _opened_npz(path: str | os.PathLike[str]) -> np.lib.npyio.NpzFile:
    loaded = np.load(path, allow_pickle=False)
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        raise ValueError("one array where an npz is expected")
    return loaded


def _header(file: np.lib.npyio.NpzFile, name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and dtype of a member, from its header."""
    with file.zip.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
        return read(member)


def load_npy(path: str | os.PathLike[str], *, mmap: bool = False) -> np.ndarray:
    """One array, optionally memory-mapped read-only; raises :class:`ArtifactError` when missing or damaged."""
    with _readable(path):
        loaded = np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
        if not isinstance(loaded, np.ndarray):
            loaded.close()
            raise ValueError("an npz where one array is expected")
        return loaded


@contextlib.contextmanager
def _readable(path: str | os.PathLike[str], cure: str | None = None) -> Iterator[None]:
    """Turn what numpy raises on a missing or damaged file into one sentence."""
    try:
        yield
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing", cure=cure or "run the workflow again") from error
    except PermissionError as error:
        raise ArtifactError(f"{path} cannot be read", str(error), "check its permissions") from error
    except MemoryError as error:  # also a damaged header that claims an absurd shape
        raise ResourceError(
            f"{path} does not fit in memory", str(error), "free memory, or delete the file if its size looks wrong"
        ) from error
    except _DAMAGED as error:
        again = cure or "delete it and run the workflow again"
        raise ArtifactError(f"{path} cannot be read", _reason(error), again) from error


def _reason(error: Exception) -> str:
    """What numpy says, but for its advice to unpickle what is no array."""
    if "allow_pickle" not in str(error):
        return str(error)
    held = str(error).startswith("Object arrays")
    return "it holds Python objects, which are never read" if held else "it is no file of numpy arrays (npz or npy)"


def sweep_stale(folder: str | os.PathLike[str]) -> int:
    """Remove temporary files that a killed process left more than a day ago; returns how many.

    Only names as :func:`atomic_path` makes them are touched; a file that another process removes meanwhile is no error.
    """
    removed = 0
    for path in Path(folder).glob(".*.tmp*"):
        if not _TEMPORARY.fullmatch(path.name):
            continue
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > STALE_SECONDS and path.is_file():
                path.unlink()
                removed += 1
    return removed
