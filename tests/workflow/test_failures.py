"""What users do wrong: one sentence each, the other videos finish, the exit code is not 0."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from tests.workflow.conftest import add_gif, add_mp4, add_scene, frames_of

NAMES = ("corrupt", "text", "single")


@pytest.fixture(scope="module")
def workflow(workspace):
    """Two good videos among three bad ones, run once."""
    folder = workspace()
    add_scene(folder.videos, "scene")
    add_gif(folder.videos, "good", frames_of("parallax", 4))
    add_mp4(folder.videos, "corrupt", frames_of("occluder", 5))
    damaged = bytearray((folder.videos / "corrupt.mp4").read_bytes())
    damaged[8:] = np.random.default_rng(0).bytes(len(damaged) - 8)
    (folder.videos / "corrupt.mp4").write_bytes(damaged)
    (folder.videos / "text.mp4").write_text("this is a text file\n" * 50)
    Image.fromarray(frames_of("parallax", 4)[0]).save(folder.videos / "single.gif")
    folder.first = folder.run()
    return folder


def test_the_exit_code_is_not_zero(workflow):
    assert workflow.first.code == 1


def test_the_other_videos_finish(workflow):
    assert workflow.tracks("scene").exists()
    assert workflow.tracks("good").exists()


@pytest.mark.parametrize("name", NAMES)
def test_each_failure_is_one_sentence_that_names_the_log(workflow, name):
    log = f"results/{name}/logs/frames.log"
    lines = [line for line in workflow.first.output.splitlines() if line.startswith(f"{name}, frames: ")]
    assert len(lines) == 1, workflow.first.output
    assert lines[0].endswith(f"(log: {log})")
    sentence = lines[0].removeprefix(f"{name}, frames: ").removesuffix(f" (log: {log})")
    assert sentence in (workflow.folder / log).read_text()
    assert "defect" not in sentence
    assert f"  {name}: {sentence} (log: {log})" in workflow.first.output.splitlines()  # the summary at the end


def test_no_traceback_reaches_the_terminal(workflow):
    assert "Traceback (most recent call last)" not in workflow.first.output


def test_failed_stages_write_nothing(workflow):
    for name in NAMES:
        assert not (workflow.results / name / "frames").exists() or not any(
            (workflow.results / name / "frames").iterdir()
        )


def test_the_report_shows_the_finished_and_names_the_failed(workflow):
    page = (workflow.results / "report.html").read_text()
    assert all(name in page for name in ("scene", "good", *NAMES))
    table = (workflow.results / "metrics.csv").read_text()
    assert len(re.findall(r"^video,(corrupt|text|single),[^\n]*failed", table, re.MULTILINE)) >= 3
    assert "scene,chain,strided,ok" in table
    assert not (workflow.results / "report" / "summary.json").exists()


def test_without_the_bad_videos_only_the_report_is_made(workflow):
    for name in ("corrupt.mp4", "text.mp4", "single.gif"):
        (workflow.videos / name).unlink(missing_ok=True)
    assert workflow.finished().rules == ["report"]
    assert not any(name in (workflow.results / "metrics.csv").read_text() for name in NAMES)


def sentence_of(run) -> str:
    """The only line besides Snakemake's note of the profile it reads."""
    lines = [line for line in run.output.splitlines() if not line.startswith("Using workflow specific profile")]
    assert len(lines) == 1, run.output
    return lines[0]


@pytest.mark.parametrize("extra", [(), ("-n",)])
def test_an_empty_folder(workspace, extra):
    run = workspace().run(*extra)
    assert run.code == 1
    assert sentence_of(run).startswith("everypoint: the folder videos holds no videos; put mp4")


def test_a_missing_folder(workspace):
    folder = workspace(videos="nowhere")
    run = folder.run("-n")
    assert run.code == 1
    assert sentence_of(run) == "everypoint: the folder nowhere does not exist; create it and put videos into it."


def test_a_misspelt_key(workspace):
    folder = workspace(fraems={"stride": 2})
    run = folder.run()
    assert run.code == 1
    assert sentence_of(run).endswith("my.yaml: unknown key 'fraems', did you mean 'frames'.")


def test_a_key_that_is_written_twice(workspace):
    folder = workspace()
    (folder.folder / "my.yaml").write_text("seed: 1\nseed: 2\n")
    assert "key 'seed' is written twice" in sentence_of(folder.run("-n"))


@pytest.mark.parametrize("results", ["file/results", "a{b}"])
def test_results_that_cannot_be(workspace, results):
    folder = workspace(results=results)
    add_scene(folder.videos, "scene", truth=False)
    (folder.folder / "file").touch()
    run = folder.run()
    assert run.code == 1
    assert f"results '{results}' cannot be used" in sentence_of(run)
