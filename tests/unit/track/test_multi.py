"""chain-multi: at least chain, over occlusions, with the evidence of appearance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from everypoint.artifacts.flows import FlowShardWriter, FlowStore
from everypoint.config.options import ChainOptions
from everypoint.track import appearance as appearance_room
from everypoint.track.appearance import Appearance
from everypoint.track.chain import chain_tracks
from everypoint.track.evidence import Evidence
from everypoint.track.multi import chain_multi_tracks, consistent
from tests.unit.track.worlds import constant_store, exact_store, object_features, queries_of, scene, truth_of

OPTIONS = ChainOptions(  # the tuned defaults are not what is tested here
    cycle_threshold=3.0,
    intervals=(1, 2, 4, 8, 16, 32),
    direct=True,
    step_cost=0.1,
    occlusion_cost=5.0,
    cycle_relative=0.0,
    appearance_cost=0.5,
    appearance_threshold=0.2,
    step_appearance_threshold=0.2,
)
FRAMES, SIZE = 12, (64, 64)


@pytest.fixture(scope="module")
def made():
    return scene("occluder", FRAMES, SIZE)


@pytest.fixture(scope="module")
def store(made, tmp_path_factory) -> FlowStore:
    return exact_store(made, tmp_path_factory.mktemp("flows") / "flow")


@pytest.fixture(scope="module")
def queries(made) -> np.ndarray:
    return queries_of(made, 90)


def scores(found, tracks: np.ndarray, visible: np.ndarray, queries: np.ndarray) -> tuple[float, float]:
    """Share of visible positions within 1 px and called visible; share of right visibilities. Queries left out."""
    others = np.ones_like(visible)
    others[queries[:, 0].astype(int), np.arange(len(queries))] = False
    near = np.linalg.norm(found.tracks - tracks, axis=-1) < 1
    good = near & found.visible & visible & others
    return good.sum() / (visible & others).sum(), float((found.visible == visible)[others].mean())


def test_is_better_than_chain_where_points_are_hidden_in_between(made, store, queries):
    tracks, visible = truth_of(made, queries)
    plain = scores(chain_tracks(store, queries, FRAMES, OPTIONS), tracks, visible, queries)
    multi = scores(chain_multi_tracks(Evidence(store, OPTIONS), queries, FRAMES), tracks, visible, queries)
    assert multi[0] >= plain[0]
    assert multi[1] > plain[1]
    assert multi[0] > 0.9
    assert multi[1] > 0.9


def test_sees_a_point_again_that_chain_has_lost(made, store, queries):
    tracks, visible = truth_of(made, queries)
    plain = chain_tracks(store, queries, FRAMES, OPTIONS)
    multi = chain_multi_tracks(Evidence(store, OPTIONS), queries, FRAMES)
    again = reappearing(visible, queries)
    assert again.sum() >= 10
    lost = again & ~plain.visible
    assert lost.sum() >= 0.9 * again.sum()  # chain never comes back
    found = multi.visible & (np.linalg.norm(multi.tracks - tracks, axis=-1) < 1)
    assert found[again].mean() > 0.8


def reappearing(visible: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Where [T, N] a point is visible with a hidden frame between its query and there."""
    again = np.zeros_like(visible)
    for n in range(visible.shape[1]):
        start = int(queries[n, 0])
        for times in (range(start, len(visible)), range(start, -1, -1)):
            hidden = False
            for t in times:
                hidden |= not visible[t, n]
                again[t, n] = hidden and visible[t, n]
    return again


def test_with_gap_1_alone_it_is_chain(made, store, queries):
    options = OPTIONS.model_copy(update={"intervals": (1,), "direct": False})
    plain, multi = (
        chain_tracks(store, queries, FRAMES, options),
        chain_multi_tracks(Evidence(store, options), queries, FRAMES),
    )
    np.testing.assert_array_equal(multi.visible, plain.visible)
    np.testing.assert_allclose(multi.tracks, plain.tracks, atol=1e-5)


def test_a_store_without_some_intervals_is_enough(made, queries, tmp_path):
    found = chain_multi_tracks(Evidence(exact_store(made, tmp_path / "flow", gaps=(1, 4)), OPTIONS), queries, FRAMES)
    tracks, visible = truth_of(made, queries)
    assert scores(found, tracks, visible, queries)[0] > 0.85


def test_the_cheapest_way_is_taken(tmp_path):
    """Against all ways by brute force: three frames, errors known, no occlusion."""
    size, writer = (16, 24), FlowShardWriter(tmp_path / "flow", "ways", (16, 24))
    errors = {(0, 1): 0.6, (1, 2): 0.5, (0, 2): 0.8}  # 0 -> 1 -> 2 costs 0.36 + 0.25 + 2 c, 0 -> 2 costs 0.64 + c
    place = {(0, 1): 3.0, (1, 2): 3.0, (0, 2): 7.0}
    for i in range(3):
        targets = [j for j in range(3) if j != i]
        flows = np.zeros((2, *size, 2), np.float32)
        for n, j in enumerate(targets):
            pair = (min(i, j), max(i, j))
            flows[n, ..., 0] = place[pair] if i < j else -place[pair] + errors[pair]
        writer.write(i, targets, flows)
    writer.publish()
    store = FlowStore([tmp_path / "flow"])
    start = np.array([[0, 4.0, 4.0]], np.float32)
    for cost, expected in ((0.0, 10.0), (0.1, 11.0)):  # without a cost of steps the two short ones win
        options = OPTIONS.model_copy(update={"step_cost": max(cost, 1e-6), "intervals": (1, 2), "direct": False})
        found = chain_multi_tracks(Evidence(store, options), start, 3)
        assert found.tracks[2, 0, 0] == pytest.approx(expected, abs=0.02)
        assert found.visible.all()


def test_among_hidden_arrivals_the_cheapest_counts_to_the_last_digit(tmp_path):
    """A difference of 0.01 in cost decides, also between arrivals of which none holds."""
    size, writer = (16, 24), FlowShardWriter(tmp_path / "flow", "ways", (16, 24))
    place = {(0, 1): 2.0, (1, 2): 2.0, (0, 2): 9.0}
    for i in range(3):
        targets = [j for j in range(3) if j != i]
        flows = np.zeros((2, *size, 2), np.float32)
        for n, j in enumerate(targets):
            pair = (min(i, j), max(i, j))
            error = {(0, 1): 0.0, (1, 2): 4.0, (0, 2): 4.0}[pair]
            flows[n, ..., 0] = place[pair] if i < j else -place[pair] + error
        writer.write(i, targets, flows)
    writer.publish()
    options = OPTIONS.model_copy(update={"step_cost": 0.01, "intervals": (1, 2), "direct": False})
    found = chain_multi_tracks(
        Evidence(FlowStore([tmp_path / "flow"]), options), np.array([[0, 4.0, 4.0]], np.float32), 3
    )
    assert not found.visible[2, 0]
    assert found.tracks[2, 0, 0] == pytest.approx(13.0, abs=0.02)  # one long step costs 0.01 less than two


@pytest.mark.parametrize("t0", [0, 5, 11])
def test_goes_both_ways_from_any_frame(tmp_path, t0):
    store = constant_store(tmp_path / "flow", FRAMES, (40, 48), (1.5, -1.0))
    found = chain_multi_tracks(Evidence(store, OPTIONS), np.array([[t0, 20.25, 18.5]], np.float32), FRAMES)
    expected = np.array([[20.25 + 1.5 * (t - t0), 18.5 - (t - t0)] for t in range(FRAMES)])
    np.testing.assert_allclose(found.tracks[:, 0], expected, atol=1e-4)
    np.testing.assert_array_equal(found.visible[:, 0], ((expected >= 0) & (expected <= [47, 39])).all(1))


def test_flows_that_are_no_numbers_leave_finite_tracks(tmp_path):
    size, writer = (16, 24), FlowShardWriter(tmp_path / "flow", "nan", (16, 24))
    for i in range(4):
        targets = [j for j in range(4) if j != i]
        writer.write(i, targets, np.full((3, *size, 2), np.nan, np.float32))
    writer.publish()
    found = chain_multi_tracks(
        Evidence(FlowStore([tmp_path / "flow"]), OPTIONS), np.array([[1, 4.0, 4.0]], np.float32), 4
    )
    assert np.isfinite(found.tracks).all()
    assert np.isfinite(found.confidence).all()
    assert found.visible[:, 0].tolist() == [False, True, False, False]


def test_no_queries(store):
    found = chain_multi_tracks(Evidence(store, OPTIONS), np.empty((0, 3), np.float32), FRAMES)
    assert (found.tracks.shape, found.visible.shape) == ((FRAMES, 0, 2), (FRAMES, 0))


# ------------------------------------------------------------------------------------------------ appearance


def drifting_store(folder, made) -> FlowStore:
    """Flows that are wrong in a consistent way: nothing moves, in either direction."""
    return constant_store(folder, made.frames, made.size, (0.0, 0.0))


def test_appearance_stops_a_drift_onto_another_surface(made, queries, tmp_path):
    store = drifting_store(tmp_path / "flow", made)
    features = object_features(made)
    blind = chain_multi_tracks(Evidence(store, OPTIONS), queries, FRAMES)
    strict = OPTIONS.model_copy(update={"step_appearance_threshold": 1.1})  # like the query or not at all
    seeing = chain_multi_tracks(Evidence(store, strict, features), queries, FRAMES)
    assert blind.visible.all()  # the cycle check has nothing to say
    rows = np.arange(len(queries))
    own = features[queries[:, 0].astype(int), np.rint(queries[:, 2]).astype(int), np.rint(queries[:, 1]).astype(int)]
    for t in range(FRAMES):
        x, y = (np.rint(seeing.tracks[t, :, axis]).astype(int) for axis in range(2))
        alike = (features[t, y, x] * own).sum(-1) > 0
        same = alike & whole_cell(features[t], seeing.tracks[t])
        other = ~alike & whole_cell(features[t], seeing.tracks[t])
        assert seeing.visible[t, rows[same]].mean() > 0.8 if same.any() else True
        assert not seeing.visible[t, rows[other]].any()
    assert (~seeing.visible).sum() > 50


def whole_cell(features: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Whether the four cells around each point look alike."""
    x, y = (np.floor(xy[:, axis]).astype(int).clip(0, 62) for axis in range(2))
    corners = np.stack([features[y, x], features[y, x + 1], features[y + 1, x], features[y + 1, x + 1]])
    return (corners == corners[0]).all(axis=(0, 2))


def test_appearance_with_true_flows_does_no_harm(made, store, queries):
    tracks, visible = truth_of(made, queries)
    found = chain_multi_tracks(Evidence(store, OPTIONS, object_features(made)), queries, FRAMES)
    within, right = scores(found, tracks, visible, queries)
    assert within > 0.85
    assert right > 0.9


def test_similarity_is_the_cosine_of_bilinear_features():
    random = np.random.default_rng(0)
    features = random.normal(size=(3, 4, 6, 5)).astype(np.float16)
    queries = np.array([[0, 3.0, 2.0], [2, 20.0, 9.5]], np.float32)
    xy = np.array([[7.7, 4.1], [-5.0, 40.0]], np.float32)
    appearance = Appearance(features, (16, 24), queries)
    got = appearance.similarity(np.arange(2), xy, 1)
    for n in range(2):
        a = sampled(features[int(queries[n, 0])], queries[n, 1:])
        b = sampled(features[1], xy[n])
        assert got[n] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-5)


def sampled(field: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Features at an index point of a 16 x 24 frame: cells of 4 x 4 px, edges extended."""
    place = [[(xy[1] + 0.5) / 4 - 0.5], [(xy[0] + 0.5) / 4 - 0.5]]
    channels = np.moveaxis(field.astype(np.float64), -1, 0)
    return np.array([map_coordinates(channel, place, order=1, mode="nearest")[0] for channel in channels])


def test_without_features_everything_is_alike():
    appearance, xy = Appearance(None, (16, 24), np.zeros((1, 3))), np.zeros((1, 2), np.float32)
    assert appearance.similarity(np.array([0]), xy, 0).tolist() == [1.0]
    compared = appearance.compare(np.array([0]), appearance.at(0, xy), (1, xy), OPTIONS)
    assert [of.tolist() for of in compared] == [[1.0], [True]]
    assert appearance.fall(np.array([0]), appearance.at(0, xy), compared).tolist() == [0.0]


@pytest.mark.parametrize(
    ("query", "before", "after", "alike"),
    [
        ([1, 0], [0, 1], [1, 0], True),  # like its query, unlike itself before
        ([1, 0], [0, 1], [0, 1], True),  # changed its looks, but not in this step
        ([1, 0], [1, 0], [0, 1], False),  # stepped onto another surface
        ([1, 0], [0, -1], [0, 1], False),
    ],
)
def test_a_point_that_is_unlike_its_query_and_itself_before_is_on_another_surface(query, before, after, alike):
    features = np.array([query, before, after], np.float16).reshape(3, 1, 1, 2)
    xy = np.array([[4.0, 4.0]], np.float32)
    appearance = Appearance(features, (8, 8), np.array([[0, 4, 4]], np.float32))
    compared = appearance.compare(np.array([0]), appearance.at(1, xy), (2, xy), OPTIONS)
    assert compared.same_surface.tolist() == [alike]
    fall = appearance.fall(np.array([0]), appearance.at(1, xy), compared)
    assert fall[0] == pytest.approx(np.dot(query, before) - np.dot(query, after))


def test_a_fast_point_may_err_more():
    options = ChainOptions(cycle_threshold=3.0, cycle_relative=0.05)
    before, after = np.zeros((3, 2)), np.array([[0.0, 0.0], [40.0, 0.0], [40.0, 0.0]])
    assert consistent(before, after, np.array([3.5, 4.9, 5.1]), options).tolist() == [False, True, False]


def test_features_of_zero_give_a_similarity_of_zero():
    appearance = Appearance(np.zeros((2, 4, 6, 5), np.float16), (16, 24), np.zeros((1, 3), np.float32))
    assert appearance.similarity(np.array([0]), np.zeros((1, 2), np.float32), 1).tolist() == [0.0]


@pytest.mark.parametrize("kept", [1, 2**28])
def test_features_are_the_same_however_many_points_ask_for_them(monkeypatch, kept):
    """Few points read their cells alone, many the whole frame, of which some are held."""
    monkeypatch.setattr(appearance_room, "KEPT", kept)
    random = np.random.default_rng(0)
    features = random.normal(size=(3, 4, 6, 5)).astype(np.float16)
    xy = random.uniform(-3, 25, (40, 2)).astype(np.float32)
    appearance = Appearance(features, (16, 24), np.zeros((1, 3), np.float32))
    few = [np.concatenate([appearance.at(t, xy[n : n + 1]) for n in range(len(xy))]) for t in range(3)]
    for t in (0, 1, 2, 0, 1):
        np.testing.assert_array_equal(appearance.at(t, xy), few[t])
        np.testing.assert_array_equal(appearance.at(t, xy[:1]), few[t][:1])
