"""The default configuration, its JSON schema and the reference page, all made from the option models."""

from __future__ import annotations

import difflib
import json
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from everypoint.config import reruns
from everypoint.config.backends import BACKENDS
from everypoint.config.options import Preset
from everypoint.config.presets import load_preset, preset_names
from everypoint.config.user import Config

CURE = "python -m everypoint config write"
SCHEMA = "docs/config.schema.json"
WIDTH = 100
NOT_TEXT = ("null", "true", "false", "yes", "no", "on", "off")  # YAML reads these bare words as other things
KINDS = {"string": "text", "integer": "whole number", "boolean": "true or false", "object": "mapping"}


def default_yaml() -> str:
    """``workflow_config.yaml``: every key with its description as a comment and its default."""
    head = (
        f"# yaml-language-server: $schema={SCHEMA}\n"
        "# The one file to edit. Every key is optional; what stands here are the defaults. A misspelt key stops the\n"
        "# run and names the nearest one. Keys of presets are changed under overrides; docs/config.md lists them all.\n"
        f"# Made from the option models by `{CURE}`.\n"
    )
    return head + "\n" + "\n".join(_yaml_lines(Config(), indent=0)) + "\n"


def _yaml_lines(values: BaseModel, indent: int) -> Iterator[str]:
    pad = " " * indent
    for number, (key, field) in enumerate(type(values).model_fields.items()):
        value = getattr(values, key)
        section = isinstance(value, BaseModel)
        if indent == 0 and number and (section or _is_section(type(values), number - 1)):
            yield ""
        for line in textwrap.wrap(field.description or "", WIDTH - indent):
            yield f"{pad}# {line}"
        if section:
            yield f"{pad}{key}:"
            yield from _yaml_lines(value, indent + 2)
        else:
            yield f"{pad}{key}: {_scalar(value)}"


def _is_section(model: type[BaseModel], number: int) -> bool:
    field = list(model.model_fields.values())[number]
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _scalar(value: Any) -> str:
    """A value in YAML's one-line form. Bare words stay bare unless YAML would read them as something else."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_scalar(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_scalar(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str):
        plain = value.replace("-", "").replace("_", "").isalnum() and not value[0].isdigit()
        return value if plain and value not in NOT_TEXT else json.dumps(value)
    return repr(value)


def dump_yaml(keys: Mapping[str, Any]) -> str:
    """Keys of a configuration as YAML that reads back as the same values."""
    return yaml.safe_dump(dict(keys), sort_keys=False, allow_unicode=True)


def schema_json() -> str:
    """JSON schema of the user's file, for editors; ``overrides`` is described by the model of presets."""
    schema = Config.model_json_schema()
    preset = Preset.model_json_schema()
    definitions = schema.setdefault("$defs", {})
    definitions |= preset.pop("$defs", {})
    definitions["Preset"] = {**preset, "required": []}
    schema["properties"]["overrides"]["additionalProperties"] = {"$ref": "#/$defs/Preset"}
    return (
        json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=1, sort_keys=True)
        + "\n"
    )


# ------------------------------------------------------------------------------------------- reference


def reference_markdown() -> str:
    """``docs/config.md``: every key of the file and of presets with type, default and meaning, and every preset."""
    parts = [
        "# Configuration\n\n"
        f"Made from the option models by `{CURE}`; edits by hand are lost.\n\n"
        "A run reads one file: the one given with `--configfile`, else `workflow_config.yaml` of the working "
        "directory, else that of the checkout. Paths are relative to the working directory (`--directory`). "
        "`--config seed=3` changes single keys.\n",
        "## The user's file\n\n" + _table(Config),
        "### Video by video\n\n"
        "```yaml\nper_video:\n  clip:            # the video's name in the results\n"
        "    frames: {start: 10, max_frames: 32}\n    queries: {grid: 16}\n```\n\n"
        "With `on_cut: split` a shot has a name of its own, `clip-shot02`, and may have keys of its own.\n",
        "## Presets\n\nA preset is a named method with its options. `methods` lists the presets of a run; `overrides` "
        "changes any of their keys, for all of them or for one:\n\n"
        "```yaml\nmethods: [chain, cpu]\noverrides:\n  all:\n    flow: {backend: dis}\n"
        "  cpu:\n    optimize: {steps: 500}\n```\n",
        *(_preset_section(name) for name in preset_names()),
        "## Back-ends\n\nWhat `flow.backend`, `features.backend`, `depth.backend`, `sparse.sources` and a preset's "
        "`tracker` may name. Costs are of two CPU cores at 854x480 unless they say otherwise.\n\n" + _backends(),
        "## Keys of presets\n\n" + _table(Preset),
    ]
    return "\n".join(parts)


def _backends() -> str:
    rows = ["| option | name | what | needs, with licences | its keys | cost |", "|---|---|---|---|---|---|"]
    for one in BACKENDS:
        cells = (f"`{one.key}`", f"`{one.name}`", one.what, one.needs, one.options or "-", one.cost)
        rows.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def _preset_section(name: str) -> str:
    preset = load_preset(name)
    changed = dict(_differences(preset))
    lines = [f"### `{name}`\n", preset.description + "\n", f"Tracker `{preset.tracker}`."]
    if changed:
        lines.append(
            "It differs from the defaults in " + ", ".join(f"`{key}: {_scalar(v)}`" for key, v in changed.items()) + "."
        )
    return "\n".join(lines) + "\n"


def _differences(preset: Preset) -> Iterator[tuple[str, Any]]:
    plain = Preset(description=preset.description, tracker=preset.tracker)
    yield from _walk(preset.model_dump(), plain.model_dump(), "")


def _walk(value: Mapping[str, Any], base: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping) and isinstance(base.get(key), Mapping):
            yield from _walk(item, base[key], f"{prefix}{key}.")
        elif item != base.get(key):
            yield f"{prefix}{key}", item


def _table(model: type[BaseModel]) -> str:
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for path, allowed, default, meaning in _rows(model, model.model_json_schema(), ""):
        rows.append(f"| `{path}` | {_cell(allowed)} | {_cell(default)} | {_cell(meaning)} |")
    return "\n".join(rows) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _rows(model: type[BaseModel], schema: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    for key, field in model.model_fields.items():
        default = "required" if field.is_required() else field.default
        if isinstance(default, BaseModel):
            yield f"{prefix}{key}", "section", "", field.description or (type(default).__doc__ or "").split("\n")[0]
            yield from _rows(type(default), type(default).model_json_schema(), f"{prefix}{key}.")
        else:
            allowed = _allowed(schema["properties"][key])
            yield (
                f"{prefix}{key}",
                allowed,
                f"`{_scalar(default)}`" if default != "required" else "-",
                field.description or "",
            )


def _allowed(schema: Mapping[str, Any]) -> str:
    """What a key may hold, in words, from its JSON schema."""
    if "anyOf" in schema:
        return " or ".join(_allowed(option) for option in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = schema.get("type", "a mapping")
    if kind == "array":
        if "prefixItems" in schema:
            return "[" + ", ".join(_allowed(item) for item in schema["prefixItems"]) + "]"
        return f"list of {_allowed(schema.get('items', {}))}"
    return KINDS.get(kind, kind) + _bounds(schema)


def _bounds(schema: Mapping[str, Any]) -> str:
    signs = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
    found = [
        f"{sign} {schema[key]:{'d' if isinstance(schema[key], int) else 'g'}}" for key, sign in signs if key in schema
    ]
    return f" {', '.join(found)}" if found else ""


# ------------------------------------------------------------------------------------------------ files

FILES: dict[str, Callable[[], str]] = {
    "workflow_config.yaml": default_yaml,
    SCHEMA: schema_json,
    "docs/config.md": reference_markdown,
    reruns.PAGE_FILE: lambda: reruns.page(CURE),
}


def stale(root: Path) -> dict[str, str]:
    """The generated files that do not say what the models say: name -> what they should say."""
    made = {name: make() for name, make in FILES.items()}
    return {name: text for name, text in made.items() if _read(root / name) != text}


def drift(root: Path) -> str:
    """A unified diff of the files that do not say what the models say; empty when all do."""
    parts = []
    for name, text in stale(root).items():
        old, new = _read(root / name).splitlines(keepends=True), text.splitlines(keepends=True)
        parts += difflib.unified_diff(old, new, name, f"{name} (as the models say)")
    return "".join(parts)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
