"""What a job does when its stage succeeds, fails as it may, or fails as it must not."""

from __future__ import annotations

import fcntl
import logging
import os
from types import SimpleNamespace

import pytest

from everypoint.artifacts import atomic
from everypoint.errors import InputError
from everypoint.stages import job


@pytest.fixture
def snakemake(tmp_path):
    yield SimpleNamespace(
        log=[str(tmp_path / "logs" / "frames.log")], rule="frames", wildcards={"video": "clip"}, config={}
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


def test_a_second_writer_is_refused(snakemake, capfd):
    os.makedirs(os.path.dirname(snakemake.log[0]))
    with open(snakemake.log[0], "a") as file:
        file.write("of the first")
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(SystemExit) as end:
            job.run(snakemake, lambda: pytest.fail("it ran"))
    assert end.value.code == job.TRY_AGAIN
    assert "another process is still at work on this" in capfd.readouterr().err
    assert log_of(snakemake) == "of the first"
    job.run(snakemake, lambda: None)  # the lock ended with its holder
    assert "of the first" not in log_of(snakemake)


def test_the_assets_folder_reaches_the_stage(snakemake, monkeypatch):
    monkeypatch.setenv("EVERYPOINT_ASSETS", "elsewhere")
    snakemake.config = {"runtime": {"assets": "weights"}}
    seen = []
    job.run(snakemake, lambda: seen.append(os.environ["EVERYPOINT_ASSETS"]))
    assert seen == ["weights"]
