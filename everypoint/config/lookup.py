"""Finding the back-end that an option names: a module of a room that binds ``BACKEND``."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from everypoint.errors import ConfigError


def find_backend(package: str, name: str, what: str, cure: str) -> Any:
    """The class that module ``name`` of ``package`` binds as ``BACKEND``; ``raft-encoder`` is ``raft_encoder.py``.

    The module is imported when it is asked for. Raises :class:`ConfigError` when there is none or it is no back-end;
    ``what`` and ``cure`` are words of its sentence.
    """
    module = f"{package}.{name.replace('-', '_')}"
    if not name.replace("-", "_").isidentifier() or importlib.util.find_spec(module) is None:
        raise ConfigError(f"there is no {what} back-end {name!r}", cure=cure)
    backend = getattr(importlib.import_module(module), "BACKEND", None)
    if backend is None:
        raise ConfigError(f"{name!r} is not a {what} back-end", cure=cure)
    return backend
