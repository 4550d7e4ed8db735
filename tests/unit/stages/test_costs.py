"""What jobs cost: near what was measured, growing with the work, and more at every try."""

from __future__ import annotations

import pytest

from everypoint.config.presets import load_preset, preset_names
from everypoint.stages import costs
from everypoint.stages.costs import Cost
from everypoint.video.sizes import Size

DAVIS, SCENE = Size(32, 480, 854), Size(24, 256, 256)
REDUCED = {"steps": 2000, "rays": {"points": 64}}
MEASURED = [  # CPU seconds and MB of jobs (2 cores, no GPU, 2026-11-20): medians of several
    (lambda: costs.flow(SCENE, load_preset("cpu").flow), 65.0, 850),
    (lambda: costs.features(DAVIS, load_preset("cpu").features), 19.2, 1090),
    (lambda: costs.matches(DAVIS, load_preset("cpu")), 21.0, 900),
    (lambda: costs.optimize(DAVIS, load_preset("cpu")), 60.0, 955),
    (
        lambda: costs.optimize(
            Size(24, 128, 128),
            load_preset(
                "omnimotion",
                {"omnimotion": {"model": {"nvp": {"hidden": 64}, "field": {"samples": 16}}, "optimize": REDUCED}},
            ),
        ),
        370.0,
        1180,
    ),
    (lambda: costs.tracks(DAVIS, load_preset("chain-multi"), 1024), 1.0, 165),
    (lambda: costs.frames(DAVIS, DAVIS), 0.9, 122),
]


@pytest.mark.parametrize(("cost", "seconds", "megabytes"), MEASURED)
def test_what_is_asked_for_holds_what_was_measured(cost, seconds, megabytes):
    estimate = cost()
    assert estimate.elapsed(1) * costs.TIME_SLACK > 1.5 * seconds
    assert estimate.megabytes * costs.MEMORY_SLACK > 1.1 * megabytes
    assert estimate.elapsed(1) < 3 * seconds + costs.START_TORCH  # and is no waste
    assert estimate.megabytes < 2.5 * megabytes


@pytest.mark.parametrize("name", preset_names())
def test_more_frames_cost_more_in_every_stage(name):
    preset = load_preset(name)
    for one, more in ((SCENE, Size(240, 256, 256)), (SCENE, Size(24, 1080, 1920))):
        stages = [
            lambda size: costs.frames(size, size),
            lambda size: costs.flow(size, preset.flow),
            lambda size: costs.features(size, preset.features),
            lambda size: costs.depth(size, preset.depth),
            lambda size: costs.matches(size, preset),
            lambda size: costs.optimize(size, preset),
            lambda size: costs.tracks(size, preset, 1024),
            costs.overlay,
            costs.small,
        ]
        for stage in stages:
            few, many = stage(one), stage(more)
            assert 0 <= few.seconds <= many.seconds
            assert 0 < few.megabytes <= many.megabytes < 100_000
        assert costs.frames(one, one).seconds < costs.frames(more, more).seconds


def test_every_try_asks_for_more():
    cost = Cost(3600.0, 8000.0)
    minutes = [costs.ask_minutes(cost, 1, 1.0, attempt) for attempt in (1, 2, 3)]
    assert minutes == [181, 361, 722]  # 3 x (an hour and the start), doubled
    assert [costs.ask_megabytes(cost, 1.0, attempt) for attempt in (1, 2, 3)] == [12000, 18000, 27000]
    assert costs.ask_minutes(cost, 60, 1.0, 1) == costs.LEAST_MINUTES
    assert costs.ask_minutes(cost, 1, 2.0, 1) == 91
    assert costs.ask_megabytes(cost, 2.0, 1) == 24000


def test_shared_memory_of_flows_is_bounded_by_its_option():
    preset = load_preset("cpu")
    huge = Size(10, 4320, 7680)
    bounded, more = (
        costs.flow(huge, preset.flow.model_copy(update={"volume_gib": volume})).megabytes for volume in (1.0, 4.0)
    )
    assert more - bounded == pytest.approx(3 * 1024)


@pytest.mark.parametrize(
    ("seconds", "most", "count"),
    [(0, 99, 1), (600, 99, 1), (601, 99, 2), (2401, 99, 8), (1e9, 99, 64), (1e9, 10**6, 1024)],
)
def test_work_is_cut_into_powers_of_two(seconds, most, count):
    assert costs.pieces(seconds, 10.0, most) == count


def test_what_a_walk_holds_of_features_is_what_the_estimate_says():
    from everypoint.track.appearance import KEPT

    assert costs.KEPT_MB * 2**20 == KEPT
