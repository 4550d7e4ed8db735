"""PIPs++ measured on annotated videos: TAP-Vid-DAVIS, CroHD, PointOdyssey.

Every video is run at one size, from its first frame, by the driver of long videos; positions are compared at that size.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from everypoint.config.options_pips import PipsTestOptions
from everypoint.geometry import raster_to_index
from everypoint.pips.clip import Sequence
from everypoint.pips.driver import Features, Plan, follow, to_network
from everypoint.pips.metrics import pips_metrics
from everypoint.pips.network import PipsInference
from everypoint.pips.train_log import Pool
from everypoint.video.images import decode_image
from everypoint.video.tapvid import Item, index_of, load_item, pickles_of

logger = logging.getLogger(__name__)


class Published(NamedTuple):
    """What the authors give for their checkpoint."""

    d_avg: float
    survival_16: float
    median_l2: float


PUBLISHED = {  # the repository's figures, which differ from the paper's
    "tapvid": Published(70.6, 89.3, 6.9),
    "crohd": Published(50.6, 50.6, 19.7),
    "odyssey": Published(31.3, 32.7, 33.0),
}
SHORT = {"tapvid": "tap01", "crohd": "cro02", "odyssey": "pod05"}  # in the names of runs


def tapvid_sequences(dataset: Path, *, compat: bool = False) -> Iterator[Sequence]:
    """Videos of a TAP-Vid pickle with the points that are visible in frame 0; a frame counts where the point is seen.

    Stored positions are shares of the frame. By the data set's own convention they are raster coordinates; ``compat``
    multiplies by (W - 1, H - 1) as the published test does, up to a pixel off at the right and at the bottom.
    """
    for path in pickles_of(dataset):
        for key in index_of(path):
            item = load_item(path, key)
            frames = _Frames(item, f"{path.name}, {key}")
            height, width = frames.size
            seen = ~item.occluded
            chosen = seen[:, 0]
            if not chosen.any():
                logger.warning("%s: no point is visible in frame 0, it is left out", key)
                continue
            shares = np.nan_to_num(item.points[chosen])  # hidden points may be no numbers
            xy = shares * np.array([width - 1, height - 1])
            if not compat:
                xy = raster_to_index(shares * np.array([width, height]))
            visibs = seen[chosen].T.astype(np.float32)
            trajs = xy.transpose(1, 0, 2).astype(np.float32)
            yield Sequence(key, frames.load, len(item.video), frames.size, trajs, visibs, visibs)


class _Frames:
    """The frames of a TAP-Vid video, raw or encoded."""

    def __init__(self, item: Item, name: str) -> None:
        self._video, self._name = item.video, name
        first = self.load(0)
        self.size = (first.shape[0], first.shape[1])

    def load(self, number: int) -> np.ndarray:
        """uint8 [H, W, 3]."""
        frame = self._video[number]
        return frame if isinstance(frame, np.ndarray) else decode_image(frame, f"frame {number} of {self._name}")


def measure_sequence(inference: PipsInference, sequence: Sequence, options: PipsTestOptions) -> dict[str, float]:
    """Metrics of one video, at ``options.size``."""
    size = tuple(options.size)
    truth = to_network(sequence.trajs, sequence.size, size, compat=options.compat).astype(np.float32)
    features = Features(inference, sequence.load, sequence.count, size, keep=0)
    plan = Plan(options.window, options.iterations)
    found = follow(features, list(range(sequence.count)), truth[0], plan)
    return pips_metrics(found, truth, sequence.valids, size)


def measure_set(
    name: str, sequences: Iterable[Sequence], total: int | None, inference: PipsInference, options: PipsTestOptions
) -> dict[str, Any]:
    """Metrics of every video of a test set and their means, with a line a video as the published scripts print.

    Args:
        name: tapvid, crohd or odyssey.
        sequences: its videos.
        total: their number, for the lines; None where it is not known before.
        inference: the network.
        options: how it is run.
    """
    run = f"1_{options.window}_i{options.iterations}_{SHORT[name]}_{time.strftime('%H%M%S')}"
    pools = {key: Pool() for key in ("d_avg", "survival_16", "median_l2")}
    videos: dict[str, dict[str, float]] = {}
    read = time.monotonic()
    for step, sequence in enumerate(sequences, 1):
        started = time.monotonic()
        scores = measure_sequence(inference, sequence, options)
        videos[sequence.name] = scores
        for key, pool in pools.items():
            if math.isfinite(scores[key]):
                pool.add(scores[key])
        logger.info(
            "%s; step %06d/%s; rtime %.2f; itime %.2f; d_x %.1f; sur_x %.1f; med_x %.1f",
            run,
            step,
            total if total is not None else "?",
            started - read,
            time.monotonic() - started,
            *(pool.mean() for pool in pools.values()),
        )
        read = time.monotonic()
    names = sorted({key for scores in videos.values() for key in scores})
    mean = {key: _mean([scores[key] for scores in videos.values()]) for key in names}
    return {"name": name, "videos": videos, "mean": mean, "published": PUBLISHED[name]._asdict()}


def _mean(values: list[float]) -> float:
    """Plain mean over videos of what is a number."""
    good = [value for value in values if math.isfinite(value)]
    return float(np.mean(good)) if good else math.nan


def table(result: dict[str, Any]) -> str:
    """A text table of a test: each video, the mean, and what the authors give."""
    columns = ("d_avg", "survival_16", "median_l2")
    rows = [*result["videos"].items(), ("mean", result["mean"]), ("published", result["published"])]
    wide = max(len(name) for name, _ in rows)
    lines = [f"{result['name']:<{wide}}  {'  '.join(f'{column:>11}' for column in columns)}"]
    for name, scores in rows:
        lines.append(f"{name:<{wide}}  {'  '.join(f'{scores.get(c, math.nan):>11.1f}' for c in columns)}")
    return "\n".join(lines)
