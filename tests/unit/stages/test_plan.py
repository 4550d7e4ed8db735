"""What the Snakefile asks: videos, their options, and which file comes from which."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from everypoint.artifacts import atomic
from everypoint.config.presets import load_preset
from everypoint.errors import ConfigError, InputError
from everypoint.stages import relevant
from everypoint.stages.plan import STAGES, make_plan, stage_versions


def of(video: str, preset: str = "chain", key: str = "") -> SimpleNamespace:
    return SimpleNamespace(video=video, preset=preset, key=key)


@pytest.fixture
def videos(tmp_path, monkeypatch):
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "a.mp4").touch()
    (folder / "b.mov").touch()
    atomic.save_npz(folder / "b.annotations.npz", points=np.zeros((1, 3, 2), np.float32), occluded=np.zeros((1, 3)))
    (folder / "c").mkdir()
    for number in range(3):
        (folder / "c" / f"{number}.png").write_bytes(b"0" * number)
    monkeypatch.chdir(tmp_path)
    return folder


def plan_of(**keys):
    return make_plan(keys, "c.yaml")


def test_chain_reads_flows_only(videos):
    inputs = plan_of(methods=["chain"]).tracks_inputs(of("a"))
    key = relevant.flow_key(load_preset("chain").flow)
    assert inputs == {
        "frames": "results/a/frames/frames.npy",
        "meta": "results/a/frames/video.json",
        "queries": "results/a/queries/queries.npz",
        "flow": [f"results/a/flow/{key}/1of1"],
    }


@pytest.mark.parametrize("method", ["cpu", "chain-multi"])
def test_walks_read_the_flows_of_a_rival_and_matches_do_not(videos, method):
    plan = plan_of(methods=[method], overrides={"all": {"flow": {"rival": "raft-small", "rival_gap": 4, "shards": 2}}})
    inputs, (own, rival) = plan.tracks_inputs(of("a", method)), relevant.flows(plan.presets[method])
    for name, options in (("flow", own), ("rival", rival)):
        key = relevant.flow_key(options)
        assert inputs[name] == [f"results/a/flow/{key}/{part}of2" for part in (1, 2)]
        assert plan.flow_options(of("a", key=key))["weights"] == options.weights
    assert plan.flow_options(of("a", key=relevant.flow_key(rival)))["pairs"]["shortest"] == 4
    logs = plan.correspondence_logs(plan.presets[method])
    assert {f"flow.{relevant.flow_key(options)}.*" for options in (own, rival)} <= set(logs)
    if method == "cpu":
        assert "rival" not in plan.matches_inputs(of("a", key=relevant.matches_key(plan.presets["cpu"])))


@pytest.mark.parametrize(("method", "part"), [("chain", {}), ("cpu", {"readout": {"fuse": False}})])
def test_no_rival_where_nothing_walks(videos, method, part):
    plan = plan_of(methods=[method], overrides={"all": {"flow": {"rival": "raft-small"}, **part}})
    assert "rival" not in plan.tracks_inputs(of("a", method))
    assert len(plan._flows) == 1


def test_an_optimiser_reads_all(videos):
    plan = plan_of(methods=["cpu"], overrides={"cpu": {"flow": {"shards": 2}}}, results="./out/")
    inputs, preset = plan.tracks_inputs(of("a", "cpu")), plan.presets["cpu"]
    key = relevant.matches_key(preset)
    assert [path.rsplit("/", 1)[1] for path in inputs["flow"]] == ["1of2", "2of2"]
    assert inputs["features"] == f"out/a/features/{relevant.features_key(preset.features)}/features.npy"
    assert inputs["model"] == "out/a/optimize/cpu/model.pt"
    assert plan.optimize_inputs(of("a", "cpu"))["matches"] == f"out/a/matches/{key}/matches.npz"
    assert plan.matches_inputs(of("a", key=key)) == {
        "meta": "out/a/frames/video.json",
        "flow": inputs["flow"],
        "features": inputs["features"],
    }


ALL_SOURCES = {
    "flow": {"backend": "none"},
    "readout": {"fuse": False},
    "depth": {"backend": "constant"},
    "sparse": {"sources": ["mutual", "tracks", "processed"]},
}


def test_matches_without_flows_come_from_their_sources(videos):
    plan = plan_of(methods=["cpu"], overrides={"cpu": ALL_SOURCES})
    preset = plan.presets["cpu"]
    keys = [relevant.sparse_key(preset, source) for source in preset.sparse.sources]
    key = relevant.matches_key(preset)
    assert key.startswith("mutual-")
    assert plan.matches_inputs(of("a", key=key)) == {
        "meta": "results/a/frames/video.json",
        "sparse": [f"results/a/sparse/{key}/matches.npz" for key in keys],
    }
    frames = {"frames": "results/a/frames/frames.npy", "meta": "results/a/frames/video.json"}
    features = relevant.features_key(preset.sparse.mutual.features)
    assert plan.sparse_inputs(of("a", key=keys[0])) == frames | {
        "features": f"results/a/features/{features}/features.npy",
        "depth": f"results/a/depth/{relevant.depth_key(preset.depth)}/depth.npy",
    }
    assert plan.sparse_inputs(of("a", key=keys[1])) == frames  # the file is not there, which its job will say
    (videos / "a.tracks.npz").touch()
    assert plan.sparse_inputs(of("a", key=keys[1])) == frames | {"place": "videos/a.tracks.npz"}
    assert plan.sparse_inputs(of("a", key=keys[2])) == frames
    assert set(plan.tracks_inputs(of("a", "cpu"))) == {"frames", "meta", "queries", "model"}
    logs = plan.report_presets()["cpu"]["logs"]
    assert [log.split("-")[0] for log in logs[:6]] == [
        "depth.constant", "features_part.vit", "features.vit", "sparse.mutual", "sparse.tracks", "sparse.processed",
    ]  # fmt: skip


def test_chaining_reads_the_frames_too_and_appearance_of_sparse_rows_the_features(videos):
    plan = plan_of(methods=["cpu"], overrides={"cpu": {"matches": {"chain": True}}})
    key = relevant.matches_key(plan.presets["cpu"])
    assert plan.matches_inputs(of("a", key=key))["frames"] == "results/a/frames/frames.npy"
    overrides = {"cpu": ALL_SOURCES | {"sparse": {"sources": ["xfeat"], "appearance_threshold": 0.2}}}
    plan = plan_of(methods=["cpu"], overrides=overrides)
    inputs = plan.matches_inputs(of("a", key=relevant.matches_key(plan.presets["cpu"])))
    assert set(inputs) == {"meta", "features", "sparse"}


PROCESSED = {"flow": {"backend": "processed"}, "features": {"backend": "processed"}}


def test_what_a_processed_folder_holds_is_known_by_names_and_sizes(videos):
    for part in ("color", "raft_exhaustive", "raft_masks"):
        (videos / "d" / part).mkdir(parents=True)
    (videos / "d" / "color" / "0.jpg").touch()

    def place(video: str, **parts):
        plan = plan_of(methods=["cpu"], overrides={"all": PROCESSED | parts})
        return plan.flow_place(of(video, key=relevant.flow_key(plan.presets["cpu"].flow)))

    before = place("d")
    assert before["path"] == "videos/d"
    (videos / "d" / "raft_exhaustive" / "0.jpg_1.jpg.npy").write_bytes(b"12")
    assert place("d") != before
    assert place("c")["path"] == "videos/c"  # images without color
    assert place("a")["path"] == ""  # a file holds nothing else
    assert place("a", flow={"backend": "processed", "folder": "old/{video}/x"})["path"] == "old/a/x"
    computed = plan_of(methods=["cpu"])
    assert computed.flow_place(of("d", key=relevant.flow_key(computed.presets["cpu"].flow))) is None


def test_tracks_made_elsewhere_lie_beside_the_video(videos):
    def path(video: str, **tracks) -> str:
        plan = plan_of(methods=["cpu"], overrides={"cpu": {"sparse": {"sources": ["tracks"], "tracks": tracks}}})
        return plan.sparse_place(of(video, key=relevant.sparse_key(plan.presets["cpu"], "tracks")))["path"]

    assert path("a") == "videos/a.tracks.npz"
    assert path("c") == "videos/c.tracks.npz"
    assert path("a", file="x/{video}/t.npz") == "x/a/t.npz"


def test_the_model_alone_needs_no_flows(videos):
    plan = plan_of(methods=["cpu"], overrides={"cpu": {"readout": {"fuse": False}}})
    assert set(plan.tracks_inputs(of("a", "cpu"))) == {"frames", "meta", "queries", "model"}


def test_without_features_nothing_depends_on_them(videos):
    plan = plan_of(methods=["chain-multi"], overrides={"all": {"features": {"backend": "none"}}})
    assert "features" not in plan.tracks_inputs(of("a", "chain-multi"))
    assert not any("features" in log for log in plan.report_presets()["chain-multi"]["logs"])


def test_only_direct_pairs_need_to_know_the_queries(videos):
    for direct in (False, True):
        plan = plan_of(methods=["chain"], overrides={"all": {"flow": {"pairs": {"direct": direct}}}})
        key = relevant.flow_key(plan.presets["chain"].flow)
        assert ("query_frames" in plan.flow_inputs(of("a", key=key))) == direct


def test_only_annotated_videos_are_evaluated_and_only_wanted_overlays_drawn(videos):
    plan = plan_of(methods=["chain"], overlay={"enabled": False})
    assert plan.made("a") == ["frames/video.json", "tracks/chain/tracks.npz"]
    assert plan.made("b") == ["frames/video.json", "tracks/chain/tracks.npz", "evaluate/chain/metrics.json"]
    assert plan_of(methods=["chain"]).made("a")[2:] == ["overlay/chain/overlay.mp4", "overlay/chain/trails.mp4"]


def test_options_of_one_video_and_of_one_shot(videos):
    plan = plan_of(
        methods=["chain"],
        frames={"stride": 2, "on_cut": "split"},
        per_video={"a": {"frames": {"start": 3}}, "a-shot02": {"queries": {"grid": 5}}},
    )
    assert plan.frames_options(of("a"))["start"] == 3
    assert plan.frames_options(of("a-shot02"))["stride"] == 2
    assert plan.frames_options(of("b"))["start"] == 0
    assert [plan.query_options(of(name))["grid"] for name in ("a", "a-shot01", "a-shot02")] == [32, 32, 5]


def test_shots(videos):
    plan = plan_of(methods=["chain"], frames={"on_cut": "split"})
    atomic.write_json("shots.json", {"shots": [[0, 4], [4, 9]]})
    assert plan.shots("a", "shots.json") == ["a-shot01", "a-shot02"]
    assert plan.source(of("a-shot02")) == {"source": "videos/a.mp4", "shots": "results/a/shots/shots.json"}
    assert plan.shot(of("a-shot02")) == 2
    assert plan.shot(of("a")) == 0
    assert plan.entry(of("a-shot02"))["name"] == "a-shot02"
    with pytest.raises(InputError, match="there is no video 'd'; known are a, b, c"):
        plan.parent("d")


def test_a_video_named_like_a_shot_is_a_video(videos):
    (videos / "a-shot01.mp4").touch()
    assert plan_of(methods=["chain"]).parent("a-shot01") == ("a-shot01", 0)


def test_a_folder_of_images_is_known_by_names_and_sizes(videos):
    before = plan_of(methods=["chain"]).entry(of("c"))
    (videos / "c" / "0.png").touch()
    assert plan_of(methods=["chain"]).entry(of("c")) == before
    (videos / "c" / "0.png").write_bytes(b"123")
    assert plan_of(methods=["chain"]).entry(of("c")) != before
    assert "listing" not in plan_of(methods=["chain"]).entry(of("a"))


def test_a_folder_of_images_is_known_by_content_too_where_there_is_a_memory(videos):
    def entry(cache=".snakemake/everypoint"):
        return make_plan({"methods": ["chain"]}, "c.yaml", cache).entry(of("c"))

    before = entry()
    assert before == entry(None)  # what was recorded before contents were looked at
    (videos / "c" / "2.png").write_bytes(b"12")
    assert entry() != before
    assert entry() == entry()
    (videos / "c" / "2.png").write_bytes(b"00")
    assert entry() == before


def test_a_misspelt_video_names_the_nearest(videos):
    (videos / "clip.mp4").touch()
    with pytest.raises(ConfigError, match="per_video has the unknown video 'clp', did you mean 'clip'"):
        plan_of(methods=["chain"], per_video={"clp": {}})


def test_sidecars_are_inputs_of_queries(videos):
    plan = plan_of(methods=["chain"])
    assert plan.query_inputs(of("b"))["annotations"] == "videos/b.annotations.npz"
    assert set(plan.query_inputs(of("a"))) == {"frames", "meta"}


def test_beside_a_data_set_the_default_folder_may_be_absent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="the folder videos does not exist"):
        plan_of(methods=["chain"])
    with pytest.raises(InputError, match="nowhere"):
        plan_of(methods=["chain"], dataset="nowhere.pkl")
    (tmp_path / "davis" / "dog" / "color").mkdir(parents=True)
    (tmp_path / "davis" / "dog" / "color" / "0.jpg").touch()
    assert plan_of(methods=["chain"], dataset="davis").videos == ["dog"]  # a data set that is a folder of images


def test_gpus(videos):
    assert [plan_of(device=device).gpus for device in ("auto", "cuda", "cpu")] == [1, 1, 0]


def test_runtime_names_the_assets_folder(videos):
    assert plan_of(assets="weights").runtime()["assets"] == "weights"


def test_every_stage_has_a_version():
    assert set(stage_versions()) == set(STAGES)
    assert all(isinstance(version, int) and version > 0 for version in stage_versions().values())


def test_planning_imports_nothing_heavy():
    code = (
        "import sys; from everypoint.stages.plan import stage_versions; stage_versions();"
        "print([name for name in ('torch', 'cv2', 'matplotlib', 'jinja2', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
