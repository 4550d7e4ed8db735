"""Steps onto an occluder: found by looks, which flows that agree with themselves do not betray."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from everypoint.artifacts.flows import FlowShardWriter, FlowStore
from everypoint.config.options import ChainOptions
from everypoint.scenes.render import render
from everypoint.scenes.truth import flow
from everypoint.track.evidence import Evidence
from everypoint.track.multi import chain_multi_tracks
from everypoint.track.slips import ALIKE, slipped
from tests.unit.track.worlds import object_features, queries_of, scene, truth_of

FRAMES = 10
BLUR = 3.0  # px by which motions bleed into each other at edges
CHAIN = ChainOptions(cycle_threshold=3.0, intervals=(1, 2, 4))
ASKED = CHAIN.model_copy(update={"slip_fall": 0.3})
TEXTURE = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)


def looks_of(similarity: float, fall: float, count: int = 1) -> tuple[np.ndarray, np.ndarray]:
    return np.full(count, similarity), np.full(count, fall)


@pytest.mark.parametrize(
    ("similarity", "fall", "moved", "slips"),
    [
        (0.1, 0.8, 7, True),  # unlike its query all at once, and the pixels are others
        (0.1, 0.8, 0, False),  # the pixels are the same: the features are those of coarse cells
        (0.1, 0.2, 7, False),  # it has been unlike its query before
        (ALIKE + 0.1, 0.35, 7, False),  # it still is what it was
    ],
)
def test_features_and_pixels_have_to_say_so(similarity, fall, moved, slips):
    xy = np.float32([[20, 20], [30, 15]])
    looks = looks_of(similarity, fall, 2)
    assert slipped(TEXTURE, np.roll(TEXTURE, moved, axis=1), xy, xy, *looks, 0.3).tolist() == [slips, slips]


def test_a_change_is_measured_by_the_contrast_of_what_is_left():
    """30 grey levels are another surface on a plain wall, and half a pixel in fine texture."""
    wall, xy = np.full((40, 60, 3), 120, np.uint8), np.float32([[20, 20]])
    looks = looks_of(0.1, 0.8)
    assert slipped(wall, wall + np.uint8(30), xy, xy, *looks, 0.3).all()
    fine = np.minimum(TEXTURE, 225)
    assert not slipped(fine, fine + np.uint8(30), xy, xy, *looks, 0.3).any()
    assert not slipped(wall, wall + np.uint8(2), xy, xy, *looks, 0.3).any()  # noise


@pytest.fixture(scope="module")
def made():
    return scene("occluder", FRAMES)


@pytest.fixture(scope="module")
def bleeding(made, tmp_path_factory) -> FlowStore:
    """Exact flows, blurred: an edge takes along what is near, and there and back agree about it."""
    folder = tmp_path_factory.mktemp("bleeding") / "flow"
    writer = FlowShardWriter(folder, "bleeding", made.size)
    for i in range(FRAMES):
        targets = [j for j in range(FRAMES) if abs(i - j) in (1, 2, 4)]
        writer.write(i, targets, np.stack([gaussian_filter(flow(made, i, j)[0], (BLUR, BLUR, 0)) for j in targets]))
    writer.publish()
    return FlowStore([folder])


def test_a_point_that_is_covered_is_called_hidden_instead_of_riding_on(made, bleeding):
    queries, frames = queries_of(made, 200), render(made)
    own = object_features(made)  # and what all surfaces share, so that they are not altogether unlike: cosine 0.4
    features = np.concatenate([own, np.full_like(own[..., :1], 0.8)], axis=-1)
    tracks, visible = truth_of(made, queries)
    found = {}
    for name, options in (("not asked", CHAIN), ("asked", ASKED)):
        walked = chain_multi_tracks(Evidence(bleeding, options, features, frames), queries, FRAMES)
        near = np.linalg.norm(walked.tracks - tracks, axis=-1) < 2
        hidden = ~visible & (tracks >= 0).all(-1) & (tracks <= made.size[0] - 1).all(-1)
        found[name] = walked.visible[hidden].mean(), (walked.visible & near)[visible].mean()
    assert hidden.sum() > 30
    assert found["not asked"][0] > 0.1  # the world is one in which points ride on
    assert found["asked"][0] < 0.3 * found["not asked"][0]
    assert found["asked"][1] > found["not asked"][1] - 0.02


def test_looks_are_not_asked_of_a_querys_first_step(made, bleeding):
    """A query is like itself whatever it shows; features of noise fall in its first step as in all others."""
    frames = render(made)
    features = np.random.default_rng(0).normal(size=object_features(made).shape).astype(np.float16)
    queries = np.float32([[4, 30, 30]])
    options = ASKED.model_copy(update={"appearance_threshold": -1.0})
    frames[5:] = 255 - frames[5:]  # and the pixels change
    walked = chain_multi_tracks(Evidence(bleeding, options, features, frames), queries, FRAMES)
    assert walked.visible[4:6, 0].all()


def test_slips_need_the_frames(bleeding):
    with pytest.raises(ValueError, match="frames"):
        Evidence(bleeding, ASKED)
