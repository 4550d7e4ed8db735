"""Models on disk: one file with all that is needed to build a model again, whatever its kind."""

from __future__ import annotations

import importlib
import os
import zipfile
from typing import Any, Protocol

import torch

from everypoint.artifacts import atomic
from everypoint.config.options import ModelOptions
from everypoint.errors import ArtifactError

SCHEMA_VERSION = 1  # of the file
KINDS = {
    "planes": ("motion", "MotionModel"),
    "field": ("omnimotion", "OmniMotionModel"),
    "pixels": ("pixels", "PixelDepthModel"),
    "cadex": ("cadex", "CadexModel"),
}


class VideoModel(Protocol):
    """A model of one video, of any kind: an ``nn.Module`` that is built from these four."""

    frames: int
    frame_size: tuple[int, int]
    options: ModelOptions

    def __init__(self, frames: int, frame_size: tuple[int, int], options: ModelOptions, seed: int) -> None: ...


def build_model(frames: int, frame_size: tuple[int, int], options: ModelOptions, seed: int) -> Any:
    """A new model of the kind that ``options.kind`` names, for a video of ``frames`` frames of (H, W)."""
    module, name = KINDS[options.kind]
    return getattr(importlib.import_module(f"{__package__}.{module}"), name)(frames, frame_size, options, seed)


def save_model(path: str | os.PathLike[str], model: VideoModel) -> None:
    """Write a model with all that is needed to build it again."""
    content: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "frames": model.frames,
        "frame_size": list(model.frame_size),
        "options": model.options.model_dump(mode="json"),
        "state": {name: value.detach().cpu() for name, value in model.state_dict().items()},
    }
    atomic.write_with(path, lambda file: torch.save(content, file))


def load_model(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Any:
    """Read a model; raises :class:`ArtifactError` when the file is missing, damaged or of another kind."""
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself does not compare the checksums that it wrote
            damaged = archive.testzip()
        if damaged:
            raise ValueError(f"the checksum of {damaged} differs")
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"its schema version is {content['schema_version']}, not {SCHEMA_VERSION}")
        options = ModelOptions.model_validate(content["options"])
        model = build_model(content["frames"], tuple(content["frame_size"]), options, seed=0)
        model.load_state_dict(content["state"])
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing", cure="run the workflow again") from error
    except Exception as error:  # torch raises many kinds for a damaged or foreign file
        raise ArtifactError(f"{path} is not a motion model", _reason(error), "delete it and run again") from error
    return model.to(device).requires_grad_(False).eval()


def _reason(error: Exception) -> str:
    """The first sentence of an error's text; torch's go on with advice to load the file unsafely."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__} {lines[0].split('. ')[0]}".strip()
