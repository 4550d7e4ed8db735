"""Packages that stand in for optional ones which cannot be installed everywhere, behind the same interface.

A test puts a fake in the place of the real one by :func:`install_cotracker`; a whole workflow does by
``PYTHONPATH=tests/fakes``. :func:`cotracker_weights` writes a weight file that the fake accepts.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).resolve().parent


def install_cotracker(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``cotracker.predictor`` of the fake, from now to the end of the test, whatever is installed."""
    for name in [name for name in sys.modules if name.split(".")[0] == "cotracker"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(FOLDER))
    import cotracker.predictor as predictor

    for name in ("cotracker", "cotracker.predictor", "cotracker.motion"):
        monkeypatch.setitem(sys.modules, name, sys.modules.pop(name))  # gone again after the test
    return predictor


def cotracker_weights(path: Path, model: str = "cotracker3-offline") -> Path:
    """A weight file for the fake's ``model`` (a name of preset.cotracker.model), at ``path``."""
    window = {"cotracker3-offline": 60, "cotracker3-online": 16, "cotracker2": 8, "cotracker2-online": 8}[model]
    head = "fake_v2.weight" if model.startswith("cotracker2") else "fake_v3.weight"
    torch.save({"model": {"time_emb": torch.zeros(1, window, 4), head: torch.ones(2)}}, path)
    return path
