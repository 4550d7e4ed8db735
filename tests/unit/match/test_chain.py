"""Chaining against plain loops in float64, and in worlds whose right answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from everypoint.artifacts.matches import CYCLE
from everypoint.config.options import MatchOptions
from everypoint.match.chain import chained_pairs
from everypoint.match.table import build_matches
from everypoint.match.video import MatchVideo
from tests.unit.match.worlds import (
    MemoryStore,
    bilinear,
    classify_by_loops,
    constant,
    cosine,
    random_pair,
    square_mask,
    translation,
)

SIZE = (14, 18)
OPTIONS = MatchOptions(chain=True, chain_colour=0.3, chain_appearance=-0.2, appearance_threshold=-0.1)


def random_world(frames: int = 5) -> MemoryStore:
    """Rough flows between all frames; those over larger gaps are wrong in the lower half."""
    flows = {}
    for i in range(frames):
        for j in range(i + 1, frames):
            flows[i, j], flows[j, i] = random_pair(SIZE, 10 * i + j, wild=0.5)
            if j - i > 1:
                flows[i, j][7:] += 6
    return MemoryStore(flows)


def textured(frames: int, step: tuple[int, int] = (0, 0), seed: int = 0) -> np.ndarray:
    """Frames uint8 [T, H, W, 3] of one random texture that moves by whole pixels (and wraps)."""
    texture = np.random.default_rng(seed).integers(60, 160, (*SIZE, 3), np.uint8)
    return np.stack([np.roll(texture, (t * step[1], t * step[0]), (0, 1)) for t in range(frames)])


def chain_by_loops(store, images, maps, i: int, last: int, options: MatchOptions):
    """The pairs (i, i + 1) ... (i, last) forward in time: flow, ok, occluded of each."""
    height, width = SIZE
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float64)

    def classes(a, b):
        pair = None if maps is None else maps[[a, b]]
        return classify_by_loops(store.flow(a, b), store.flow(b, a), abs(a - b), options, pair)

    flow, ok, out = np.zeros((height, width, 2)), np.ones((height, width), bool), {}
    for j in range(i + 1, last + 1):
        mask = classes(j - 1, j)["cycle"][..., None].astype(float)
        direct = classes(i, j) if store.has(i, j) else None
        for row in range(height):
            for column in range(width):
                at = grid[row, column] + flow[row, column]
                whole = bilinear(mask, *at)[0] > 1 - 1e-6
                flow[row, column] += bilinear(store.flow(j - 1, j).astype(np.float64), *at)
                ok[row, column] &= bool(whole)
                if direct is not None and (direct["cycle"] | direct["occluded"])[row, column]:
                    flow[row, column] = store.flow(i, j)[row, column]
                y = grid[row, column] + flow[row, column]
                inside = np.isfinite(y).all() and 0 <= y[0] <= width - 1 and 0 <= y[1] <= height - 1
                colour = np.inf
                if inside:
                    colour = np.linalg.norm(bilinear(images[j] / 255, *y) - images[i, row, column] / 255)
                alike = inside and colour < options.chain_colour
                if alike and maps is not None:
                    alike = cosine(maps[i], grid[row, column], maps[j], y, SIZE) > options.chain_appearance
                ok[row, column] &= bool(alike)
                if direct is not None:
                    ok[row, column] |= direct["cycle"][row, column]
                    ok[row, column] &= not direct["occluded"][row, column]
        hidden = direct["occluded"] if direct is not None else np.zeros_like(ok)
        out[j] = (flow.copy(), ok.copy(), hidden)
    return out


@pytest.mark.parametrize("with_features", [True, False])
@pytest.mark.parametrize("missing", [(), ((0, 2), (2, 0), (0, 4), (4, 0))], ids=["all", "holes"])
def test_it_is_the_published_loop(with_features, missing):
    store = random_world()
    store = MemoryStore({pair: flow for pair, flow in store._flows.items() if pair not in missing})
    images = textured(5, (2, -2))
    maps = np.random.default_rng(1).normal(0.2, 1, (5, 4, 5, 6)).astype(np.float16) if with_features else None
    expected = chain_by_loops(store, images, maps, 0, 4, OPTIONS)
    found = dict(chained_pairs(MatchVideo(store, maps, OPTIONS, images=images), 0, [1, 2, 3, 4]))
    added = 0
    for j, (flow, ok, hidden) in expected.items():
        pair = found[j]
        assert np.array_equal(pair.cycle.reshape(SIZE).numpy(), ok), j
        assert np.array_equal(pair.occluded.reshape(SIZE).numpy(), hidden)
        trusted = ok | hidden
        assert np.abs(pair.flow.reshape(*SIZE, 2).numpy() - flow)[trusted].max() < 1e-4
        added += int((pair.cycle & ~pair.direct).sum())
    assert added > 10  # the chain adds something to compare


def test_backward_in_time_is_the_mirror_image():
    store, images = random_world(), textured(5, (2, -2))
    mirrored = MemoryStore({(4 - i, 4 - j): flow for (i, j), flow in store._flows.items()})
    forward = dict(chained_pairs(MatchVideo(store, None, OPTIONS, images=images), 0, [2, 4]))
    backward = dict(chained_pairs(MatchVideo(mirrored, None, OPTIONS, images=images[::-1]), 4, [2, 0]))
    for j in (2, 4):
        assert np.array_equal(forward[j].cycle, backward[4 - j].cycle)
        trusted = forward[j].cycle | forward[j].occluded
        assert np.array_equal(forward[j].flow[trusted], backward[4 - j].flow[trusted])


def far_flows_broken(frames: int) -> MemoryStore:
    """A translation by (2, 1) a frame whose flows over more than one frame are useless."""
    store = translation(frames, SIZE, (2, 1))
    return MemoryStore(
        {(i, j): flow if abs(i - j) == 1 else flow * 0 + (7 if i < j else 3) for (i, j), flow in store._flows.items()}
    )


def test_the_chain_replaces_far_flows_that_are_not_trusted():
    store, images = far_flows_broken(4), textured(4, (2, 1))
    plain, _ = build_matches(store, None, MatchOptions(), 0, images=images)
    chained, report = build_matches(store, None, MatchOptions(chain=True), 0, images=images)
    gap = np.abs(plain.pairs[:, 0] - plain.pairs[:, 1])
    assert (np.diff(plain.offsets)[gap == 3] == 0).all()
    rows = np.abs(chained.pairs[:, 0] - chained.pairs[:, 1])[chained.rows_pair] == 3
    assert np.diff(chained.offsets)[gap == 3].tolist() == [(18 - 6) * (14 - 3)] * 2
    sign = np.sign(chained.pairs[:, 1] - chained.pairs[:, 0])[chained.rows_pair][rows, None]
    assert np.array_equal((chained.xy_j - chained.xy_i)[rows], sign * np.array([6, 3], np.float32))
    assert (chained.flags == CYCLE).all()
    adjacent = np.abs(chained.pairs[:, 0] - chained.pairs[:, 1])[chained.rows_pair] == 1
    assert chained.score[rows].max() <= 0.5 < chained.score[adjacent].min()
    assert report["by_gap"][3]["chained"] == report["by_gap"][3]["cycle"] == (18 - 6) * (14 - 3) / (14 * 18)


def test_the_chain_stops_where_the_looks_change():
    images = textured(4, (2, 1))
    images[2:] = 255 - images[2:]  # another colour everywhere from frame 2 on
    chained, _ = build_matches(far_flows_broken(4), None, MatchOptions(chain=True, chain_colour=0.05), 0, images=images)
    crossing = (chained.pairs.min(1) < 2) & (chained.pairs.max(1) >= 2) & (np.abs(np.diff(chained.pairs)[:, 0]) > 1)
    assert np.diff(chained.offsets)[crossing].sum() < 0.02 * 14 * 18 * crossing.sum()


def test_the_chain_stops_at_an_occlusion():
    """The ground behind a moving square is followed until it is hidden, then the chain over it ends."""
    flows = {}
    for i in range(3):
        for j in range(3):
            if i != j:
                flow = constant(SIZE, (0, 0))
                flow[square_mask(SIZE, (2 + 5 * i, 4), 5)] = (5 * (j - i), 0)
                flows[i, j] = flow if abs(i - j) == 1 else flow * 0 + 50
    store, images = MemoryStore(flows), np.full((3, *SIZE, 3), 90, np.uint8)
    pair = dict(chained_pairs(MatchVideo(store, None, MatchOptions(chain=True), images=images), 0, [2]))[2]
    ok = pair.cycle.reshape(SIZE).numpy()
    hidden_between = square_mask(SIZE, (7, 4), 5)  # ground that the square covers in frame 1
    assert not ok[hidden_between].any()
    assert ok[square_mask(SIZE, (2, 4), 5)].all()  # the square itself goes all the way
    assert ok[:3].all()


def test_without_adjacent_flows_only_the_direct_ones_count():
    store = translation(4, SIZE, (1, 0))
    store = MemoryStore({pair: flow for pair, flow in store._flows.items() if abs(pair[0] - pair[1]) > 1})
    images = textured(4, (1, 0))
    plain, _ = build_matches(store, None, MatchOptions(), 0, images=images)
    chained, _ = build_matches(store, None, MatchOptions(chain=True), 0, images=images)
    assert np.array_equal(plain.valid_count, chained.valid_count)
    assert np.array_equal(plain.fixed_j, chained.fixed_j)


def test_the_flows_are_not_changed():
    store, images = random_world(), textured(5)
    before = {pair: flow.copy() for pair, flow in store._flows.items()}
    build_matches(store, None, OPTIONS, 0, images=images)
    assert all(np.array_equal(flow, store._flows[pair], equal_nan=True) for pair, flow in before.items())
