"""One file from an address: resumable, bounded, with a limited number of retries.

Nothing here decides whether the bytes are right; :mod:`everypoint.assets.fetch` checks them before they are published.
"""

from __future__ import annotations

import http.client
import logging
import os
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from everypoint.artifacts.atomic import read_json, write_json
from everypoint.errors import ArtifactError, AssetError, ResourceError

log = logging.getLogger(__name__)

TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 4  # in a row without progress
BACKOFF = 1.0  # seconds before the second attempt, doubled before each further one
PROGRESS = 8 << 20  # an attempt that brought this many bytes does not count as failed
BLOCK = 1 << 18
LIMIT = 64 << 30  # no asset is larger
PASSING = {408, 425, 429, 500, 502, 503, 504}  # statuses worth another attempt


class UnreachableError(AssetError):
    """No source could be reached: no network, no server, or no such package there."""


class _BrokenOffError(Exception):
    """An attempt that broke off and may be continued."""


def download(url: str, part: Path, *, bytes_expected: int | None, same_bytes: bool, label: str) -> bool:
    """Fetch ``url`` into ``part``, continuing what an earlier attempt left there.

    Args:
        url: http or https address.
        part: the growing file; left in place when the connection breaks, so that a later call continues.
        bytes_expected: exact size when known; another size is refused before anything is kept.
        same_bytes: the caller checks a hash, so any earlier part may be continued; otherwise only one that the
            server confirms (If-Range) to belong to the same version.
        label: name of the asset for the log.

    Returns:
        Whether the file was put together from several attempts.

    Raises:
        UnreachableError: the attempts are used up.
        AssetError: the server answers something else than the file.
        ResourceError: the disk is full.
    """
    failures, resumed = 0, False
    while True:
        before = _size(part)
        try:
            return _attempt(url, part, bytes_expected, same_bytes, label) or resumed
        except _BrokenOffError as error:
            gained = _size(part) - before
            resumed = resumed or _size(part) > 0
            failures = 1 if gained >= PROGRESS else failures + 1
            if failures >= ATTEMPTS:
                raise UnreachableError(f"{url} cannot be fetched", f"{error} ({ATTEMPTS} attempts)") from error
            log.info("%s: %s; trying again", label, error)
            time.sleep(BACKOFF * 2 ** (failures - 1))


def _attempt(url: str, part: Path, bytes_expected: int | None, same_bytes: bool, label: str) -> bool:
    """One request; returns whether it continued an earlier part."""
    offset = _resume_at(url, part, bytes_expected, same_bytes)
    request = urllib.request.Request(url, headers={"User-Agent": "everypoint", "Accept-Encoding": "identity"})
    if offset:
        request.add_header("Range", f"bytes={offset}-")
        validator = _validator(url, part)
        if validator:
            request.add_header("If-Range", validator)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            start = _start(response, offset)
            total = _total(url, response, start, bytes_expected)
            _note_validator(url, part, response)
            _receive(response, part, start, total, label)
            return start > 0
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # the part does not fit the file that is there now
            discard(part)
            raise _BrokenOffError("the server could not continue the earlier download") from error
        if error.code in PASSING:
            raise _BrokenOffError(f"HTTP {error.code} {error.reason}") from error
        raise AssetError(f"{url} cannot be fetched", f"HTTP {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise _BrokenOffError(str(reason) or type(error).__name__) from error


def _start(response: Any, offset: int) -> int:
    """Where the answer's first byte belongs: ``offset`` for a continued download, else 0."""
    if response.status != 206:
        return 0
    given = response.headers.get("Content-Range", "none")
    if not given.startswith(f"bytes {offset}-"):
        raise AssetError(f"{response.url} answers with another range", f"asked from byte {offset}, got {given}")
    return offset


def _total(url: str, response: Any, start: int, bytes_expected: int | None) -> int | None:
    """Size of the whole file, where the server says it; refuses web pages and wrong sizes before reading them."""
    kind = response.headers.get_content_type()
    length = response.headers.get("Content-Length", "")
    total = start + int(length) if length.isdigit() else None
    got = f"{total} bytes of {kind}" if total is not None else kind
    if kind in ("text/html", "application/xhtml+xml"):
        wanted = f"expected {bytes_expected} bytes" if bytes_expected else "expected a file"
        raise AssetError(f"{url} answers with a web page", f"{wanted}, got {got}")
    if bytes_expected and total is not None and total != bytes_expected:
        raise AssetError(f"{url} has the wrong size", f"expected {bytes_expected} bytes, got {got}")
    if (total or 0) > LIMIT:
        raise AssetError(f"{url} is too large", f"{total} bytes, the limit is {LIMIT}")
    return total or bytes_expected


def _receive(response: Any, part: Path, start: int, total: int | None, label: str) -> None:
    """Append the answer to ``part`` (from byte ``start``), logging every tenth of the way."""
    size, next_report = start, 0.1
    with _writing(part, "ab" if start else "wb") as file:
        while block := response.read1(BLOCK):  # what has arrived is kept, should the connection break
            size += len(block)
            if size > (total or LIMIT):
                raise AssetError(f"{response.url} sends too much", f"expected {total or LIMIT} bytes, got more")
            _write(file, part, block)
            if total and size / total >= next_report:
                log.info("%s: %.1f of %.1f MB", label, size / 1e6, total / 1e6)
                next_report = size / total + 0.1
    if total is not None and size < total:
        raise _BrokenOffError(f"the connection ended after {size} of {total} bytes")


def _writing(part: Path, mode: str) -> Any:
    try:
        return open(part, mode, buffering=0)  # a partial download, published by atomic_path once checked
    except OSError as error:
        raise ResourceError(f"cannot write {part}", str(error), "free space or permissions") from error


def _write(file: Any, part: Path, block: bytes) -> None:
    """Write all of a block; a full disk is told apart from a broken connection, both being OSErrors."""
    view = memoryview(block)
    try:
        while view:
            view = view[file.write(view) :]
    except OSError as error:
        raise ResourceError(f"cannot write {part}", str(error), "free space, then run the command again") from error


# ---------------------------------------------------------------------------------------------- earlier parts


def discard(part: Path) -> None:
    """Remove a part and its note."""
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _resume_at(url: str, part: Path, bytes_expected: int | None, same_bytes: bool) -> int:
    """Bytes of ``part`` that may be continued; a part of unknown or impossible origin is discarded."""
    size = _size(part)
    impossible = bytes_expected is not None and size >= bytes_expected
    if size and (impossible or not (same_bytes or _validator(url, part))):
        discard(part)
        return 0
    return size


def _validator(url: str, part: Path) -> str | None:
    """The strong ETag or the date that the server gave for the version in ``part``."""
    try:
        note = read_json(_note(part))
    except (ArtifactError, OSError):
        return None
    return note.get("validator") if isinstance(note, dict) and note.get("url") == url else None


def _note_validator(url: str, part: Path, response: Any) -> None:
    etag = response.headers.get("ETag")
    strong = etag if etag and not etag.startswith("W/") else None
    validator = strong or response.headers.get("Last-Modified")
    write_json(_note(part), {"url": url, "validator": validator})


def free_bytes(folder: Path) -> int:
    """Bytes that may still be written in ``folder``."""
    free = os.statvfs(folder)
    return free.f_bavail * free.f_frsize
