"""Colours at points against a loop over the four neighbours."""

from __future__ import annotations

import math

import pytest
import torch

from everypoint.geometry import sample_index
from everypoint.optimize.colours import frame_colours

GENERATOR = torch.Generator().manual_seed(0)


def slow(frames, xy, frame):
    """Bilinear by the definition, in float64."""
    h, w = frames.shape[1:3]
    out = []
    for (x, y), f in zip(xy.double().tolist(), frame.tolist()):
        x, y = min(max(x, 0), w - 1), min(max(y, 0), h - 1)
        colour = torch.zeros(3, dtype=torch.float64)
        for row in {math.floor(y), min(math.floor(y) + 1, h - 1)}:
            for column in {math.floor(x), min(math.floor(x) + 1, w - 1)}:
                weight = max(0, 1 - abs(x - column)) * max(0, 1 - abs(y - row))
                colour += weight * frames[f, row, column].double()
        out.append(colour / 255)
    return torch.stack(out)


@pytest.mark.parametrize("size", [(5, 7), (1, 6), (4, 1), (1, 1), (2, 2)])
def test_against_a_loop(size):
    frames = torch.randint(0, 256, (3, *size, 3), generator=GENERATOR, dtype=torch.uint8)
    xy = torch.rand(200, 2, generator=GENERATOR) * torch.tensor([size[1] + 1.0, size[0] + 1.0]) - 1  # some outside
    xy[:4] = torch.tensor([[0, 0], [size[1] - 1, size[0] - 1], [size[1] - 1, 0], [0, size[0] - 1]])
    frame = torch.randint(0, 3, (200,), generator=GENERATOR)
    got = frame_colours(frames, xy, frame)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), slow(frames, xy, frame), rtol=0, atol=1e-6)


def test_pixels_are_read_exactly_and_white_is_one():
    frames = torch.randint(0, 256, (2, 4, 5, 3), generator=GENERATOR, dtype=torch.uint8)
    frames[1, 2, 3] = 255
    y, x = torch.meshgrid(torch.arange(4), torch.arange(5), indexing="ij")
    xy = torch.stack([x, y], -1).reshape(-1, 2).float()
    for t in range(2):
        got = frame_colours(frames, xy, torch.full((20,), t))
        assert torch.equal((got * 255).round().to(torch.uint8).reshape(4, 5, 3), frames[t])
    assert frame_colours(frames, torch.tensor([[3.0, 2.0]]), torch.tensor([1])).tolist() == [[1, 1, 1]]


def test_equals_the_projects_sampling_of_one_frame():
    frames = torch.randint(0, 256, (1, 9, 11, 3), generator=GENERATOR, dtype=torch.uint8)
    xy = torch.rand(50, 2, generator=GENERATOR) * torch.tensor([10.0, 8.0])
    expected = sample_index(frames[0].permute(2, 0, 1).float() / 255, xy, border=True)
    torch.testing.assert_close(frame_colours(frames, xy, torch.zeros(50, dtype=torch.long)), expected)
