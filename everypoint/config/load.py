"""Reading and checking option files. Every mistake becomes one sentence that names the file, the key and the cure."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from everypoint.config.user import Config
from everypoint.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)


class _StrictLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """YAML without a silent last-one-wins for a key that is written twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key in seen and key != "<<":
                raise yaml.MarkedYAMLError(problem=f"key {key!r} is written twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """One YAML file as a dictionary; raises :class:`ConfigError` when it is missing, not YAML, or not a mapping."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read", getattr(error, "strerror", None) or str(error)) from error
    try:
        value = yaml.load(text, _StrictLoader)  # a subclass of the safe loader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        why = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ConfigError(f"{path}{where} is not valid YAML", why, "correct that line") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path} is not a list of keys and values", f"it holds a {type(value).__name__}")
    return value


def nearest(name: str, known: Iterable[str]) -> str:
    """The cure for an unknown name: the most similar known one, or all of them."""
    known = [str(item) for item in known]
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}"
    return f"known are {', '.join(known)}" if known else "there is none to choose from"


def deep_merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` laid over it, key by key through nested mappings; other values are replaced."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = deep_merge(old, value) if both else value
    return merged


def checked(model: type[Model], value: Any, source: str) -> Model:
    """``value`` as ``model``; raises :class:`ConfigError` with one sentence over at most three mistakes."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        mistakes = [_mistake(model, item) for item in error.errors()]
        shown = "; ".join(mistakes[:3])
        more = f"; and {len(mistakes) - 3} more" if len(mistakes) > 3 else ""
        raise ConfigError(f"{source}: {shown}{more}") from error


def _mistake(model: type[BaseModel], item: Mapping[str, Any]) -> str:
    """One pydantic error in words."""
    path = [str(part) for part in item["loc"]]
    if item["type"] == "extra_forbidden":
        known = list(_model_at(model, path[:-1]).model_fields)
        place = f" under {'.'.join(path[:-1])}" if path[1:] else ""
        return f"unknown key {path[-1]!r}{place}, {nearest(path[-1], known)}"
    message = item["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if item["type"] == "missing":
        return f"{'.'.join(path)} is missing"
    message = message.replace("tuple should have", "it should have").removesuffix(" after validation, not 0")
    return f"{'.'.join(path) or 'the file'} is {_short(item['input'])}, but {message}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _model_at(model: type[BaseModel], path: list[str]) -> type[BaseModel]:
    """The model that a path of keys leads to; steps that are no field of a model (list positions) are skipped."""
    for step in path:
        field = model.model_fields.get(step)
        if field is None:
            continue
        for kind in (field.annotation, *_arguments(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                model = kind
                break
    return model


def _arguments(annotation: Any) -> list[Any]:
    """All type arguments of an annotation, nested ones too."""
    found = []
    for argument in get_args(annotation):
        found += [argument, *_arguments(argument)]
    return found


def parse_config(value: Mapping[str, Any], source: str = "the configuration") -> Config:
    """The user's keys as a checked :class:`Config`, presets, overrides and per-video parts included."""
    from everypoint.config import presets

    config = checked(Config, dict(value), source)
    for name in config.methods:
        presets.load_preset(name, config.overrides, source)
    known = ["all", *presets.preset_names()]
    for name in config.overrides:
        if name not in known:
            raise ConfigError(f"{source}: overrides has the unknown preset {name!r}, {nearest(name, known)}")
        if name != "all" and name not in config.methods:
            presets.load_preset(name, config.overrides, source)
    for name, video in config.per_video.items():
        for section in ("frames", "queries"):
            part(config, section, getattr(video, section), f"{source}: per_video.{name}")
    return config


def part(config: Config, section: str, changes: Mapping[str, Any], source: str) -> Any:
    """A section of the configuration with a video's own changes laid over it."""
    base = getattr(config, section)
    return checked(type(base), deep_merge(base.model_dump(), changes), f"{source}.{section}") if changes else base


def load_config(path: str | os.PathLike[str]) -> Config:
    """Read and check the user's file; raises :class:`ConfigError` with one sentence."""
    return parse_config(read_yaml(path), str(path))
