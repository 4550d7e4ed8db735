"""At what size a flow is computed."""

from __future__ import annotations

from everypoint.config.options import FlowOptions


def flow_size(size: tuple[int, int], options: FlowOptions) -> tuple[int, int]:
    """Size (h, w) at which the flow of frames of ``size`` (H, W) is computed, before any padding.

    ``resolution`` sets the shorter side; else ``upsample_below`` enlarges frames whose shorter side is below it. The
    longer side follows, rounded to whole pixels.
    """
    shorter = min(size)
    wanted = options.resolution or max(options.upsample_below or 0, shorter)
    return tuple(max(1, round(side * wanted / shorter)) for side in size)
