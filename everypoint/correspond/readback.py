"""Flows from the device to the host: encoded where they are, copied while the device goes on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from everypoint.artifacts.flows import NOT_REPRESENTABLE, SCALE

Item = TypeVar("Item")


def encode(flow: Tensor) -> Tensor:
    """As :func:`everypoint.artifacts.flows.encode_flow`, on the device: float flow (pixels) as int16 fixed point."""
    steps = torch.round(flow * SCALE)
    good = steps.abs() <= 32767  # false where not a number
    return torch.where(good, steps, float(NOT_REPRESENTABLE)).to(torch.int16)


class Host(NamedTuple):
    """A tensor on its way to the host."""

    tensor: Tensor
    ready: torch.cuda.Event | None  # None: it is there

    def get(self) -> np.ndarray:
        """The values, once they have arrived."""
        if self.ready is not None:
            self.ready.synchronize()
        return self.tensor.numpy()


def to_host(tensor: Tensor) -> Host:
    """Start copying; on CUDA the device goes on meanwhile."""
    if tensor.device.type != "cuda":
        return Host(tensor.cpu(), None)
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
    ready = torch.cuda.Event()
    ready.record()
    return Host(copy, ready)


def one_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The items, each once the next has been asked for: the device computes a call while the last one is stored."""
    waiting: list[Item] = []
    for item in items:
        yield from waiting
        waiting = [item]
    yield from waiting
