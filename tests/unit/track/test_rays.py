"""Tracks read out of models of rays and of pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from everypoint.config.options import Preset, ReadoutOptions
from everypoint.models.files import save_model
from everypoint.track import rays as rays_room
from everypoint.track.dispatch import TrackInputs, track
from everypoint.track.model import proposal
from everypoint.track.rays import points_at_once, ray_tracks
from tests.unit.models import made_cadex
from tests.unit.models.made_rays import SIZE, omnimotion, parallax, pixels, still

FRAMES = 5


def cadex(*, wild: float = 0.0):
    """The third model that is read out in this way, for the same queries."""
    return made_cadex.model(FRAMES, wild=wild / 4, size=SIZE)


MADE = {"field": omnimotion, "pixels": pixels, "cadex": cadex}


def spread(count: int = 23) -> np.ndarray:
    """Queries [N, 3] over all frames."""
    across = (np.linspace(0.25, side - 1.25, count) for side in (SIZE[1], SIZE[0]))
    return np.column_stack([np.arange(count) % FRAMES, *across]).astype(np.float32)


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("point", ["max", "mean"])
@torch.no_grad()
def test_tracks_against_one_query_and_frame_at_a_time(kind, point):
    made, queries, options = MADE[kind](wild=2.0), spread(), ReadoutOptions(ray_point=point, opacity=0.3)
    found, parts = ray_tracks(made, queries, options), made.parts()
    for n, (t, x, y) in enumerate(queries.tolist()):
        for j in range(FRAMES):
            xy, i = torch.tensor([[x, y]]), torch.tensor([int(t)])
            anchor = made.anchor(xy, i, parts, whole=point == "mean")
            there = made.place(anchor, torch.tensor([j]), parts)
            confidence = float(made.visibility(there.xy, there.z, torch.tensor([j]), parts, options))
            if j == t:
                assert (found.visible[j, n], found.confidence[j, n]) == (True, 1)
                assert found.tracks[j, n].tolist() == queries[n, 1:].tolist()
                continue
            np.testing.assert_allclose(found.tracks[j, n], there.xy[0], atol=2e-3)
            px, py = found.tracks[j, n].tolist()
            inside = 0 <= px <= SIZE[1] - 1 and 0 <= py <= SIZE[0] - 1
            assert found.visible[j, n] == (confidence >= 0.5 and inside)
            np.testing.assert_allclose(found.confidence[j, n], confidence * (1 if inside else 0.4), atol=2e-3)


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("budget", ["one point", "some"])
def test_parts_of_the_queries_and_frames_give_the_same_as_all_at_once(kind, budget, monkeypatch):
    made, queries, options = MADE[kind](wild=2.0), spread(), ReadoutOptions()
    whole = ray_tracks(made, queries, options)
    unit = rays_room.LAYERS_ALIVE * made.point_bytes
    monkeypatch.setattr(rays_room, "MEMORY", {"cpu": unit if budget == "one point" else 50 * unit})
    assert points_at_once(made, torch.device("cpu")) == (1 if budget == "one point" else 50)
    parts = ray_tracks(made, queries, options)
    np.testing.assert_allclose(parts.tracks, whole.tracks, atol=2e-3)
    np.testing.assert_array_equal(parts.visible, whole.visible)
    np.testing.assert_allclose(parts.confidence, whole.confidence, atol=2e-3)


def test_memory_of_a_pass_is_that_of_its_hidden_layers():
    made = omnimotion(field={"samples": 32, "hidden": 64})
    assert made.point_bytes == 32 * 64 * 4
    assert points_at_once(made, torch.device("cpu")) == 2**28 // (8 * 32 * 64 * 4)
    assert points_at_once(made, torch.device("cuda")) == 2**32 // (8 * 32 * 64 * 4)


def test_what_stands_behind_is_occluded_and_what_leaves_the_frame_too():
    """A box before a wall; the wall's point passes behind the box, and at last out of the frame."""
    slopes = [0.0, 0.6, -0.6, -1.2]
    found = ray_tracks(parallax(slopes), np.array([[0, 26.0, 11.0], [0, 16.0, 11.0]], np.float32), ReadoutOptions())
    z = np.array([22 * 2 / 31, 7 * 2 / 31])
    expected = np.array([26.0, 16.0]) - np.outer(slopes, z - 1) * 16
    np.testing.assert_allclose(found.tracks[..., 0], expected, atol=1e-3)
    assert found.visible.tolist() == [[True, True], [False, True], [True, True], [False, True]]
    assert found.confidence[1, 0] < 0.01  # behind the box
    assert 0.2 < found.confidence[3, 0] < 0.5  # outside


def test_thin_things_in_front_hide_by_the_threshold_alone():
    made = parallax([0.0, 0.6], opacity=0.5)  # four samples of one half each: 0.94 of the light is stopped
    queries = np.array([[0, 26.0, 11.0]], np.float32)
    assert ray_tracks(made, queries, ReadoutOptions()).visible[1, 0]
    assert not ray_tracks(made, queries, ReadoutOptions(opacity=0.8)).visible[1, 0]


@pytest.mark.parametrize("kind", ["field", "pixels"])
def test_a_query_on_the_border_is_seen_in_its_own_frame(kind):
    found = ray_tracks(still(MADE[kind]()), np.array([[1, -0.5, 22.0]], np.float32), ReadoutOptions())
    assert found.visible[:, 0].tolist() == [False, True, False, False, False]
    assert found.tracks[1, 0].tolist() == [-0.5, 22.0]


@pytest.mark.parametrize("kind", MADE)
def test_no_queries(kind):
    assert ray_tracks(MADE[kind](), np.empty((0, 3), np.float32), ReadoutOptions()).tracks.shape == (FRAMES, 0, 2)


@pytest.mark.parametrize("kind", MADE)
def test_a_preset_that_optimises_reads_out_the_model_that_it_finds(kind, tmp_path):
    made, queries = MADE[kind](wild=2.0), spread()
    save_model(tmp_path / "model.pt", made)
    chosen = Preset.model_validate({"description": "x", "tracker": "optimize", "readout": {"fuse": False}})
    inputs = TrackInputs(np.zeros((FRAMES, *SIZE, 3), np.uint8), model=tmp_path / "model.pt")
    found = track(chosen, queries, inputs, "cpu", 0)
    for got, expected in zip(found, proposal(made, queries, chosen.readout), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert (found.tracks.dtype, found.visible.dtype) == (np.float32, np.bool_)
