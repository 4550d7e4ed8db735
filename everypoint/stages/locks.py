"""Locks that end with their process, however it ends: the operating system's, on files."""

from __future__ import annotations

import fcntl
import os


def take(path: str | os.PathLike[str]) -> int | None:
    """The open, locked file; None while another process holds it. It is free again when it is closed.

    On a file system without locks everybody gets one. A holder may remove its file.
    """
    try:
        return _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None


def wait_for(path: str | os.PathLike[str]) -> int:
    """The same, as soon as no other process holds it."""
    return _lock(path, fcntl.LOCK_EX)


def _lock(path: str | os.PathLike[str], how: int) -> int:
    """The open file, locked; raises BlockingIOError when another process holds it and ``how`` is not to wait."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, how)
        except BlockingIOError:
            os.close(file)
            raise
        except OSError:  # such a file system
            return file
        if os.path.exists(path) and os.path.samestat(os.stat(path), os.fstat(file)):
            return file
        os.close(file)  # its holder had removed it before it let go: nobody else would see this lock
