"""Cosines of features at points: both ways of computing them against the plain sampling in float64."""

from __future__ import annotations

import pytest
import torch

from everypoint.geometry import sample_resized
from everypoint.match import appearance
from everypoint.match.appearance import FeatureMap, similarity

FRAME = (30, 44)


def maps(h: int = 5, w: int = 7, channels: int = 6, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(h, w, channels, generator=generator) for _ in range(2)]


def points(count: int, seed: int = 1) -> list[torch.Tensor]:
    """Inside, at the corners, and outside of the frame."""
    generator = torch.Generator().manual_seed(seed)
    both = [torch.rand(count, 2, generator=generator) * torch.tensor([60.0, 46.0]) - 8 for _ in range(2)]
    corners = torch.tensor([[0.0, 0.0], [43.0, 29.0], [0.0, 29.0], [43.0, 0.0]])
    return [torch.cat([part, corners]) for part in both]


def plain(features: list[torch.Tensor], at: list[torch.Tensor]) -> torch.Tensor:
    a, b = (sample_resized(f.double().permute(2, 0, 1), xy.double(), FRAME) for f, xy in zip(features, at))
    return torch.nn.functional.cosine_similarity(a, b, dim=-1)


@pytest.mark.parametrize("products", [0, 10**9], ids=["by vectors", "by products"])
@pytest.mark.parametrize("cells", [(5, 7), (1, 7), (5, 1), (1, 1)])
def test_both_ways_are_the_plain_cosine(monkeypatch, products, cells):
    monkeypatch.setattr(appearance, "PRODUCTS_A_POINT", products)
    monkeypatch.setattr(appearance, "GRAM_CHUNK", 37)
    features, at = maps(*cells), points(200)
    first, second = (FeatureMap(part, FRAME) for part in features)
    found = similarity(first, at[0], second, at[1])
    assert torch.allclose(found.double(), plain(features, at), atol=2e-5)


def test_the_way_is_chosen_by_the_number_of_points(monkeypatch):
    called = []
    monkeypatch.setattr(appearance, "_similarity_by_products", lambda *_: called.append(1) or torch.zeros(0))
    first, second = (FeatureMap(part, FRAME) for part in maps())
    few, many = 35 * 35 // 32, 35 * 35 // 32 + 1
    similarity(first, *[torch.zeros(few, 2)], second, torch.zeros(few, 2))
    assert not called
    similarity(first, torch.zeros(many, 2), second, torch.zeros(many, 2))
    assert called


def test_no_points_have_no_cosines():
    first, second = (FeatureMap(part, FRAME) for part in maps())
    assert len(similarity(first, torch.zeros(0, 2), second, torch.zeros(0, 2))) == 0


@pytest.mark.parametrize("products", [0, 10**9])
def test_zero_vectors_are_like_nothing(monkeypatch, products):
    monkeypatch.setattr(appearance, "PRODUCTS_A_POINT", products)
    first, second = FeatureMap(torch.zeros(3, 4, 5), FRAME), FeatureMap(torch.ones(3, 4, 5), FRAME)
    assert (similarity(first, torch.ones(9, 2), second, torch.ones(9, 2)) == 0).all()


def test_a_point_that_is_no_number_breaks_nothing():
    first, second = (FeatureMap(part, FRAME) for part in maps())
    where = torch.full((200, 2), torch.nan)
    assert similarity(first, where, second, where).isfinite().all()
