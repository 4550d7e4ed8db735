"""Reading and checking option files. Every mistake becomes one sentence that names the file, the key and the cure."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from everypoint.config.user import Config
from everypoint.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)
DEEPEST = 50  # levels of a configuration; it has eight

_WORDS = {  # pydantic's kinds of mistakes that Python's names would explain badly
    "model_type": "it should be keys and values",
    "dict_type": "it should be keys and values",
    "tuple_type": "it should be a list",
    "list_type": "it should be a list",
    "string_type": "it should be text",
}


class _StrictLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """YAML without a silent last-one-wins for a key that is written twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(
                    problem="a list or mapping stands for a key", problem_mark=key_node.start_mark
                )
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
        _check_brackets(text)
        value = yaml.load(text, _StrictLoader)  # a subclass of the safe loader
        _check_depth(value, DEEPEST, {})
    except RecursionError as error:
        why = f"lists or mappings lie more than {DEEPEST} deep in each other"
        raise ConfigError(f"{path} cannot be used", why, "close the brackets that are open") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        why = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ConfigError(f"{path}{where} is not valid YAML", why, "correct that line") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        found = "a list" if isinstance(value, list) else f"the one value {_short(value)}"
        raise ConfigError(f"{path} does not consist of keys with values", f"it holds {found}", "write KEY: VALUE lines")
    return value


def _check_brackets(text: str) -> None:
    """RecursionError where YAML is nested too deep for its parser in C, which would end the process."""
    depth = 0
    for event in yaml.parse(text, _StrictLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise RecursionError


def _check_depth(value: Any, left: int, depths: dict[int, int]) -> int:
    """How deep the containers of a YAML value lie in each other; RecursionError beyond ``left``.

    An alias may stand in many places, or inside of itself; ``depths`` remembers those that have been looked at.
    """
    if not isinstance(value, (dict, list, tuple)):
        return 0
    if id(value) not in depths and left > 0:
        parts = value.values() if isinstance(value, dict) else value
        depths[id(value)] = 1 + max((_check_depth(part, left - 1, depths) for part in parts), default=0)
    if depths.get(id(value), left + 1) > left:
        raise RecursionError
    return depths[id(value)]


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
        errors = error.errors()
        places = [item["loc"] for item in errors]
        # a list whose items are all wrong is not also too short
        told = [item for item in errors if item["type"] != "too_short" or not _below(item["loc"], places)]
        mistakes = [_mistake(model, item) for item in told]
        shown = "; ".join(mistakes[:3])
        more = f"; and {len(mistakes) - 3} more" if len(mistakes) > 3 else ""
        raise ConfigError(f"{source}: {shown}{more}") from error


def _below(place: tuple, places: Iterable[tuple]) -> bool:
    return any(len(other) > len(place) and other[: len(place)] == place for other in places)


def _mistake(model: type[BaseModel], item: Mapping[str, Any]) -> str:
    """One pydantic error in words."""
    path = [str(part) for part in item["loc"]]
    if item["type"] == "extra_forbidden":
        known = list(_model_at(model, path[:-1]).model_fields)
        place = f" under {'.'.join(path[:-1])}" if path[1:] else ""
        return f"unknown key {path[-1]!r}{place}, {nearest(path[-1], known)}"
    if item["type"] == "missing":
        return f"{'.'.join(path)} is missing"
    if path[-1:] == ["[key]"] or item["type"] == "invalid_key":
        place = ".".join(path[: -2 if path[-1] == "[key]" else -1])
        return f"the key {item['input']!r}{f' under {place}' if place else ''} should be text"
    message = item["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if item["type"] == "value_error" and isinstance(item["input"], Mapping):
        return f"{'.'.join(path)}: {message}" if path else message  # what does not fit together is all of the section
    message = re.sub(" after validation, not [0-9]+$", "", message.replace("tuple should have", "it should have"))
    return f"{'.'.join(path) or 'the file'} is {_short(item['input'])}, but {_WORDS.get(item['type'], message)}"


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
    """The user's keys as a checked :class:`Config`; presets, overrides, recipes and per-video parts included."""
    from everypoint.config import presets
    from everypoint.config.recipes import load_recipe

    config = checked(Config, dict(value), source)
    for name in config.methods:
        presets.load_preset(name, config.overrides, source)
    known = ["all", *presets.preset_names()]
    for name in config.overrides:
        if name not in known:
            raise ConfigError(f"{source}: overrides has the unknown preset {name!r}, {nearest(name, known)}")
        if name != "all" and name not in config.methods:
            presets.load_preset(name, config.overrides, source)
    for name in ("train", "finetune"):
        load_recipe(name, getattr(config.pips, name), source)
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
