"""Locks that end with their process, however it ends: the operating system's, on files."""

from __future__ import annotations

import fcntl
import os


def take(path: str | os.PathLike[str]) -> int | None:
    """The open, locked file; None while another process holds it. It is free again when it is closed.

    On a file system without locks everybody gets one.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    except OSError:  # such a file system
        pass
    return file
