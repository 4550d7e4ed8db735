"""Tracks on disk: ``tracks.npz`` and ``tracks.csv``, in raster coordinates of the original frame."""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from everypoint.artifacts import atomic
from everypoint.errors import ArtifactError

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Tracks:
    """Tracks of N queries over T frames.

    Attributes:
        tracks: float32 [T, N, 2], raster (x, y) in pixels of a frame of ``frame_size``.
        visibility: bool [T, N].
        confidence: float32 [T, N], 0..1.
        queries: float32 [N, 3], (t, x, y); the track passes through its query exactly, visible.
        query_ids: str [N].
        frame_size: (H, W) of the original frames.
        fps: frames a second of the frames tracked.
        meta: what made them (preset, options hash, versions, coordinate system).
    """

    tracks: np.ndarray
    visibility: np.ndarray
    confidence: np.ndarray
    queries: np.ndarray
    query_ids: np.ndarray
    frame_size: tuple[int, int]
    fps: float
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        frames, points = self.visibility.shape
        expected = {"tracks": (frames, points, 2), "confidence": (frames, points), "queries": (points, 3)}
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} has shape {getattr(self, name).shape}, expected {shape}")
        if len(self.query_ids) != points:
            raise ValueError(f"{len(self.query_ids)} query ids for {points} queries")


def save_tracks(path: str | os.PathLike[str], tracks: Tracks) -> None:
    """Write ``tracks.npz``; equal tracks give equal bytes."""
    atomic.save_npz(
        path,
        tracks=tracks.tracks.astype(np.float32),
        visibility=tracks.visibility.astype(bool),
        confidence=tracks.confidence.astype(np.float32),
        queries=tracks.queries.astype(np.float32),
        query_ids=np.asarray(tracks.query_ids, dtype=np.str_),
        frame_size=np.array(tracks.frame_size, np.int64),
        fps=np.float64(tracks.fps),
        schema_version=np.int64(SCHEMA_VERSION),
        meta=np.array(json.dumps(tracks.meta, sort_keys=True)),
    )


def load_tracks(path: str | os.PathLike[str]) -> Tracks:
    """Read ``tracks.npz``; raises :class:`ArtifactError` when it is damaged or of another kind."""
    data = atomic.load_npz(path)
    try:
        height, width = (int(value) for value in data["frame_size"])
        return Tracks(
            **{name: data[name] for name in ("tracks", "visibility", "confidence", "queries", "query_ids")},
            frame_size=(height, width),
            fps=float(data["fps"]),
            meta=json.loads(str(data["meta"])),
        )
    except (KeyError, ValueError) as error:
        raise ArtifactError(f"{path} is not a tracks file", str(error), "make it again") from error


def save_tracks_csv(path: str | os.PathLike[str], tracks: Tracks) -> None:
    """One row a (query, frame): id, t, time_s, x, y, visible, confidence; raster pixels of the original frame."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "t", "time_s", "x", "y", "visible", "confidence"])
    for n, name in enumerate(tracks.query_ids):
        label = _spreadsheet_safe(str(name))
        for t in range(len(tracks.tracks)):
            x, y = tracks.tracks[t, n]
            row = [label, t, f"{t / tracks.fps:.4f}", f"{x:.3f}", f"{y:.3f}"]
            writer.writerow([*row, int(tracks.visibility[t, n]), f"{tracks.confidence[t, n]:.3f}"])
    atomic.write_text(path, text.getvalue())


def _spreadsheet_safe(text: str) -> str:
    """A cell that a spreadsheet would run as a formula is quoted; a bare carriage return, which ends a row, goes."""
    quoted = "'" + text if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
    return quoted.replace("\r", " ")
