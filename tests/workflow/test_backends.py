"""Every source of correspondences, chosen by configuration alone, through the real workflow.

Weights that cannot be had are random or made by formula, under the names and shapes of the real ones.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from everypoint.artifacts import atomic
from everypoint.artifacts.flows import FlowStore
from everypoint.artifacts.matches import CYCLE, LONG_RANGE, load_matches
from everypoint.artifacts.tracks import load_tracks
from tests.fakes import cotracker_weights
from tests.unit.correspond import ancestor
from tests.workflow.conftest import ROOT, SIZE, add_scene, truth_of

FRAMES = 6
FAKES = {"PYTHONPATH": f"{ROOT / 'tests' / 'fakes'}:{ROOT}"}
QUICK = {"steps": 20, "log_every": 5, "tensorboard": False, "sampler": {"batch": 256}}
SMALL = {"blocks": 2, "plane_resolutions": [4, 12], "plane_channels": 8}
PLAIN = {
    "flow": {"backend": "dis", "quality": "ultrafast", "pairs": {"intervals": [1, 2, 4]}},
    "features": {"backend": "none"},
    "matches": {"per_pair": 512},
}
DINOV2 = {"backend": "vit", "model": "dinov2-vits14", "short_side": 56}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Files of random weights: RAFT small, DINO and DINOv2, XFeat, and what CoTracker's fake reads."""
    import timm
    import torch

    from tests.unit.correspond.weights import formula_weights
    from tests.unit.correspond.xfeat_made import formula_weights as formula_weights_of_xfeat

    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    made = {
        "raft.pth": formula_weights(small=True),
        "rival.pth": formula_weights(small=True),
        "dino.pth": timm.create_model("vit_small_patch16_224.dino", pretrained=False, num_classes=0).state_dict(),
        "dinov2.pth": timm.create_model(
            "vit_small_patch14_dinov2.lvd142m", pretrained=False, num_classes=0
        ).state_dict(),
        "xfeat.pt": formula_weights_of_xfeat(),
    }
    for name, state in made.items():
        with atomic.atomic_path(folder / name) as path:
            torch.save(state, path)
    cotracker_weights(folder / "cotracker.pth", "cotracker3-offline")
    return folder


def tracks_are_whole(folder, video: str, method: str) -> None:
    tracks = load_tracks(folder.tracks(video, method))
    rows = tracks.queries[:, 0].astype(int)
    assert np.isfinite(tracks.tracks).all()
    assert np.array_equal(tracks.tracks[rows, np.arange(len(rows))], tracks.queries[:, 1:])


def filter_of(folder, video: str) -> dict:
    (path,) = (folder.results / video / "matches").glob("*/filter.json")
    return json.loads(path.read_text())


def table_of(folder, video: str):
    (path,) = (folder.results / video / "matches").glob("*/matches.npz")
    return load_matches(path)


# ------------------------------------------------------------------------------- all that is computed, in one run


@pytest.fixture(scope="module")
def everything(workspace, weights):
    """Three presets, each with other sources; one video with depth maps and tracks of another program beside it."""
    folder = workspace(
        methods=["chain-multi", "cpu", "cotracker"],
        overrides={
            "all": {"cotracker": {"weights": str(weights / "cotracker.pth"), "grid": 6, "query_stride": 3}},
            "chain-multi": {
                "flow": {
                    "backend": "raft",
                    "weights": str(weights / "raft.pth"),
                    "rival": str(weights / "rival.pth"),
                    "rival_gap": 2,
                    "iterations": 2,
                    "warm_start": True,
                    "precision": "bfloat16",
                    "lookup": "sampled",
                    "batch": 2,
                    "upsample_below": 128,
                    "rival_upsample_below": 160,
                    "pairs": {"intervals": [1, 2]},
                },
                "features": {"backend": "vit", "weights": str(weights / "dino.pth"), "short_side": 64},
            },
            "cpu": {
                **PLAIN,
                "features": DINOV2 | {"weights": str(weights / "dinov2.pth")},
                "matches": {"per_pair": 512, "chain": True, "appearance_threshold": -1, "chain_appearance": -1},
                "depth": {"backend": "file", "folder": "depths/{video}"},
                "sparse": {
                    "sources": ["mutual", "xfeat", "cotracker", "tracks"],
                    "mutual": {
                        "gap": 2,
                        "similarity": -1,
                        "lookalike": 1,
                        "local_range": [-1000, 1000],
                        "support_cells": 100,
                        "support_pixels": 1000,
                        "features": {"weights": str(weights / "dinov2.pth")},
                    },
                    "xfeat": {"weights": str(weights / "xfeat.pt"), "gap": 2, "similarity": 0.2},
                },
                "model": SMALL,
                "optimize": QUICK,
            },
        },
    )  # fmt: skip
    add_scene(folder.videos, "scene", frames=FRAMES)
    depth = np.full((16, 24), 3.0, np.float32)
    depth[4, 5] = 0.2  # far off in the cloud: masked
    for t in range(FRAMES):
        atomic.save_npy(folder.folder / "depths" / "scene" / f"{t:03d}.npy", depth)
    points, occluded = truth_of("two_planes", FRAMES)
    atomic.save_npz(
        folder.videos / "scene.tracks.npz",
        tracks=(points * np.array(SIZE[::-1]) - 0.5).transpose(1, 0, 2)[None].astype(np.float32),
        visibility=~occluded.T[None],
    )
    folder.first = folder.finished(environment=FAKES)
    return folder


@pytest.mark.parametrize("method", ["chain-multi", "cpu", "cotracker"])
def test_all_of_them_give_tracks(everything, method):
    tracks_are_whole(everything, "scene", method)


def test_each_source_adds_its_rows_to_the_table(everything):
    sources = filter_of(everything, "scene")["sources"]
    assert {name.split("-")[0] for name in sources} == {"flow", "mutual", "xfeat", "cotracker", "tracks"}
    assert all(rows > 0 for rows in sources.values()), sources
    table = table_of(everything, "scene")
    assert len(table) == sum(sources.values())
    long = sum(rows for name, rows in sources.items() if name.startswith(("mutual", "xfeat")))
    assert ((table.flags & LONG_RANGE) > 0).sum() == long


def test_the_flows_of_a_rival_lie_beside_the_own_and_span_its_gaps(everything):
    pairs = {}
    for folder in (everything.results / "scene" / "flow").glob("raft-*"):
        store = FlowStore([folder / "1of1"])
        gaps = frozenset(abs(i - j) for i in store.sources() for j in store.targets(i))
        pairs[gaps] = folder.name
    assert set(pairs) == {frozenset({1, 2}), frozenset({2})}
    report = (everything.results / "report.html").read_text()
    assert all(f"{name}.pth" in report for name in ("raft", "rival"))


def test_the_filter_chained_and_used_the_depth_mask(everything):
    kept = filter_of(everything, "scene")
    assert 0.9 < kept["depth_kept"] < 1
    assert any(gap["chained"] > 0 for gap in kept["by_gap"].values())


def test_rows_of_given_tracks_are_where_the_tracks_are(everything):
    (path,) = (everything.results / "scene" / "sparse").glob("tracks-*/matches.npz")
    table = load_matches(path)
    points, _ = truth_of("two_planes", FRAMES)
    truth = points * np.array(SIZE[::-1]) - 0.5  # [N, T, 2], index coordinates
    pairs = table.pairs[table.rows_pair]
    for ends, frames in ((table.xy_i, pairs[:, 0]), (table.xy_j, pairs[:, 1])):
        distance = np.linalg.norm(truth[:, frames].transpose(1, 0, 2) - ends[:, None], axis=-1).min(1)
        assert distance.max() < 0.05


def test_adding_a_source_computes_that_source_only(everything):
    config = json.loads(json.dumps(everything.config))
    config["overrides"]["cpu"]["sparse"]["xfeat"]["points"] = 77
    everything.configure(**config)
    jobs = everything.run("-n", environment=FAKES).rules
    assert jobs == ["evaluate", "matches", "optimize", "report", "sparse", "tracks"]


# ------------------------------------------------------------------------------------------- what users have


@pytest.fixture(scope="module")
def processed(workspace):
    """A folder that OmniMotion's preprocessing made, as the video itself."""
    folder = workspace(
        methods=["chain-multi", "cpu"],
        overrides={
            "all": {
                "flow": {"backend": "processed", "pairs": {"plan": "exhaustive"}},
                "features": {"backend": "processed"},
                "matches": {"per_pair": 100000},
                "sparse": {"sources": ["processed"]},
                "depth": {"backend": "file"},
                "model": SMALL,
                "optimize": QUICK,
            }
        },
    )
    made = ancestor.sequence()
    names = ancestor.names_of("{:05d}.png")
    seq = ancestor.write(folder.videos / "dog", made, names)
    for name in names:
        stem = name.removesuffix(".png")
        atomic.save_npz(seq / "raw_depth" / "depth" / f"{stem}.npz", depth=np.full(ancestor.SIZE, 2.0, np.float32))
    rows = np.array([[0, 10.5, 8.5, 5, 20.5, 3.5, 0.9], [0, 12.5, 9.5, 4, 20.5, 5.5, 0.8]], np.float32)
    atomic.save_npz(seq / "match" / "match00000.npz", match=rows)
    folder.made = made
    folder.finished()
    return folder


@pytest.mark.parametrize("method", ["chain-multi", "cpu"])
def test_a_processed_folder_gives_tracks(processed, method):
    tracks_are_whole(processed, "dog", method)


def test_its_masks_are_the_matches(processed):
    """Without a smaller reservoir the table holds every pixel of the masks whose target lies inside."""
    table, found = table_of(processed, "dog"), processed.made
    dense = (table.flags & LONG_RANGE) == 0
    height, width = ancestor.SIZE
    expected = 0
    for (i, j), mask in found.masks.items():
        target = ancestor.grid() + np.round(found.flows[i, j] * 32) / 32
        inside = (target >= 0).all(-1) & (target[..., 0] <= width - 1) & (target[..., 1] <= height - 1)
        expected += int(((mask[..., :2] > 0).any(-1) & inside).sum())
    unique = np.unique(np.hstack([table.pairs[table.rows_pair], table.fixed_i])[dense], axis=0)
    assert len(unique) == expected
    assert filter_of(processed, "dog")["sources"].keys() >= {"flow"}
    assert (table.flags[~dense] == LONG_RANGE).all()
    assert (~dense).sum() == 4  # two rows, both ways
    (folder,) = (processed.results / "dog" / "flow").iterdir()
    assert FlowStore([folder / "1of1"]).has_masks(0)


# ------------------------------------------------------------------------------ CoTracker instead of flows


@pytest.fixture(scope="module")
def without_flows(workspace, weights):
    folder = workspace(
        methods=["cpu"],
        overrides={
            "cpu": {
                "flow": {"backend": "none"},
                "sparse": {"sources": ["cotracker"]},
                "cotracker": {"weights": str(weights / "cotracker.pth"), "grid": 8, "query_stride": 2},
                "readout": {"fuse": False},
                "depth": {"backend": "constant"},
                "model": SMALL,
                "optimize": QUICK,
            }
        },
    )
    add_scene(folder.videos, "scene", frames=FRAMES)
    return folder


def test_without_the_package_the_sentence_says_what_to_install(without_flows):
    run = without_flows.run()
    assert run.code != 0
    assert "cotracker" in run.output
    assert "CC-BY-NC" in run.output
    assert "git+https" in run.output
    assert "Traceback" not in run.output


def test_cotracker_alone_feeds_the_optimiser(without_flows):
    run = without_flows.finished(environment=FAKES)
    assert run.rules == ["evaluate", "matches", "optimize", "report", "sparse", "tracks"]
    tracks_are_whole(without_flows, "scene", "cpu")
    assert (table_of(without_flows, "scene").flags == CYCLE).all()


# -------------------------------------------------------------------------------------- what is not there


def test_each_missing_thing_is_one_sentence_and_stops_no_other_video(workspace):
    folder = workspace(
        methods=["chain", "cpu"],
        overrides={
            "chain": PLAIN,
            "cpu": {**PLAIN, "sparse": {"sources": ["tracks"]}, "model": SMALL, "optimize": QUICK},
        },
    )
    add_scene(folder.videos, "scene", frames=3)
    run = folder.run()
    assert run.code != 0
    assert "scene.tracks.npz" in run.output
    assert "Traceback" not in run.output
    assert folder.tracks("scene", "chain").exists()


# -------------------------------------------------------------------- networks of full size, random weights


@pytest.mark.slow
@pytest.mark.parametrize("name", ["depth-anything", "zoedepth"])
def test_a_depth_network_masks_the_matches(workspace, tmp_path, name):
    from tests.unit.depth.test_networks import saved

    saved(tmp_path / "depth.safetensors", name)
    folder = workspace(
        methods=["cpu"],
        overrides={
            "cpu": {
                **PLAIN,
                "depth": {"backend": name, "weights": str(tmp_path / "depth.safetensors"), "outlier_sigma": 1.0},
                "model": SMALL,
                "optimize": QUICK,
            }
        },
    )
    add_scene(folder.videos, "scene", frames=2)
    folder.finished()
    tracks_are_whole(folder, "scene", "cpu")
    assert 0.3 < filter_of(folder, "scene")["depth_kept"] < 1
    (path,) = (folder.results / "scene" / "depth").glob("*/depth.json")
    assert json.loads(path.read_text())["made_by"]["backend"] == name
