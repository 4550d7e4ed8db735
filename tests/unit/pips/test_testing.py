"""The tests on data sets: what is scored, in which coordinates, and how it is shown."""

from __future__ import annotations

import io
import logging
import pickle

import numpy as np
import pytest
from PIL import Image

from everypoint.artifacts import atomic
from everypoint.config.options_pips import PipsTestOptions
from everypoint.pips import testing
from everypoint.pips.clip import Sequence
from everypoint.pips.testing import PUBLISHED, measure_sequence, measure_set, table, tapvid_sequences

HEIGHT, WIDTH = 40, 60


def tapvid(tmp_path, *, encoded: bool = False):
    video = np.random.default_rng(0).integers(0, 256, (5, HEIGHT, WIDTH, 3), np.uint8)
    points = np.random.default_rng(1).uniform(0.1, 0.9, (3, 5, 2)).astype(np.float32)
    occluded = np.zeros((3, 5), bool)
    occluded[1, 0] = True  # not in frame 0: left out
    occluded[2, 3] = True
    points[2, 3] = np.nan
    frames = [png(frame) for frame in video] if encoded else video
    other = {"video": frames, "points": points, "occluded": np.ones((3, 5), bool)}
    path = tmp_path / "davis.pkl"
    value = {"goat": {"video": frames, "points": points, "occluded": occluded}, "empty": other}
    atomic.write_bytes(path, pickle.dumps(value))
    return path, video, points


def png(frame: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize("encoded", [False, True])
def test_tapvid(tmp_path, encoded, caplog):
    path, video, points = tapvid(tmp_path, encoded=encoded)
    (one,) = tapvid_sequences(path)
    assert "empty: no point is visible in frame 0" in caplog.text
    assert (one.name, one.count, one.size) == ("goat", 5, (HEIGHT, WIDTH))
    assert np.array_equal(one.load(3), video[3])
    assert one.trajs.shape == (5, 2, 2)
    assert np.allclose(one.trajs[:, 0], points[0] * [WIDTH, HEIGHT] - 0.5, atol=1e-4)
    assert one.valids.T.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 1]]
    (compat,) = tapvid_sequences(path, compat=True)
    assert np.allclose(compat.trajs[:, 0], points[0] * [WIDTH - 1, HEIGHT - 1], atol=1e-4)
    assert np.isfinite(compat.trajs).all()


def sequence(name: str = "a", frames: int = 4) -> Sequence:
    trajs = np.random.default_rng(0).uniform(5, 30, (frames, 6, 2)).astype(np.float32)
    ones = np.ones(trajs.shape[:2], np.float32)
    return Sequence(name, lambda t: np.zeros((HEIGHT, WIDTH, 3), np.uint8), frames, (HEIGHT, WIDTH), trajs, ones, ones)


@pytest.mark.parametrize("compat", [False, True])
def test_a_perfect_tracker_and_one_that_is_off(monkeypatch, compat):
    """Truth is scaled to the network's size; there an error of 3.5 px of 896 is one of 1 px of 256."""
    one = sequence()
    options = PipsTestOptions(compat=compat)
    scale = np.array([896 / WIDTH, 512 / HEIGHT])
    truth = one.trajs * scale if compat else (one.trajs + 0.5) * scale - 0.5

    class Nothing:
        dtype, device = np.dtype(np.float32), "cpu"

    def follow(features, numbers, start, plan):
        assert numbers == [0, 1, 2, 3]
        assert (plan.window, plan.iterations, plan.beautify) == (128, 16, False)
        assert np.allclose(start, truth[0], atol=1e-3)
        return truth + offset

    monkeypatch.setattr(testing, "follow", follow)
    offset = np.array([0.0, 0.0])
    scores = measure_sequence(Nothing(), one, options)
    assert scores["d_1"] == pytest.approx(100, abs=1e-3)
    offset = np.array([3.5 * 3, 0.0])
    scores = measure_sequence(Nothing(), one, options)
    assert scores["median_l2"] == pytest.approx(3, abs=1e-3)
    assert scores["d_4"] == pytest.approx(100, abs=1e-3)
    assert scores["d_2"] == 0


def test_means_lines_and_table(monkeypatch, caplog):
    given = {"a": {"d_avg": 40.0, "survival_16": 60.0, "median_l2": 5.0}, "b": {"d_avg": 20.0, "survival_16": 80.0}}
    given["b"]["median_l2"] = float("nan")
    monkeypatch.setattr(testing, "measure_sequence", lambda inference, one, options: given[one.name])
    with caplog.at_level(logging.INFO):
        result = measure_set("tapvid", [sequence("a"), sequence("b")], 30, None, PipsTestOptions())
    assert result["mean"] == {"d_avg": 30.0, "survival_16": 70.0, "median_l2": 5.0}
    first, second = [line for line in caplog.messages if "; step" in line]
    assert first.startswith("1_128_i16_tap01_")
    assert "; step 000001/30; rtime 0.00; itime 0.00; d_x 40.0; sur_x 60.0; med_x 5.0" in first
    assert second.endswith("d_x 30.0; sur_x 70.0; med_x 5.0")
    lines = table(result).splitlines()
    assert [line.split() for line in lines[-2:]] == [
        ["mean", "30.0", "70.0", "5.0"],
        ["published", "70.6", "89.3", "6.9"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_published_figures():
    assert PUBLISHED["crohd"] == (50.6, 50.6, 19.7)
    assert PUBLISHED["odyssey"] == (31.3, 32.7, 33.0)
