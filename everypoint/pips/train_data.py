"""Training samples: which clip, drawn how and started from where, follows from the seed and the sample's number alone.

Sample n of a run is the same whatever the number of workers, of processes or of interruptions.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from everypoint.errors import InputError
from everypoint.pips.clip import Clip
from everypoint.pips.loss import start_positions, transposed

logger = logging.getLogger(__name__)
TRIES = 16  # clips that are tried in place of one that cannot be used
_ORDER, _START, _TRANSPOSE, _INSTEAD = range(4)  # streams of random numbers


class Clips(Protocol):
    """A data set of training clips."""

    def __len__(self) -> int: ...

    def sample(self, index: int, epoch: int) -> Clip:
        """One clip as drawn in an epoch."""
        ...


class Batch(NamedTuple):
    """Samples of one size, on the CPU."""

    rgb: Tensor  # uint8 [B, S, 3, H, W]
    trajs: Tensor  # float32 [B, S, N, 2]
    visibs: Tensor  # float32 [B, S, N]
    valids: Tensor  # float32 [B, S, N]
    start: Tensor  # float32 [B, S, N, 2]

    def clip(self, index: int) -> Clip:
        """One of its samples."""
        parts = (self.rgb, self.trajs, self.visibs, self.valids)
        return Clip(*(part[index].numpy() for part in parts), True)


class Samples(Dataset):
    """The samples of a run by their number.

    Args:
        clips: the data set, run through in a new order in each epoch; what is left of it at the end of an epoch and
            fills no whole batch is dropped.
        batch: samples of a whole batch, over all processes; they are transposed together or not.
        seed: of all draws.
        transpose: whether half of the batches are transposed.
    """

    def __init__(self, clips: Clips, batch: int, seed: int, *, transpose: bool) -> None:
        if len(clips) < batch:
            raise InputError(
                f"{len(clips)} clips are too few for batches of {batch}", cure="export more clips, or lower train.batch"
            )
        self.clips, self.batch, self.seed, self.transpose = clips, batch, seed, transpose
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0))

    def __getitem__(self, number: int) -> tuple[np.ndarray, ...]:
        """Sample ``number``: rgb, trajs, visibs, valids, start."""
        clip = self._clip(number)
        size = clip.rgb.shape[-2:]
        start = start_positions(clip.trajs, size, np.random.default_rng([self.seed, _START, number]))
        whole = number // self.batch
        if self.transpose and np.random.default_rng([self.seed, _TRANSPOSE, whole]).random() < 0.5:
            clip, start = transposed(clip), start[..., ::-1]
        arrays = (clip.rgb, clip.trajs, clip.visibs, clip.valids, start)
        return tuple(np.ascontiguousarray(array) for array in arrays)

    def _clip(self, number: int) -> Clip:
        epoch, place = divmod(number, len(self.clips) // self.batch * self.batch)
        if self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self.seed, _ORDER, epoch]).permutation(len(self.clips))
        clip = self.clips.sample(int(self._order[1][place]), epoch)
        instead = np.random.default_rng([self.seed, _INSTEAD, number])
        for _ in range(TRIES):
            if clip.ok:
                return clip
            clip = self.clips.sample(int(instead.integers(len(self.clips))), epoch)
        raise InputError(f"of {TRIES} clips none can be used", cure="look at the warnings before, and export anew")


class _Numbers:
    """Numbers of the samples of one process, batch by batch, from a step on."""

    def __init__(self, first: int, last: int, batch: int, rank: int, world: int) -> None:
        self._range, self._batch, self._rank, self._world = range(first, last), batch, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        for whole in self._range:
            start = (whole * self._world + self._rank) * self._batch
            yield list(range(start, start + self._batch))

    def __len__(self) -> int:
        return len(self._range)


def batches(
    samples: Samples, first: int, last: int, *, rank: int = 0, world: int = 1, workers: int = 0
) -> Iterator[Batch]:
    """Whole batches ``first`` to ``last - 1`` of a run, of each the part of process ``rank`` of ``world``."""
    numbers = _Numbers(first, last, samples.batch // world, rank, world)
    loader = DataLoader(
        samples,
        batch_sampler=numbers,
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=_start_worker,
        prefetch_factor=2 if workers else None,
    )
    yield from loader


def _collate(samples: list[tuple[np.ndarray, ...]]) -> Batch:
    return Batch(*(torch.from_numpy(np.stack(arrays)) for arrays in zip(*samples, strict=True)))


def _start_worker(_: int) -> None:
    """One thread a worker, and signals are for the process that saves."""
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
