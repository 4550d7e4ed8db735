"""What the Snakefile does before and around the plan: find and check its configuration, hold the one lock of a run.

An expected failure ends the process with its sentence and code 1; an exception would show a traceback of Snakemake.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from everypoint.config.load import read_yaml
from everypoint.errors import EverypointError
from everypoint.stages.locks import take
from everypoint.stages.plan import Plan, make_plan

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
    """:func:`make_plan`, or the end of the process."""
    try:
        return make_plan(value, source, cache)
    except EverypointError as error:
        raise SystemExit(f"everypoint: {error}") from None


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
