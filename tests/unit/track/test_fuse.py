"""The fused read-out: fills what is hidden, keeps what is seen, recovers what both sides vouch for."""

from __future__ import annotations

import numpy as np
import pytest

from everypoint.artifacts.flows import FlowStore
from everypoint.config.options import ChainOptions, ReadoutOptions
from everypoint.track.base import TrackArrays, empty_tracks
from everypoint.track.companions import Block
from everypoint.track.evidence import Evidence
from everypoint.track.fuse import covered, fuse
from everypoint.track.multi import chain_multi_tracks
from tests.unit.track.worlds import constant_store, exact_store, object_features, queries_of, scene, truth_of

CHAIN = ChainOptions(cycle_threshold=3.0, intervals=(1, 2, 4, 8), direct=True, step_cost=0.1)
READOUT = ReadoutOptions(refine_rounds=2, agreement=3.0, recover_support=1, recover_error=5.0)
FRAMES = 12


@pytest.fixture(scope="module")
def made():
    return scene("occluder", FRAMES)


@pytest.fixture(scope="module")
def store(made, tmp_path_factory) -> FlowStore:
    return exact_store(made, tmp_path_factory.mktemp("flows") / "flow")


@pytest.fixture(scope="module")
def queries(made) -> np.ndarray:
    return queries_of(made, 90)


def proposal_of(tracks: np.ndarray, shift: tuple[float, float] = (2.0, -1.5), drift: float = 0.1) -> TrackArrays:
    """A model that knows the motion but not the place: the truth, shifted by a few pixels and slowly drifting."""
    time = np.arange(len(tracks))[:, None, None]
    moved = (tracks + np.array(shift) + drift * time).astype(np.float32)
    return TrackArrays(moved, np.ones(moved.shape[:2], bool), np.full(moved.shape[:2], 0.5, np.float32))


@pytest.fixture(scope="module")
def fused(made, store, queries) -> tuple[TrackArrays, TrackArrays]:
    evidence = chain_multi_tracks(Evidence(store, CHAIN), queries, FRAMES)
    tracks, _ = truth_of(made, queries)
    return evidence, fuse(evidence, proposal_of(tracks), Evidence(store, CHAIN), queries, READOUT)


def test_never_moves_the_query(fused, queries):
    rows = queries[:, 0].astype(int), np.arange(len(queries))
    np.testing.assert_array_equal(fused[1].tracks[rows], queries[:, 1:])
    assert fused[1].visible[rows].all()


def test_fills_the_hidden_part_from_the_model(fused, made, queries):
    evidence, result = fused
    tracks, visible = truth_of(made, queries)
    hidden = ~visible & ~result.visible & (tracks > 2).all(-1) & (tracks < 61).all(-1)
    assert hidden.sum() > 50
    before, after = (np.linalg.norm(found.tracks - tracks, axis=-1)[hidden] for found in (evidence, result))
    assert np.median(after) < 1.0
    assert np.quantile(after, 0.9) < 3.0
    assert after.mean() < before.mean()


def test_keeps_what_is_seen(fused, made, queries):
    evidence, result = fused
    tracks, visible = truth_of(made, queries)
    both = visible & evidence.visible & result.visible
    before, after = (np.linalg.norm(found.tracks - tracks, axis=-1)[both] for found in (evidence, result))
    assert np.median(after) < 0.1
    assert np.quantile(after, 0.95) <= np.quantile(before, 0.95) + 0.1


def test_visibility_stays_as_good(fused, made, queries):
    evidence, result = fused
    _, visible = truth_of(made, queries)
    assert (result.visible == visible).mean() >= (evidence.visible == visible).mean() - 0.01
    assert (result.visible == visible).mean() > 0.9


def test_the_result_is_of_plain_types(fused):
    _, result = fused
    assert (result.tracks.dtype, result.visible.dtype, result.confidence.dtype) == (np.float32, bool, np.float32)
    assert np.isfinite(result.tracks).all()
    assert result.confidence.min() >= 0
    assert result.confidence.max() <= 1


# ------------------------------------------------------------------------------------------------ small cases


@pytest.fixture
def still(tmp_path) -> FlowStore:
    return constant_store(tmp_path / "flow", 6, (24, 32), (1.0, 0.0))


QUERY = np.array([[0, 5.0, 6.0]], np.float32)
PATH = np.stack([[5.0 + t, 6.0] for t in range(6)])[:, None].astype(np.float32)


def evidence_with(hidden: list[int], tracks: np.ndarray = PATH) -> TrackArrays:
    visible = np.ones((6, 1), bool)
    visible[hidden] = False
    return TrackArrays(tracks.copy(), visible, visible.astype(np.float32))


def test_a_frame_that_flows_and_model_vouch_for_becomes_visible(still):
    result = fuse(evidence_with([2, 3]), proposal_of(PATH), Evidence(still, CHAIN), QUERY, READOUT)
    assert result.visible.all()
    np.testing.assert_allclose(result.tracks, PATH, atol=0.05)


def test_a_frame_that_the_model_places_elsewhere_stays_hidden(still):
    far = PATH.copy()
    far[2] += [0.0, 9.0]  # the model knows better: it went behind something
    evidence = evidence_with([2])
    result = fuse(evidence, proposal_of(far, (0, 0), 0), Evidence(still, CHAIN), QUERY, READOUT)
    assert not result.visible[2, 0]
    np.testing.assert_allclose(result.tracks[2], far[2], atol=0.05)


def test_as_many_arrivals_as_asked_for_are_needed(still):
    options = READOUT.model_copy(update={"recover_support": 99})
    result = fuse(evidence_with([2]), proposal_of(PATH), Evidence(still, CHAIN), QUERY, options)
    assert not result.visible[2, 0]


def test_one_position_that_is_off_is_drawn_to_what_all_others_say(still):
    bent = PATH.copy()
    bent[3] += [0.0, 1.5]
    result = fuse(evidence_with([], bent), proposal_of(PATH), Evidence(still, CHAIN), QUERY, READOUT)
    assert abs(result.tracks[3, 0, 1] - 6.0) < 0.3
    np.testing.assert_allclose(result.tracks[[0, 1, 2, 4, 5]], PATH[[0, 1, 2, 4, 5]], atol=0.3)


def test_without_rounds_the_evidence_stands_and_only_gaps_are_filled(still):
    options = READOUT.model_copy(update={"refine_rounds": 0})
    wrong = PATH.copy()
    wrong[2:4] += [7.0, 7.0]
    result = fuse(evidence_with([2, 3], wrong), proposal_of(PATH), Evidence(still, CHAIN), QUERY, options)
    assert result.visible[:, 0].tolist() == [True, True, False, False, True, True]
    np.testing.assert_allclose(result.tracks, PATH, atol=0.3)


def test_no_queries(still):
    none = np.empty((0, 3), np.float32)
    result = fuse(empty_tracks(6, none), empty_tracks(6, none), Evidence(still, CHAIN), none, READOUT)
    assert result.tracks.shape == (6, 0, 2)


LOST = slice(5, 9)
FAR_APART = ChainOptions(intervals=(11,), direct=False)  # flows that are of no help


@pytest.fixture(scope="module")
def lost(made, queries) -> tuple[TrackArrays, TrackArrays, np.ndarray]:
    """True tracks that forget a third of their points over some frames, their companions, and which points."""
    tracks, visible = truth_of(made, queries)
    away = np.zeros_like(visible)
    away[LOST, ::3] = True
    away[queries[:, 0].astype(int), np.arange(len(queries))] = False
    found = TrackArrays(tracks.astype(np.float32), visible & ~away, np.ones(visible.shape, np.float32))
    found.tracks[away] += 25
    others = queries_of(made, 400, seed=7)
    companions = TrackArrays(*[values.astype(np.float32) for values in truth_of(made, others)], None)
    block = Block(0, companions._replace(visible=companions.visible.astype(bool)))
    return found, [block], away & visible


@pytest.mark.parametrize("features", [True, False], ids=["features", "blind"])
def test_companions_bring_back_what_was_lost(made, store, queries, lost, features):
    found, companions, away = lost
    evidence = Evidence(store, FAR_APART, object_features(made) if features else None)
    result = fuse(found, None, evidence, queries, READOUT, companions)
    tracks, _ = truth_of(made, queries)
    near = np.linalg.norm(result.tracks - tracks, axis=-1) < 1.5
    assert near[away].mean() > 0.9
    assert result.visible[away].mean() > 0.9 if features else not result.visible[away].any()


@pytest.mark.parametrize(("drift", "who"), [(0.0, "the model"), (3.0, "the companions")])
def test_a_hidden_point_is_where_a_model_that_knows_it_says_else_where_companions_are(
    made, store, queries, lost, drift, who
):
    found, companions, away = lost
    tracks, _ = truth_of(made, queries)
    off = [Block(block.first, block.tracks._replace(tracks=block.tracks.tracks.copy())) for block in companions]
    for block in off:
        block.tracks.tracks[LOST] += [0, 6]  # while they are hidden the companions go elsewhere, all together
    proposal = proposal_of(tracks, drift=drift)
    result = fuse(found, proposal, Evidence(store, FAR_APART), queries, READOUT, off)
    right, wrong = (np.linalg.norm(result.tracks - tracks - [0, by], axis=-1)[away] < 1.5 for by in (0, 6))
    assert (right.mean() > 0.9) if who == "the model" else (wrong.mean() > 3 * right.mean())


def test_a_point_on_another_surface_is_put_right(made, store, queries, lost):
    found, companions, away = lost
    wrong = found._replace(visible=found.visible | away)  # seen, but 25 px away
    evidence = Evidence(store, FAR_APART, object_features(made))
    result = fuse(wrong, None, evidence, queries, READOUT, companions)
    tracks, _ = truth_of(made, queries)
    labels = np.stack(
        [evidence.appearance(queries).similarity(np.arange(len(queries)), wrong.tracks[t], t) for t in range(FRAMES)]
    )
    elsewhere = away & (labels < 0.4)
    assert elsewhere.sum() > 20
    assert (np.linalg.norm(result.tracks - tracks, axis=-1)[elsewhere] < 1.5).mean() > 0.85


RIDING = slice(6, 10)


@pytest.mark.parametrize(
    ("off", "away", "behind", "hidden"),
    [
        (0.1, 6.0, True, True),
        (0.1, 6.0, False, False),  # elsewhere, but in sight there: the model may be wrong about the place
        (0.1, 1.0, True, False),  # behind something, but where the track is: it may be wrong about the depth
        (1.5, 6.0, True, False),  # it does not know the track
    ],
)
def test_what_rides_on_its_cover_is_hidden_by_a_model_that_knows_the_track(off, away, behind, hidden):
    truth = np.stack([np.linspace(4, 40, FRAMES), np.full(FRAMES, 8.0)], -1)[:, None].astype(np.float32)
    tracks, seen = truth.copy(), np.ones((FRAMES, 1), bool)
    tracks[RIDING] += np.float32([0, away])
    found = TrackArrays(tracks, seen, np.ones(seen.shape, np.float32))
    model = proposal_of(truth, shift=(off, 0.0), drift=0.0)
    model.visible[RIDING] = not behind
    expected = np.zeros(seen.shape, bool)
    expected[RIDING] = hidden
    np.testing.assert_array_equal(covered(found, model), expected)


def test_a_covered_point_is_placed_by_the_model_that_found_it(made, store, queries):
    tracks, visible = truth_of(made, queries)
    hidden = ~visible & (tracks >= 0).all(-1) & (tracks <= made.size[0] - 1).all(-1)
    found = TrackArrays(tracks.astype(np.float32), visible | hidden, np.ones(visible.shape, np.float32))
    found.tracks[hidden] += np.float32([0, 5])  # all that is hidden rides on something
    model = proposal_of(tracks, shift=(0.2, 0.1), drift=0.0)
    model.visible[hidden] = False
    options = READOUT.model_copy(update={"refine_rounds": 0})
    result = fuse(found, model, Evidence(store, FAR_APART), queries, options)
    known = hidden & (visible.mean(0) > 0.5)
    assert known.sum() > 20
    assert not result.visible[known].any()
    assert np.median(np.linalg.norm(result.tracks - tracks, axis=-1)[known]) < 0.5
