"""What every flow back-end offers, and how one is found by its name.

A back-end is one file of this package, named as in the configuration (``correspond/<name>.py``), which binds
``BACKEND`` to a class with the interface of :class:`FlowBackend`. The file is imported when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from everypoint.artifacts.video import VideoMeta
from everypoint.config.lookup import find_backend
from everypoint.config.options import FlowOptions

if TYPE_CHECKING:
    import torch


class FlowSession(Protocol):
    """The flows of one video. A session may cache what it knows of a frame, within bounded memory."""

    def flows(self, source: int, targets: Sequence[int]) -> np.ndarray:
        """Flows float32 [n, H, W, 2] from ``source`` to each target, in pixels of the frames.

        Index point p of ``source`` lies at p + flow(p) in the target. The result depends on the frames, the options,
        ``source`` and ``targets`` only: not on what was asked before.
        """
        ...


@runtime_checkable
class GroupedFlows(Protocol):
    """What a session has besides, when it computes several sources at once: see :mod:`everypoint.correspond.sweeps`."""

    @property
    def group_size(self) -> int:
        """How many sources it takes together."""
        ...

    def group_flows(
        self, plan: Mapping[int, Sequence[int]], advance: Callable[[int], None]
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Each source of ``plan`` {source: targets} with its flows [n, H, W, 2], as soon as they are complete.

        The flows are encoded (int16, :func:`everypoint.artifacts.flows.encode_flow`). ``advance`` hears the number of
        pairs of each call. The result depends on the frames, the options and the whole of ``plan`` only.
        """
        ...


class FlowBackend(Protocol):
    """A way of computing flows, with its options and its device."""

    def __init__(self, options: FlowOptions, device: torch.device | str) -> None: ...

    def describe(self) -> dict[str, Any]:
        """All that its flows depend on besides the frames, as JSON-like values (part of the fingerprint of a shard)."""
        ...

    def open(self, frames: np.ndarray) -> FlowSession:
        """A session over frames uint8 [T, H, W, 3] RGB."""
        ...


@runtime_checkable
class StoredFlows(Protocol):
    """What a back-end has besides, whose flows are on disk already; its session may have :class:`StoredMasks`."""

    def locate(
        self, plan: Mapping[int, Sequence[int]], frames: np.ndarray, place: Path | None, meta: VideoMeta
    ) -> dict[int, list[int]]:
        """The part of a plan of pairs whose flows are in the user's folder ``place``; comes before all else.

        With (i, j) the part holds (j, i). Raises :class:`everypoint.errors.InputError` when there is no such folder,
        it is not the video's, or it holds none of the pairs.
        """
        ...


@runtime_checkable
class StoredMasks(Protocol):
    """What a session has besides, when masks may lie beside its flows."""

    def masks(self, source: int, targets: Sequence[int]) -> np.ndarray | None:
        """Flags uint8 [n, H, W] (CYCLE, OCCLUDED) of each pixel of ``source``; None where masks are missing."""
        ...


def flow_backend(options: FlowOptions, device: torch.device | str = "cpu") -> FlowBackend:
    """The back-end that ``options.backend`` names; raises :class:`ConfigError` when there is none."""
    return find_backend(__package__, options.backend, "flow", "see flow.backend in the reference")(options, device)
