"""The cut detector on real shots, and on everything that only looks like a cut."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest

from everypoint.errors import AssetError
from everypoint.video.cuts import CutDetector, find_cuts, split_shots
from tests.shared import shared


def scene(seed, height=90, width=160):
    """A picture of coloured blobs with fine texture on them."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (5, 8, 3)).astype(np.float32)
    blobs = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    texture = cv2.GaussianBlur(rng.normal(0, 60, (height, width, 1)).astype(np.float32), (0, 0), 1.5)[..., None]
    return (blobs + 3 * texture).clip(0, 255).astype(np.uint8)


def pan(seed, count, step, height=60, width=80):
    wide = scene(seed, height, width + step * count)
    return np.stack([wide[:, t * step : t * step + width] for t in range(count)])


def scores(frames):
    detector = CutDetector()
    for frame in frames:
        detector.add(frame)
    return detector.scores()


def test_cuts_between_moving_shots():
    shots = [pan(seed, 8, 3) for seed in range(5)]
    assert find_cuts(np.concatenate(shots)) == [8, 16, 24, 32]


def test_every_pair_of_scenes_is_told_apart():
    stills = [np.repeat(scene(seed)[None], 4, axis=0) for seed in range(4)]
    for first in range(4):
        for second in range(4):
            expected = [] if first == second else [4]
            assert find_cuts(np.concatenate([stills[first], stills[second]])) == expected


@pytest.mark.parametrize("step", [1, 4, 8, 16])
def test_pans_are_no_cuts(step):
    assert scores(pan(3, 12, step)).max() < 0.25


def test_light_and_damage_are_no_cuts():
    shot = pan(5, 16, 2)
    flash = shot.copy()
    flash[8] = 255 - (255 - flash[8]) // 6
    exposure = shot.copy()
    exposure[8:] //= 2
    fade = (shot * np.linspace(1, 0, 16)[:, None, None, None]).astype(np.uint8)
    noise = shot.copy()
    noise[8] = np.random.default_rng(0).integers(0, 256, noise[8].shape)
    black = shot.copy()
    black[8] = 0
    for frames in (flash, exposure, fade, noise, black):
        assert find_cuts(frames, 0.3) == []


def test_frames_without_content():
    assert find_cuts(np.zeros((6, 40, 40, 3), np.uint8)) == []
    assert find_cuts(np.random.default_rng(0).integers(0, 256, (8, 40, 40, 3)).astype(np.uint8)) == []
    assert find_cuts(np.zeros((0, 4, 4, 3), np.uint8)) == find_cuts(np.zeros((1, 4, 4, 3), np.uint8)) == []


@pytest.mark.parametrize("shape", [(1, 1), (2, 900), (900, 2), (7, 5)])
def test_odd_shapes(shape):
    frames = np.random.default_rng(0).integers(0, 256, (4, *shape, 3)).astype(np.uint8)
    assert find_cuts(frames) == []


def test_a_cut_to_black_is_a_cut():
    frames = np.concatenate([pan(1, 6, 1), np.zeros((6, 60, 80, 3), np.uint8)])
    assert find_cuts(frames) == [6]


def test_cuts_at_the_ends_and_two_frames():
    a, b = scene(1)[None], scene(2)[None]
    assert find_cuts(np.concatenate([a, b, b, b, b])) == [1]
    assert find_cuts(np.concatenate([a, a, a, a, b])) == [4]
    assert find_cuts(np.concatenate([a, b])) == [1]


def test_threshold_is_monotone():
    frames = np.concatenate([pan(seed, 5, 12) for seed in range(4)])
    counts = [len(find_cuts(frames, threshold)) for threshold in (0.01, 0.3, 0.5, 0.8, 1.0)]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 0


def test_frame_by_frame_is_the_same_as_all_at_once():
    frames = np.concatenate([pan(seed, 6, 2) for seed in range(3)])
    assert find_cuts(iter(frames)) == find_cuts(frames) == [6, 12]


def test_the_number_of_threads_changes_nothing():
    frames = np.concatenate([pan(seed, 6, 5) for seed in range(2)])
    before = cv2.getNumThreads()
    try:
        results = []
        for threads in (1, 2, 4):
            cv2.setNumThreads(threads)
            results.append(scores(frames))
    finally:
        cv2.setNumThreads(before)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_split_shots():
    assert split_shots([], 5) == [(0, 5)]
    assert split_shots([2, 4], 5) == [(0, 2), (2, 4), (4, 5)]
    assert split_shots([4, 2, 2, 0, 9], 5) == [(0, 2), (2, 4), (4, 5)]
    assert split_shots([], 0) == []


# ------------------------------------------------------------------------------------------------ real videos


@pytest.fixture(scope="module")
def davis():
    shots = []
    for folder in sorted(shared("data/davis480").iterdir()):
        files = sorted((folder / "color").glob("*.jpg"))
        frames = [cv2.imread(str(file), cv2.IMREAD_REDUCED_COLOR_4)[..., ::-1] for file in files]
        shots.append(np.stack([cv2.resize(frame, (160, 90), interpolation=cv2.INTER_AREA) for frame in frames]))
    return shots


def test_no_cut_inside_the_shots_of_davis(davis):
    for shot in davis:
        for stride in (1, 4):
            assert scores(shot[::stride]).max() < 0.25


def test_every_cut_between_the_shots_of_davis(davis):
    for first, second in itertools.combinations(davis, 2):
        assert find_cuts(np.concatenate([first[-5:], second[:5]])) == [5]


def test_the_cuts_of_the_sample_clip():
    """Seen by eye: frames 30, 76, 137, 187 and 242 are the first of new shots; at 96-105 vehicles rush past."""
    try:
        from everypoint.assets.fetch import fetch

        path = fetch("bikes")
    except (ImportError, AssetError) as error:
        pytest.skip(f"the sample clip is not here: {error}")
    from everypoint.config.options import FramesOptions
    from everypoint.video.decode import read_frames
    from everypoint.video.discover import Entry

    frames, meta = read_frames(Entry("bikes", "video", path), FramesOptions(max_side=320))
    assert meta.cuts == [30, 76, 137, 187, 242]
    assert find_cuts(frames, 0.3) == meta.cuts
    assert find_cuts(frames, 0.65) == meta.cuts
