"""The look-up of correlations: held, tiled and gathered levels against a plain float64 loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from everypoint.correspond import raft_lookup
from everypoint.correspond.raft_lookup import build_lookup, first_held_level, level_bytes, looked_up_bytes
from tests.unit.correspond.peak import PeakBytes

LEVELS = 4
KINDS = {"volume": (0, False), "tiled": (LEVELS, False), "gathered": (LEVELS, True), "mixed": (1, False)}


def oracle(f1: np.ndarray, f2: np.ndarray, centres: np.ndarray, radius: int) -> np.ndarray:
    """Windows [B, levels * (2r + 1)^2, h, w] in float64: pooled volume, bilinear, zero outside; slow index moves x."""
    batch, channels, h, w = f1.shape
    span = np.arange(-radius, radius + 1)
    result = []
    for level in range(LEVELS):
        hl, wl, step = h >> level, w >> level, 1 << level
        volume = np.einsum("bchw,bcyx->bhwyx", f1, f2)[..., : hl * step, : wl * step] / np.sqrt(channels)
        volume = volume.reshape(batch, h, w, hl, step, wl, step).mean((4, 6))
        for dx in span:
            for dy in span:
                value = np.zeros((batch, h, w))
                for b, y, x in np.ndindex(batch, h, w):
                    px, py = centres[b, :, y, x] / step + [dx, dy]
                    for ix, iy in ((np.floor(px) + i, np.floor(py) + j) for i in (0, 1) for j in (0, 1)):
                        if 0 <= ix < wl and 0 <= iy < hl:
                            weight = (1 - abs(px - ix)) * (1 - abs(py - iy))
                            value[b, y, x] += weight * volume[b, y, x, int(iy), int(ix)]
                result.append(value)
    return np.stack(result, 1)


def features(batch: int, h: int, w: int, channels: int = 8, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, channels, h, w, generator=random) for _ in range(2))


def places(kind: str, batch: int, h: int, w: int) -> torch.Tensor:
    """Centres [B, 2, h, w] in cells."""
    random = torch.Generator().manual_seed(1)
    grid = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(h), indexing="xy"))[None].float()
    noise = torch.randn(batch, 2, h, w, generator=random)
    return {
        "still": grid.expand(batch, -1, -1, -1).clone(),  # whole cells
        "near": grid + noise,
        "anywhere": grid + 12 * noise,  # at and beyond the border
        "shifted": grid
        + 0.5
        + noise.sign() * torch.tensor([float(w), 2.0])[:, None, None],  # two motions, half outside
        "outside": grid + 1000 + noise,
    }[kind]


@pytest.mark.parametrize("kind", ["still", "near", "anywhere", "shifted", "outside"])
def test_every_way_equals_the_plain_loop(kind):
    batch, h, w, radius = 2, 17, 19, 2
    (f1, f2), centres = features(batch, h, w), places(kind, batch, h, w)
    expected = oracle(f1.double().numpy(), f2.double().numpy(), centres.double().numpy(), radius)
    assert (np.abs(expected).max() > 1) == (kind != "outside")
    for name, (first, gathered) in KINDS.items():
        found = build_lookup(f1, f2, LEVELS, radius, first, gathered=gathered).windows(centres)
        assert found.shape == (batch, LEVELS * 25, h, w)
        assert np.abs(found.numpy() - expected).max() < 5e-5, name  # float32 positions of up to 60 cells


@pytest.mark.parametrize("radius", [3, 4])
@pytest.mark.parametrize("name", ["tiled", "gathered", "mixed"])
def test_the_networks_radii(name, radius):
    (f1, f2), centres = features(1, 16, 33, 32), places("anywhere", 1, 16, 33)
    first, gathered = KINDS[name]
    found = build_lookup(f1, f2, LEVELS, radius, first, gathered=gathered).windows(centres)
    assert (found - build_lookup(f1, f2, LEVELS, radius, 0, gathered=False).windows(centres)).abs().max() < 5e-5


def test_pieces_do_not_change_what_is_gathered(monkeypatch):
    (f1, f2), centres = features(2, 16, 20), places("near", 2, 16, 20)
    lookup = build_lookup(f1, f2, LEVELS, 4, LEVELS, gathered=True)
    whole = lookup.windows(centres)
    monkeypatch.setattr(raft_lookup, "GATHER_BYTES", 7 * 100 * 8 * 4)  # seven cells at a time
    assert (lookup.windows(centres) - whole).abs().max() < 1e-6


@pytest.mark.parametrize("name", ["tiled", "gathered"])
def test_a_lost_centre_is_no_error_and_touches_no_other(name):
    (f1, f2), centres = features(1, 16, 20), places("near", 1, 16, 20)
    first, gathered = KINDS[name]
    lookup = build_lookup(f1, f2, LEVELS, 4, first, gathered=gathered)
    lost = centres.clone()
    lost[0, 0, 3, 4], lost[0, 1, 5, 6], lost[0, 0, 7, 8] = float("nan"), float("inf"), -1e30
    others = torch.ones(16, 20, dtype=torch.bool)
    others[[3, 5, 7], [4, 6, 8]] = False
    assert (lookup.windows(lost) - lookup.windows(centres))[..., others].abs().max() < 1e-5


@pytest.mark.parametrize("gathered", [False, True])
def test_nothing_like_the_volume_is_made(gathered, monkeypatch):
    monkeypatch.setattr(raft_lookup, "GATHER_BYTES", 2**18)
    h, w = 48, 64
    (f1, f2), centres = features(1, h, w, 16), places("anywhere", 1, h, w)
    with PeakBytes() as memory:
        build_lookup(f1, f2, LEVELS, 1, LEVELS, gathered=gathered).windows(centres)
    lasting = 4 * h * w * (16 * 4 + 2 * LEVELS * 9)  # features and windows
    scratch = looked_up_bytes(1, h, w, 16, 1, LEVELS, gathered=gathered)
    assert lasting + scratch < 0.15 * level_bytes(1, h, w, LEVELS)[0]
    assert memory.peak < 1.2 * (lasting + scratch)


def test_levels_are_held_from_the_coarsest_on_while_they_fit():
    sizes = level_bytes(2, 60, 107, LEVELS)
    assert sizes == [4 * 2 * 6420 * cells for cells in (6420, 30 * 53, 15 * 26, 7 * 13)]
    for level in range(LEVELS):
        assert first_held_level("auto", sum(sizes[level:]), 2, 60, 107, LEVELS) == level
        assert first_held_level("auto", sum(sizes[level:]) - 1, 2, 60, 107, LEVELS) == level + 1
    assert first_held_level("volume", 1, 2, 60, 107, LEVELS) == 0
    assert first_held_level("sampled", 1e12, 2, 60, 107, LEVELS) == LEVELS
