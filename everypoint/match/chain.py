"""Chaining: denser matches between distant frames, by adding up the flows of adjacent frames.

For each source frame, outwards in both directions of time: where the direct flow of a pair is trusted it is taken, and
elsewhere the flow summed up so far goes on, as long as every step was cycle-consistent and the point still looks like
its source. The flows that were read are never changed; the chained ones exist while their source frame is at work.

Source: OmniMotion, supplement A (its preprocessing overwrites its own input; ours does not).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from everypoint.geometry import inside_index, sample_index
from everypoint.match.appearance import similarity
from everypoint.match.video import MatchVideo

WHOLE = 1 - 1e-4  # a mask read between pixels that are all set; float weights need not add up to 1 exactly


class ChainedPair(NamedTuple):
    """What is known of every pixel of frame i towards frame j once the chain has passed."""

    flow: Tensor  # float32 [H * W, 2], the direct flow where it is trusted, else the chained one
    cycle: Tensor  # bool [H * W], trusted and visible in both frames
    occluded: Tensor  # bool [H * W], trusted although hidden in frame j
    vetoed: Tensor  # bool [H * W], of the direct flow: consistent but refused by appearance
    direct: Tensor  # bool [H * W], the flow is the direct one


def chained_pairs(video: MatchVideo, i: int, targets: Sequence[int]) -> Iterator[tuple[int, ChainedPair]]:
    """The chained pairs (i, j) of all ``targets``, outwards from i, forward in time and then backward."""
    for direction in (1, -1):
        wanted = {j for j in targets if (j - i) * direction > 0}
        if wanted:
            yield from _walk(video, i, direction, wanted)


def _walk(video: MatchVideo, i: int, direction: int, wanted: set[int]) -> Iterator[tuple[int, ChainedPair]]:
    image, last = video.image(i).reshape(3, -1).T, max(wanted, key=lambda j: (j - i) * direction)
    flow = torch.zeros_like(video.pixels)
    ok = torch.ones(len(flow), dtype=torch.bool, device=flow.device)
    for j in range(i + direction, last + direction, direction):
        flow, ok = _step(video, j - direction, j, flow, ok)
        none = torch.zeros_like(ok)
        cycle = occluded = vetoed = none
        if video.store.has(i, j) and video.store.has(j, i):
            found = video.classes(i, j)
            cycle, occluded, vetoed = found.cycle, found.occluded, found.vetoed
            flow = torch.where((cycle | occluded)[:, None], found.target - video.pixels, flow)
        target = video.pixels + flow
        ok = ok & ~cycle & ~occluded & inside_index(target, *video.store.size)
        rows = ok.nonzero()[:, 0]
        ok[rows] = _looks_alike(video, i, j, rows, target[rows], image[rows])
        ok = ok | cycle
        if j in wanted:
            yield j, ChainedPair(flow, ok, occluded, vetoed, cycle | occluded)


def _step(video: MatchVideo, i: int, j: int, flow: Tensor, ok: Tensor) -> tuple[Tensor, Tensor]:
    """Add the flow between the adjacent frames i and j at the points reached so far."""
    if not (video.store.has(i, j) and video.store.has(j, i)):
        # the chain is broken; direct flows may start anew
        return torch.full_like(flow, torch.nan), torch.zeros_like(ok)
    points = video.pixels + flow
    moved = flow + sample_index(video.flow(i, j), points)
    return moved, ok & (sample_index(video.adjacent_cycle(i, j), points)[:, 0] > WHOLE)


def _looks_alike(video: MatchVideo, i: int, j: int, rows: Tensor, points: Tensor, colours: Tensor) -> Tensor:
    """Whether points [N, 2] of frame j look like the pixels ``rows`` [N] of frame i, by colour and by features."""
    difference = sample_index(video.image(j), points) - colours  # [N, 3]
    alike = difference.square().sum(-1).sqrt() < video.options.chain_colour
    first, second = video.map(i), video.map(j)
    if first is None or second is None:
        return alike
    check = alike.nonzero()[:, 0]
    cosine = similarity(first, video.pixels[rows[check]], second, points[check])
    alike[check] = cosine > video.options.chain_appearance
    return alike
