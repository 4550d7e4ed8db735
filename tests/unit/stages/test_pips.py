"""The plan of training and tests, the launch of several processes, and the demo."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from everypoint.artifacts.tracks import Tracks
from everypoint.config.user import Config
from everypoint.errors import ConfigError, InputError, TrainingError
from everypoint.stages import pips_demo, pips_train
from everypoint.stages.plan_pips import train_plan, trains


def plan(**pips):
    return train_plan(Config.model_validate({"pips": pips}))


def test_nothing_is_needed_by_default():
    config = Config()
    assert not trains(config)
    assert train_plan(config).tests == []
    assert train_plan(config).model("train") == "pips/train/model-000200000.pth"
    assert train_plan(config).model("finetune") == "pips/finetune/model-000010000.pth"


@pytest.mark.parametrize(
    "pips",
    [{"train": {"source": "x"}}, {"finetune": {"steps": 3}}, {"test": {"crohd": "x"}}, {"export": {"root": "x"}}],
)
def test_named_data_need_no_videos(pips):
    assert trains(Config.model_validate({"pips": pips}))


def test_training_reads_what_is_exported_and_fine_tuning_goes_on_from_it():
    made = plan(export={"root": "/path/pod", "name": "bb"}, train={"steps": 7}, folder="out")
    assert made.inputs("train") == {"clips": "pod_export/bb_36_128_256x384/export.json"}
    assert made.parameters("train")["source"] == "pod_export/bb_36_128_256x384"
    assert made.inputs("finetune") == {"weights": "out/train/model-000000007.pth"}
    assert made.parameters("finetune")["source"] == "/path/pod"
    assert not {"workers", "checkpoint_seconds"} & made.parameters("train").keys()
    assert made.runtimes()["train"]["workers"] == 6
    own = plan(train={"source": "mine"}, finetune={"weights": "a.pth"})
    assert own.inputs("train") == own.inputs("finetune") == {}
    assert own.parameters("train")["source"] == "mine"


def test_tests_use_the_weights_of_a_target_or_those_named():
    made = plan(test={"weights": "finetune", "crohd": "HT21", "tapvid": "davis.pkl"})
    assert made.tests == ["tapvid", "crohd"]
    assert made.test_inputs() == {"weights": "pips/finetune/model-000010000.pth"}
    assert "tapvid" not in made.test_parameters("crohd")
    assert "memory_gib" not in made.test_parameters("crohd")
    assert plan(test={"weights": "mine.pth", "crohd": "HT21"}).test_inputs() == {}


def test_a_finished_model_is_kept_unless_it_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made, model = plan(finetune={"steps": 7}), "pips/finetune/model-000000007.pth"
    assert not made.keeps(model, {"pips_test"})  # there is none
    (tmp_path / model).parent.mkdir(parents=True)
    (tmp_path / model).touch()
    assert made.keeps(model, {"pips_test", "pips_train"})
    assert made.keeps(model, set())
    assert not made.keeps(model, {"pips_test", "pips_finetune"})
    assert not made.keeps(model, {f"./{model}"})


def test_a_typo_is_told():
    with pytest.raises(ConfigError, match="pips.train.*learning_rate"):
        plan(train={"learning_rates": 3}).model("train")


# --------------------------------------------------------------------------------------------------- the launch


def options(**changes):
    """Options as a rule passes them."""
    made = plan(train={"source": "clips", "processes": 2, **changes})
    return {**made.parameters("train"), **made.runtimes()["train"]}


def launched(tmp_path, monkeypatch, program: str, **changes):
    """Run the stage with a program in torchrun's place; returns the command that it would have been."""
    script = tmp_path / "torchrun.py"
    script.write_text(f"import os, signal, sys\n{program}")
    real = pips_train.subprocess.Popen
    commands = []

    def popen(command, **kwargs):
        commands.append(command)
        return real([sys.executable, str(script)], **kwargs)

    monkeypatch.setattr(pips_train.subprocess, "Popen", popen)
    output = tmp_path / "train" / "model-000000001.pth"
    pips_train.run(options=options(**changes), seed=5, output=str(output), device="cpu", threads=1, weights="w.pth")
    return commands[0]


def test_processes_of_one_machine(tmp_path, monkeypatch):
    command = launched(tmp_path, monkeypatch, "")
    assert command[1:5] == ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    assert command[5:8] == ["-m", "everypoint", "train-pips"]
    spec = json.loads((tmp_path / "train" / "launch.json").read_text())
    assert spec["seed"] == 5
    assert spec["options"]["weights"] == "w.pth"
    assert spec["options"]["batch"] == 4


def test_machines_of_a_slurm_job(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURMD_NODENAME", "node7")
    command = launched(tmp_path, monkeypatch, "", nodes=2)
    assert command[:3] == ["srun", "--nodes=2", "--ntasks-per-node=1"]
    assert "--nnodes=2" in command
    assert "--rdzv-endpoint=node7:29431" in command


def test_failure_and_stop(tmp_path, monkeypatch):
    with pytest.raises(TrainingError, match="ended with 3"):
        launched(tmp_path, monkeypatch, "sys.exit(3)")
    stopped = (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))\nos.kill(os.getppid(), signal.SIGUSR1)\nsignal.pause()"
    )
    with pytest.raises(SystemExit) as stop:
        launched(tmp_path, monkeypatch, stopped)
    assert stop.value.code == 75


# --------------------------------------------------------------------------------------------------- the demo


def test_the_grid_is_square_and_8_px_inside():
    assert len(pips_demo.grid(256, (512, 896))) == 256
    assert len(pips_demo.grid(200, (512, 896))) == 196
    points = pips_demo.grid(9, (100, 200))
    assert points[0].tolist() == [8, 8]
    assert points[-1].tolist() == [192, 92]
    assert points[1].tolist() == [100, 8]
    assert pips_demo.grid(1, (100, 200)).tolist() == [[100, 50]]


def test_every_clip_is_tracked_the_last_partial_one_too(tmp_path, monkeypatch):
    from everypoint.pips import driver, weights
    from everypoint.report import overlay
    from everypoint.video.encode import write_mp4
    from tests.unit.pips.weights import formula_network

    asked, drawn = [], []

    def follow(features, numbers, start, plan):
        asked.append((numbers, plan))
        return np.repeat(start[None], len(numbers), 0)

    monkeypatch.setattr(driver, "follow", follow)
    monkeypatch.setattr(weights, "load_network", lambda path: formula_network())
    monkeypatch.setattr(overlay, "draw_overlay", lambda frames, tracks, options, out: drawn.append((frames, tracks)))
    write_mp4(tmp_path / "a.mp4", iter(np.zeros((11, 40, 64, 3), np.uint8)), 25.0)
    (tmp_path / "w.pth").write_bytes(b"")
    said = pips_demo.demo(
        tmp_path / "a.mp4", str(tmp_path / "w.pth"), tmp_path / "o.mp4", points=4, length=4, size=(128, 160), threads=1
    )
    assert said.startswith("inference time: ")
    assert [numbers for numbers, _ in asked] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert all(plan.beautify and plan.iterations == 16 for _, plan in asked)
    frames, tracks = drawn[0]
    assert isinstance(tracks, Tracks)
    assert frames.shape == (11, 128, 160, 3)
    assert tracks.visibility.sum(1).tolist() == [4] * 11  # those of the frame's own clip
    assert np.allclose(tracks.tracks[8:, 8:], tracks.queries[None, 8:, 1:])


def test_wrong_size_is_told(capsys):
    from everypoint.__main__ import main

    assert main(["demo-pips", "a.mp4", "--size", "512"]) == 1
    assert "--size 512 is not HxW" in capsys.readouterr().err
    assert main(["demo-pips", "a.mp4", "--points", "0"]) == 1


def test_training_without_data_is_told():
    with pytest.raises(ConfigError, match=r"no data; set pips\.export\.root"):
        pips_train._clips(train_plan(Config())._trainings["train"], 0)


def test_no_test_set_is_told(tmp_path):
    from everypoint.stages import pips_test

    with pytest.raises(InputError, match=r"pips\.test\.tapvid"):
        pips_test.summary(results=[], output=str(tmp_path / "a"), text=str(tmp_path / "b"))
