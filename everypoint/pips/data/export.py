"""Export of training clips: every window of every sequence, drawn with a seed of its own, written as mp4 and npz.

Any number of writers may work on one folder, on any machines that share it. A writer claims a clip by a lock on one
byte of the file ``.claims``; the system gives it back when the writer ends, however it ends. Where the file system has
no locks, each writer starts at a place of its own, and two that meet write the same bytes. A window that gives no clip
leaves its reason in ``.failed``, so it is not tried again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from everypoint.artifacts import atomic
from everypoint.artifacts.folder import fingerprint_of
from everypoint.config.options_export import ExportOptions
from everypoint.errors import ArtifactError, InputError, ResourceError
from everypoint.pips.data import clip_files
from everypoint.pips.data.odyssey import SequenceFolder, Window, sequence_folders, windows
from everypoint.pips.data.pipeline import REASONS, SampleOptions, draw
from everypoint.progress import Progress

VERSION = 1  # of what a clip holds: raise it when the same options would give other clips
INDEX, MADE_WITH = "index.json", ".made_with.json"
UNREADABLE = "unreadable"
PAUSE = 0.5  # seconds between looks at a clip that another writer has claimed

log = logging.getLogger(__name__)


def export_name(options: ExportOptions) -> str:
    """``aa_36_128_256x384``."""
    return f"{options.name}_{options.frames}_{options.points}_{options.size[0]}x{options.size[1]}"


@dataclass(frozen=True)
class Export:
    """What is exported where.

    Attributes:
        folder: the export's own folder.
        options: of the samples.
        seed: of every draw.
        label: name of the lines in the log.
        sequences: the source, in the order of the index.
        windows: the candidates; clip ``index`` is of window ``index``.
    """

    folder: Path
    options: SampleOptions
    seed: int
    label: str
    sequences: list[SequenceFolder]
    windows: list[Window]

    @property
    def shape(self) -> tuple[int, int]:
        """(S, N)."""
        return self.options.frames, self.options.points


# ------------------------------------------------------------------------------------------------------- index


def write_index(folder: str | Path, options: ExportOptions, seed: int) -> dict[str, Any]:
    """List the sequences and all that the clips depend on as ``index.json`` in the export's folder; returns the list.

    Raises :class:`InputError` when no root is given, when it gives no window, or when the folder holds clips of other
    options, another seed or other sequences.
    """
    if options.root is None:
        raise InputError("no clips can be exported", "pips.export.root is not set", "name the folder of PointOdyssey")
    sequences = sequence_folders(options.root, options.split)
    count = len(windows([one.count for one in sequences], options.frames, options.strides, options.step))
    if not count:
        raise InputError(
            f"{options.root} gives no clip of {options.frames} frames",
            f"its longest sequence of split {options.split} has {max(one.count for one in sequences)} frames",
            "lower frames",
        )
    places = {"root", "folder", "name", "shards"}
    depends = {
        "version": VERSION,
        "seed": seed,
        "options": options.model_dump(mode="json", exclude=places),
        "sequences": [{"name": one.name, "frames": one.count} for one in sequences],
    }
    index = {**depends, "clips": count, "root": str(Path(options.root).absolute()), "name": options.name}
    index["fingerprint"] = fingerprint_of(depends)
    # Snakemake removes the outputs of a job that it runs again, so what the clips were made with is noted beside them.
    there = Path(folder) / MADE_WITH
    if there.exists() and atomic.read_json(there) != {"fingerprint": index["fingerprint"]}:
        raise InputError(
            f"{folder} holds clips made with other options or from other sequences",
            cure="give pips.export another name, or delete that folder",
        )
    atomic.write_json(there, {"fingerprint": index["fingerprint"]})
    atomic.write_json(Path(folder) / INDEX, index)
    return index


def open_export(folder: str | Path) -> Export:
    """The export that ``index.json`` describes; raises :class:`InputError` when its source has changed since."""
    index = atomic.read_json(Path(folder) / INDEX)
    options = ExportOptions.model_validate({**index["options"], "root": index["root"], "name": index["name"]})
    sequences = sequence_folders(options.root, options.split)
    if [{"name": one.name, "frames": one.count} for one in sequences] != index["sequences"]:
        raise InputError(
            f"{options.root} has changed since {Path(folder) / INDEX} was made", cure="run pips_index again"
        )
    resize = tuple(max(part, side + 16) for part, side in zip(options.resize, options.size, strict=True))
    samples = SampleOptions(
        options.frames,
        options.points,
        options.size,
        resize,
        options.augment,
        options.require_full,
        options.compat,
    )
    label = f"{options.frames}{'_A' * options.augment}_em00_{options.name}_{time.strftime('%H%M%S')}"
    chosen = windows([one.count for one in sequences], options.frames, options.strides, options.step)
    return Export(Path(folder), samples, index["seed"], label, sequences, chosen)


# ------------------------------------------------------------------------------------------------------ writer


def export_clips(export: Export, chosen: range) -> dict[str, Any]:
    """Make every clip of a range that is not there; returns the counts of :func:`count_clips` over the range.

    Windows of files that cannot be read are counted under ``unreadable`` and tried again by the next run. Raises
    :class:`everypoint.errors.ResourceError` when the disk is full and :class:`MissingPackageError` without
    albumentations.
    """
    writer = _Writer(export, chosen)
    with _claims(export.folder / ".claims") as claims:
        rest = [index for index in chosen if not _is_settled(export, index)]
        if len(rest) < len(chosen):
            log.info("%d of %d clips are settled already", len(chosen) - len(rest), len(chosen))
        with Progress(len(chosen), export.label, unit="clips", skipped=len(chosen) - len(rest)) as progress:
            turn = 0 if claims.work else os.getpid() % max(len(rest), 1)
            waiting = []
            for index in rest[turn:] + rest[:turn]:
                if claims.take(index):
                    writer.settle(index)
                    claims.give(index)
                else:
                    waiting.append(index)
                    continue
                progress.advance()
            for index in waiting:  # others have them; whatever they leave is done here
                while not claims.take(index):
                    time.sleep(PAUSE)
                writer.settle(index)
                claims.give(index)
                progress.advance()
    return count_clips(export, chosen) | {UNREADABLE: writer.unreadable}


class _Writer:
    """Makes clips one by one; keeps the annotations of the last sequences."""

    def __init__(self, export: Export, chosen: range) -> None:
        self.export, self.total, self.step = export, len(chosen), 0
        self.unreadable: list[str] = []
        self._annotations = lru_cache(maxsize=2)(lambda number: export.sequences[number].annotations())

    def settle(self, index: int) -> None:
        """Write a clip or the reason why there is none, unless either is there."""
        if _is_settled(self.export, index):
            return
        start = time.monotonic()
        self.step += 1
        window = self.export.windows[index]
        folder = self.export.sequences[window.sequence]
        frames = window.frames(self.export.options.frames)
        try:
            annotations = self._annotations(window.sequence)
            drawn = draw(folder, annotations, frames, self.export.options, (self.export.seed, index, 0))
        except (InputError, ArtifactError) as error:
            log.warning("clip %06d: %s", index, error)
            self.unreadable.append(str(error))
            return
        read = time.monotonic() - start
        if drawn.frames is None:
            log.info("%s%s", drawn.text, " x" * (drawn.reason == "valid"))
            atomic.write_json(_failed(self.export, index), {"reason": drawn.reason, "text": drawn.text})
        else:
            if drawn.text:
                log.info("%s", drawn.text)
            source = {"sequence": folder.name, "stride": window.stride, "start": window.start, "seed": self.export.seed}
            clip_files.write_clip(clip_files.clip_folder(self.export.folder, index), drawn.frames, drawn.table, source)
        took = time.monotonic() - start
        numbers = f"step {self.step:06d}/{self.total}; this_step {index:06d}; rtime {read:.2f}; itime {took:.2f}"
        log.info("%s; %s", self.export.label, numbers)


def _failed(export: Export, index: int) -> Path:
    return export.folder / ".failed" / f"{index // 1000:03d}" / f"{index:06d}.json"


def _is_settled(export: Export, index: int) -> bool:
    """Whether the clip is there and whole, or the reason why there is none."""
    if clip_files.is_whole(clip_files.clip_folder(export.folder, index), export.shape):
        return True
    return _reason(export, index) is not None


def _reason(export: Export, index: int) -> str | None:
    path = _failed(export, index)
    try:
        reason = atomic.read_json(path)["reason"] if path.exists() else None
    except (ArtifactError, KeyError, TypeError):
        return None
    return reason if reason in REASONS else None


def count_clips(export: Export, chosen: range) -> dict[str, Any]:
    """``{"total", "clips", "failed": {reason: count}}`` of a range, by what is in the folder."""
    reasons = Counter(reason for index in chosen if (reason := _reason(export, index)))
    there = sum(os.path.exists(clip_files.clip_folder(export.folder, i) / clip_files.TRACKS) for i in chosen)
    return {"total": len(chosen), "clips": there, "failed": {name: reasons[name] for name in REASONS}}


# ------------------------------------------------------------------------------------------------------ claims


class _Claims:
    """Locks on single bytes of one open file; all are given back when the process ends."""

    def __init__(self, file: int | None) -> None:
        self._file = file

    @property
    def work(self) -> bool:
        """Whether the file system has locks."""
        return self._file is not None

    def take(self, index: int) -> bool:
        """Claim a clip; False when another process has it."""
        if self._file is None:
            return True
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, index)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            log.debug("no locks on this file system: %s", error)
            self._file = None
        return True

    def give(self, index: int) -> None:
        """Give a clip back."""
        if self._file is not None:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, index)


@contextlib.contextmanager
def _claims(path: Path) -> Iterator[_Claims]:
    """The claims on the clips of a folder, through one file that lies in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise ResourceError(f"cannot write {path}", error.strerror or str(error), "check its permissions") from error
    try:
        claims = _Claims(file)
        if claims.take(2**40):  # far behind the last clip: finds out whether there are locks
            claims.give(2**40)
        yield claims
    finally:
        os.close(file)
