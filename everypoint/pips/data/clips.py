"""The reader of exported clips, as training takes them."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import numpy as np

from everypoint.errors import InputError
from everypoint.pips.clip import Clip
from everypoint.pips.data import clip_files
from everypoint.pips.data.augment import augment_colours
from everypoint.pips.data.pipeline import empty_clip, single_threaded, to_clip

NAME = re.compile(r"\d{6,}")

log = logging.getLogger(__name__)


class ClipDataset:
    """The clips of an export folder.

    Args:
        folder: it holds ``000000/``, ``000001/``, ... each with ``rgb.mp4`` and ``track.npz``.
        frames: S; every clip must have as many.
        points: N, at most as many as are stored; they are drawn at random, those known at the start first.
        size: (H, W) that every clip must have.
        augment: whether colours are augmented.
        seed: of every draw.
        compat: as published: tracks without regard to their validity, colours augmented with red and blue swapped.

    Raises:
        InputError: the folder holds no finished clip.
    """

    def __init__(
        self,
        folder: str | Path,
        frames: int,
        points: int,
        size: tuple[int, int],
        augment: bool,
        seed: int,
        *,
        compat: bool = False,
    ) -> None:
        self.folder, self.frames, self.points, self.size = Path(folder), frames, points, tuple(size)
        self.augment, self.seed, self.compat = augment, seed, compat
        self.names = sorted(_finished(self.folder))
        if not self.names:
            raise InputError(
                f"{self.folder} holds no clip",
                f"a clip is a folder such as 000000 with {clip_files.VIDEO} and {clip_files.TRACKS}",
                "export clips first (snakemake pips_export), or name the folder that holds them",
            )
        log.info("found %d folders in %s", len(self.names), self.folder)

    def __len__(self) -> int:
        return len(self.names)

    def sample(self, index: int, epoch: int = 0) -> Clip:
        """Clip ``index`` as drawn in ``epoch``; ``ok`` is False and all is zero where its video is damaged.

        Raises :class:`InputError` when the clip has another size, length or number of tracks than was asked for.
        """
        single_threaded()
        folder = self.folder / self.names[index]
        table = clip_files.read_table(folder)
        if len(table) != self.frames or table.shape[1] < self.points:
            has, asked = f"{len(table)} frames and {table.shape[1]} tracks", f"{self.frames} and {self.points}"
            raise self._unlike(folder, has, asked)
        frames = clip_files.read_frames(folder, self.size, self.frames)
        if frames and frames[0].shape[:2] != self.size:
            raise self._unlike(folder, "frames of {}x{}".format(*frames[0].shape[:2]), "{}x{}".format(*self.size))
        if len(frames) < self.frames:
            log.warning("corrupted mp4 in %s (%d frames); returning fake", folder, len(frames))
            return empty_clip(self.frames, self.points, self.size)
        rng = np.random.default_rng([self.seed, index, epoch])
        table = table[:, self._choice(table, rng)]
        return to_clip(self._coloured(frames, rng) if self.augment else frames, table)

    def _choice(self, table: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        order = rng.permutation(table.shape[1])
        if not self.compat:
            order = order[np.argsort(table[0, order, 3] <= 0, kind="stable")]
        return order[: self.points]

    def _coloured(self, frames: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
        if not self.compat:
            return augment_colours(frames, rng)
        swapped = augment_colours([np.ascontiguousarray(frame[..., ::-1]) for frame in frames], rng)
        return [frame[..., ::-1] for frame in swapped]

    def _unlike(self, folder: Path, has: str, asked: str) -> InputError:
        return InputError(
            f"clip {folder} cannot be used",
            f"it has {has}, and {asked} are asked for",
            "set frames, points and size as the clips were exported, or export clips of these",
        )


def _finished(folder: Path) -> list[str]:
    """Names of the clips whose tracks, which are written last, are there."""
    try:
        with os.scandir(folder) as items:
            names = [item.name for item in items if NAME.fullmatch(item.name)]
    except OSError as error:
        raise InputError(f"the folder of clips {folder} cannot be opened", error.strerror or str(error)) from error
    return [name for name in names if os.path.exists(folder / name / clip_files.TRACKS)]
