"""CoTracker behind its interface, by a fake of it: coordinates, passes, chunks, scores, and what can go wrong."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from everypoint.config.options import CotrackerOptions
from everypoint.correspond import cotracker_runner
from everypoint.correspond.cotracker_runner import MODELS, CotrackerRunner, support_points
from everypoint.errors import AssetError, MissingPackageError
from tests.fakes import cotracker_weights, install_cotracker
from tests.unit.correspond.zooming import Zoom

EXACT = 0.05  # px: what is left of 8-bit colours after some frames (0.02 is seen); a wrong resize rule errs by 0.2
QUERIES = np.array([[0, 30.5, 20.25], [0, 40, 30], [5, 12, 36.5], [7, 33, 21], [7, 20.5, 14], [4, 50, 10]], np.float32)


@pytest.fixture
def fake(monkeypatch):
    return install_cotracker(monkeypatch)


@pytest.fixture(scope="module")
def zoom() -> Zoom:
    return Zoom(8, zoom=1.05)


def runner(tmp_path: Path, model: str = "cotracker3-offline", **options) -> CotrackerRunner:
    weights = cotracker_weights(tmp_path / f"{model}.pth", model)
    return CotrackerRunner(CotrackerOptions(model=model, weights=str(weights), **options))


def error_inside(zoom: Zoom, queries: np.ndarray, xy: np.ndarray) -> float:
    truth = zoom.truth(queries)
    return float(np.linalg.norm(xy - truth, axis=-1)[zoom.inside(truth)].max())


# ------------------------------------------------------------------------------------------------------- positions


@pytest.mark.parametrize("model", MODELS)
def test_every_model_follows_both_ways_from_any_frame(fake, tmp_path, zoom, model):
    found = runner(tmp_path, model).track(zoom.frames, QUERIES)
    assert found.xy.shape == (8, 6, 2)
    assert found.visibility.shape == found.confidence.shape == (8, 6)
    assert [array.dtype for array in found] == [np.float32] * 3
    assert error_inside(zoom, QUERIES, found.xy) < EXACT
    assert found.score[zoom.inside(zoom.truth(QUERIES), 2)].min() > 0.9


@pytest.mark.parametrize("model", MODELS)
def test_the_query_itself_is_exact_and_certain(fake, tmp_path, zoom, model):
    queries = np.concatenate([QUERIES, [[3, -0.5, 47.5], [4, 90.0, 5.0]]]).astype(np.float32)  # and outside
    found = runner(tmp_path, model).track(zoom.frames, queries)
    own = queries[:, 0].astype(int), np.arange(8)
    np.testing.assert_array_equal(found.xy[own], queries[:, 1:])
    assert (found.visibility[own] == 1).all()
    assert (found.confidence[own] == 1).all()


def test_the_inner_network_gives_what_the_predictor_gives(fake, tmp_path, zoom):
    """The predictor, at the frames' own size and with its own way backward, is the reference."""
    made = runner(tmp_path)
    found = made.track(zoom.frames, QUERIES)
    predictor = fake.CoTrackerPredictor(checkpoint=str(made.weights), offline=True, window_len=60)
    video = torch.from_numpy(zoom.frames).permute(0, 3, 1, 2)[None].float()
    tracks, visible = predictor(video, queries=torch.from_numpy(QUERIES)[None], backward_tracking=True)
    np.testing.assert_allclose(found.xy, tracks[0].numpy(), atol=1e-4)
    np.testing.assert_array_equal(found.visibility > 0.9, visible[0].numpy())


def test_the_inner_network_is_asked_what_the_predictor_asks_it(fake, tmp_path, zoom):
    """The same frames and points in both passes, the support points on the same frame of the video."""
    made = runner(tmp_path)
    asked = []

    def record(tracks, visibility, queries):
        asked.append(queries.clone())
        return tracks, visibility

    made.predictor.model.fault = record
    made.track(zoom.frames, QUERIES)
    video = torch.from_numpy(zoom.frames).permute(0, 3, 1, 2)[None].float()
    made.predictor(video, queries=torch.from_numpy(QUERIES)[None], backward_tracking=True)
    assert len(asked) == 4
    for ours, theirs in zip(asked[:2], asked[2:]):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)


def test_scores_of_the_inner_network_and_booleans_of_the_others(fake, tmp_path, zoom):
    frames = zoom.frames.copy()
    frames[5:7, :, :, 2] = 25  # everything looks a little different: vis 0.67, times 0.95 that is 0.64
    one = np.array([[2, 30, 20]], np.float32)
    found = runner(tmp_path).track(frames, one)
    assert found.visibility[[1, 3, 4, 7], 0] == pytest.approx(0.99, abs=0.01)
    assert found.visibility[[5, 6], 0] == pytest.approx(0.99 * np.exp(-((25 / 40) ** 2)), abs=0.02)
    assert found.confidence[[1, 5, 7], 0] == pytest.approx(0.95)
    for model, seen in (("cotracker3-online", 1), ("cotracker2", 0), ("cotracker2-online", 1)):  # > 0.6, 0.9, 0.6
        found = runner(tmp_path, model).track(frames, one)
        assert found.visibility[[5, 6], 0].tolist() == [seen] * 2
        assert set(np.unique(found.visibility)) <= {0, 1}
        assert (found.confidence == 1).all()


def test_integer_queries_are_not_rounded_on_the_way(fake, tmp_path, zoom):
    found = runner(tmp_path).track(zoom.frames, np.array([[0, 30, 20], [7, 33, 21]]))
    expected = runner(tmp_path).track(zoom.frames, np.array([[0, 30, 20], [7, 33, 21]], np.float32))
    np.testing.assert_array_equal(found.xy, expected.xy)


def test_the_support_points_are_the_predictors(fake):
    np.testing.assert_allclose(support_points(0)[None], fake.support(torch.zeros(1, 1, 3)), atol=1e-4)
    assert (support_points(9)[:, 0] == 9).all()


def test_frames_of_other_shapes(fake, tmp_path):
    wide = Zoom(5, (30, 101), zoom=1.02, shift=(1.0, 0.5))
    queries = np.array([[0, 0.0, 29.0], [4, 100.0, 0.0], [2, 50.5, 14.5]], np.float32)
    found = runner(tmp_path).track(wide.frames, queries)
    assert error_inside(wide, queries, found.xy) < EXACT


# ---------------------------------------------------------------------------------------------- passes and chunks


def test_points_at_once_bounds_a_call_and_changes_nothing(fake, tmp_path, zoom):
    whole, parts = runner(tmp_path), runner(tmp_path, points_at_once=4)
    expected, found = whole.track(zoom.frames, QUERIES), parts.track(zoom.frames, QUERIES)
    for a, b in zip(found, expected):  # of the fake, whose points do not attend to each other
        np.testing.assert_allclose(a, b, atol=1e-4)
    assert whole.predictor.model.calls == [(8, 6 + 36)] * 2
    assert parts.predictor.model.calls == [(8, 4 + 36)] * 2 + [(8, 2 + 36)] * 2


LENGTHS = [("cotracker2-online", 8, n) for n in (2, 3, 4, 5, 8, 9, 12, 13)]
LENGTHS += [("cotracker3-online", 16, n) for n in (8, 9, 16, 17)]


@pytest.mark.parametrize("model, window, count", LENGTHS)
def test_an_online_model_sees_overlapping_chunks_of_every_length_of_video(fake, tmp_path, model, window, count):
    video = Zoom(count, zoom=1.01)
    queries = np.array([[0, 30, 20], [count - 1, 33, 21], [count // 2, 20, 14]], np.float32)
    made = runner(tmp_path, model)
    found = made.track(video.frames, queries)
    assert error_inside(video, queries, found.xy) < EXACT
    calls = [frames for frames, _ in made.predictor.model.calls]
    steps = max(1, -(-(count - window // 2) // (window // 2)))  # half a window each
    assert len(calls) == 2 * steps  # and both ways
    assert max(calls) <= window


def test_online_and_offline_agree(fake, tmp_path):
    video = Zoom(13, zoom=1.01)
    queries = np.array([[0, 30, 20], [12, 33, 21], [6, 20, 14]], np.float32)
    found, expected = (runner(tmp_path, m).track(video.frames, queries) for m in ("cotracker2-online", "cotracker2"))
    np.testing.assert_allclose(found.xy, expected.xy, atol=1e-3)


def test_a_pass_that_nobody_needs_is_not_made(fake, tmp_path, zoom):
    first, last = QUERIES[:2], QUERIES[3:5]
    made = runner(tmp_path)
    for queries, ways in ((first, {}), (last, {}), (QUERIES, {"backward": False}), (QUERIES, {"forward": False})):
        made.predictor.model.calls.clear()
        made.track(zoom.frames, queries, **ways)
        assert len(made.predictor.model.calls) == 1


def test_a_direction_that_is_not_asked_for_stays_unknown(fake, tmp_path, zoom):
    one = np.array([[5, 30, 20]], np.float32)
    whole = runner(tmp_path).track(zoom.frames, one)
    for ways, known in (({"backward": False}, slice(5, None)), ({"forward": False}, slice(None, 6))):
        found = runner(tmp_path).track(zoom.frames, one, **ways)
        rest = np.setdiff1d(np.arange(8), np.arange(8)[known])
        np.testing.assert_array_equal(found.xy[known], whole.xy[known])
        assert (found.score[rest] == 0).all()
        assert (found.xy[rest] == [30, 20]).all()


def test_one_frame_or_no_query_asks_no_network(tmp_path, zoom):
    made = CotrackerRunner(CotrackerOptions())  # no fake, no weights
    alone = made.track(zoom.frames[:1], np.array([[0, 3, 4]], np.float32))
    assert alone.xy.tolist() == [[[3, 4]]]
    assert alone.score.tolist() == [[1]]
    assert made.track(zoom.frames, np.empty((0, 3))).xy.shape == (8, 0, 2)


def test_what_is_no_number_is_unknown(fake, tmp_path, zoom):
    made = runner(tmp_path)

    def fault(tracks, visibility, queries):
        tracks[2, 0], visibility[3, 0], tracks[4, 0, 1] = torch.nan, torch.nan, torch.inf
        return tracks, visibility

    made.predictor.model.fault = fault
    found = made.track(zoom.frames, QUERIES[:2])
    assert np.isfinite(found.xy).all()
    assert (found.score[2:5, 0] == 0).all()
    assert (found.confidence[2:5, 0] == 0).all()
    assert (found.score[5:, 0] > 0.5).all()


def test_the_same_bits_again(fake, tmp_path, zoom):
    first, second = (runner(tmp_path).track(zoom.frames, QUERIES) for _ in range(2))
    for a, b in zip(first, second):
        np.testing.assert_array_equal(a, b)


def test_a_long_video_for_an_offline_model_is_said(fake, tmp_path, zoom, monkeypatch, caplog):
    monkeypatch.setattr(cotracker_runner, "LONG_VIDEO", 7)
    runner(tmp_path).track(zoom.frames, QUERIES)
    assert "8 frames at once are many for cotracker3-offline" in caplog.text
    caplog.clear()
    runner(tmp_path, "cotracker3-online").track(zoom.frames, QUERIES)
    assert "many" not in caplog.text


# ------------------------------------------------------------------------------------------- package and weights


def sentence(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert text.endswith(".")
    assert "\n" not in text
    return text


@pytest.mark.parametrize("module", ["cotracker", "cotracker.predictor"])
def test_a_missing_package_says_what_it_is_its_licence_and_how_to_install_it(fake, tmp_path, zoom, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)  # None: the import fails
    if module == "cotracker.predictor":
        monkeypatch.delattr(sys.modules["cotracker"], "predictor")
    for use in (lambda made: made.track(zoom.frames, QUERIES), lambda made: made.describe()):
        with pytest.raises(MissingPackageError) as error:
            use(runner(tmp_path))
        text = sentence(error)
        assert "CC-BY-NC 4.0 (non-commercial use)" in text
        assert "pip install git+https://github.com/facebookresearch/co-tracker`" in text
        assert "pip install cotracker" not in text


def test_the_licence_of_the_weights_must_be_accepted(fake, tmp_path, zoom, monkeypatch):
    monkeypatch.setenv("EVERYPOINT_ASSETS", str(tmp_path))
    monkeypatch.delenv("EVERYPOINT_OFFLINE", raising=False)
    for model in MODELS:
        with pytest.raises(AssetError) as error:
            CotrackerRunner(CotrackerOptions(model=model)).track(zoom.frames, QUERIES)
        text = sentence(error)
        assert "CC-BY-NC-4.0" in text
        assert f"assets fetch {model.replace('cotracker2-online', 'cotracker2')} --accept-licence" in text


@pytest.mark.parametrize("name", ["cotracker3-offline-baseline", "cotracker3-online-baseline"])
def test_the_baseline_weights_are_known_and_limited_too(fake, tmp_path, zoom, monkeypatch, name):
    monkeypatch.setenv("EVERYPOINT_ASSETS", str(tmp_path))
    monkeypatch.delenv("EVERYPOINT_OFFLINE", raising=False)
    with pytest.raises(AssetError, match="limits its use"):
        CotrackerRunner(CotrackerOptions(weights=name)).track(zoom.frames, QUERIES)


def test_weights_of_another_model_are_refused(fake, tmp_path, zoom):
    for theirs in ("cotracker3-online", "cotracker2"):
        weights = cotracker_weights(tmp_path / "weights.pth", theirs)
        with pytest.raises(AssetError) as error:
            CotrackerRunner(CotrackerOptions(weights=str(weights))).track(zoom.frames, QUERIES)
        assert "does not fit cotracker3-offline" in sentence(error)


def test_a_file_that_would_run_code_never_reaches_the_predictor(fake, tmp_path, zoom, monkeypatch):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    monkeypatch.setattr(fake, "built", lambda *a, **k: pytest.fail("the predictor opened the file"))
    path = tmp_path / "trap.pth"
    path.write_bytes(pickle.dumps({"model": Trap()}, protocol=2))
    with pytest.raises(AssetError):
        CotrackerRunner(CotrackerOptions(weights=str(path))).track(zoom.frames, QUERIES)
    assert not (tmp_path / "sprung").exists()


def test_an_older_package_is_one_sentence(fake, tmp_path, zoom, monkeypatch):
    def old(checkpoint: str) -> None:
        raise AssertionError

    monkeypatch.setattr(fake, "CoTrackerPredictor", old)
    with pytest.raises(MissingPackageError) as error:
        runner(tmp_path).track(zoom.frames, QUERIES)
    assert "the installed cotracker cannot run cotracker3-offline" in sentence(error)
    monkeypatch.delattr(fake, "CoTrackerOnlinePredictor")
    with pytest.raises(MissingPackageError, match="cannot run cotracker3-online"):
        runner(tmp_path, "cotracker3-online").track(zoom.frames, QUERIES)


def test_description_names_all_that_the_tracks_depend_on(fake, tmp_path):
    base = runner(tmp_path).describe()
    assert base.keys() == {"package", "weights", "model", "points_at_once"}
    assert len(base["weights"]) == 64
    others = [runner(tmp_path, "cotracker2"), runner(tmp_path, points_at_once=3)]
    assert all(other.describe() != base for other in others)
