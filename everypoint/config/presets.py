"""Presets: named methods with their options, one YAML file each in ``everypoint/presets``."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from everypoint.config.load import checked, deep_merge, nearest, read_yaml
from everypoint.config.options import Preset
from everypoint.errors import ConfigError

FOLDER = Path(__file__).resolve().parents[1] / "presets"


def preset_names() -> list[str]:
    """Names of all presets."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


@functools.cache
def _read(name: str) -> dict[str, Any]:
    return read_yaml(FOLDER / f"{name}.yaml")


def load_preset(
    name: str, overrides: Mapping[str, Mapping[str, Any]] | None = None, source: str = "the configuration"
) -> Preset:
    """A preset with ``overrides["all"]`` and then ``overrides[name]`` laid over it.

    Raises :class:`ConfigError` for an unknown name or for a key or value that does not fit.
    """
    names = preset_names()
    if name not in names:
        raise ConfigError(f"{source}: unknown preset {name!r}, {nearest(name, names)}")
    value = checked(Preset, _read(name), f"preset {name}").model_dump()  # with every default in place
    for group in ("all", name):
        changes = (overrides or {}).get(group)
        if changes:
            value = checked(Preset, deep_merge(value, changes), f"{source}: overrides.{group}").model_dump()
    return checked(Preset, value, f"{source}: preset {name}")
