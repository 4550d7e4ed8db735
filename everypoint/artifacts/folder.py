"""Folder artifacts: items collected in a hidden work folder, published whole with a manifest.

The work folder ``.<name>.partial`` lies beside the final one and survives a kill, so a stage that is started again with
the same fingerprint finds its finished items; with another fingerprint it starts afresh.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from everypoint.artifacts import atomic
from everypoint.errors import ArtifactError

MANIFEST = "manifest.json"


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Hex sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint_of(value: Any) -> str:
    """Hex sha256 of a JSON-like value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(atomic._plain(value), sort_keys=True).encode()).hexdigest()


class FolderWriter:
    """Collect files and publish them as one folder under its final name.

    Args:
        final: the folder to publish. An older folder of that name is replaced.
        fingerprint: JSON-like description of all that the items depend on.
    """

    def __init__(self, final: str | os.PathLike[str], fingerprint: Any) -> None:
        self.final = Path(final)
        self.work = self.final.with_name(f".{self.final.name}.partial")
        self.fingerprint = fingerprint_of(fingerprint)
        self._journal = self.work / "journal.json"
        self.items: dict[str, dict[str, Any]] = self._resume()

    def _resume(self) -> dict[str, dict[str, Any]]:
        """Items that a killed run of the same work finished; whole and unchanged ones only.

        A run killed just before the final rename has left the manifest instead of the journal.
        """
        for notes in (self._journal, self.work / MANIFEST):
            if not notes.exists():
                continue
            try:
                journal = atomic.read_json(notes)
            except ArtifactError:
                journal = {}
            if journal.get("fingerprint") == self.fingerprint:
                items = journal["items"]
                return {name: item for name, item in items.items() if _matches(self.work / name, item)}
        if self.work.exists():
            shutil.rmtree(self.work)
        self.work.mkdir(parents=True)
        return {}

    def has(self, name: str) -> bool:
        """Whether an item was finished, by this process or by one that was killed."""
        return name in self.items

    def add(self, name: str, write: Callable[[Path], None], note: Any = None) -> None:
        """Write one item through a function of its path and note it as finished, with a JSON-like ``note``."""
        path = self.work / name
        write(path)
        self.items[name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        self.items[name] |= {"note": note} if note is not None else {}
        atomic.write_json(self._journal, {"fingerprint": self.fingerprint, "items": self.items})

    def publish(self) -> Path:
        """Write the manifest and rename the work folder to its final name."""
        manifest = {"fingerprint": self.fingerprint, "count": len(self.items), "items": self.items}
        atomic.write_json(self.work / MANIFEST, manifest)
        for stray in self.work.iterdir():  # the journal among them
            if stray.name != MANIFEST and stray.name not in self.items:
                shutil.rmtree(stray) if stray.is_dir() else stray.unlink()
        if self.final.exists():
            shutil.rmtree(self.final)
        os.replace(self.work, self.final)
        atomic._sync_folder(self.final.parent)
        return self.final


def _matches(path: Path, item: dict[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == item["bytes"] and sha256_of(path) == item["sha256"]


def check_folder(folder: str | os.PathLike[str], *, deep: bool = False) -> dict[str, Any]:
    """Read a folder's manifest and check sizes (``deep``: hashes too); raises :class:`ArtifactError`."""
    folder = Path(folder)
    manifest = atomic.read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("items"), dict):
        raise ArtifactError(f"{folder / MANIFEST} is not a manifest", cure=f"delete {folder} and run again")
    for name, item in manifest["items"].items():
        path = folder / name
        right_size = path.is_file() and path.stat().st_size == item["bytes"]
        if not right_size or (deep and sha256_of(path) != item["sha256"]):
            raise damaged(path)
    return manifest


def damaged(path: Path) -> ArtifactError:
    """The error for an item that is not what its folder's manifest says."""
    return ArtifactError(
        f"{path} is missing or damaged", "it does not fit the manifest", f"delete {path.parent} and run again"
    )
