"""Steps of two networks: the frames decide between them, and where they cannot, the first is taken."""

from __future__ import annotations

import numpy as np
import pytest

from everypoint.artifacts.flows import FlowShardWriter, FlowStore
from everypoint.config.options import ChainOptions, ReadoutOptions
from everypoint.scenes.render import render
from everypoint.track.evidence import Evidence
from everypoint.track.fuse import fuse
from everypoint.track.multi import chain_multi_tracks
from everypoint.track.rival import the_better
from tests.unit.track.worlds import exact_store, queries_of, scene, truth_of

SIZE = (40, 60)
SHIFT = np.float32([4.0, 2.0])
FRAMES = 10
CHAIN = ChainOptions(cycle_threshold=3.0, intervals=(1, 2, 4, 8))


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray]:
    """A texture, and the same moved by :data:`SHIFT`."""
    first = np.random.default_rng(0).integers(0, 255, (*SIZE, 3)).astype(np.uint8)
    return first, np.roll(first, (2, 4), axis=(0, 1))


def steps(xy: np.ndarray, moves: list[tuple[float, float]], errors: list[float]) -> tuple[np.ndarray, np.ndarray]:
    return (xy + np.float32(moves)).astype(np.float32), np.float32(errors)


def test_the_landing_that_looks_like_the_start_is_taken_whatever_the_errors_say(images):
    xy = np.float32([[20, 20], [30, 15]])
    right, wrong = tuple(SHIFT), (-3.0, 5.0)
    first, second = steps(xy, [right, wrong], [2.0, 0.1]), steps(xy, [wrong, right], [0.1, 2.0])
    for one, other in ((first, second), (second, first)):
        there, error = the_better(*images, xy, one, other)
        np.testing.assert_allclose(there, xy + SHIFT)
        np.testing.assert_array_equal(error, [2.0, 2.0])


def test_where_both_look_alike_the_first_is_taken_whatever_the_errors_say(images):
    flat = np.full((*SIZE, 3), 90, np.uint8)
    xy = np.float32([[20, 20], [30, 15], [10, 10], [12, 12]])
    first = steps(xy, [(1, 0)] * 4, [0.5, 2.0, np.inf, np.inf])
    second = steps(xy, [(0, 1)] * 4, [1.0, 1.0, 3.0, np.inf])
    there, error = the_better(flat, flat, xy, first, second)
    np.testing.assert_allclose(there - xy, [(1, 0), (1, 0), (0, 1), (1, 0)])
    np.testing.assert_array_equal(error, [0.5, 2.0, 3.0, np.inf])


def test_the_same_step_twice_is_that_step(images):
    xy = np.float32([[20, 20]])
    step = steps(xy, [tuple(SHIFT)], [0.25])
    there, error = the_better(*images, xy, step, step)
    np.testing.assert_array_equal(there, step[0])
    np.testing.assert_array_equal(error, step[1])


# ------------------------------------------------------------------------------------------------ in a walk


@pytest.fixture(scope="module")
def made():
    return scene("parallax", FRAMES)


@pytest.fixture(scope="module")
def frames(made) -> np.ndarray:
    return render(made)


@pytest.fixture(scope="module")
def right(made, tmp_path_factory) -> FlowStore:
    """Exact flows of long gaps only, as a rival has them."""
    return exact_store(made, tmp_path_factory.mktemp("right") / "flow", (4, 8))


@pytest.fixture(scope="module")
def poor(made, tmp_path_factory) -> FlowStore:
    """Exact flows of short gaps; those of long gaps are 8 px off, in agreement with each other."""
    exact = exact_store(made, tmp_path_factory.mktemp("exact") / "flow", (1, 2, 4, 8))
    folder = tmp_path_factory.mktemp("poor") / "flow"
    writer = FlowShardWriter(folder, "poor", made.size)
    for i in range(FRAMES):
        targets = [j for j in range(FRAMES) if exact.has(i, j)]
        off = [8.0 * np.sign(j - i) * (abs(i - j) >= 4) for j in targets]
        writer.write(i, targets, np.stack([exact.flow(i, j) + shift for j, shift in zip(targets, off, strict=True)]))
    writer.publish()
    return FlowStore([folder])


def error_of(made, evidence) -> float:
    """Median px over points that are visible, and are called so."""
    queries = queries_of(made, 40)
    found = fuse(chain_multi_tracks(evidence, queries, FRAMES), None, evidence, queries, ReadoutOptions())
    tracks, visible = truth_of(made, queries)
    found.visible[queries[:, 0].astype(int), np.arange(len(queries))] = False  # which are given
    return float(np.median(np.linalg.norm(found.tracks - tracks, axis=-1)[visible & found.visible]))


def test_a_rival_that_knows_long_steps_helps_a_walk(made, frames, poor, right):
    far = CHAIN.model_copy(update={"intervals": (4, 8), "direct": False})
    alone, both = (error_of(made, Evidence(poor, far, None, frames, rival)) for rival in (None, right))
    assert alone > 4
    assert both < 0.5


def test_a_rival_that_is_wrong_does_no_harm(made, frames, poor, tmp_path):
    whole = exact_store(made, tmp_path / "flow", (1, 2, 4, 8))
    alone, both = (error_of(made, Evidence(whole, CHAIN, None, frames, rival)) for rival in (None, poor))
    assert both < alone + 0.05


def test_pairs_that_only_the_rival_has_are_no_evidence_and_a_short_video_has_none(made, frames, right, tmp_path):
    short = exact_store(made, tmp_path / "short", (1,))
    evidence = Evidence(short, CHAIN, None, frames, right)
    assert not evidence.both_ways(0, 4)
    writer = FlowShardWriter(tmp_path / "none", "none", made.size)
    writer.publish()
    nothing = Evidence(short, CHAIN, None, frames, FlowStore([tmp_path / "none"]))
    xy = np.float32([[20, 20]])
    np.testing.assert_array_equal(nothing.step(0, 1, xy)[0], Evidence(short, CHAIN).step(0, 1, xy)[0])


def test_a_rival_needs_the_frames(right):
    with pytest.raises(ValueError, match="frames"):
        Evidence(right, CHAIN, rival=right)


def test_a_step_without_a_flow_never_wins(images):
    """It stays where it is, which may look more like the start than where the point went."""
    still = images[0], images[0]
    xy = np.float32([[20, 20], [30, 15]])
    known = steps(xy, [tuple(SHIFT)] * 2, [0.2, 0.2])
    lost = steps(xy, [(0.0, 0.0)] * 2, [np.inf, np.inf])
    for one, other in ((known, lost), (lost, known)):
        there, error = the_better(*still, xy, one, other)
        np.testing.assert_array_equal(there, known[0])
        np.testing.assert_array_equal(error, known[1])
