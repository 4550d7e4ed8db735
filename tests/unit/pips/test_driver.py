"""The driver of long videos, with a network that is a formula: windows, carried templates, frames asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from everypoint.pips.correlation import Pyramid
from everypoint.pips.driver import Features, Plan, follow, from_network, resize, to_network
from everypoint.pips.network import Estimates, Templates


class Counting:
    """Moves points by (1, 2) px a frame, notes its calls; its templates say how many calls there were."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self) -> None:
        self.windows, self.carried, self.frames = [], [], []

    def features(self, rgb):
        self.frames.append(int(rgb[0, 0, 0, 0]))
        assert len(rgb) == 1
        h, w = max(rgb.shape[-2], 128) // 8, max(rgb.shape[-1], 128) // 8
        return torch.full((1, 128, h, w), float(rgb[0, 0, 0, 0]))

    def track(self, pyramid, start, iterations, carried=None, *, beautify=False):
        length = start.shape[1]
        self.windows.append((int(pyramid.rows[0][0, 0]), length))
        self.carried.append(None if carried is None else (float(carried.first[0, 0, 0]), carried.lagged[0].shape[2]))
        assert isinstance(pyramid, Pyramid)
        assert pyramid.frames == length
        move = torch.arange(length)[None, :, None, None] * torch.tensor([1.0, 2.0])
        points = start.shape[2]
        call = float(len(self.windows))
        templates = Templates(torch.full((1, points, 1), call), (torch.zeros(1, points, length, 1),) * 2)
        found = (start[:, :1] + move)[None]
        return Estimates(found, found, templates)


def video(count: int) -> tuple[list[int], object]:
    asked: list[int] = []

    def load(number: int) -> np.ndarray:
        asked.append(number)
        return np.full((32, 48, 3), number, np.uint8)

    return asked, load


@pytest.mark.parametrize(
    ("count", "window", "windows"),
    [
        (5, 8, [(0, 5)]),
        (8, 8, [(0, 8)]),
        (9, 8, [(0, 8), (1, 8)]),  # the second is shifted back
        (15, 8, [(0, 8), (7, 8)]),
        (19, 8, [(0, 8), (7, 8), (11, 8)]),
        (6, 2, [(0, 2), (1, 2), (2, 2), (3, 2), (4, 2)]),
        (1, 8, []),
    ],
)
def test_windows(count, window, windows):
    network, (asked, load) = Counting(), video(count)
    features = Features(network, load, count, (32, 48))
    start = np.array([[3.0, 4.0], [5.0, 6.0]])
    found = follow(features, list(range(count)), start, Plan(window))
    assert network.windows == windows
    assert np.allclose(found, start + np.arange(count)[:, None, None] * [1, 2])
    assert network.carried == [None, *((k + 1.0, window) for k in range(len(windows) - 1))][: len(windows)]
    assert sorted(asked) == sorted(set(asked))  # kept: nothing is encoded twice


def test_frames_are_asked_for_by_windows_and_only_some_are_kept():
    network, (asked, load) = Counting(), video(9)
    one = 128 * 16 * 16 * 4
    features = Features(network, load, 9, (32, 48), keep=3 * one)
    follow(features, list(range(9)), np.zeros((1, 2)), Plan(4))
    assert network.windows == [(0, 4), (3, 4), (5, 4)]
    assert asked == [0, 1, 2, 3, 3, 4, 5, 6, 5, 6, 7, 8]
    follow(features, [2, 1, 0], np.zeros((1, 2)), Plan(4))
    assert asked[12:] == []


def test_back_in_time():
    network, (_, load) = Counting(), video(6)
    found = follow(Features(network, load, 6, (32, 48)), [4, 3, 2], np.zeros((1, 2)), Plan(8))
    assert network.windows == [(4, 3)]
    assert found[2, 0].tolist() == [2, 4]


def test_resize_is_a_raster_resize():
    """A ramp whose values are raster x: after the resize pixel x's centre lies at (x + 0.5) * 2 in the source."""
    ramp = (torch.arange(32) + 0.5).expand(1, 3, 32, 32)
    found = resize(ramp, (16, 16))
    assert torch.allclose(found[0, 0, 5, 2:14], 2 * (torch.arange(2, 14) + 0.5))
    assert resize(ramp, (32, 32)) is ramp
    xy = to_network(np.array([[4.5, 9.5]]), (32, 32), (16, 16))
    assert xy.tolist() == [[2.0, 4.5]]
    assert to_network(np.array([[4.5, 9.5]]), (32, 32), (16, 16), compat=True).tolist() == [[2.25, 4.75]]
    assert from_network(xy, (32, 32), (16, 16)).tolist() == [[4.5, 9.5]]
