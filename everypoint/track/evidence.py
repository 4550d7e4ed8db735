"""What the flows, frames and features of a video say of where a point goes in one step."""

from __future__ import annotations

import numpy as np

from everypoint.artifacts.flows import FlowStore
from everypoint.config.options import ChainOptions
from everypoint.track.appearance import Appearance
from everypoint.track.boundary import alternatives
from everypoint.track.chain import step
from everypoint.track.rival import the_better


class Cut:
    """The flows between some successive frames of a store, counted from the first of them."""

    def __init__(self, store: FlowStore, first: int) -> None:
        self._store, self._first = store, first
        self.size: tuple[int, int] = store.size

    def has(self, i: int, j: int) -> bool:
        """Whether there is a flow i -> j."""
        return self._store.has(i + self._first, j + self._first)

    def sample(self, i: int, j: int, xy: np.ndarray) -> np.ndarray:
        """The flow i -> j at points, see :meth:`FlowStore.sample`."""
        return self._store.sample(i + self._first, j + self._first, xy)


class Evidence:
    """Flows of one video, with the frames and features that judge them.

    Args:
        store: flows between frames, both ways.
        options: which of them count, and how.
        features: float16 [T, h, w, C] of the appearance check, or None: all is alike.
        images: uint8 [T, H, W, 3] of the frames; needed where they judge (``boundary_radius``, ``slip_fall``, a rival).
        rival: flows of a second network between some of the frames, or None.
    """

    def __init__(
        self,
        store: FlowStore | Cut,
        options: ChainOptions,
        features: np.ndarray | None = None,
        images: np.ndarray | None = None,
        rival: FlowStore | Cut | None = None,
    ) -> None:
        if (options.boundary_radius or options.slip_fall or rival is not None) and images is None:
            raise ValueError("flows that compete, and slips, can only be judged by the frames")
        self.store, self.options, self.features, self.images = store, options, features, images
        self.size: tuple[int, int] = store.size
        self.rival = None if rival is None else Evidence(rival, options, None, images)

    def step(self, i: int, j: int, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Carry index points [N, 2] from frame i to j -> (points [N, 2], forward-backward error [N] in pixels)."""
        own = self._own_step(i, j, xy)
        if self.rival is None or not self.rival.both_ways(i, j) or not len(xy):
            return own
        return the_better(self.images[i], self.images[j], xy, own, self.rival.step(i, j, xy))

    def _own_step(self, i: int, j: int, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        there, error = step(self.store, i, j, xy)
        if not self.options.boundary_radius or not len(xy):
            return there, error
        better = alternatives(
            self.store, self.images, i, j, xy, there, self.options.boundary_radius, self.options.boundary_gain
        )
        there[better.rows], error[better.rows] = better.xy, better.error
        return there, error

    def between(self, first: int, last: int) -> Evidence:
        """What is said of the frames ``first`` to ``last`` (exclusive) alone, counted from the first."""
        frames = slice(first, last)
        features, images = (None if of is None else of[frames] for of in (self.features, self.images))
        rival = None if self.rival is None else Cut(self.rival.store, first)
        return Evidence(Cut(self.store, first), self.options, features, images, rival)

    def both_ways(self, i: int, j: int) -> bool:
        """Whether there are flows i -> j and j -> i."""
        return self.store.has(i, j) and self.store.has(j, i)

    def neighbours(self, t: int, frames: int) -> list[int]:
        """Frames before and after t, of ``frames``, with flows to and from it at the options' gaps."""
        candidates = [t + sign * gap for gap in self.options.intervals for sign in (-1, 1)]
        return [s for s in candidates if 0 <= s < frames and self.both_ways(s, t)]

    def appearance(self, queries: np.ndarray) -> Appearance:
        """Compares points with queries [N, 3] (t, x, y index)."""
        return Appearance(self.features, self.size, queries)
