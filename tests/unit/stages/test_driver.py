"""Before the plan: which configuration is read, how its failures end, and that a run is alone in its folder."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from everypoint.stages import driver
from everypoint.stages.driver import check_yaml, default_config, hold_lock, make_results, plan_or_sentence


def test_failures_end_the_process_with_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        plan_or_sentence({"metods": []}, "c.yaml")
    assert end.value.code == "everypoint: c.yaml: unknown key 'metods', did you mean 'methods'."
    (tmp_path / "workflow_config.yaml").write_text("a: [")
    assert str(default_config("/checkout")) == "workflow_config.yaml"
    with pytest.raises(SystemExit, match=r"everypoint: workflow_config\.yaml line"):
        check_yaml([default_config("/checkout")])
    (tmp_path / "workflow_config.yaml").unlink()
    assert str(default_config("/checkout")) == "/checkout/workflow_config.yaml"


@pytest.fixture
def videos(tmp_path, monkeypatch):
    """A working directory with a video in it, and a file where folders might be wanted."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos" / "clip").mkdir(parents=True)
    cv2.imwrite("videos/clip/0.png", np.zeros((32, 32, 3), np.uint8))
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")


BRACES = "{ } < > have another meaning in Snakemake's paths; choose another name"


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"results": "a{b}"}, f"results 'a{{b}}' cannot be used: {BRACES}"),
        ({"results": "a<b"}, f"results 'a<b' cannot be used: {BRACES}"),
        ({"pips": {"folder": "}"}}, f"pips.folder '}}' cannot be used: {BRACES}"),
        ({"pips": {"export": {"folder": "a/{b}"}}}, f"pips.export.folder 'a/{{b}}' cannot be used: {BRACES}"),
        ({"results": "file"}, "results 'file' cannot be used: file is not a folder; name another one"),
        ({"results": "file/deep/er"}, "results 'file/deep/er' cannot be used: file is not a folder"),
        ({"results": "dangling"}, "results 'dangling' cannot be used: dangling is not a folder"),
        (
            {"pips": {"folder": "file", "train": {"steps": 3}}},
            "pips.folder 'file' cannot be used: file is not a folder",
        ),
    ],
)
def test_folders_that_cannot_take_outputs(videos, keys, why):
    with pytest.raises(SystemExit) as end:
        plan_or_sentence(keys, "c.yaml")
    assert end.value.code.startswith(f"everypoint: c.yaml: {why}")


def test_folders_that_can(videos, monkeypatch):
    for keys in ({}, {"results": "deep/new"}, {"results": "videos"}, {"pips": {"folder": "file"}}):
        plan = plan_or_sentence(keys, "c.yaml")
        make_results(plan)
        assert Path(plan.results).is_dir()


def test_results_that_cannot_be_made_or_written(videos, monkeypatch):
    plan = plan_or_sentence({"results": "/proc/nowhere/results"}, "c.yaml")  # even root cannot
    with pytest.raises(
        SystemExit, match=r"^everypoint: cannot write to /proc/nowhere/results: .*; check its permissions"
    ):
        make_results(plan)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(SystemExit, match=r"^everypoint: cannot write to results: results does not let us write; "):
        make_results(plan_or_sentence({}, "c.yaml"))


def test_a_second_run_is_refused_and_a_dead_one_is_forgotten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(driver, "_held", [])
    lock = tmp_path / "deep" / "run.lock"
    code = (
        f"import os; from everypoint.stages.driver import hold_lock; hold_lock({str(lock)!r}); os.kill(os.getpid(), 9)"
    )
    root = str(Path(driver.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == -9
    hold_lock(lock)  # kill -9 left the file, not the lock
    with pytest.raises(SystemExit, match="another run is at work in"):
        hold_lock(lock)
    fcntl.flock(driver._held[0], fcntl.LOCK_UN)
    hold_lock(lock)
