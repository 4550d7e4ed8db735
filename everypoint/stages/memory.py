"""When a job runs out of memory: whether an error says so, and which options make its stage need less.

No library is imported for this: a job knows the errors of torch, numpy and OpenCV by their names and words.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

from everypoint.errors import ResourceError

_WORDS = re.compile(  # in errors of torch, CUDA's libraries and OpenCV that have no class of their own
    r"out of memory|can't allocate memory|not enough memory|Insufficient memory"
    r"|cudaErrorMemoryAllocation|CU(?:BLAS|SOLVER|SPARSE|DNN|FFT)_(?:STATUS_)?ALLOC_FAILED",
    re.IGNORECASE,
)
_ON_DEVICE = re.compile(r"\bcuda|\bcu(?:blas|solver|sparse|dnn|fft)_|\bHIP\b|\bGPU\b", re.IGNORECASE)
_SHORTER = "frames.max_side or frames.max_frames"
_TRAINING = "{}.batch and raise {}.accumulate by as much, then lower {}.points, {}.frames or {}.size"

# rule: what to lower, first what changes no result
LOWER = {
    "shots": _SHORTER,
    "frames": _SHORTER,
    "queries": "queries.grid",
    "flow": f"flow.batch, then flow.volume_gib (no finished result is made again), then flow.resolution, {_SHORTER}",
    "features": f"features.short_side, {_SHORTER}",
    "features_part": f"features.short_side, {_SHORTER}",
    "depth": _SHORTER,
    "sparse": f"cotracker.points_at_once (source cotracker), matches.budget_mb, sparse.per_pair, {_SHORTER}",
    "matches": f"matches.budget_mb, matches.per_pair, {_SHORTER}",
    "optimize": "matches.budget_mb, or the draws of a step (optimize.sampler.batch for model.kind planes,"
    " optimize.rays.pairs and optimize.rays.points for field and pixels, optimize.cadex.pairs and"
    " optimize.cadex.points for cadex)",
    "tracks": "pips.memory_gib (tracker pips2), cotracker.points_at_once (tracker cotracker), queries.grid,"
    f" {_SHORTER}",
    "overlay": "overlay.max_side, overlay.max_points",
    "export": "queries.grid",
    "evaluate": "queries.grid",
    "report": "report.max_video_mb",
    "pips_train": _TRAINING.replace("{}", "pips.train"),
    "pips_finetune": _TRAINING.replace("{}", "pips.finetune"),
    "pips_measure": "pips.test.memory_gib, then pips.test.window",
}


def shortage(error: BaseException, rule: str) -> ResourceError | None:
    """The error for a user when ``error`` means that memory ran out in a job of ``rule``; None otherwise."""
    found = next((item for item in _chain(error) if _is_shortage(item)), None)
    if found is None:
        return None
    on_device = _is_torchs(found) or bool(_ON_DEVICE.search(str(found)))
    where = "the GPU" if on_device else "the machine, or what the job may use of it,"
    cures = [
        f"lower {LOWER[rule]}" if rule in LOWER else "",
        "lower jobs.per_gpu" if on_device else "raise jobs.memory",
    ]
    cures[1] += " where jobs share the GPU" if on_device else " on a cluster"
    cure = "; or ".join(part for part in cures if part)
    return ResourceError(f"{where} has not enough memory for {rule}", _first_sentence(found), cure)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__


def _is_shortage(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or _is_torchs(error):  # numpy's is a MemoryError
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    spoken = isinstance(error, RuntimeError) or any(_full_name(kind) == "cv2.error" for kind in type(error).__mro__)
    return spoken and bool(_WORDS.search(str(error)))


def _is_torchs(error: BaseException) -> bool:
    """torch.OutOfMemoryError, also under the names it had; it speaks of devices alone."""
    return any(
        kind.__name__ == "OutOfMemoryError" and kind.__module__.partition(".")[0] == "torch"
        for kind in type(error).__mro__
    )


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__name__}"


def _first_sentence(error: BaseException) -> str:
    """What the library said, without its advice about settings of its own."""
    text = " ".join(str(error).split())
    return re.split(r"(?<=[^.\d])\. (?=[A-Z])|\. (?=GPU )", text)[0][:200]
