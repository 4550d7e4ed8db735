"""Mutual nearest neighbours against the eight rules as plain loops, and each rule by itself."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

from everypoint.artifacts.matches import LONG_RANGE, MatchRows
from everypoint.artifacts.video import VideoMeta
from everypoint.config.options import Preset
from everypoint.correspond import mutual
from everypoint.correspond.mutual import MutualSource, disc, inside_mask, local_sums, mutual_nearest, pairs_apart
from everypoint.correspond.sparse import SparseVideo, sparse_source
from everypoint.errors import ConfigError, InputError
from everypoint.numerics import threads
from tests.unit.correspond.mutual_loops import PlainRules

CELL = 14  # pixels a side, as DINOv2's
PUBLISHED = {"gap": 1}
LENIENT = {"gap": 1, "local_range": (-1e3, 1e3)}  # for maps of unrelated cells; the other rules as published


def size_of(grid) -> tuple[int, int]:
    return CELL * grid[0], CELL * grid[1]


def video_of(features: np.ndarray | None, size=None, depth_mask=None, frames: int | None = None) -> SparseVideo:
    frames = len(features) if frames is None else frames
    size = size or (100, 100) if features is None else size or size_of(features.shape[1:3])
    meta = VideoMeta("v", "v.mp4", "0", 25.0, frames, *size, *size)
    return SparseVideo(np.empty((frames, 0, 0, 3), np.uint8), meta, features, depth_mask)


def source_of(options: dict) -> MutualSource:
    return MutualSource(
        Preset.model_validate({"description": "d", "tracker": "optimize", "sparse": {"mutual": options}})
    )


def rows_of(features: np.ndarray, options: dict, **video) -> MatchRows:
    return source_of(options).rows(video_of(features, **video), 0)


def cells_of(rows: MatchRows, grid, size=None) -> dict[tuple[int, ...], float]:
    """Scores by (i, j, x_i, y_i, x_j, y_j) with positions in cells, which must be the centres of cells."""
    size = size or size_of(grid)
    side = np.array([size[1] / grid[1], size[0] / grid[0]])
    found = [((xy + 0.5) / side - 0.5) for xy in (rows.xy_i, rows.xy_j)]
    for cells in found:
        np.testing.assert_allclose(cells, cells.round(), atol=1e-4)
    whole = np.concatenate([rows.frame_i[:, None], rows.frame_j[:, None], *(c.round() for c in found)], axis=1)
    keys = [tuple(int(value) for value in row) for row in whole]
    assert len(set(keys)) == len(keys)
    return dict(zip(keys, rows.score.tolist(), strict=True))


# ------------------------------------------------------------------------------------------- against the rules as loops


def shifted_textures(frames: int, grid, channels: int, smooth: float, noise: float, seed: int = 0) -> np.ndarray:
    """Windows into one smooth random texture, each shifted by (1, 2) cells (y, x) against the one before."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    world = rng.standard_normal((grid[0] + frames, grid[1] + 2 * frames, channels))
    world = gaussian_filter(world, (smooth, smooth, 0))
    world /= np.linalg.norm(world, axis=-1, keepdims=True)
    maps = np.stack([world[t : t + grid[0], 2 * t : 2 * t + grid[1]] for t in range(frames)])
    return (maps + noise * rng.standard_normal(maps.shape) / math.sqrt(channels)).astype(np.float16)


def compare(features, options, depth_mask=None) -> tuple[dict, dict]:
    """Rows equal those of the loops; returns them and what each rule removed."""
    source = source_of(options)
    rows = source.rows(video_of(features, None, depth_mask), 0)
    found = cells_of(rows, features.shape[1:3])
    loops = PlainRules(features, depth_mask, size_of(features.shape[1:3]), source.describe())
    expected = loops.all_pairs()
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[key] for key in expected], list(expected.values()), atol=1e-6)
    assert (rows.flags == LONG_RANGE).all()
    return found, loops.removed


def test_published_rules_on_shifted_textures_equal_the_loops():
    """A texture that moves by whole cells behind a square of noise, through which one cell of it is seen."""
    rng = np.random.default_rng(1)
    features = shifted_textures(3, (16, 18), 24, smooth=2.6, noise=0.15)
    for t in range(3):
        seen = features[t, 7 - t, 9 - 2 * t].copy()
        features[t, 3:10, 3:12] = rng.standard_normal((7, 9, 24)) / math.sqrt(24)
        features[t, 7 - t, 9 - 2 * t] = seen
    mask = np.ones((3, *size_of((16, 18))), bool)
    mask[:, 180:200, 100:120] = False
    found, removed = compare(features, PUBLISHED | {"lookalikes": 45, "local_range": (25.0, 60.0)}, mask)
    assert all(removed[rule] for rule in (1, 2, 3, 4, 5, 7, 8)), removed
    right = [x_i - x_j == 2 * (j - i) and y_i - y_j == j - i for i, j, x_i, y_i, x_j, y_j in found]
    assert len(found) > 100
    assert np.mean(right) > 0.9


@pytest.mark.parametrize("seed", range(6))
def test_random_maps_equal_the_loops(seed):
    rng = np.random.default_rng(seed)
    grid = tuple(int(n) for n in rng.integers(4, 9, 2))
    features = rng.standard_normal((4, *grid, 6))
    features[1:] += features[:1] * rng.uniform(0.3, 2, (3, 1, 1, 1))  # some frames are alike
    mask = rng.random((4, *rng.integers(3, 40, 2))) > 0.03
    options = {"gap": 1 + seed % 2, "similarity": 0.8, "lookalike": 0.4, "lookalikes": 17, "local_range": (-3.0, 9.0)}
    options |= {"support_cells": 2.5, "support_pixels": 36.0, "stride": 1 + (seed == 5)}
    assert compare(features.astype(np.float16), options, mask if seed % 3 else None)[0]


def test_random_maps_meet_every_rule():
    totals = Counter()
    for seed in range(3):
        rng = np.random.default_rng(seed)
        features = rng.standard_normal((2, 9, 10, 6))
        features[1] += rng.uniform(0.2, 3, (9, 10, 1)) * features[0]
        mask = rng.random((2, 20, 30)) > 0.02
        options = {"similarity": 0.85, "lookalike": 0.4, "lookalikes": 22, "local_range": (-4.0, 8.0)}
        options |= {"support_cells": 2.5, "support_pixels": 25.0, "gap": 1}
        totals += compare(features.astype(np.float16), options, mask)[1]
    assert all(totals[rule] for rule in (1, 2, 3, 4, 5, 7, 8)), totals


# ------------------------------------------------------------------------------------------- each rule by itself

GRID = (12, 13)


def unrelated(grid=GRID, spare: int = 8) -> np.ndarray:
    """Two equal frames whose cells are unrelated to each other; ``spare`` directions belong to no cell."""
    count = grid[0] * grid[1]
    return np.tile(np.eye(count, count + spare, dtype=np.float16).reshape(1, *grid, -1), (2, 1, 1, 1))


def blend(features: np.ndarray, cosine: float, toward: np.ndarray) -> np.ndarray:
    """The unit vector with this cosine to ``toward`` whose rest points along ``features`` (both orthonormal)."""
    return cosine * toward + math.sqrt(1 - cosine**2) * features


def lost(features: np.ndarray, options: dict, **video) -> set[tuple[int, int]]:
    """Cells (y, x) that no longer match themselves; no others ever match."""
    grid = features.shape[1:3]
    found = cells_of(rows_of(features, options, **video), grid, video.get("size"))
    assert all(key[2:4] == key[4:6] for key in found)
    return {(y, x) for y in range(grid[0]) for x in range(grid[1])} - {(key[3], key[2]) for key in found}


def test_equal_frames_of_unrelated_cells_match_everywhere():
    assert lost(unrelated(), LENIENT) == set()


def test_rule_1_nearest_in_one_direction_is_not_enough():
    features = unrelated()
    features[0, 6, 6] = blend(features[0, 6, 6], 0.9, features[0, 6, 7])  # nearest to (6, 7), whose nearest is itself
    assert lost(features, LENIENT) == {(6, 6)}
    assert lost(features[::-1], LENIENT) == {(6, 6)}


@pytest.mark.parametrize(("cosine", "gone"), [(0.74, {(6, 6)}), (0.76, set())])
def test_rule_2_similarity(cosine, gone):
    features = unrelated()
    features[0, 6, 6] = blend(np.eye(features.shape[-1])[-1], cosine, features[0, 6, 6])
    assert lost(features, LENIENT) == gone


@pytest.mark.parametrize("frame", [0, 1])
@pytest.mark.parametrize(("cosine", "gone"), [(0.6, {(6, 6)}), (0.5, set())])
def test_rule_3_lookalikes_in_either_frame(frame, cosine, gone):
    features = unrelated()
    for other in ((0, 0), (11, 12)):  # far away: they are outside of the window of rule 4
        features[(frame, *other)] = blend(features[(frame, *other)], cosine, features[frame, 6, 6])
    assert lost(features, LENIENT | {"lookalikes": 3}) == gone
    assert lost(features, LENIENT | {"lookalikes": 4}) == set()


@pytest.mark.parametrize("frame", [0, 1])
@pytest.mark.parametrize(
    ("offset", "gone"),
    [((-5, -5), {(6, 6)}), ((4, 4), {(6, 6), (10, 10)}), ((5, 0), {(11, 6)}), ((0, -6), set())],
)
def test_rule_4_window_reaches_five_before_and_four_after(frame, offset, gone):
    features = unrelated()
    other = (6 + offset[0], 6 + offset[1])
    features[(frame, *other)] = blend(features[(frame, *other)], 0.6, features[frame, 6, 6])
    assert lost(features, LENIENT | {"local_range": (0.0, 1.5)}) == gone


def test_rule_4_bounds_are_strict():
    features = unrelated()
    assert lost(features, LENIENT | {"local_range": (0.99, 1.01)}) == set()
    assert len(lost(features, LENIENT | {"local_range": (1.0, 2.0)})) == GRID[0] * GRID[1]
    assert len(lost(features, LENIENT | {"local_range": (0.0, 1.0)})) == GRID[0] * GRID[1]


def only_at(cells, moved=None, grid=GRID) -> np.ndarray:
    """Unrelated cells of which just these match; ``moved`` says where the second frame has them."""
    count = grid[0] * grid[1]
    features = np.zeros((2, *grid, 2 * count), np.float16)
    features[0] = np.eye(count, 2 * count).reshape(*grid, -1)
    features[1] = np.eye(count, 2 * count, count).reshape(*grid, -1)
    for (y, x), (v, u) in zip(cells, moved or cells, strict=True):
        features[1, v, u] = features[0, y, x]
    return features


def first_cells(features: np.ndarray, options: dict, **video) -> set[tuple[int, int]]:
    found = cells_of(rows_of(features, options, **video), features.shape[1:3], video.get("size"))
    return {(key[3], key[2]) for key in found}


NO_PIXELS = LENIENT | {"support_pixels": 1e4}


def test_rule_5_lonely_matches_go():
    group = [(1, 1), (1, 2), (2, 1)]
    assert first_cells(only_at([*group, (9, 9)]), NO_PIXELS) == set(group)
    assert first_cells(only_at([*group, (9, 9), (9, 10)]), NO_PIXELS) == set(group)  # one neighbour is not two


def test_rule_5_in_both_frames():
    group = [(1, 1), (1, 2), (2, 1), (2, 2)]
    moved = [*group[:3], (10, 10)]
    assert first_cells(only_at(group, moved), NO_PIXELS) == set(group[:3])
    assert first_cells(only_at(moved, group), NO_PIXELS) == set(group[:3])


@pytest.mark.parametrize(("distance", "kept"), [(3, True), (4, False)])
def test_rule_5_closer_than_four_cells(distance, kept):
    group = [(1, 1), (1, 1 + distance), (1 + distance, 1)]
    options = NO_PIXELS | {"support_cells": 4.0}
    assert bool(first_cells(only_at([*group, (1, 2)]), options) & {(1 + distance, 1)}) == kept


def test_rule_5_applies_twice_and_no_more():
    line = [(5, 3 * k) for k in range(7)]
    features = only_at(line, grid=(11, 19))
    assert first_cells(features, NO_PIXELS) == set(line[2:5])


def test_rule_6_centres_of_cells_in_index_coordinates():
    rows = rows_of(unrelated((3, 4)), LENIENT | {"support_cells": 9.0, "support_pixels": 1e4}, size=(30, 60))
    expected = {(15 * (x + 0.5) - 0.5, 10 * (y + 0.5) - 0.5) for y in range(3) for x in range(4)}
    assert {tuple(xy) for xy in rows.xy_i.tolist()} == expected
    assert (rows.xy_i == rows.xy_j).all()
    assert rows.frame_i.tolist() == [0] * 12
    assert rows.frame_j.tolist() == [1] * 12


@pytest.mark.parametrize("frame", [0, 1])
@pytest.mark.parametrize(("beside", "gone"), [(0, True), (1, True), (2, False)])
def test_rule_7_three_by_three_pixels_are_reliable(frame, beside, gone):
    mask = np.ones((2, *size_of(GRID)), bool)
    mask[frame, 6 * CELL + 7 + beside, 6 * CELL + 7 - beside] = False
    assert lost(unrelated(), LENIENT, depth_mask=mask) == ({(6, 6)} if gone else set())


def test_rule_7_mask_of_the_grids_own_size():
    mask = np.ones((2, *GRID), bool)
    mask[0, 0, 0] = False
    gone = {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert lost(unrelated(), LENIENT, depth_mask=mask) == gone


def test_rule_8_counts_what_the_mask_left():
    group = [(1, 1), (1, 2), (2, 1), (9, 9), (9, 10), (10, 9)]
    mask = np.ones((2, *GRID), bool)
    mask[1, 11, 8] = False  # erodes to (10, 9) and what lies around it
    assert first_cells(only_at(group), LENIENT) == set(group)
    assert first_cells(only_at(group), LENIENT, depth_mask=mask) == set(group[:3])
    assert first_cells(only_at(group), NO_PIXELS, depth_mask=mask) == set(group[:5])


def test_rule_8_is_narrower_than_rule_5_for_large_cells():
    group = [(1, 1), (1, 4), (4, 1), (4, 4)]  # 3 cells of 14 pixels apart
    assert first_cells(only_at(group), LENIENT | {"support_pixels": 42.1}) == set(group)
    assert first_cells(only_at(group), LENIENT | {"support_pixels": 42.0}) == set()


@pytest.mark.parametrize(("pixels", "kept"), [(40.0, False), (40.1, True)])
def test_rule_8_measures_pixels_on_both_axes(pixels, kept):
    group = [(1, 1), (3, 1), (5, 1), (3, 2)]  # cells of 40 x 20 pixels, (x, y): 40 pixels apart, or farther
    size = (20 * GRID[0], 40 * GRID[1])
    found = first_cells(only_at(group), LENIENT | {"support_pixels": pixels}, size=size)
    assert found == ({(3, 1)} if kept else set())


# ------------------------------------------------------------------------------------------- parts


def test_local_sums_equal_loops():
    rng = np.random.default_rng(3)
    units = rng.standard_normal((13, 7, 5))
    units /= np.linalg.norm(units, axis=-1, keepdims=True)
    expected = np.zeros((13, 7))
    for y in range(13):
        for x in range(7):
            around = units[max(0, y - 5) : y + 5, max(0, x - 5) : x + 5].reshape(-1, 5)
            expected[y, x] = sum(units[y, x] @ other for other in around)
    np.testing.assert_allclose(local_sums(torch.from_numpy(units)).numpy(), expected, atol=1e-12)


def test_disc_holds_the_offsets_closer_than_the_radius():
    kernel = disc(32.0, (10.0, 16.0), (34, 61)).numpy()
    assert kernel.shape == (9, 5)
    for y in range(9):
        for x in range(5):
            distance = math.hypot(10 * (y - 4), 16 * (x - 2))
            assert kernel[y, x] == (0 < distance < 32)
    assert disc(1e9, (1, 1), (2, 3)).shape == (3, 5)


def test_inside_mask_reads_the_pixel_under_the_centre():
    mask = np.ones((9, 9), bool)
    mask[4, 4] = False
    assert inside_mask(mask, (9, 9)).reshape(9, 9).sum() == 72
    assert inside_mask(mask, (3, 3)).tolist() == [True] * 4 + [False] + [True] * 4
    assert inside_mask(mask, (1, 1)).tolist() == [False]
    assert inside_mask(np.ones((1, 1), bool), (4, 5)).all()


@pytest.mark.parametrize("some", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_mutual_nearest_equals_loops(seed, some, monkeypatch):
    monkeypatch.setitem(mutual.SIMILARITY_BYTES, "cpu", 4 * 31 * 7)  # several parts
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.randn(n, 4, generator=generator) for n in (43, 31))
    first, second = (x / x.norm(dim=1, keepdim=True) for x in (first, second))
    masks = tuple(torch.rand(len(x), generator=generator) > 0.4 for x in (first, second))
    a, b, score = mutual_nearest(first, second, 0.8, masks if some else None)
    table = (first.double() @ second.double().T).numpy()
    expected = [
        (r, c)
        for r in range(43)
        for c in range(31)
        if table[r].argmax() == c and table[:, c].argmax() == r and table[r, c] > 0.8
        if not some or (masks[0][r] and masks[1][c])
    ]
    assert list(zip(a.tolist(), b.tolist(), strict=True)) == expected
    assert len(expected) > 2
    np.testing.assert_allclose(score.numpy(), [table[pair] for pair in expected], atol=1e-7)


def test_equally_near_vectors_the_first_wins():
    vectors = torch.eye(3)[[0, 0, 1, 1, 2]]
    a, b, _ = mutual_nearest(vectors, vectors, 0.5)
    assert (a.tolist(), b.tolist()) == ([0, 2, 4], [0, 2, 4])


@pytest.mark.parametrize(
    ("frames", "gap", "stride", "pairs"),
    [
        (4, 2, 1, [(0, 2), (0, 3), (1, 3)]),
        (7, 3, 2, [(0, 4), (0, 6), (2, 6)]),
        (10, 10, 1, []),
        (11, 10, 1, [(0, 10)]),
        (1, 1, 1, []),
        (0, 1, 1, []),
    ],
)
def test_pairs_apart(frames, gap, stride, pairs):
    assert pairs_apart(frames, gap, stride) == pairs


# ------------------------------------------------------------------------------------------- the source


def test_blocks_and_parts_change_nothing(monkeypatch):
    features = shifted_textures(5, (14, 16), 24, smooth=2.6, noise=0.35)
    whole = cells_of(rows_of(features, PUBLISHED), (14, 16))
    monkeypatch.setattr(mutual, "BLOCK_BYTES", 4 * features[0].size * 2)
    monkeypatch.setitem(mutual.SIMILARITY_BYTES, "cpu", 4 * 14 * 16 * 9)
    parts = cells_of(rows_of(features, PUBLISHED), (14, 16))
    assert whole.keys() == parts.keys()
    assert len({key[:2] for key in whole}) == 10
    np.testing.assert_allclose([parts[key] for key in whole], list(whole.values()), atol=1e-6)


def test_same_bits_on_every_run_and_any_seed():
    features = shifted_textures(4, (14, 16), 24, smooth=2.6, noise=0.35)
    results = []
    for count, seed in ((1, 0), (1, 7), (2, 0)):
        with threads(count):
            results.append(source_of(PUBLISHED).rows(video_of(features), seed))
    for other in results[1:]:
        for name in ("frame_i", "frame_j", "xy_i", "xy_j", "score", "flags"):
            assert np.array_equal(getattr(results[0], name), getattr(other, name)), name


@pytest.mark.parametrize("shape", [(12, 1, 1, 4), (12, 1, 2, 4), (9, 6, 7, 4), (1, 6, 7, 4), (12, 6, 7, 4)])
def test_tiny_and_empty_maps_have_no_rows(shape):
    """Too few cells, too few frames, or features that are all zero."""
    features = np.zeros(shape, np.float16)
    if shape[0] == 12 and shape[1] == 1:
        features[:] = np.eye(2, 4)[: shape[2]]
    rows = rows_of(features, {}, size=(20, 20))
    assert len(rows) == 0
    assert rows.xy_i.shape == (0, 2)


def test_features_must_be_there_and_fit():
    features = unrelated()
    with pytest.raises(ConfigError, match="no features"):
        source_of(LENIENT).rows(video_of(None, frames=3), 0)
    with pytest.raises(InputError, match="2 frames do not fit 3"):
        source_of(LENIENT).rows(video_of(features, frames=3), 0)
    with pytest.raises(InputError, match="depth masks of 1"):
        source_of(LENIENT).rows(video_of(features, depth_mask=np.ones((1, 4, 4), bool)), 0)


@pytest.mark.parametrize(("options", "level"), [(LENIENT, "INFO"), (PUBLISHED, "WARNING")])
def test_thresholds_that_do_not_suit_the_features_are_told(options, level, caplog):
    with caplog.at_level("INFO", logger=mutual.__name__):
        rows_of(unrelated(), options)
    told = [record for record in caplog.records if "local_range" in record.message]
    assert [record.levelname for record in told] == [level]


def test_found_by_name_and_described():
    preset = Preset.model_validate(
        {"description": "d", "tracker": "optimize", "sparse": {"mutual": {"similarity": 0.7}}}
    )
    source = sparse_source("mutual", preset)
    assert isinstance(source, MutualSource)
    description = source.describe()
    assert description["source"] == "mutual"
    assert description["similarity"] == 0.7
    assert "features" not in description
