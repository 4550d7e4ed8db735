"""Offences in any text: hosts of package registries, and paths of one machine."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.guards import Finding

REGISTRY = re.compile(
    r"\bpypi\.(?:org|python)|python" + r"hosted\.|\banaconda\.(?:org|com)|download\.pytorch\.org/whl|\bpypi\.nvidia"
    r"|--(?:extra-|default-)?index" + r"(?:-url)?\b|find" + r"-links|registry\.npmjs|https?://\S+\.whl\b"
)
MACHINE_PATH = re.compile(
    r"(?:(?<=//)|(?<![\w.~})>*/$%-]))/(?:work|root|home|farm|tmp|Users|scratch|mnt)(?:/|\b)(?!\.)"
)


def registry_hosts(text: str) -> Iterator[Finding]:
    """A host of a package registry: an install must follow the machine's own settings."""
    yield from _lines(text, REGISTRY, "names a package registry")


def machine_paths(text: str) -> Iterator[Finding]:
    """An absolute path that exists on one machine only."""
    yield from _lines(text, MACHINE_PATH, "names a path of one machine")


def _lines(text: str, pattern: re.Pattern[str], what: str) -> Iterator[Finding]:
    for number, line in enumerate(text.splitlines(), 1):
        if match := pattern.search(line):
            yield Finding(number, f"{what}: {match[0]}")
