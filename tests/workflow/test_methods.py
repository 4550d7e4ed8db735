"""Several presets over one video: what they share is computed once, also when a preset is added later."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from everypoint.artifacts.tracks import load_tracks
from tests.workflow.conftest import ROOT, Run, add_scene, sha256


@pytest.fixture(scope="module")
def workflow(workspace):
    folder = workspace()
    add_scene(folder.videos, "scene")
    folder.finished()
    folder.before = sha256(folder.tracks("scene"))
    folder.configure(methods=["chain", "chain-multi", "cpu"])
    folder.second = folder.finished()
    return folder


def test_shared_stages_are_not_computed_again(workflow):
    assert workflow.second.rules == sorted(
        ["matches", "optimize", "tracks", "tracks", "evaluate", "evaluate", "report"]
    )
    assert sha256(workflow.tracks("scene")) == workflow.before


@pytest.mark.parametrize("method", ["chain", "chain-multi", "cpu"])
def test_every_preset_gives_tracks_through_its_queries(workflow, method):
    tracks = load_tracks(workflow.tracks("scene", method))
    rows = tracks.queries[:, 0].astype(int)
    assert np.array_equal(tracks.tracks[rows, np.arange(len(rows))], tracks.queries[:, 1:])
    assert np.isfinite(tracks.tracks).all()
    metrics = json.loads((workflow.results / "scene" / "evaluate" / method / "metrics.json").read_text())
    assert metrics["preset"] == method
    assert metrics["modes"]["strided"]["queries"] == len(rows)


def test_the_optimiser_leaves_its_curve(workflow):
    rows = [json.loads(line) for line in (workflow.results / "scene/optimize/cpu/train.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 40


def test_one_folder_of_flows_serves_all(workflow):
    assert len(list((workflow.results / "scene" / "flow").iterdir())) == 1


def test_a_knob_that_changes_no_result_redoes_nothing(workflow):
    before = workflow.config
    overrides = json.loads(json.dumps(before["overrides"]))
    overrides["all"]["flow"]["batch"] = 7
    overrides["cpu"]["optimize"]["checkpoint_seconds"] = 5
    workflow.configure(**{**before, "overrides": overrides})
    assert workflow.finished("-n").jobs == []
    overrides["cpu"]["optimize"]["steps"] = 41
    workflow.configure(**{**before, "overrides": overrides})
    assert workflow.finished("-n").rules == ["evaluate", "optimize", "report", "tracks"]
    workflow.configure(**before)


def test_the_command_run_does_the_same(workflow):
    """``everypoint run`` is Snakemake with a configuration; its dry run sees everything as done."""
    command = [sys.executable, "-m", "everypoint", "run", "videos", "--config", "my.yaml", "--results", "results"]
    done = subprocess.run(
        [*command, "--cores", "2", "-n"], cwd=workflow.folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Nothing to be done" in done.stdout + done.stderr


def test_the_command_run_without_a_configuration_plans_for_the_machine(workspace):
    """With a stand-in for nvidia-smi that lists a GPU."""
    folder = workspace()
    add_scene(folder.videos, "scene")
    program = folder.folder / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: made up (UUID: GPU-0)'\n")
    program.chmod(0o755)
    hidden = ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "EVERYPOINT_DEVICES")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    environment |= {"PYTHONPATH": str(ROOT), "PATH": f"{folder.folder}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [sys.executable, "-m", "everypoint", "run", "videos", "-n"], cwd=folder.folder, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("There is a GPU here: runs chain-multi and fast")
    jobs = Run(0, done.stdout + done.stderr).jobs
    assert [job for job in jobs if job.startswith("optimize")] == ["optimize scene fast"]
