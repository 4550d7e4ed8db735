"""What runs again when one key alone changes: ``reruns.yaml`` as rows, and docs/incremental.md made from them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from everypoint.config.load import read_yaml
from everypoint.config.options import Preset
from everypoint.config.options_pips import PipsTrainOptions
from everypoint.config.user import Config

FILE = Path(__file__).with_name("reruns.yaml")
TEXT = FILE.with_suffix(".md")  # the page around the tables
PAGE_FILE = "docs/incremental.md"
OF_TRAINING = ("pips.train", "pips.finetune")
Condition = Mapping[str, Any]


@dataclass(frozen=True)
class Fact:
    """A condition with a name of its own; ``means`` says it in words."""

    when: tuple[Condition, ...]
    means: str


@dataclass(frozen=True)
class Row:
    """Where ``when`` holds, a change of one of ``keys`` runs ``runs`` again and all that follows.

    Attributes:
        keys: as written in the user's file, or below ``overrides.PRESET``.
        runs: stages; ``sparse/xfeat`` is the stage for that source alone. Empty: nothing runs again.
        when: alternatives, each a mapping of keys to what they hold before the change; none: always.
        to: the new values that the row is about; none: any.
        note: what else there is to say.
    """

    keys: tuple[str, ...]
    runs: tuple[str, ...]
    when: tuple[Condition, ...] = ()
    to: tuple[Any, ...] = ()
    note: str = ""

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether the row applies to a configuration, given by the values of its keys."""
        return not self.when or any(_holds(condition, values) for condition in self.when)


def _holds(condition: Condition, values: Mapping[str, Any]) -> bool:
    return all(_fits(key, wanted, values) for key, wanted in condition.items())


def _fits(key: str, wanted: Any, values: Mapping[str, Any]) -> bool:
    if wanted == "used":
        return any(_holds(condition, values) for condition in facts()[key].when)
    value = values.get(key)
    if wanted in ("set", "unset"):
        return bool(value) == (wanted == "set")
    if isinstance(wanted, str):
        word, _, item = wanted.partition(" ")
        return value != item if word == "not" else (item in (value or ())) == (word == "has")
    return value in wanted


@functools.cache
def facts() -> dict[str, Fact]:
    """What conditions may name in place of a key."""
    return {name: Fact(_alternatives(one["when"]), one["means"]) for name, one in read_yaml(FILE)["facts"].items()}


def _alternatives(value: Any) -> tuple[Condition, ...]:
    return (value,) if isinstance(value, Mapping) else tuple(value)


@functools.cache
def rows(section: str) -> tuple[Row, ...]:
    """The rows about the user's file (``user``) or about presets (``preset``)."""
    return tuple(_row(value) for value in read_yaml(FILE)[section])


def _row(value: Mapping[str, Any]) -> Row:
    runs, to = value.get("runs", ()), value.get("to", ())
    return Row(
        keys=tuple(value["keys"]),
        runs=(runs,) if isinstance(runs, str) else tuple(runs),
        when=_alternatives(value.get("when", ())),
        to=tuple(to) if isinstance(to, list) else () if to == () else (to,),
        note=value.get("note", ""),
    )


def keys(section: str) -> list[str]:
    """Every key that the table has to speak of, those of training recipes too."""
    if section == "preset":
        return list(_leaves(Preset))
    found = []
    for key in _leaves(Config):
        if key in OF_TRAINING:
            found += [f"{key}.{name}" for name in PipsTrainOptions.model_fields]
        elif key == "per_video":
            found += ["per_video.NAME.frames", "per_video.NAME.queries"]
        else:
            found.append(key)
    return found


def _leaves(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for key, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _leaves(kind, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


# ------------------------------------------------------------------------------------------------ the page


def page(cure: str) -> str:
    """``docs/incremental.md``."""
    words = "".join(f"* *{name} used*: {fact.means}\n" for name, fact in facts().items())
    return TEXT.read_text(encoding="utf-8").format(cure=cure, user=_table("user"), preset=_table("preset"), facts=words)


def _table(section: str) -> str:
    lines = ["| keys | where | run again, with all that follows |", "|---|---|---|"]
    lines += [f"| {_keys(row)} | {_where(row)} | {_runs(row)} |" for row in rows(section)]
    return "\n".join(lines) + "\n"


def _keys(row: Row) -> str:
    if row.to and not str(row.to[0]).startswith("+"):
        values = ", ".join(f"{value}".lower() if isinstance(value, bool) else f"{value}" for value in row.to)
        return ", ".join(f"`{key}: {values}`" for key in row.keys)
    shown = []
    for prefix, names in _grouped(row.keys):
        named = len(names) > 1 and prefix
        shown.append(
            f"`{prefix}` " * bool(named) + ", ".join(f"`{name if named else prefix + name}`" for name in names)
        )
    return "; ".join(shown)


def _grouped(keys_: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Keys of one section together: ``("flow.", ["weights", "iterations"])``."""
    groups: dict[str, list[str]] = {}
    for key in keys_:
        head, dot, name = key.rpartition(".")
        groups.setdefault(head + dot, []).append(name)
    return list(groups.items())


def _where(row: Row) -> str:
    return "; or ".join(", ".join(_shown(key, wanted) for key, wanted in one.items()) for one in row.when)


def _shown(key: str, wanted: Any) -> str:
    if isinstance(wanted, str):
        return f"*{key} used*" if wanted == "used" else f"`{key}` {wanted}"
    return f"`{key}` " + " or ".join(str(value).lower() for value in wanted)


def _runs(row: Row) -> str:
    runs = ", ".join(name.replace("/", " of ") for name in row.runs) or "nothing"
    return f"{runs} ({row.note})" if row.note else runs
