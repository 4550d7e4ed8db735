"""The boundary of the read-out: original raster in, working index inside, original raster out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from everypoint import numerics
from everypoint.artifacts import atomic
from everypoint.artifacts.video import VideoMeta
from everypoint.config.presets import load_preset
from everypoint.stages import relevant
from everypoint.stages import tracks as stage
from everypoint.track import dispatch
from everypoint.track.base import empty_tracks
from tests.unit.optimize.test_run import video


def meta(**changes) -> VideoMeta:
    values = {"name": "clip", "source": "clip.mp4", "source_hash": "ab", "fps": 30.0, "frames": 4, "stride": 3}
    values |= {"height": 50, "width": 80, "original_height": 200, "original_width": 160}
    return VideoMeta(**{**values, **changes})


def test_queries_by_hand():
    """x is halved, y is quartered, then raster becomes index."""
    queries = np.array([[2, 0, 0], [1, 160, 200], [0, 81, 42]], np.float32)
    assert stage.queries_to_index(queries, meta()).tolist() == [[2, -0.5, -0.5], [1, 79.5, 49.5], [0, 40, 10]]


def test_out_is_the_inverse_of_in():
    rng = np.random.default_rng(0)
    queries = np.column_stack([np.zeros(50), rng.uniform(0, 160, 50), rng.uniform(0, 200, 50)]).astype(np.float32)
    back = stage.tracks_to_original(stage.queries_to_index(queries, meta())[None, :, 1:], meta())[0]
    assert np.abs(back - queries[:, 1:]).max() < 1e-4


def test_the_query_is_returned_exactly_and_visible():
    queries = np.array([[1, 10.125, 20.3], [3, 5, 6]], np.float32)
    positions = np.zeros((4, 2, 2), np.float32)
    visible, confidence = np.zeros((4, 2), bool), np.zeros((4, 2), np.float32)
    stage.pin_queries(positions, visible, confidence, queries)
    assert np.array_equal(positions[[1, 3], [0, 1]], queries[:, 1:])
    assert visible.sum() == 2
    assert visible[1, 0]
    assert visible[3, 1]
    assert confidence[1, 0] == confidence[3, 1] == 1


def test_the_description_holds_no_time_and_no_place():
    one = stage.describe(meta(), "chain", {"a": 1, "b": 2}, 0)
    assert one == stage.describe(meta(source="/elsewhere/clip.mp4"), "chain", {"b": 2, "a": 1}, 0)
    assert one["options"] != stage.describe(meta(), "chain", {"a": 1, "b": 3}, 0)["options"]
    assert one["options"] != stage.describe(meta(), "chain", {"a": 1, "b": 2}, 1)["options"]


@pytest.mark.parametrize(("matmul", "within"), [("float32", "ieee"), ("tf32", "tf32")])
def test_a_model_is_read_out_with_the_arithmetic_of_its_training(tmp_path, monkeypatch, matmul, within):
    """As on CUDA, where it is made; by the options that the plan hands to this stage."""
    seen, plain = [], numerics.products_in
    monkeypatch.setattr(numerics, "products_in", lambda precision, _: plain(precision, "cuda"))

    def track(preset, queries, inputs, *_):
        seen.append(torch.backends.cuda.matmul.fp32_precision)
        return empty_tracks(len(inputs.frames), queries)

    monkeypatch.setattr(dispatch, "track", track)
    frames = video(tmp_path / "frames", 3, (20, 30))
    atomic.save_npz(tmp_path / "queries.npz", queries=np.array([[0, 4, 5]], np.float32), query_ids=np.array(["a"]))
    files = {"output": str(tmp_path / "tracks.npz"), "table": str(tmp_path / "tracks.csv")}
    before = torch.backends.cuda.matmul.fp32_precision
    for name in ("cpu", "chain-multi"):
        stage.run(
            frames=str(frames / "frames.npy"),
            queries=str(tmp_path / "queries.npz"),
            preset=relevant.tracks(load_preset(name, {"all": {"optimize": {"matmul": matmul}}})),
            name=name,
            seed=0,
            device="cpu",
            threads=torch.get_num_threads(),
            **files,
        )
    assert seen == [within, before]
    assert torch.backends.cuda.matmul.fp32_precision == before
