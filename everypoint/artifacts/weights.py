"""Reading files of network weights: never running what they hold, renaming by a table, refusing what does not fit."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from everypoint.errors import AssetError

if TYPE_CHECKING:
    from torch import Tensor

_WRAPPERS = ("model", "state_dict", "model_state_dict", "teacher")


def load_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a weight file by key; wrappers ({"model": ...}) and DataParallel's prefix are taken off.

    The file is one of torch or of safetensors, whatever its name. Raises :class:`AssetError` for a file that cannot be
    read as tensors, before anything that it holds is run.
    """
    import torch

    try:
        if _is_safetensors(path):
            from safetensors.torch import load_file

            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a foreign, hostile or damaged file
        raise AssetError(f"{path} is not a weight file that can be read", _reason(error), "fetch it again") from error
    state = _unwrapped(content)
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise AssetError(f"{path} is not a weight file", "it does not hold tensors by name", "fetch it again")
    return {key.removeprefix("module."): value for key, value in state.items()}


def _is_safetensors(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as safetensors do: the length of a header of JSON, then the header."""
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


def _reason(error: Exception) -> str:
    """The first sentence of an error's text; torch's go on with advice to load the file unsafely."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return text.split(". ")[0]


def _unwrapped(content: Any) -> dict[str, Any]:
    while isinstance(content, dict):
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), dict)), None)
        if inner is None:
            return content if all(isinstance(key, str) for key in content) else {}
        content = inner
    return {}


def rename(state: Mapping[str, Tensor], modules: Mapping[str, str | None]) -> dict[str, Tensor]:
    """``state`` with the module part of its keys renamed; None drops a key, a module not in the table stays."""
    renamed = {}
    for key, tensor in state.items():
        module, _, parameter = key.rpartition(".")
        target = modules.get(module, module)
        if target is not None:
            renamed[f"{target}.{parameter}"] = tensor
    return renamed


def check_fit(state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], name: str, network: str) -> None:
    """Raise :class:`AssetError`, in one sentence, unless keys and shapes are exactly the expected ones."""
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    wrong = [key for key in expected if key in shapes and shapes[key] != expected[key]]
    problems = {
        "lacks": [key for key in expected if key not in shapes],
        "has unknown": [key for key in shapes if key not in expected],
        "has the wrong shape in": [f"{key} ({_by(shapes[key])} for {_by(expected[key])})" for key in wrong],
    }
    found = [f"it {verb} {_some(keys)}" for verb, keys in problems.items() if keys]
    if found:
        raise AssetError(f"{name} does not fit {network}", " and ".join(found), "use weights made for it")


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"


def _some(keys: list[str]) -> str:
    return keys[0] + (f" and {len(keys) - 1} more" if len(keys) > 1 else "")
