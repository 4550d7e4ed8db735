"""OmniMotion's and CaDeX++'s schedules as functions of the step, so that a resumed run finds its place.

The published steps are those of a run of 100,000 (CaDeX++: 22,000). ``scale`` stretches them: a run of 5,000 steps that
is to pass through the same phases has scale 0.05, and with scale 1 the numbers are the published ones. Options that are
shares of a run turn into steps with :func:`step_of`.
"""

from __future__ import annotations

import math

from everypoint.config.options import CadexLossOptions, CadexSamplerOptions, RayLossOptions, RaySamplerOptions

PUBLISHED_STEPS, CADEX_STEPS = 100_000, 22_000


def scale_of(steps: int, ramp_steps: float | None = None) -> float:
    """How much the published steps are stretched in a run of ``steps``; ``ramp_steps`` overrides the run's length."""
    return (steps if ramp_steps is None else ramp_steps) / PUBLISHED_STEPS


def cadex_scale(steps: int, ramp_steps: float | None = None) -> float:
    """The same for CaDeX++."""
    return (steps if ramp_steps is None else ramp_steps) / CADEX_STEPS


def step_of(share: float, steps: int) -> int:
    """The first step (0-based) after ``share`` of a run: ``step >= step_of(share, steps)`` is the time after it."""
    return round(share * steps)


def colour(step: int, scale: float = 1.0, weight: float = 10.0) -> float:
    """Weight of the colour terms: step / 5000, at most 10 (from step 50,000); ``weight`` replaces that 10."""
    return _clip(step / scale / 5000, 10) * weight / 10


def flow_difference(step: int, scale: float = 1.0, weight: float = 0.1) -> float:
    """Weight of the flow differences: step / 500,000, at most 0.1 (from step 50,000)."""
    return _clip(step / scale / 500_000, 0.1) * weight / 0.1


def distortion(step: int, scale: float = 1.0, weight: float = 10.0) -> float:
    """Weight of the distortion: nothing before step 40,000, then evenly up to 10 at step 60,000."""
    return _clip((step / scale - 40_000) / 2000, 10) * weight / 10


def loss_weights(step: int, steps: int, options: RayLossOptions) -> dict[str, float]:
    """Weights of all terms at a step of a run of ``steps``, by the names of :class:`RayLossOptions`."""
    scale = scale_of(steps, options.ramp_steps)
    return {
        "flow": options.flow,
        "colour": colour(step, scale, options.colour),
        "flow_difference": flow_difference(step, scale, options.flow_difference),
        "depth_range": options.depth_range,
        "distortion": distortion(step, scale, options.distortion),
        "acceleration": options.acceleration,
        "depth": options.depth,
        "depth_prior": options.depth_prior,
    }


def largest_gap(step: int, frames: int, options: RaySamplerOptions, scale: float = 1.0) -> int:
    """Half-width of the window of frames that pairs are drawn from: 20 + step // 2000, at most T - 1."""
    return min(options.start_interval + _periods(step, scale, options.grow_every), frames - 1)


def rate(step: int, scale: float = 1.0, every: int = 20_000, factor: float = 0.5) -> float:
    """Multiplier of the learning rates: times ``factor`` after every ``every`` steps."""
    return factor ** _periods(step, scale, every)


def active_frames(step: int, options: CadexSamplerOptions, scale: float = 1.0) -> int:
    """CaDeX++: frames in the middle of the video that pairs begin with: 20, and 20 more after every 100 steps."""
    return options.start_frames + options.grow_frames * _periods(step, scale, options.grow_every)


def long_range(step: int, scale: float = 1.0, weight: float = 1.0) -> float:
    """CaDeX++: weight of long-range matches: 1 before step 1000, 0.1 before 2000, 0.01 before 24,000, then nothing."""
    at = step / scale + 1e-6  # as _periods
    return weight * (1.0 if at < 1000 else 0.1 if at < 2000 else 0.01 if at < 24_000 else 0.0)


def long_cut(step: int, scale: float = 1.0) -> bool:
    """CaDeX++: whether long-range matches far off the median count no more: from step 2000 on."""
    return step / scale + 1e-6 >= 2000


def cadex_weights(step: int, steps: int, options: CadexLossOptions) -> dict[str, float]:
    """Weights of all terms at a step of a run of ``steps``, by the names of :class:`CadexLossOptions`."""
    scale = cadex_scale(steps, options.ramp_steps)
    far = long_range(step, scale, options.long_range)
    return {
        "flow": options.flow,
        "flow_difference": flow_difference(step, scale, options.flow_difference),
        "depth": options.depth,
        "depth_prior": options.depth_prior,
        "depth_slope": options.depth_slope,
        "long_range": far,
        "long_depth": far * options.long_depth,
        "long_depth_prior": far * options.long_depth_prior,
        "long_depth_slope": far * options.long_depth_slope,
    }


def near_masked(step: int, steps: int, share: float) -> bool:
    """Whether the nearest samples of each ray are still empty: the first 4000 steps as published (a share of 0.04)."""
    return step < step_of(share, steps)


def code_frozen(step: int, steps: int, share: float | None) -> bool:
    """Whether the frames' codes are a frozen table: from step 40,000 on in the thesis (a share of 0.4)."""
    return share is not None and step >= step_of(share, steps)


def _clip(value: float, top: float) -> float:
    return min(max(value, 0.0), top)


def _periods(step: int, scale: float, every: int) -> int:
    """How many periods of ``every`` stretched steps are over; a rounding error below a whole number is none."""
    return math.floor(step / (scale * every) + 1e-9)
