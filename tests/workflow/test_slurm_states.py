"""What SLURM may say of a job, and of itself, with the profile that users have; by commands that only play SLURM.

A real one has its own tests (tests/slurm). These run everywhere, and bring about what a real cluster rarely does.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.fakes.slurm import history, install
from tests.workflow.conftest import Run, add_scene, kill

OUTAGE = 3  # questions to the controller without an answer, from the first job on
FATES = {
    "timeout": ["TIMEOUT"],
    "memory": ["OUT_OF_MEMORY"],
    "node": ["NODE_FAIL"],
    "preempted": ["PREEMPTED"],
    "busy": ["BUSY", "BUSY"],
    "late": ["LATE"],
    "quiet": [],
    "hopeless": ["TIMEOUT", "TIMEOUT", "TIMEOUT"],
}


@pytest.fixture(scope="module")
def storm(workspace, tmp_path_factory):
    """The first stage of eight videos."""
    folder = workspace()
    for name in FATES:
        add_scene(folder.videos, name, frames=3, truth=False)
    folder.slurm = tmp_path_factory.mktemp("fake") / "slurm"
    jobs = {f"rule_frames_wildcards_{name}": fates for name, fates in FATES.items()}
    environment = install(folder.slurm, {"jobs": jobs, "unanswered": OUTAGE})
    # the pauses that spare a cluster's controller are shorter; the rest is the profile as it is
    pauses = ["--slurm-init-seconds-before-status-checks", "1"]
    output = folder.folder / "output.txt"
    driver = folder.start(output, "--until", "frames", "--workflow-profile", "slurm", *pauses, environment=environment)
    try:
        code = driver.wait(300)  # one that has forgotten its jobs would wait for ever
    finally:
        kill(driver)
    folder.first = Run(code, output.read_text())
    folder.tries = {name: [] for name in FATES}
    for job in history(folder.slurm):
        folder.tries[job["name"].removeprefix("rule_frames_wildcards_")].append(job)
    return folder


def test_every_video_is_done_but_the_one_that_never_fits(storm):
    assert storm.first.code == 1, storm.first.output
    done = {name for name in FATES if (storm.results / name / "frames" / "video.json").exists()}
    assert done == set(FATES) - {"hopeless"}, storm.first.output


@pytest.mark.parametrize(
    ("video", "tries"),
    [
        ("quiet", 1),
        ("late", 1),
        ("node", 1),
        ("preempted", 1),
        ("timeout", 2),
        ("memory", 2),
        ("busy", 3),
        ("hopeless", 3),
    ],
)
def test_a_job_is_tried_again_where_slurm_does_not_do_that_itself(storm, video, tries):
    assert len(storm.tries[video]) == tries, storm.first.output


@pytest.mark.parametrize("video", ["timeout", "memory", "hopeless"])
def test_the_next_try_asks_for_more_time_and_memory(storm, video):
    first, second = storm.tries[video][:2]
    assert second["minutes"] == 2 * first["minutes"] > 0
    assert second["megabytes"] > 1.4 * first["megabytes"] > 0


def test_no_job_ever_ran_twice_at_once(storm):
    """Nor after it was done: results that are late, or a controller out of reach, are no reason to do it again."""
    lives = Counter(name for name, jobs in storm.tries.items() for job in jobs for _ in job["lives"])
    assert lives == {name: 1 for name in FATES if name != "hopeless"}


def test_a_controller_that_did_not_answer_was_asked_again(storm):
    """Where a question stays without an answer the plug-in alone forgets its jobs, and waits for them for ever."""
    assert "SLURM does not answer" in storm.first.output
    assert int((storm.slurm / "calls").read_text()) > OUTAGE
