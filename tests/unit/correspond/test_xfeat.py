"""XFeat's key points, their places and descriptors, and the matches of whole videos."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from everypoint.artifacts.matches import LONG_RANGE
from everypoint.artifacts.pickles import load_arrays_pickle
from everypoint.artifacts.video import VideoMeta
from everypoint.config.options import Preset
from everypoint.correspond.sparse import SparseVideo, sparse_source
from everypoint.correspond.xfeat import (
    XFeatSource,
    descriptors_at,
    explained,
    key_points,
    network_image,
    network_size,
    offsets,
    sampson_distance,
)
from everypoint.correspond.xfeat_network import XFeatNetwork, load_network
from everypoint.errors import AssetError
from everypoint.numerics import threads
from tests.shared import shared
from tests.unit.correspond.xfeat_made import formula_file, formula_image, formula_weights, published


def video_of(frames: np.ndarray) -> SparseVideo:
    size = frames.shape[1:3]
    return SparseVideo(frames, VideoMeta("v", "v.mp4", "0", 25.0, len(frames), *size, *size))


def source_of(**options) -> XFeatSource:
    return XFeatSource(
        Preset.model_validate({"description": "d", "tracker": "optimize", "sparse": {"xfeat": {"gap": 1} | options}})
    )


@pytest.fixture(scope="module")
def network() -> XFeatNetwork:
    network = XFeatNetwork().eval()
    network.load_state_dict(formula_weights())
    return network


class OnePoint(torch.nn.Module):
    """Stands for the network: one certain key point, at pixel (x, y) of the image it is given."""

    def __init__(self, x: int, y: int, beside: float = 0.0) -> None:
        super().__init__()
        self.x, self.y, self.beside = x, y, beside
        self.size = None

    def forward(self, image):
        self.size = tuple(image.shape[-2:])
        h, w = self.size[0] // 8, self.size[1] // 8
        share = torch.full((1, 65, h, w), 1e-8)
        share[:, 64] = 1
        share[0, :, self.y // 8, self.x // 8] = 1e-8
        share[0, 8 * (self.y % 8) + self.x % 8, self.y // 8, self.x // 8] = 1 - self.beside
        share[0, 8 * (self.y % 8) + self.x % 8 + 1, self.y // 8, self.x // 8] = max(self.beside, 1e-8)
        return torch.randn(1, 64, h, w), share.log(), torch.full((1, 1, h, w), 0.5)


# ------------------------------------------------------------------------------------------- key points


@pytest.mark.parametrize(
    ("size", "expected"), [((480, 854), (480, 832)), ((64, 96), (64, 96)), ((63, 31), (32, 32)), ((1, 1), (32, 32))]
)
def test_network_size(size, expected):
    assert network_size(size) == expected
    assert network_image(np.zeros((*size, 3), np.uint8)).shape == (1, 1, *expected)


@pytest.mark.parametrize("size", [(64, 96), (70, 101), (95, 127), (40, 20)])
def test_key_points_lie_in_index_coordinates_of_the_frame(size):
    fake = OnePoint(10, 20)
    points = key_points(fake, np.zeros((*size, 3), np.uint8), 10)
    h, w = fake.size
    expected = [(10.5 * size[1] / w) - 0.5, (20.5 * size[0] / h) - 0.5]
    np.testing.assert_allclose(points.xy, [expected], atol=1e-4)
    np.testing.assert_allclose(points.score, [0.5], atol=1e-4)


def test_key_points_lean_to_where_their_probability_lies():
    points = key_points(OnePoint(10, 20, beside=0.3), np.zeros((64, 96, 3), np.uint8), 10)
    np.testing.assert_allclose(points.xy, [[10.3, 20]], atol=1e-4)


def test_offsets_equal_loops():
    probability = torch.rand(6, 7, generator=torch.Generator().manual_seed(0))
    xy = torch.tensor([[0, 0], [6, 5], [3, 2], [0, 3]])
    found = offsets(probability, xy)
    for (x, y), offset in zip(xy.tolist(), found.tolist(), strict=True):
        around = [(v, u) for v in range(y - 1, y + 2) for u in range(x - 1, x + 2) if 0 <= v < 6 and 0 <= u < 7]
        total = sum(float(probability[v, u]) for v, u in around)
        mean = [sum(float(probability[v, u]) * (u, v)[axis] for v, u in around) / total for axis in (0, 1)]
        np.testing.assert_allclose([x + offset[0], y + offset[1]], mean, atol=1e-6)


def test_key_points_equal_loops(network):
    """Places and order from the network's maps, one pixel at a time."""
    frame = formula_image(64, 96)
    with torch.inference_mode():
        _, logits, reliability = network(network_image(frame))
    share = logits.double().softmax(dim=1)[0, :64]
    heat = np.array([[share[8 * (y % 8) + x % 8, y // 8, x // 8] for x in range(96)] for y in range(64)])
    grown = cv2.resize(reliability[0, 0].numpy(), (96, 64), interpolation=cv2.INTER_LINEAR)
    expected = {}
    for y in range(64):
        for x in range(96):
            around = heat[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
            if heat[y, x] == around.max() and heat[y, x] > 0.05:
                expected[x, y] = heat[y, x] * grown[y, x]
    points = key_points(network, frame, 10_000)
    assert len(points.xy) == len(expected) == 150  # as many as the authors' program finds
    for (x, y), score in zip(points.xy, points.score, strict=True):
        near = [key for key in expected if abs(key[0] - x) < 1 and abs(key[1] - y) < 1]
        assert len(near) == 1
        assert score == pytest.approx(expected[near[0]], rel=1e-3)
    assert (np.diff(points.score) <= 0).all()
    best = key_points(network, frame, 20)
    assert np.array_equal(best.xy, points.xy[:20])
    assert torch.allclose(best.descriptors.norm(dim=1), torch.ones(20))


def test_descriptors_are_read_where_cells_tile_the_image():
    maps = torch.randn(1, 5, 4, 6, generator=torch.Generator().manual_seed(0))
    centres = torch.tensor([[(x + 0.5) * 8, (y + 0.5) * 8] for y in range(4) for x in range(6)])
    expected = F.normalize(maps[0].flatten(1).T, dim=1)
    torch.testing.assert_close(descriptors_at(maps, centres, (32, 48)), expected, rtol=1e-4, atol=1e-5)
    corner = descriptors_at(maps, torch.zeros(1, 2), (32, 48))  # reads beyond the border repeat the edge cells
    assert torch.linalg.vecdot(corner, expected[:1]) > 0.9


# ------------------------------------------------------------------------------------------- the source


def moving_window(frames: int, step: tuple[int, int] = (0, 16)) -> np.ndarray:
    return np.stack([formula_image(128, 160, top=step[0] * t, left=step[1] * t) for t in range(frames)])


@pytest.mark.parametrize("step", [(0, 16), (16, 0)])
def test_a_moving_picture_matches_itself(tmp_path, step):
    frames = moving_window(4, step)
    rows = source_of(weights=str(formula_file(tmp_path)), gap=2, similarity=0.9).rows(video_of(frames), 0)
    pairs = set(zip(rows.frame_i.tolist(), rows.frame_j.tolist(), strict=True))
    assert pairs == {(0, 2), (0, 3), (1, 3)}
    assert rows.xy_i.dtype == rows.xy_j.dtype == rows.score.dtype == np.float32
    assert (rows.flags == LONG_RANGE).all()
    assert ((rows.score > 0.9) & (rows.score <= 1)).all()
    chosen = rows.frame_j - rows.frame_i == 2  # moved by whole cells of the deepest block
    error = np.linalg.norm(rows.xy_i - rows.xy_j - [2 * step[1], 2 * step[0]], axis=1)[chosen]
    assert len(error) > 200
    assert np.mean(error < 1) > 0.5  # the weights have learnt nothing


def test_same_bits_on_every_run_and_any_seed(tmp_path):
    frames, weights = moving_window(3), str(formula_file(tmp_path))
    results = []
    for count, seed in ((1, 0), (2, 3)):
        with threads(count):
            results.append(source_of(weights=weights, epipolar=1.0).rows(video_of(frames), seed))
    assert len(results[0])
    for name in ("frame_i", "frame_j", "xy_i", "xy_j", "score", "flags"):
        assert np.array_equal(getattr(results[0], name), getattr(results[1], name)), name


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (33, 31)])
def test_tiny_and_even_frames(size, tmp_path):
    source = source_of(weights=str(formula_file(tmp_path)))
    frames = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    rows = source.rows(video_of(frames), 0)
    for xy in (rows.xy_i, rows.xy_j):
        assert ((xy >= -0.5) & (xy <= [size[1] - 0.5, size[0] - 0.5])).all()
    assert np.isfinite(source.rows(video_of(np.zeros_like(frames)), 0).score).all()


@pytest.mark.parametrize("frames", [0, 1, 10])
def test_fewer_frames_than_the_gap_need_no_network(frames):
    source = source_of(gap=10, weights="no such asset")
    rows = source.rows(video_of(np.zeros((frames, 8, 8, 3), np.uint8)), 0)
    assert len(rows) == 0
    assert rows.xy_i.shape == (0, 2)


def test_found_by_name_and_described(tmp_path):
    weights = formula_file(tmp_path)
    preset = Preset.model_validate(
        {"description": "d", "tracker": "optimize", "sparse": {"xfeat": {"weights": str(weights), "points": 5}}}
    )
    description = sparse_source("xfeat", preset).describe()
    assert description["source"] == "xfeat"
    assert description["points"] == 5
    assert len(description["weights"]) == 64
    with pytest.raises(AssetError, match="no/such"):
        source_of(weights="no/such/file.pt").describe()


# ------------------------------------------------------------------------------------------- epipolar geometry


def rigid_scene(count: int, wrong: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Matches of two pinhole views of random points; the last ``wrong`` of them are arbitrary."""
    rng = np.random.default_rng(seed)
    points = rng.uniform([-2, -1.5, 4], [2, 1.5, 9], (count, 3))
    turn = cv2.Rodrigues(np.array([0.05, -0.2, 0.03]))[0]
    views = [points, points @ turn.T + [0.8, 0.1, -0.3]]
    first, second = (500 * view[:, :2] / view[:, 2:] + [427, 240] for view in views)
    if wrong:
        second[-wrong:] = rng.uniform([0, 0], [854, 480], (wrong, 2))
    return (xy.astype(np.float32) for xy in (first, second))


def test_rigid_matches_stay_and_others_go():
    first, second = rigid_scene(200, 80)
    results = []
    for seed in (0, 99):
        cv2.setRNGSeed(seed)  # OpenCV's own state changes nothing
        results.append(explained(first, second, 1.0))
    good = results[0]
    assert np.array_equal(*results)
    assert good[:120].all()
    assert good[120:].mean() < 0.1


def test_too_few_matches_cannot_be_checked():
    first, second = rigid_scene(15, 0)
    assert not explained(first, second, 1.0).any()
    assert explained(*rigid_scene(16, 0), 1.0).all()
    assert explained(first[:0], second[:0], 1.0).shape == (0,)
    same = np.zeros((30, 2), np.float32)
    assert explained(same, same, 1.0).shape == (30,)  # no geometry can be found


def test_sampson_distance_of_parallel_views():
    rows_differ = np.array([[0, 0, 0], [0, 0, -1], [0, 1, 0.0]])  # y_i = y_j
    first, second = np.array([[3, 4.0], [50, 7]]), np.array([[20, 4.0], [10, 9]])
    np.testing.assert_allclose(sampson_distance(rows_differ, first, second), [0, 2 / np.sqrt(2)])


# ------------------------------------------------------------------------------------------- real weights


def test_published_weights_find_a_known_motion():
    network = load_network(published())
    picture = formula_image(240, 320)
    turn = cv2.getRotationMatrix2D((160, 120), 5, 1.04)
    turned = cv2.warpAffine(picture, turn, (320, 240), flags=cv2.INTER_CUBIC)
    source = source_of(weights=str(published()))
    rows = source.rows(video_of(np.stack([picture, turned])), 0)
    error = np.linalg.norm(rows.xy_i @ turn[:, :2].T + turn[:, 2] - rows.xy_j, axis=1)
    assert len(key_points(network, picture, 4096).xy) > 1000
    assert len(rows) > 300
    assert np.mean(error < 3) > 0.8
    assert np.median(error) < 1


def test_published_weights_on_a_real_video():
    """Matches near annotated points of the soapbox, half a second later, move as the points do."""
    folder, annotations = shared("data/davis480/soapbox/color"), shared("data/tapvid_davis32_dev.pkl")
    frames = np.stack([cv2.imread(str(folder / f"{t:05}.jpg"))[..., ::-1] for t in (0, 15)])
    entry = load_arrays_pickle(annotations)["soapbox"]
    seen = ~entry["occluded"][:, 0] & ~entry["occluded"][:, 15]
    truth = entry["points"][seen][:, [0, 15]] * [854, 480] - 0.5
    rows = source_of(weights=str(published())).rows(video_of(frames), 0)
    distance = np.linalg.norm(rows.xy_i[:, None] - truth[None, :, 0], axis=-1)
    near, which = distance.min(axis=1) < 6, distance.argmin(axis=1)
    motion = truth[which, 1] - truth[which, 0]
    error = np.linalg.norm(rows.xy_j - rows.xy_i - motion, axis=1)[near]
    assert np.linalg.norm(motion[near], axis=1).mean() > 20
    assert len(error) > 10
    assert np.mean(error < 8) > 0.8
