"""Several processes that train one network: what torchrun sets up, and the few words that they exchange."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Ranks:
    """The processes of a training: this one's number, and how many there are.

    Args:
        rank: this process's number.
        world: how many there are.
        local: this process's number on its machine, which is its GPU's too.
    """

    def __init__(self, rank: int = 0, world: int = 1, local: int = 0) -> None:
        self.rank, self.world, self.local = rank, world, local

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and log."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        if self.world > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def any(self, here: bool, device: torch.device) -> bool:
        """Whether it holds in any process."""
        if self.world == 1:
            return here
        return bool(self.sum(torch.tensor(float(here), device=device)).item())

    def barrier(self) -> None:
        """Wait for all."""
        if self.world > 1:
            dist.barrier()

    def wrap(self, network: nn.Module, device: torch.device) -> nn.Module:
        """The network whose gradients are averaged over all processes."""
        if self.world == 1:
            return network
        return nn.parallel.DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)


@contextmanager
def ranks() -> Iterator[Ranks]:
    """The processes that torchrun started (RANK, WORLD_SIZE, LOCAL_RANK), or this one alone."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks()
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(local % torch.cuda.device_count())
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Ranks(dist.get_rank(), world, local)
    finally:
        dist.destroy_process_group()
