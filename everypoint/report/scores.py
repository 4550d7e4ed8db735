"""The metrics by name: how each is labelled and written; protocols in words; means over videos."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """One column: how its stored value is shown and which way is better (+1 higher, -1 lower, 0 neither)."""

    key: str
    label: str
    unit: str
    help: str
    factor: float = 1.0
    digits: int = 1
    better: int = 1

    def text(self, value: float | None) -> str:
        """The shown number; a dash for none."""
        value = finite(value)
        return "–" if value is None else f"{value * self.factor:.{self.digits}f}"  # noqa: RUF001


MAIN = (
    Metric(
        "average_jaccard", "AJ", "%", "average Jaccard: position and visibility together, mean of 5 thresholds", 100
    ),
    Metric("average_pts_within_thresh", "δ avg", "%", "visible points within 1, 2, 4, 8, 16 px, mean", 100),
    Metric("occlusion_accuracy", "OA", "%", "frames whose visibility is predicted right", 100),
    Metric("temporal_coherence", "TC", "px", "temporal coherence: error of the acceleration", 1, 2, -1),
    Metric("d_avg", "d avg", "%", "PIPs++: valid points within 1, 2, 4, 8, 16 px, mean; queries of frame 0"),
    Metric("survival_16", "Survival", "%", "PIPs++: share of frames before a track is first off by more than 16 px"),
    Metric("median_l2", "Median L2", "px", "PIPs++: median error of a track, mean over tracks", 1, 2, -1),
    Metric("queries", "Queries", "", "query points scored", 1, 0, 0),
)
COUNTS = ("queries", "pips_queries")  # summed over videos, not averaged
BY_THRESHOLD = tuple(
    Metric(f"{stem}_{threshold}", f"{label} {threshold}", "%", f"{text} {threshold} px", 100)
    for stem, label, text in (("pts_within", "δ", "visible points within"), ("jaccard", "J", "Jaccard at"))
    for threshold in (1, 2, 4, 8, 16)
)


def finite(value: object) -> float | None:
    """The value as a float, None for None, NaN, infinity and anything that is not a number."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


@dataclass(frozen=True)
class Mean:
    """Means of every score over videos, and over how many of ``videos`` each was taken."""

    values: Mapping[str, float | None]
    counted: Mapping[str, int]
    videos: int

    def missing(self, key: str) -> int:
        """How many of the videos have no value of this score."""
        return self.videos - self.counted.get(key, 0)

    @property
    def notes(self) -> list[str]:
        """One sentence a score that some video lacks."""
        return [f"{key}: mean of {n} of {self.videos} videos" for key, n in self.counted.items() if n < self.videos]


def mean_scores(rows: Sequence[Mapping[str, Any]]) -> Mean:
    """The plain mean of each score over videos, leaving out those without a finite value; counts are summed."""
    values, counted = {}, {}
    for key in dict.fromkeys(key for row in rows for key in row):
        known = [value for value in (finite(row.get(key)) for row in rows) if value is not None]
        counted[key] = len(known)
        total = math.fsum(known)
        values[key] = total if key in COUNTS else total / len(known) if known else None
    return Mean(values, counted, len(rows))


def protocol_short(protocol: Mapping[str, Any], mode: str) -> list[str]:
    """The protocol in a few words, for beside a number: ``strided/5``, ``32 frames``, ``worked at 854×480``, ..."""
    stride = f"/{protocol['query_stride']}" if mode == "strided" and protocol.get("query_stride") else ""
    parts = [mode + stride]
    if protocol.get("frames"):
        parts.append(f"{protocol['frames']} frames")
    if protocol.get("working_size"):
        parts.append(f"worked at {_size(protocol['working_size'])}")
    if protocol.get("scored_size"):
        parts.append(f"scored at {_size(protocol['scored_size'])}")
    return parts


def flat_protocol(protocol: Mapping[str, Any]) -> dict[str, str]:
    """Every entry of a protocol as text, for the table file: sizes as ``HxW``, lists with blanks."""
    flat = {}
    for key, value in sorted(protocol.items()):
        if key == "query_modes":  # the row says its mode
            continue
        if isinstance(value, (list, tuple)):
            flat[key] = ("x" if key.endswith("size") else " ").join(str(item) for item in value)
        else:
            flat[key] = "" if value is None else str(value)
    return flat


def common_protocol(protocols: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Entries that all agree on; ``mixed`` where they do not."""
    rows = list(protocols)
    keys = dict.fromkeys(key for row in rows for key in row)
    return {
        key: values.pop() if len(values) == 1 else "mixed"
        for key in keys
        for values in [{row.get(key, "") for row in rows}]
    }


def _size(size: Sequence[int]) -> str:
    """(H, W) as people say it, width first."""
    return f"{size[1]}×{size[0]}"  # noqa: RUF001
