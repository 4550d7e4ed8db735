"""Recipes: the published trainings of PIPs++ with their options, one YAML file each in ``everypoint/pips/recipes``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from everypoint.config.load import checked, deep_merge, read_yaml
from everypoint.config.options_pips import PipsTrainOptions

FOLDER = Path(__file__).resolve().parents[1] / "pips" / "recipes"


def load_recipe(
    name: str, changes: Mapping[str, Any] | None = None, source: str = "the configuration"
) -> PipsTrainOptions:
    """A recipe, ``train`` or ``finetune``, with ``changes`` laid over it.

    Raises :class:`everypoint.errors.ConfigError` for a key or value that does not fit.
    """
    value = deep_merge(read_yaml(FOLDER / f"{name}.yaml"), changes or {})
    return checked(PipsTrainOptions, value, f"{source}: pips.{name}")
