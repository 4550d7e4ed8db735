"""What the Snakefile does before and around the plan: find and check its configuration, hold the one lock of a run.

An expected failure ends the process with its sentence and code 1; an exception would show a traceback of Snakemake.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from everypoint.config.load import read_yaml
from everypoint.errors import ConfigError, EverypointError, ResourceError
from everypoint.stages.locks import take
from everypoint.stages.plan import Plan, make_plan
from everypoint.stages.plan_pips import trains

_held: list[int] = []  # locked files, open for as long as the process lives


def default_config(basedir: str | os.PathLike[str]) -> Path:
    """The configuration that is read when none is named: that of the working directory, else that of the checkout."""
    here = Path("workflow_config.yaml")
    return here if here.exists() else Path(basedir) / here


def check_yaml(files: Iterable[str | os.PathLike[str]]) -> None:
    """End the process when a file is not YAML or holds a key twice."""
    try:
        for file in files:
            read_yaml(file)
    except EverypointError as error:
        raise SystemExit(f"everypoint: {error}") from None


def plan_or_sentence(value: Mapping[str, Any], source: str, cache: str | os.PathLike[str] | None = None) -> Plan:
    """:func:`make_plan` with folders that Snakemake can work with, or the end of the process."""
    try:
        plan = make_plan(value, source, cache)
        pips = plan.config.pips
        check_folder("results", plan.config.results, source)
        check_folder("pips.folder", pips.folder, source, used=trains(plan.config))
        check_folder("pips.export.folder", pips.export.folder, source, used=pips.export.root is not None)
        return plan
    except EverypointError as error:
        raise SystemExit(f"everypoint: {error}") from None


def check_folder(key: str, name: str, source: str, *, used: bool = True) -> None:
    """Raise :class:`ConfigError` for a folder of outputs that is none, or whose name Snakemake reads otherwise.

    ``used``: whether anything is written there by this configuration; rules name the folder in any case.
    """
    what = f"{source}: {key} {name!r} cannot be used"
    if set("{}<>") & set(name):
        raise ConfigError(what, "{ } < > have another meaning in Snakemake's paths", "choose another name")
    path = Path(os.path.expanduser(name))
    there = next((part for part in (path, *path.parents) if os.path.lexists(part)), path)
    if used and os.path.lexists(there) and not there.is_dir():
        raise ConfigError(what, f"{there} is not a folder", "name another one, or move that away")


def make_results(plan: Plan) -> None:
    """Make the folder of results, or end the process; a run that has jobs writes into it."""
    folder = Path(plan.results)
    try:
        if plan.videos:
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(f"{folder} does not let us write")
    except OSError as error:
        cure = "check its permissions, or name another folder as results"
        raise SystemExit(f"everypoint: {ResourceError(f'cannot write to {folder}', str(error), cure)}") from None


def hold_lock(path: str | os.PathLike[str]) -> None:
    """Be the only run of this working directory, or end the process.

    Snakemake's own lock is a file that a killed run leaves behind, and then asks for --unlock. This one is the
    system's: it ends with its process, however that ends, so the same command can simply be given again.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = take(path)
    if file is None:
        sentence = f"another run is at work in {Path.cwd()}: wait for it, or use another --directory."
        raise SystemExit(f"everypoint: {sentence}")
    _held.append(file)
