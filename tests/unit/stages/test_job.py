"""What a job does when its stage succeeds, fails as it may, or fails as it must not."""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from everypoint.artifacts import atomic
from everypoint.errors import InputError
from everypoint.stages import job


@pytest.fixture
def snakemake(tmp_path):
    source = tmp_path / "clip.mp4"
    source.write_text("a clip")
    yield SimpleNamespace(
        input=[str(source)],
        output=[str(tmp_path / "frames.npy")],
        params={"version": 1},
        log=[str(tmp_path / "logs" / "frames.log")],
        rule="frames",
        wildcards={"video": "clip"},
        config={},
    )
    logging.captureWarnings(False)
    for handler in logging.getLogger().handlers[:]:
        if isinstance(handler, logging.FileHandler):
            logging.getLogger().removeHandler(handler)
            handler.close()


def log_of(snakemake) -> str:
    with open(snakemake.log[0]) as file:
        return file.read()


def test_success_leaves_a_log_and_no_record(snakemake):
    atomic.write_json(job.record_path(snakemake.log[0]), {"rule": "frames"})  # of an earlier try
    job.run(snakemake, lambda number: logging.getLogger("everypoint.x").warning("seen %d", number), number=7)
    assert "seen 7" in log_of(snakemake)
    assert not job.record_path(snakemake.log[0]).exists()


def test_an_expected_failure_is_one_sentence(snakemake, capfd):
    def stage():
        raise InputError("clip is not a video", "it is text", "remove it")

    with pytest.raises(SystemExit) as end:
        job.run(snakemake, stage)
    assert end.value.code == 1
    sentence = "clip is not a video: it is text; remove it."
    assert capfd.readouterr().err.strip() == f"clip, frames: {sentence} (log: {snakemake.log[0]})"
    assert sentence in log_of(snakemake)
    record = atomic.read_json(job.record_path(snakemake.log[0]))
    assert record == {"rule": "frames", "sentence": sentence, "log": snakemake.log[0]}


def test_a_defect_keeps_its_traceback_in_the_log_only(snakemake, capfd):
    with pytest.raises(SystemExit):
        job.run(snakemake, lambda: {}["missing\nkey"])
    shown = capfd.readouterr().err
    assert "Traceback" not in shown
    assert len(shown.strip().splitlines()) == 1
    assert "a defect of everypoint (KeyError" in shown
    assert "Traceback" in log_of(snakemake)


def test_ctrl_c_ends_a_job_without_a_traceback(snakemake, capfd):
    def stage():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        job.run(snakemake, stage)
    assert end.value.code == 130
    assert capfd.readouterr().err == ""
    assert "interrupted" in log_of(snakemake)
    assert not job.record_path(snakemake.log[0]).exists()  # nothing was wrong with the video


def test_running_out_of_memory_is_no_defect(snakemake, capfd):
    with pytest.raises(SystemExit) as end:
        job.run(snakemake, lambda: np.empty((10**6, 10**6, 10**3)))
    assert end.value.code == 1
    shown, log = capfd.readouterr().err, log_of(snakemake)
    assert len(shown.strip().splitlines()) == 1
    assert "has not enough memory for frames: Unable to allocate" in shown
    assert "lower frames.max_side" in shown
    assert "defect" not in shown + log
    assert "Traceback" in log
    assert "has not enough memory" in atomic.read_json(job.record_path(snakemake.log[0]))["sentence"]


@pytest.fixture
def other(snakemake):
    """Another process that is at the same stage of the same video, as far as can be seen; ``close`` ends it."""
    path = lock_of(snakemake)
    path.parent.mkdir()
    path.write_text(job._fingerprint(snakemake))
    with open(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def lock_of(snakemake) -> Path:
    return Path(snakemake.log[0]).with_name(".frames.lock")


def test_a_second_writer_is_refused(snakemake, other, capfd):
    with pytest.raises(SystemExit) as end:
        job.run(snakemake, lambda: pytest.fail("it ran"))
    assert end.value.code == job.EXIT_TRY_AGAIN
    assert "another process is still at work on this" in capfd.readouterr().err
    assert not Path(snakemake.log[0]).exists()
    other.close()
    job.run(snakemake, lambda: None)  # the lock ended with its holder
    assert log_of(snakemake)
    assert not lock_of(snakemake).exists()


def test_snakemake_may_remove_the_log_of_a_job_at_work(snakemake, other):
    Path(snakemake.log[0]).write_text("of the first")
    Path(snakemake.log[0]).unlink()
    with pytest.raises(SystemExit) as end:
        job.run(snakemake, lambda: pytest.fail("it ran"))
    assert end.value.code == job.EXIT_TRY_AGAIN


def waiting(snakemake, other, monkeypatch, finished: bool) -> list[str]:
    """What a second writer does under SLURM when the first one ends, having finished or not."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")

    def wait_for(path):
        if finished:
            Path(snakemake.output[0]).write_text("of the first")
        other.close()
        return wait(path)

    wait = job.wait_for
    monkeypatch.setattr(job, "wait_for", wait_for)
    ran = []
    job.run(snakemake, lambda: ran.append("again"))
    return ran


def test_under_slurm_it_waits_and_does_nothing_twice(snakemake, other, monkeypatch):
    assert waiting(snakemake, other, monkeypatch, finished=True) == []
    assert "done by the process that this one has waited for" in log_of(snakemake)


def test_under_slurm_it_goes_on_when_the_first_did_not_finish(snakemake, other, monkeypatch):
    assert waiting(snakemake, other, monkeypatch, finished=False) == ["again"]


@pytest.mark.parametrize("change", ["params", "input"])
def test_under_slurm_it_runs_when_the_first_made_something_else(snakemake, other, monkeypatch, change):
    if change == "params":
        snakemake.params = {"version": 2}
    else:
        Path(snakemake.input[0]).write_text("another clip")
    assert waiting(snakemake, other, monkeypatch, finished=True) == ["again"]


def test_the_assets_folder_reaches_the_stage(snakemake, monkeypatch):
    monkeypatch.setenv("EVERYPOINT_ASSETS", "elsewhere")
    snakemake.config = {"runtime": {"assets": "weights"}}
    seen = []
    job.run(snakemake, lambda: seen.append(os.environ["EVERYPOINT_ASSETS"]))
    assert seen == ["weights"]
